"""Mirrors: after any history, and killed anywhere, the files are what a full read gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdw_client import AsyncClient, Client, ConfigurationError, PermissionDenied, retries
from services.kit.errors import PermissionDenied as Denied
from tests.mdw_client.conftest import KEY
from tests.mdw_client.versions import Versions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.mdw_client.warehouse import Warehouse

# Few symbols, days and prices, so that changes meet and are taken back.
SYMBOLS = st.integers(1, 2)
CHANGES = st.dictionaries(st.integers(0, 6), st.sampled_from([None, 1.0, 2.0]), max_size=7)
EVENTS = st.one_of(
    st.tuples(st.just("change"), SYMBOLS, CHANGES),
    st.tuples(st.just("act"), SYMBOLS),
    st.tuples(st.just("rename"), SYMBOLS),
    st.tuples(st.just("purge"), st.integers(0, 2)),
    st.tuples(st.just("break"), st.lists(st.integers(0, 10), max_size=2)),
)
RUNS = st.one_of(st.just(("sync",)), st.tuples(st.just("kill"), st.integers(0, 8)))
ROUNDS = st.lists(st.tuples(st.lists(EVENTS, max_size=5), RUNS), max_size=6)


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "backoff", lambda _: 0.0)


@pytest.fixture
def versions(warehouse: Warehouse) -> Versions:
    made = Versions()
    warehouse.answers["StreamBars"] = made.stream
    return made


def stored(folder: Path) -> dict[int, dict[int, float]]:
    """Returns what the folder's files hold, but for symbols without bars; each must be of one symbol, in order."""
    found: dict[int, dict[int, float]] = {}
    for path in (folder / "1d").glob("*.parquet"):
        table = pq.read_table(path)
        days = [date.toordinal() - 719_163 for date in table["date"].to_pylist()]
        ids = set(table["symbol_id"].to_pylist())
        assert days == sorted(set(days))
        assert len(ids) <= 1
        for symbol_id in ids:
            assert symbol_id not in found
            found[symbol_id] = dict(zip(days, table["close"].to_pylist(), strict=True))
    return found


def expected(versions: Versions) -> dict[int, dict[int, float]]:
    return {symbol_id: bars for symbol_id, bars in versions.now.items() if bars}


class Killed(BaseException):
    """What ends a run in its midst."""


class Bomb:
    """Ends the run before the n-th time that it would rename or remove a file."""

    def __init__(self, after: int) -> None:
        self._left = after

    def wrap(self, operation: Any) -> Any:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                raise Killed
            return operation(*args, **kwargs)

        return guarded


def play(versions: Versions, client: Client, folder: Path, step: tuple[Any, ...]) -> None:
    match step:
        case ("change", symbol_id, bars):
            versions.change(symbol_id, bars)
        case ("act", symbol_id):
            versions.act(symbol_id)
        case ("rename", symbol_id) if symbol_id in versions.tickers:
            versions.tickers[symbol_id] += "X"
        case ("purge", symbol_id):
            versions.purged = len(versions.history) - 1
            versions.purged_symbol = symbol_id
        case ("break", places):
            versions.breaks = list(places)
        case ("sync",):
            client.sync(folder, all_active=True)
            assert stored(folder) == expected(versions)
        case ("kill", after):
            bomb = Bomb(after)
            replace, unlink = bomb.wrap(Path.replace), bomb.wrap(Path.unlink)
            with patch.object(Path, "replace", replace), patch.object(Path, "unlink", unlink), suppress(Killed):
                client.sync(folder, all_active=True)


def test_the_mirror_is_what_a_full_read_gives(warehouse: Warehouse, client: Client) -> None:
    @settings(deadline=None, max_examples=60)
    @given(ROUNDS)
    def check(rounds: list[tuple[list[tuple[Any, ...]], tuple[Any, ...]]]) -> None:
        versions = Versions()
        warehouse.answers["StreamBars"] = versions.stream
        with tempfile.TemporaryDirectory() as folder:
            for events, run in rounds:
                for step in (*events, run):
                    play(versions, client, Path(folder), step)
            client.sync(folder, all_active=True)
            assert stored(Path(folder)) == expected(versions)

    check()


