"""make run as a person meets it: real processes, real Postgres, recorded bars, everything read over gRPC."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from deploy.local import run as program
from deploy.local.postgres import FAST_SETTINGS, EmbeddedPostgres
from deploy.local.run import Run
from deploy.local.stack import StackError, _is_free, free_port
from deploy.local.state import State
from deploy.local.status import main as print_status
from deploy.local.status import status
from deploy.local.switches import Switches
from mdw_client import AsyncClient
from tests.deploy.test_children import gone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BARS = """
WITH told AS (
  SELECT t.ticker, b.ts, concat_ws(' ', b.ts, b.open, b.high, b.low, b.close, b.volume, b.flags) AS text
  FROM ingest.bars AS b
  JOIN symbols.tickers AS t ON t.symbol_id = b.symbol_id AND t.to_date IS NULL
)
SELECT count(*), md5(string_agg(ticker || text, ',' ORDER BY ticker, ts))
FROM told
"""
STORED = 11_134  # AAPL, MSFT, GOOGL, META under FB, TSLA, SPY, BTC-USD
ROWS = {
    "AAPL": ("stock", "3,270", "2000-03-01", "2013-03-01", "0"),
    "META": ("stock", "196", "2012-05-18", "2013-03-01", "0"),
    "SPY": ("etf", "502", "2017-01-03", "2018-12-31", "0"),
    "BTC-USD": ("crypto", "1,246", "2017-08-16", "2021-01-12", "0"),
}


@pytest.fixture(autouse=True)
def same_modules(monkeypatch):
    """Lets the processes find the modules that this one finds."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


def three_free_ports() -> int:
    while True:
        first = random.randrange(20_000, 30_000)
        if all(_is_free(first + index) for index in range(3)):
            return first


class Stage:
    """One state folder, run with different switches."""

    def __init__(self, folder) -> None:
        self.state = State(folder)
        self.first_port = three_free_ports()
        self.undisturbed: tuple[int, str] = (0, "")

    def run(self, **switches) -> Run:
        self.state.prepare()
        return Run(self.state, Switches(first_port=self.first_port, **switches))

    async def bars(self, run: Run) -> tuple[int, str]:
        """Counts and sums up what is stored, from inside the run's own Postgres."""
        conn = await asyncpg.connect(run._stack.postgres.url("mdw"))
        try:
            return tuple(await conn.fetchrow(BARS))
        finally:
            await conn.close()


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return Stage(tmp_path_factory.mktemp("run") / "state")


@asynccontextmanager
async def serving(run: Run) -> AsyncIterator[asyncio.Task[None]]:
    """Runs until it serves, and stops it at the end."""
    task = asyncio.ensure_future(run.run())
    try:
        while not run.serving:
            await asyncio.wait([task], timeout=0.1)
            if task.done():
                task.result()
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def row(output: str, ticker: str) -> tuple[str, ...]:
    [line] = [line for line in output.splitlines() if line.split()[:1] == [ticker]]
    return tuple(line.split())


async def test_an_empty_folder_becomes_a_warehouse_of_real_bars(stage, capsys):
    await stage.run(once=True).run()
    output = capsys.readouterr().out
    assert f"Backfill done: {STORED:,} bars new, 0 corrected, 0 as held, 0 rejected" in output
    for ticker, cells in ROWS.items():
        assert row(output, ticker)[:6] == (ticker, *cells)
    assert "No bars of AMD, AMZN, INTC, NVDA, QCOM, IWM, QQQ, ETH-USD: the replay gave none." in output


async def test_a_second_run_serves_what_its_printed_commands_ask_and_says_how_it_is(stage, capsys):
    run = stage.run()
    async with serving(run):
        stage.undisturbed = await stage.bars(run)
        output = capsys.readouterr().out
        answers = [json.loads(await shell(line)) for line in output.splitlines() if "-emit-defaults" in line]
        assert await status(stage.state) == 0
        async with AsyncClient(targets=run._switches.addresses, key_file=stage.state.admin_key) as client:
            adjusted = (await client.bars("AAPL", "1d", "2005-02-25", "2005-03-01", adjustment="split")).columns()
        pids = list(stage.state.running()["processes"].values())
    assert all(gone(pid) for pid in pids)
    assert await status(stage.state) == 1
    assert stage.undisturbed[0] == STORED
    assert (len(pids), capsys.readouterr().out.count("  ready")) == (5, 3)
    assert "Nothing is missing" in output
    assert [len(answers[0]["symbols"]), answers[1]["statistics"]["ticker"]] == [3, "AAPL"]
    assert [bar["sessionDate"] for bar in answers[2]["bars"]] == [
        "2005-02-24",
        "2005-02-25",
        "2005-02-28",
        "2005-03-01",
    ]
    assert answers[3]["secret"].startswith("mdw_")
    assert adjusted["close"][1] / adjusted["close"][0] == pytest.approx(44.86 / 44.495, abs=0.001)
    assert not adjusted["flags"].any()


