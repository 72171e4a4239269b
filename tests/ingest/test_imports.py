"""Flat files: a file or a folder comes in through the same judging and writing, and what lies is said line by line."""

from __future__ import annotations

import gzip
from datetime import date, timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest

from mdw.ingest.v1 import ingest_pb2
from services.ingest.batches import cut
from services.ingest.errands import Errands
from services.ingest.filenames import FileKind, kind_of, published, read_name
from services.ingest.importing import Importer, _batch
from services.ingest.store import many, sessions, slices
from services.ingest.tally import Tally
from tests.ingest.backfilling import CRYPTO, DAY, ETF, MINUTE, STOCK
from tests.ingest.test_worker_metrics import exported
from tests.ingest.working import AT_ONCE, Desk

State = ingest_pb2.Backfill.State
HEADER = "ticker,volume,open,close,high,low,window_start,transactions"
DAYS = "us_stocks_sip/day_aggs_v1"
MINUTES = "us_stocks_sip/minute_aggs_v1"
JANUARY = [f"2024-01-{day:02}" for day in (2, 3, 4, 5, 8, 9, 10, 11, 12)]


def midnight(day, hours=5):
    """Nanoseconds since 1970 of midnight in New York on a winter's day."""
    return ((date.fromisoformat(day) - date(1970, 1, 1)).days * 24 + hours) * 3600 * 10**9


def line(ticker, start, close=10.0, *, volume=100, high=None):
    return f"{ticker},{volume},{close},{close},{close if high is None else high},{close},{start},3"


def days_of(day, tickers, close=10.0):
    return [line(ticker, midnight(day), close) for ticker in tickers]


class Folder:
    """The folder that the workers import from."""

    def __init__(self, root):
        self.root = root

    def put(self, path, lines, header=HEADER, cut=0):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        data = gzip.compress("\n".join([header, *lines, ""]).encode())
        file.write_bytes(data[: len(data) - cut])

    def put_days(self, tickers, dates=JANUARY, close=10.0):
        for day in dates:
            self.put(f"{DAYS}/2024/01/{day}.csv.gz", days_of(day, tickers, close))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "flat"
    root.mkdir()
    return Folder(root)


@pytest.fixture
async def work(ingest, folder):
    desk = Desk(ingest.sql, ingest.server.db, "")
    calendars = await sessions.load(desk.db)
    tally = Tally()
    importer = Importer(desk.db, calendars, folder.root, tally=tally)

    async def run(path, *, most_bytes=None, **fields):
        """Imports a path to the end; returns the job and its slices."""
        importer._most_bytes = most_bytes or importer._most_bytes
        started = await ingest.call("ImportFiles", path=path, **fields)
        errands = Errands(desk.db, {slices.FILE: importer}, AT_ONCE)
        while True:
            claim = await slices.claim(desk.db, "tests", timedelta(minutes=1), [slices.FILE])
            if claim is None:
                break
            await errands.handle(claim)
        backfill_id = started.backfill.backfill_id
        return await ingest.get(backfill_id), await ingest.slices(backfill_id)

    return SimpleNamespace(run=run, desk=desk, importer=importer, calendars=calendars, tally=tally)


async def bars(ingest):
    rows = await ingest.sql.fetch("SELECT * FROM ingest.bars ORDER BY symbol_id, timeframe, ts")
    return [(row["symbol_id"], row["ts"].isoformat()[:16], row["close"]) for row in rows]


async def test_a_folder_of_days_comes_in_as_one_batch(ingest, work, folder):
    """Registered symbols alone are stored, ETFs beside stocks; the rest is counted and listed."""
    aapl, spy = await ingest.symbol("AAPL"), await ingest.symbol("SPY", ETF)
    folder.put_days(["AAPL", "SPY", "NOBODY"])
    job, pieces = await work.run("us_stocks_sip")
    assert (job.state, job.kind, job.progress.bars_inserted) == (State.SUCCEEDED, ingest_pb2.Backfill.FILES, 18)
    assert (job.progress.requests, len(pieces), pieces[0].reason) == (0, 2, "9 files")
    assert "9 lines of 1 unknown tickers" in pieces[1].reason
    assert (await bars(ingest))[:2] == [(aapl, "2024-01-02T00:00", 10), (aapl, "2024-01-03T00:00", 10)]
    unknown = await ingest.call("ListRejectedBars", reason="UNKNOWN_TICKER")
    assert [(one.provider_ticker, one.symbol_id) for one in unknown.bars] == [("NOBODY", 0)]
    files = await ingest.sql.fetch("SELECT * FROM ingest.files ORDER BY file_date")
    assert [(row["rows"], row["unknown"], row["rejected"]) for row in files] == [(3, 1, 0)] * 9
    assert all(row["finish_time"] for row in files)
    assert files[0]["published"].isoformat() == "2024-01-03T16:00:00+00:00"
    series = await ingest.sql.fetchrow("SELECT * FROM ingest.series WHERE symbol_id = $1", spy)
    assert (series["bars"], series["sessions_present"], series["watermark"]) == (9, 9, date(2024, 1, 12))