def test_a_change_taken_back_after_a_killed_run_is_taken_back_here(
    versions: Versions, client: Client, tmp_path: Path
) -> None:
    for symbol_id in (1, 2):
        versions.change(symbol_id, {1: 1.0})
    client.sync(tmp_path, all_active=True)
    versions.change(1, {1: 2.0})
    versions.change(2, {1: 2.0})
    play(versions, client, tmp_path, ("kill", 2))
    assert stored(tmp_path) == {1: {1: 2.0}, 2: {1: 1.0}}
    versions.change(1, {1: 1.0})
    client.sync(tmp_path)
    assert stored(tmp_path) == {1: {1: 1.0}, 2: {1: 2.0}}


def test_a_run_that_is_killed_from_outside_is_finished_by_the_next(
    warehouse: Warehouse, versions: Versions, client: Client, tmp_path: Path
) -> None:
    for symbol_id in (1, 2, 3):
        versions.change(symbol_id, {day: float(day) for day in range(5)})
    killed = threading.Event()

    def slow(request: Any) -> Iterator[Any]:
        """The third message of the second symbol does not come before the run is killed."""
        for number, message in enumerate(versions.stream(request)):
            if number == 6:
                killed.wait(600)
            yield message

    warehouse.answers["StreamBars"] = slow
    command = [sys.executable, "-c", "from mdw_client.cli import main; main()", "sync", str(tmp_path), "--all-active"]
    environ = {**os.environ, "PYTHONPATH": ":".join(sys.path), "MDW_TARGET": warehouse.target, "MDW_KEY": KEY}
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE) as run:
        while not list((tmp_path / "1d").glob("*.parquet")):
            assert run.poll() is None, run.stderr.read()
            time.sleep(0.02)
        run.kill()
    killed.set()
    assert list(stored(tmp_path)) == [1]
    warehouse.answers["StreamBars"] = versions.stream
    synced = client.sync(tmp_path, all_active=True)
    assert (synced.symbols, synced.files) == (3, 2)
    assert stored(tmp_path) == expected(versions)


def test_a_stream_that_breaks_in_mid_symbol_loses_no_change(versions: Versions, client: Client, tmp_path: Path) -> None:
    versions.change(1, {1: 1.0, 2: 1.0})
    versions.change(2, {1: 1.0})
    client.sync(tmp_path, all_active=True)
    versions.change(1, {1: None})
    versions.change(2, dict.fromkeys(range(6), 2.0))
    versions.breaks = [3]
    client.sync(tmp_path)
    assert stored(tmp_path) == expected(versions)


def test_what_was_deleted_and_purged_is_gone_here(versions: Versions, client: Client, tmp_path: Path) -> None:
    versions.change(1, {1: 1.0})
    client.sync(tmp_path, all_active=True)
    versions.change(1, {1: None})
    versions.purged = 2
    client.sync(tmp_path)
    assert stored(tmp_path) == {}


def test_a_symbol_whose_history_was_purged_is_read_anew(versions: Versions, client: Client, tmp_path: Path) -> None:
    versions.change(1, {1: 1.0})
    versions.change(2, {1: 1.0})
    client.sync(tmp_path, all_active=True)
    versions.change(1, {1: None, 2: 3.0})
    versions.change(2, {1: 2.0})
    versions.purged, versions.purged_symbol = 3, 1
    synced = client.sync(tmp_path)
    assert stored(tmp_path) == expected(versions)
    assert (synced.symbols, synced.unresolved) == (2, [])


def test_only_what_changed_is_asked_for(versions: Versions, client: Client, tmp_path: Path) -> None:
    versions.change(1, {1: 10.0, 2: 20.0})
    versions.change(2, {1: 5.0})
    written: list[tuple[int, int, str]] = []
    first = client.sync(tmp_path, all_active=True, report=lambda *told: written.append(told))
    versions.change(1, {2: 21.0, 3: 30.0})
    second = client.sync(tmp_path, report=lambda *told: written.append(told))
    assert (first.symbols, first.files, second.symbols, second.files) == (2, 2, 2, 1)
    assert written == [(1, 2, "T1"), (2, 2, "T2"), (1, 2, "T1")]
    assert [request.HasField("changed_since") for request in versions.requests] == [False, True]
    assert list(versions.requests[1].symbol_ids) == [1, 2]
    assert stored(tmp_path) == {1: {1: 10.0, 2: 21.0, 3: 30.0}, 2: {1: 5.0}}


