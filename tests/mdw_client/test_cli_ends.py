"""How the command `mdw` ends: what it says of an error, as a line or as JSON, and its status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from mdw.auth.v1 import auth_pb2
from mdw.ingest.v1 import ingest_pb2
from mdw_client.cli import main
from services.kit import errors
from tests.mdw_client.conftest import KEY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.mdw_client.market import Market
    from tests.mdw_client.warehouse import Warehouse


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (errors.Unauthenticated(), 3, "MDW_KEY_FILE"),
        (errors.PermissionDenied("SCOPE_MISSING", "no", scopes="keys.read"), 3, "one of these scopes: keys.read"),
        (errors.NotFound("KEY_NOT_FOUND", "there is no such key", key_id="7"), 4, "mdw keys list names them"),
        (errors.InvalidArgument("key_id", "is no UUID"), 1, "key_id: is no UUID"),
        (errors.FailedPrecondition("SYMBOL_INACTIVE", "it is inactive"), 1, "SYMBOL_INACTIVE: it is inactive"),
        (errors.ResourceExhausted("KEY_LIMIT", "too many", retry_after=100), 75, "KEY_LIMIT: too many"),
    ],
)
def test_an_error_is_one_line_with_what_to_do(warehouse: Warehouse, ran, error, status: int, line: str) -> None:
    warehouse.answers["GetKey"] = error
    found = ran("keys", "show", "7")
    assert (found.status, found.out, found.err.count("\n")) == (status, "", 1)
    assert found.err.startswith("mdw: ")
    assert line in found.err
    as_json = json.loads(ran("keys", "show", "7", "--json").err)
    assert (as_json["error"]["reason"], as_json["error"]["code"]) == (
        error.reason,
        grpc.StatusCode(next(code.value for code in grpc.StatusCode if code.value[0] == error.code)).name,
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("coverage", "Missing argument 'TICKER'; mdw coverage --help"),
        ("backfill start", "name tickers, or --class, or --all-active; mdw backfill start --help"),
        ("bars AAPL --out x.txt", "--out: x.txt ends neither with .parquet nor with .csv; mdw bars --help"),
        ("nothing", "No such command 'nothing'; mdw --help"),
        ("bars AAPL --start", "Option '--start' requires an argument"),
    ],
)
def test_a_line_that_cannot_be_meant_is_told_in_one(ran, line: str, said: str) -> None:
    found = ran(*line.split())
    assert (found.status, found.out) == (2, "")
    assert found.err.startswith(f"mdw: {said}")
    assert found.err.count("\n") == 1


def test_a_group_without_a_command_shows_its_commands(ran) -> None:
    found = ran("keys")
    assert "rotate" in found.out + found.err
    assert (found.out + found.err).count("\n") > 5


@pytest.mark.parametrize("line", ["--json keys list", "keys --json list", "keys list --json"])
def test_json_may_be_asked_for_anywhere(warehouse: Warehouse, ran, line: str) -> None:
    warehouse.answers["ListKeys"] = auth_pb2.ListKeysResponse(keys=[auth_pb2.Key(key_id="7")])
    assert ran(*line.split()).objects == [{"key_id": "7"}]


def test_a_key_that_cannot_be_used_is_usage(ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDW_KEY", "mdw_cut")
    found = ran("keys", "list")
    assert (found.status, found.out) == (2, "")
    assert found.err.startswith("mdw: MDW_KEY: not a whole key")
    as_json = ran("keys", "list", "--json")
    assert (as_json.status, as_json.out) == (2, "")
    assert json.loads(as_json.err)["error"]["message"].startswith("MDW_KEY: not a whole key")


@pytest.mark.parametrize("line", ["coverage --json", "--json bars --nothing", "--json nothing"])
def test_a_line_that_cannot_be_meant_is_json_where_that_was_asked_for(ran, line: str) -> None:
    found = ran(*line.split())
    assert (found.status, found.out, found.err.count("\n")) == (2, "", 1)
    assert json.loads(found.err)["error"]["message"].endswith("--help")


def test_a_file_that_cannot_be_written_is_named(market: Market, ran, tmp_path: Path) -> None:
    line = ("bars", "AAPL", "--out", str(tmp_path / "no/where.csv"))
    found = ran(*line)
    assert found.status == 1
    assert "No such file or directory" in found.err
    assert json.loads(ran(*line, "--json").err)["error"]["message"] == found.err.removeprefix("mdw: ").strip()


def test_completion_is_printed(ran) -> None:
    assert "_MDW_COMPLETE=bash_complete" in ran("completion", "bash").out


def test_a_reader_that_has_enough_ends_it_quietly(market: Market, warehouse: Warehouse) -> None:
    market.bars = 100_000
    market.a_chunk = 10_000
    line = f"{sys.executable} -c 'from mdw_client.cli import main; main()' bars AAPL --last 100000 | head -1"
    environ = {**os.environ, "PYTHONPATH": ":".join(sys.path), "MDW_TARGET": warehouse.target, "MDW_KEY": KEY}
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=300, env=environ, check=False)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_an_interrupt_ends_it_quietly(warehouse: Warehouse) -> None:
    done = threading.Event()

    def forever(_: Any) -> Iterator[Any]:
        yield ingest_pb2.WatchBackfillResponse(backfill=ingest_pb2.Backfill(backfill_id="b-1", state="RUNNING"))
        done.wait(120)

    warehouse.answers["WatchBackfill"] = forever
    command = [sys.executable, "-c", "from mdw_client.cli import main; main()", "backfill", "watch", "b-1"]
    environ = {**os.environ, "PYTHONPATH": ":".join(sys.path), "MDW_TARGET": warehouse.target, "MDW_KEY": KEY}
    environ["PYTHONUNBUFFERED"] = "1"
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert "RUNNING" in watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        output = watching.communicate(timeout=120)
    done.set()
    assert (watching.returncode, output) == (130, ("", "\n"))


def test_without_its_libraries_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mdw_client.cli.app")
    monkeypatch.setitem(sys.modules, "click", None)
    with pytest.raises(SystemExit, match=r"pip install 'mdw-client\[cli\]'"):
        main()


def test_it_ends_the_process_with_its_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mdw", "--version"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().out) == (0, "mdw, version 0.1.0\n")