async def test_the_same_content_is_imported_once_unless_all_is_wanted_again(ingest, work, folder):
    await ingest.symbol("AAPL")
    folder.put_days(["AAPL"], JANUARY[:3])
    await work.run(DAYS)
    job, pieces = await work.run(DAYS)
    assert (job.state, job.progress.bars_unchanged) == (State.SUCCEEDED, 0)
    assert pieces[1].reason.startswith(f"imported before: {DAYS}/2024/01/2024-01-02.csv.gz")
    job, _ = await work.run(DAYS, mode=ingest_pb2.BACKFILL_MODE_REFETCH)
    assert (job.progress.bars_unchanged, job.progress.bars_inserted) == (3, 0)
    folder.put_days(["AAPL"], JANUARY[:1], close=11.0)
    job, pieces = await work.run(DAYS)
    assert (job.progress.bars_updated, job.progress.bars_unchanged) == (1, 0)
    assert pieces[1].reason.count(".csv.gz") == 2


async def test_files_come_in_pieces_of_so_many_bytes_and_without_a_session_between(ingest, work, folder):
    await ingest.symbol("AAPL")
    folder.put_days(["AAPL"], [*JANUARY[:4], *JANUARY[5:]])
    _, pieces = await work.run(DAYS, most_bytes=300)
    assert [(one.first_date[8:], one.last_date[8:]) for one in pieces[1:]] == [
        ("02", "03"), ("04", "05"), ("09", "10"), ("11", "12"),
    ]  # fmt: skip
    assert len(await bars(ingest)) == 8


async def test_bad_files_fail_alone_with_their_reasons(ingest, work, folder):
    await ingest.symbol("AAPL")
    folder.put_days(["AAPL"], JANUARY[:5])
    folder.put(f"{DAYS}/2024/01/2024-01-03.csv.gz", days_of("2024-01-03", ["AAPL"]), cut=9)
    folder.put(f"{DAYS}/2024/01/2024-01-04.csv.gz", ["x"], header="ticker,close")
    folder.put(f"{DAYS}/2024/01/notes.csv.gz", [])
    job, pieces = await work.run(DAYS)
    assert (job.state, job.progress.bars_inserted, job.progress.slices_failed) == (State.FAILED, 3, 2)
    assert "left out, by their names: us_stocks_sip/day_aggs_v1/2024/01/notes.csv.gz" in pieces[0].reason
    assert "2024-01-03.csv.gz: cut, or no gzip" in job.error
    assert "the header is 'ticker,close'" in pieces[3].reason
    folder.put_days(["AAPL"], JANUARY[1:3])
    assert (await ingest.call("RetryBackfill", backfill_id=job.backfill_id)).slices == 2
    assert len((await work.run(DAYS))[1]) > 0
    assert (await ingest.get(job.backfill_id)).state == State.SUCCEEDED
    assert len(await bars(ingest)) == 5


async def test_lines_that_lie_are_refused_one_by_one(ingest, work, folder):
    await ingest.symbol("AAPL")
    day = "2024-01-03"
    good = line("AAPL", midnight(day))
    lies = {
        "DUPLICATE": line("AAPL", midnight(day), 11.0),
        "OUT_OF_SPAN": line("AAPL", midnight("2024-01-04")),
        "OFF_GRID": line("AAPL", midnight(day) + 1),
        "HIGH_LOW": line("AAPL", midnight(day), high=1),
        "MISSING_FIELD": line("AAPL", midnight(day), volume="many"),
        "PRICE_NOT_POSITIVE": line("AAPL", midnight(day), -1.0),
    }
    folder.put(f"{DAYS}/{day}.csv.gz", [good, good, *lies.values()])
    job, _ = await work.run(f"{DAYS}/{day}.csv.gz")
    assert (job.progress.bars_inserted, job.progress.bars_rejected) == (1, 6)
    rejected = (await ingest.call("ListRejectedBars")).bars
    assert {one.reason: one.raw for one in rejected} == lies
    value = exported(work.tally)
    assert value("mdw_bars_written_total", {"timeframe": "1d", "change": "inserted"}) == 1
    assert value("mdw_bars_written_total", {"timeframe": "1d", "change": "rejected"}) == 6
    assert value("mdw_part_seconds_count") == 1