async def shell(line: str) -> str:
    process = await asyncio.create_subprocess_shell(
        line, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err
    return out.decode()


async def test_killed_in_the_middle_of_a_backfill_it_ends_with_the_rows_of_an_undisturbed_run(stage, tmp_path, capsys):
    other = Stage(tmp_path / "state")
    run = other.run(replay_faults="timeout:after=4", workers=2)
    with pytest.raises(StackError, match="ingest has ended \\(killed by SIGKILL\\)"):
        await asyncio.gather(run.run(), kill_ingest(other, run))
    other.state.admin_key.unlink()
    run = other.run()
    async with serving(run):
        assert await other.bars(run) == stage.undisturbed
    assert other.state.admin_key.stat().st_mode & 0o077 == 0  # a lost one was replaced
    assert row(capsys.readouterr().out, "AAPL")[2] == "3,270"


async def kill_ingest(stage: Stage, run: Run) -> None:
    """Kills the ingest service when some bars are in and no more come."""
    while "ingest" not in stage.state.running().get("processes", {}) or not (await stage.bars(run))[0]:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    os.kill(stage.state.running()["processes"]["ingest"], signal.SIGKILL)


async def test_a_server_of_ones_own_is_used_and_a_terminal_gets_a_progress_bar(tmp_path, monkeypatch, capsys):
    server = EmbeddedPostgres(tmp_path / "pg", settings=FAST_SETTINGS)
    server.start()
    monkeypatch.setenv("FORCE_COLOR", "1")
    stage = Stage(tmp_path / "state")
    await stage.run(once=True, database_url=server.url()).run()
    output = capsys.readouterr().out
    assert re.search(r"16/16\S* slices   11,134 bars", output)
    assert not stage.state.postgres.exists()
    server.stop()


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"INGEST_WORKERS": "none"}, "make run: INGEST_WORKERS: 'none' is not a number between 1 and 64"),
        ({"MDW_STATE": "/proc/no"}, "make run: /proc/no cannot be written"),
        ({"DATABASE_URL": "postgresql://127.0.0.1:9/no"}, "make run: DATABASE_URL: no connection"),
        ({"DATABASE_URL": "postgresql://127.0.0.1:99999/no"}, "make run: DATABASE_URL: is not understood"),
    ],
)
def test_what_goes_wrong_is_one_line(tmp_path, monkeypatch, capsys, environ, message):
    for name, value in ({"MDW_STATE": str(tmp_path / "state"), "MDW_PORT": str(three_free_ports())} | environ).items():
        monkeypatch.setenv(name, value)
    assert program.main() == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(message)


def test_a_folder_that_cannot_be_used_comes_with_the_way_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MDW_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("MDW_PORT", str(three_free_ports()))
    (tmp_path / "state/postgres/data").mkdir(parents=True)
    (tmp_path / "state/lock").touch()
    assert program.main() == 1
    said, way_out = capsys.readouterr().err.splitlines()
    assert "is not a usable Postgres folder" in said
    assert way_out.startswith("make clean-run removes")


def test_status_says_when_nothing_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MDW_STATE", str(tmp_path))
    assert print_status() == 1
    assert "make run is not running" in capsys.readouterr().out


def test_ctrl_c_at_the_start_leaves_nothing_running(tmp_path):
    environ = {**os.environ, "MDW_STATE": str(tmp_path / "state"), "MDW_PORT": str(three_free_ports())}
    with subprocess.Popen(
        [program.sys.executable, "-m", "deploy.local.run"], env=environ, stdout=subprocess.PIPE, text=True
    ) as process:
        assert "PostgreSQL runs on" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert "Stopping ..." in process.communicate(timeout=120)[0]
    assert process.returncode == program.INTERRUPTED
    assert not (tmp_path / "state/postgres/data/postmaster.pid").exists()


def test_a_free_port_is_free():
    assert _is_free(free_port())
