"""Command lines that work when pasted, with the programs that are here."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from migrator.admin_key import AdminKey

ADDRESS, METHOD = "127.0.0.1:15052", "mdw.symbols.v1.SymbolService/ListSymbols"


def next_steps(admin: AdminKey) -> list[str]:
    """Returns the lines: take up the key, look at the schema, ask the services."""
    lines = [admin.export, f"{shlex.quote(sys.executable)} -m migrator status"]
    mdw = _program("mdw")
    if mdw:
        lines.append(f"{mdw} status")
    header = f'-H "x-api-key: {admin.text}"'
    grpcurl, buf = shutil.which("grpcurl"), _program("buf")
    if grpcurl:
        lines.append(f"grpcurl -plaintext {header} {ADDRESS} {METHOD}")
    elif buf:
        lines.append(f"{buf} curl --protocol grpc --http2-prior-knowledge {header} -d '{{}}' http://{ADDRESS}/{METHOD}")
    return lines


def _program(name: str) -> str:
    """Returns how a shell calls a program that is installed beside this Python, or else on the path."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    return shlex.quote(found) if found else ""