async def test_a_session_between_others_that_files_lack_is_in_doubt_until_a_file_has_it(ingest, work, folder):
    aapl, msft = await ingest.symbol("AAPL"), await ingest.symbol("MSFT")
    folder.put_days(["AAPL", "MSFT"], JANUARY[2:7])
    folder.put(f"{DAYS}/2024/01/{JANUARY[4]}.csv.gz", days_of(JANUARY[4], ["MSFT"]))
    await work.run(DAYS)
    doubt = "SELECT symbol_id, first_date::text, last_date::text, asks FROM ingest.suspects"
    assert [tuple(row) for row in await ingest.sql.fetch(doubt)] == [(aapl, JANUARY[4], JANUARY[4], 1)]
    assert (await ingest.call("GetCoverage", symbol_ids=[aapl, msft], timeframe=DAY)).series[1].sessions_present == 5
    folder.put(f"{DAYS}/2024/01/{JANUARY[4]}.csv.gz", days_of(JANUARY[4], ["MSFT", "AAPL"]))
    await work.run(DAYS)
    assert await ingest.sql.fetch(doubt) == []


async def test_minutes_of_files_are_in_doubt_where_they_are_few(ingest, work, folder):
    """Seven sessions before hold all of their minutes: the file's hold 30 of 390."""
    aapl = await ingest.symbol("AAPL")
    for day in JANUARY[:7]:
        await ingest.sql.execute(
            "INSERT INTO ingest.minute_sessions VALUES ($1, $2, 390, 390)", aapl, date.fromisoformat(day)
        )
    minutes = [line("AAPL", midnight(JANUARY[7], 14) + at * 60 * 10**9) for at in range(60)]
    folder.put(f"{MINUTES}/{JANUARY[7]}.csv.gz", minutes)
    await work.run(MINUTES)
    found = await ingest.sql.fetch("SELECT symbol_id, timeframe, first_date::text FROM ingest.suspects")
    assert [tuple(row) for row in found] == [(aapl, MINUTE, JANUARY[7])]


async def test_a_series_is_under_way_while_files_that_hold_it_are_not_all_in(ingest, work, folder):
    ids = [await ingest.symbol(f"T{number}") for number in range(3)]
    folder.put_days([f"T{number}" for number in range(3)], JANUARY[:1])
    await ingest.call("ImportFiles", path=DAYS)
    state = "SELECT symbol_id, state FROM ingest.series_figures ORDER BY symbol_id"
    errands = Errands(work.desk.db, {slices.FILE: work.importer}, AT_ONCE)
    await errands.handle(await slices.claim(work.desk.db, "tests", timedelta(minutes=1), [slices.FILE]))
    claim = await slices.claim(work.desk.db, "tests", timedelta(minutes=1), [slices.FILE])
    read = await work.importer._read(claim, folder.root, folder.root / claim.provider_ticker)
    holdings, sessions_ = await work.importer._holdings(STOCK), work.importer._sessions(STOCK)
    first, *_ = cut(_batch(read, holdings, DAY, sessions_).batch, series=1)
    written = await many.write(work.desk.db, claim, first, done=False)
    assert [tuple(row) for row in await ingest.sql.fetch(state)] == [(ids[0], 3)]
    await slices.release(work.desk.db, written.claim, reason="", sent=False)
    assert [tuple(row) for row in await ingest.sql.fetch(state)] == [(ids[0], 2)]
    claim = await slices.claim(work.desk.db, "tests", timedelta(minutes=1), [slices.FILE])
    await errands.handle(claim)
    assert [tuple(row) for row in await ingest.sql.fetch(state)] == [(one, 4) for one in ids]


async def test_a_file_of_another_kind_is_refused_whole(ingest, work, folder):
    await ingest.symbol("AAPL")
    minutes = [line("AAPL", midnight("2024-01-02", 14) + at * 60 * 10**9) for at in range(1500)]
    folder.put("some/2024-01-02.csv.gz", minutes)
    job, _ = await work.run("some", timeframe=DAY, asset_class=STOCK)
    assert job.state == State.FAILED
    assert "1500 of 1500 lines are impossible" in job.error
    assert await bars(ingest) == []


async def test_minutes_and_crypto(ingest, work, folder):
    """Sessions of minutes are counted; a coin is known by all its spellings."""
    aapl, btc = await ingest.symbol("AAPL"), await ingest.symbol("BTC-USD", CRYPTO)
    day = "2024-01-02"
    minutes = [line("AAPL", midnight(day, 14) + at * 60 * 10**9) for at in range(60)]
    folder.put(f"{MINUTES}/{day}.csv.gz", minutes)
    await work.run(MINUTES)
    row = await ingest.sql.fetchrow("SELECT * FROM ingest.minute_sessions")
    assert (row["session_date"], row["bars"], row["regular_bars"]) == (date(2024, 1, 2), 60, 30)
    folder.put("coins/2024-01-06.csv.gz", [line("X:BTC-USD", midnight("2024-01-06", 0), volume=0.5)])
    await work.run("coins", asset_class=CRYPTO, timeframe=DAY)
    series = await ingest.sql.fetch("SELECT symbol_id, timeframe, bars FROM ingest.series ORDER BY symbol_id")
    assert [tuple(row) for row in series] == [(aapl, MINUTE, 60), (btc, DAY, 1)]


