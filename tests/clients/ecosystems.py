"""Programs of other ecosystems, each with its own generator and runtime, against the real services.

Each lists symbols, streams bars, reads an error's reason, and is refused without a key. Those of docs/bars.md run as
they stand there. Not collected by `make test`, since it needs node, npm and go: `make test-clients`.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from mdw_client.packaging import build
from tests.clients import building
from tests.clients.stack import Stack, stack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

SYMBOLS, BARS = "mdw.symbols.v1.SymbolService", "mdw.ingest.v1.BarService"
ASKED = '{"tickers": ["AAPL"], "timeframe": "TIMEFRAME_1D"}'
NUMBERS = {"NotFound": 5, "Unauthenticated": 16, "not_found": 5, "unauthenticated": 16}


@pytest.fixture
async def running(database: Any, tmp_path: Path) -> AsyncIterator[Stack]:
    async with stack(database, tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
async def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What buf generates of dist/protos, in Go and in TypeScript."""
    return await building.module(tmp_path_factory.mktemp("module"))


async def test_go_with_grpc_go(running: Stack, module: Path) -> None:
    assert await running.checked(await building.go(module, "check")) == await running.expected()


async def test_typescript_with_connect_node(running: Stack, module: Path) -> None:
    program = await building.connect(module, "check")
    assert await running.checked("node", program) == await running.expected()


async def test_typescript_with_grpc_js(running: Stack, tmp_path: Path) -> None:
    folder = await building.grpc_js(tmp_path)
    assert await running.checked("node", "out/check.js", cwd=folder) == await running.expected()


@pytest.mark.parametrize("ecosystem", ["python", "go", "typescript-connect"])
async def test_the_programs_of_the_guide_read_the_same_bars(running: Stack, module: Path, ecosystem: str) -> None:
    addresses = {"127.0.0.1:15053": running.targets["ingest"]}
    if ecosystem == "python":
        command = [sys.executable, building.HERE / "python/bars.py"]
    elif ecosystem == "go":
        command = [await building.go(module, "bars", addresses)]
    else:
        command = ["node", await building.connect(module, "bars", addresses)]
    *bars, receipt = (await running.run(*command)).splitlines()
    read = [(ticker, day, float(close)) for ticker, day, close in map(str.split, bars)]
    assert read == await running.bars()
    assert receipt.startswith(f"{len(read)} bars as of 20")


@pytest.mark.parametrize("schema", [(), ("-protoset", "mdw.binpb")], ids=["reflection", "descriptor set"])
async def test_grpcurl(running: Stack, tmp_path: Path, schema: tuple[str, ...]) -> None:
    build.descriptors(tmp_path)

    async def call(method: str, asked: str, key: tuple[str, ...], status: int = 0) -> str:
        command = ("grpcurl", "-plaintext", *schema, *key, "-d", asked, running.server(method), method)
        return await running.run(*command, code=64 + status if status else 0)

    assert await _all(call, running, _said) == await running.expected()


@pytest.mark.parametrize("schema", [(), ("--schema", "mdw.binpb")], ids=["reflection", "descriptor set"])
async def test_buf_curl(running: Stack, tmp_path: Path, schema: tuple[str, ...]) -> None:
    build.descriptors(tmp_path)

    async def call(method: str, asked: str, key: tuple[str, ...], status: int = 0) -> str:
        options = ("--protocol", "grpc", "--http2-prior-knowledge", *schema, *key, "-d", asked)
        return await running.run("buf", "curl", *options, f"http://{running.server(method)}/{method}", code=status * 8)

    assert await _all(call, running, _packed) == await running.expected()


async def _all(call: Any, running: Stack, error: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Makes the four calls by a command, and returns what the other programs print."""
    key = ("-H", f"x-api-key: {running.key}")
    return {
        **_answers(await call(f"{SYMBOLS}/ListSymbols", "{}", key), await call(f"{BARS}/StreamBars", ASKED, key)),
        "refused": error(await call(f"{SYMBOLS}/GetSymbol", '{"ticker": "NOPE"}', key, status=5)),
        "keyless": error(await call(f"{SYMBOLS}/ListSymbols", "{}", (), status=16)),
    }


def _answers(listed: str, streamed: str) -> dict[str, Any]:
    """Returns what the two answers hold, as the other programs print it."""
    messages = list(_objects(streamed))
    return {
        "symbols": [symbol["ticker"] for symbol in json.loads(listed)["symbols"]],
        "closes": [close for message in messages for close in message.get("close", ())],
        "receipt": int(messages[-1]["receipt"]["bars"]),
    }


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yields JSON objects that stand one after the other."""
    decoder = json.JSONDecoder()
    while text := text.lstrip():
        found, end = decoder.raw_decode(text)
        yield found
        text = text[end:]


def _said(text: str) -> dict[str, Any]:
    """Reads the error that grpcurl prints."""
    code = re.search(r"Code: (\w+)", text)
    info = json.loads(re.search(r"\{.*google.rpc.ErrorInfo.*\}", text)[0])
    return {"code": NUMBERS[code[1]], "reason": info["reason"], "ticker": info.get("metadata", {}).get("ticker", "")}


def _packed(text: str) -> dict[str, Any]:
    """Reads the error that buf prints, its details in base64."""
    error = json.loads(text)
    packed = next(each["value"] for each in error["details"] if each["type"] == "google.rpc.ErrorInfo")
    info = ErrorInfo.FromString(base64.b64decode(packed + "=="))
    return {"code": NUMBERS[error["code"]], "reason": info.reason, "ticker": info.metadata["ticker"]}