async def test_it_does_on_asyncio_too(versions: Versions, aclient: AsyncClient, tmp_path: Path) -> None:
    versions.change(1, {1: 10.0})
    versions.change(2, {1: 10.0})
    await aclient.sync(tmp_path, [1])
    versions.purged = 10
    versions.change(1, {1: 11.0})
    synced = await aclient.sync(tmp_path, [1, 2])
    assert (synced.symbols, synced.as_of.seconds) == (2, 3)
    assert stored(tmp_path) == {1: {1: 11.0}, 2: {1: 10.0}}


def test_a_file_takes_the_new_ticker_with_the_next_change(versions: Versions, client: Client, tmp_path: Path) -> None:
    versions.change(1, {1: 10.0})
    client.sync(tmp_path, all_active=True)
    versions.tickers[1] = "A/B"
    versions.change(1, {2: 11.0})
    client.sync(tmp_path)
    assert [path.name for path in (tmp_path / "1d").glob("*.parquet")] == ["1_A_B.parquet"]


def test_a_run_killed_between_the_new_name_and_the_old_leaves_one_file(
    versions: Versions, client: Client, tmp_path: Path
) -> None:
    versions.change(1, {1: 10.0})
    client.sync(tmp_path, all_active=True)
    versions.tickers[1] = "NEW"
    versions.change(1, {1: 11.0})
    play(versions, client, tmp_path, ("kill", 2))
    assert len(list((tmp_path / "1d").glob("*.parquet"))) == 2
    client.sync(tmp_path)
    assert stored(tmp_path) == {1: {1: 11.0}}
    versions.tickers[1] = "AAA"
    versions.change(1, {1: 12.0})
    play(versions, client, tmp_path, ("kill", 2))
    client.sync(tmp_path)
    assert [path.name for path in (tmp_path / "1d").glob("*.parquet")] == ["1_AAA.parquet"]


def test_a_folder_that_mirrors_another_question_is_left_alone(
    versions: Versions, client: Client, tmp_path: Path
) -> None:
    versions.change(1, {1: 10.0})
    client.sync(tmp_path, all_active=True)
    client.sync(tmp_path, adjustment="none", hours="all")
    with pytest.raises(ConfigurationError, match="mirrors another question"):
        client.sync(tmp_path, adjustment="split")


def test_an_empty_folder_does_not_say_what_to_mirror(client: Client, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is empty: name tickers"):
        client.sync(tmp_path)


def test_a_state_that_cannot_be_read_is_named(client: Client, tmp_path: Path) -> None:
    (tmp_path / "1d").mkdir()
    (tmp_path / "1d/mdw-sync.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"mdw-sync.json cannot be read .* remove it"):
        client.sync(tmp_path, all_active=True)


def test_two_runs_do_not_meet_in_a_folder(versions: Versions, client: Client, tmp_path: Path) -> None:
    versions.change(1, {1: 10.0})
    refused: list[str] = []

    def meet(*_: object) -> None:
        with Client.from_settings(client.settings) as other, pytest.raises(ConfigurationError) as raised:
            other.sync(tmp_path)
        refused.append(str(raised.value))

    client.sync(tmp_path, all_active=True, report=meet)
    assert len(refused) == 1
    assert "another sync is at work" in refused[0]


def test_what_is_refused_ends_the_run_and_keeps_the_files(
    warehouse: Warehouse, versions: Versions, client: Client, tmp_path: Path
) -> None:
    versions.change(1, {1: 10.0})
    client.sync(tmp_path, all_active=True)
    warehouse.answers["StreamBars"] = Denied("SCOPE_MISSING", "the key lacks bars.read")
    with pytest.raises(PermissionDenied):
        client.sync(tmp_path)
    assert stored(tmp_path) == expected(versions)


def test_a_file_of_someone_elses_is_left_alone(versions: Versions, client: Client, tmp_path: Path) -> None:
    versions.change(1, {1: 10.0})
    client.sync(tmp_path, all_active=True)
    other = tmp_path / "1d/mine.parquet"
    pq.write_table(pq.read_table(tmp_path / "1d/1_T1.parquet").replace_schema_metadata(), other)
    state = json.loads((tmp_path / "1d/mdw-sync.json").read_text())
    (tmp_path / "1d/mdw-sync.json").write_text(json.dumps({**state, "under_way": True}))
    client.sync(tmp_path)
    assert other.exists()
    assert KEY not in (tmp_path / "1d/mdw-sync.json").read_text()