async def test_a_line_belongs_to_who_held_the_ticker_on_its_day(ingest, work, folder):
    spans = (("FB", date(2012, 5, 18), date(2024, 1, 3)), ("META", date(2024, 1, 4), None))
    meta = await ingest.symbol("META", spans=spans)
    etf = await ingest.symbol("META", ETF, spans=(("META", date(2020, 1, 1), date(2024, 1, 3)),))
    folder.put_days(["FB", "META"], JANUARY[:4])
    await work.run(DAYS)
    assert [(one, day[8:10]) for one, day, _ in await bars(ingest)] == [
        (meta, "02"), (meta, "03"), (meta, "04"), (meta, "05"), (etf, "02"), (etf, "03"),
    ]  # fmt: skip


async def test_a_worker_that_is_lost_in_the_middle_leaves_the_rest_to_another(ingest, work, folder):
    for number in range(7):
        await ingest.symbol(f"T{number}")
    folder.put_days([f"T{number}" for number in range(7)], JANUARY[:3])
    work.importer.interrupt()
    started = await ingest.call("ImportFiles", path=DAYS)
    errands = Errands(work.desk.db, {slices.FILE: work.importer}, AT_ONCE)
    for _ in range(2):
        await errands.handle(await slices.claim(work.desk.db, "tests", timedelta(minutes=1), [slices.FILE]))
    assert (await ingest.get(started.backfill.backfill_id)).state == State.SUCCEEDED
    assert len(await bars(ingest)) == 21


async def test_paths_that_lead_out_or_to_nothing_are_refused(ingest, work, folder):
    for path in ("../other", "/etc", "a/../../b"):
        assert await ingest.broken_fields("ImportFiles", path=path, timeframe=DAY, asset_class=STOCK) == ["path"]
    job, _ = await work.run("nothing", timeframe=DAY, asset_class=STOCK)
    assert (job.state, job.error) == (State.FAILED, "nothing: no such file or folder in IMPORT_FOLDER")
    (folder.root / "way").symlink_to("/etc")
    job, _ = await work.run("way", timeframe=DAY, asset_class=STOCK)
    assert job.error == "way: leads out of IMPORT_FOLDER"
    (folder.root / "empty").mkdir()
    job, _ = await work.run("empty", timeframe=DAY, asset_class=STOCK)
    assert job.error == "empty: no file named YYYY-MM-DD.csv.gz"
    folder.put("nameless/2024-01-02.csv.gz", [])
    job, _ = await work.run("nameless")
    assert job.error.endswith("left out, by their names: nameless/2024-01-02.csv.gz")
    work.importer._folder = None
    job, _ = await work.run("empty", timeframe=DAY, asset_class=STOCK)
    assert job.error == "IMPORT_FOLDER is not set where the workers run"


async def test_a_bad_request_names_all_its_fields(ingest):
    assert await ingest.broken_fields("ImportFiles", request_id="x", timeframe=3) == ["path", "timeframe", "request_id"]
    assert await ingest.broken_fields("ImportFiles", path=DAYS, timeframe=MINUTE) == ["path"]
    assert await ingest.broken_fields("ImportFiles", path=DAYS, asset_class=9) == ["asset_class"]


async def test_a_repeat_with_the_same_request_id_imports_once(ingest):
    wanted = {"path": DAYS, "request_id": str(uuid4())}
    assert await ingest.call("ImportFiles", **wanted) == await ingest.call("ImportFiles", **wanted)


def test_names_say_the_day_and_the_kind():
    assert read_name("a/2024-13-01.csv.gz") is None
    assert read_name("a/2024-01-02.csv") is None
    assert read_name(f"{MINUTES}/2024/01/2024-01-02.csv.gz").day == date(2024, 1, 2)
    assert kind_of("global_crypto/day_aggs_v1") == FileKind(CRYPTO, DAY)
    assert FileKind(0, DAY).narrowed(FileKind(STOCK, 0)) == FileKind(STOCK, DAY)
    assert FileKind(CRYPTO, DAY).narrowed(FileKind(STOCK, DAY)) is None
    assert FileKind(0, 0).narrowed(FileKind(STOCK, 0)) is None
    assert published(date(2024, 7, 5)).isoformat() == "2024-07-06T15:00:00+00:00"
