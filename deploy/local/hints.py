"""Command lines that work when pasted: grpcurl if it is there, else buf curl from the virtual environment."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SPAN = '"start_time": "2005-02-24T00:00:00Z", "end_time": "2005-03-02T00:00:00Z"'
USUAL = ["127.0.0.1:15051", "127.0.0.1:15052", "127.0.0.1:15053"]
MDW = ("status", "bars AAPL 1d --out aapl.csv")
CALLS = (
    ("symbols", "mdw.symbols.v1.SymbolService/ListSymbols", '{"asset_class": "ASSET_CLASS_STOCK", "page_size": 3}'),
    ("symbols", "mdw.symbols.v1.SymbolService/GetSymbolStatistics", '{"ticker": "AAPL"}'),
    ("ingest", "mdw.ingest.v1.BarService/ListBars", f'{{"ticker": "AAPL", "timeframe": "TIMEFRAME_1D", {SPAN}}}'),
    ("auth", "mdw.auth.v1.KeyService/CreateKey", '{"display_name": "my notebook", "scopes": ["bars.read"]}'),
)


def command_lines(addresses: Mapping[str, str], key_file: Path) -> list[str]:
    """Returns one line a call, and some of the command `mdw`, to be run in the folder of the project."""
    lines = [_line(addresses[service], method, request, _short(key_file)) for service, method, request in CALLS]
    mdw = Path(sys.executable).with_name("mdw")
    if mdw.exists():
        where = [f"MDW_{service.upper()}_TARGET={address}" for service, address in addresses.items()]
        prefix = [*([] if list(addresses.values()) == USUAL else where), *_key_variable(key_file), _short(mdw)]
        lines += [" ".join([*prefix, arguments]) for arguments in MDW]
    return lines


def _key_variable(key_file: Path) -> list[str]:
    return [] if key_file == Path.cwd() / ".mdw/admin.key" else [f"MDW_KEY_FILE={_short(key_file)}"]


def _line(address: str, method: str, request: str, key_file: str) -> str:
    header = f"-H \"x-api-key: $(cat {key_file})\" -d '{request}'"
    if shutil.which("grpcurl"):
        return f"grpcurl -plaintext -emit-defaults {header} {address} {method}"
    buf = _short(Path(sys.executable).with_name("buf"))
    return f"{buf} curl --protocol grpc --http2-prior-knowledge --emit-defaults {header} http://{address}/{method}"


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
