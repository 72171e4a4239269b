"""docs/quickstart.md: its Python runs as it stands, and its command lines are lines of the command."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from mdw.auth.v1.auth_pb2 import CreateKeyResponse
from mdw.ingest.v1.ingest_pb2 import Backfill, StartBackfillResponse, WatchBackfillResponse
from mdw.symbols.v1.symbols_pb2 import ListSymbolsResponse, Symbol
from mdw_client.cli.app import mdw
from tests.mdw_client.conftest import KEY
from tests.mdw_client.market import Market

if TYPE_CHECKING:
    from tests.mdw_client.warehouse import Warehouse

GUIDE = (Path(__file__).parents[2] / "docs/quickstart.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


def test_its_python_runs(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MDW_TARGET", warehouse.target)
    monkeypatch.setenv("MDW_KEY", KEY)
    done = Backfill(backfill_id="b", state="SUCCEEDED")
    done.progress.done_share = 1
    warehouse.answers = {
        "StreamBars": Market().stream,
        "ListSymbols": ListSymbolsResponse(symbols=[Symbol(ticker="SPY", name="SPDR S&P 500")]),
        "StartBackfill": StartBackfillResponse(backfill=done),
        "WatchBackfill": [WatchBackfillResponse(backfill=done)],
        "CreateKey": CreateKeyResponse(secret="s"),
    }
    exec("\n".join(blocks("python")), {})
    printed = capsys.readouterr().out
    assert [text in printed for text in ("['NOPE']", "SPY SPDR", "100%", "SYMBOL_NOT_FOUND NOPE")] == [True] * 4


def _lines() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line.startswith("mdw ")]


@pytest.mark.parametrize("line", _lines())
def test_its_command_lines_can_be_parsed(line: str) -> None:
    words = shlex.split(line)[1:]
    command: click.Command = mdw
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    command.make_context("mdw", words, resilient_parsing=False)


def test_the_variables_are_those_that_are_read() -> None:
    sources = "".join(path.read_text() for path in (Path(__file__).parents[2] / "mdw_client").glob("*.py"))
    read = set(re.findall(r"\"(MDW_[A-Z_]+)\"", sources)) | {
        f"MDW_{name}_TARGET" for name in ("AUTH", "SYMBOLS", "INGEST")
    }
    assert read <= set(re.findall(r"`(MDW_[A-Z_]+)", GUIDE))
