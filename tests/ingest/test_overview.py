"""How the whole of ingest is doing: queue, limiter, freshness, standbys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.ingest.overview import Overview
from services.ingest.store.overview import OverviewStore
from services.kit.exporter import Exporter
from tests.ingest.working import CRYPTO, DAY, STOCK, Ask, desk, replaying


@pytest.fixture
async def work(database):
    async with desk(database) as made:
        yield made


async def keep(work, ticker: str, asset_class: int, **figures) -> int:
    """Registers an active symbol whose days are kept fresh, with the figures of a series."""
    symbol_id = await work.symbol(ticker, asset_class)
    await work.sql.execute(
        "UPDATE symbols.symbols SET active = true, timeframes = '{7}' WHERE symbol_id = $1", symbol_id
    )
    if figures:
        await work.sql.execute(
            "INSERT INTO ingest.series (symbol_id, timeframe, bars, first_ts, last_ts, sessions_present) "
            "VALUES ($1, 7, $2::integer, $3, $4, $2::integer)",
            symbol_id,
            figures["bars"],
            figures["first"],
            figures["last"],
        )
    return symbol_id


def day(back: int) -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=back)


async def test_slices_are_told_apart_by_what_they_wait_for(work):
    symbol = await work.symbol("AAPL")
    asks = [Ask(symbol, "AAPL", f"2005-0{month}-03", f"2005-0{month}-20") for month in range(1, 6)]
    await work.start(*asks)
    ids = [row["slice_id"] for row in await work.slices()]
    change = "UPDATE ingest.slices SET {} WHERE slice_id = $1"
    await work.sql.execute(change.format("next_try_time = now() + interval '1 hour'"), ids[0])
    await work.sql.execute(change.format("held = true"), ids[1])
    await work.sql.execute(change.format("state = 2, lease_until = now() - interval '1 s'"), ids[2])
    await work.sql.execute(change.format("state = 4, end_time = now()"), ids[3])
    found = await OverviewStore(work.db).work()
    assert (found.pending, found.waiting, found.held, found.running, found.lost) == (1, 1, 1, 1, 1)
    assert (found.failed, found.succeeded) == (1, 0)
    assert found.jobs_pending == 1
    assert found.jobs_oldest is not None


async def test_requests_of_the_last_minute_are_what_was_granted(work):
    await work.backfill("AAPL", "2005-01-03", "2005-12-30")
    async with replaying() as replay:
        await work.drain(await work.worker(replay.url, per_minute=5))
    assert (await OverviewStore(work.db).work()).granted == 1


async def test_freshness_counts_closed_sessions_after_the_last_bar(work):
    await keep(work, "X:FRESH", CRYPTO, bars=2, first=day(2), last=day(1))
    await keep(work, "X:LATE", CRYPTO, bars=2, first=day(3), last=day(2))
    await keep(work, "X:OLD", CRYPTO, bars=3, first=day(30), last=day(20))
    await keep(work, "X:EMPTY", CRYPTO)
    await work.sql.execute(
        "UPDATE symbols.symbols SET active = false WHERE symbol_id = $1", await keep(work, "X:INACTIVE", CRYPTO)
    )
    ((found,), _) = await OverviewStore(work.db).series(0)
    assert (found.series, found.current, found.late, found.behind, found.empty) == (4, 1, 1, 1, 1)
    assert (found.most_behind, found.sessions_missing) == (19, 8)


async def test_the_stalest_series_are_named_and_current_ones_are_not(work):
    await keep(work, "X:FRESH", CRYPTO, bars=2, first=day(2), last=day(1))
    await keep(work, "X:OLD", CRYPTO, bars=3, first=day(30), last=day(20))
    await keep(work, "X:OLDER", CRYPTO, bars=3, first=day(40), last=day(30))
    _, found = await OverviewStore(work.db).series(5)
    assert [(each.ticker, each.timeframe, each.behind) for each in found] == [("X:OLDER", DAY, 29), ("X:OLD", DAY, 19)]
    assert len((await OverviewStore(work.db).series(1))[1]) == 1


async def test_a_delisted_symbol_is_not_behind(work):
    symbol = await keep(work, "GONE", STOCK, bars=3, first=day(900), last=day(800))
    await work.sql.execute("UPDATE symbols.symbols SET delist_date = '2020-01-01' WHERE symbol_id = $1", symbol)
    assert await OverviewStore(work.db).series(5) == ([], [])


async def test_a_server_without_a_standby_says_so(work):
    found = await OverviewStore(work.db).safety()
    assert (found.standbys, found.synchronous) == (0, False)
    assert found.schema_version >= 5
    assert found.bytes > 0


async def test_what_was_seen_is_exported(work):
    await keep(work, "X:OLD", CRYPTO, bars=3, first=day(30), last=day(20))
    await work.backfill("AAPL", "2005-01-03", "2005-12-30")
    overview, exporter = Overview(OverviewStore(work.db), requests_per_minute=5), Exporter()
    overview.export(exporter)
    value = exporter.registry.get_sample_value
    assert value("mdw_slices", {"state": "pending"}) == 0
    await overview.look_at_work()
    await overview.look_at_series()
    assert value("mdw_slices", {"state": "pending"}) == 1
    assert value("mdw_backfills", {"state": "pending"}) == 1
    assert value("mdw_limiter_limit") == 5
    kind = {"asset_class": "crypto", "timeframe": "1d"}
    assert value("mdw_series", {**kind, "state": "behind"}) == 1
    assert value("mdw_sessions_behind", {**kind, "ticker": "X:OLD"}) == 19
    assert value("mdw_sessions_behind_most", kind) == 19
    assert value("mdw_sessions_missing", kind) == 8
    assert value("mdw_bars_stored", {"timeframe": "1d"}) == 3
    assert value("mdw_standbys") == value("mdw_commits_synchronous") == 0
    assert value("mdw_database_bytes") > 0
    assert value("mdw_overview_age_seconds") < 60
