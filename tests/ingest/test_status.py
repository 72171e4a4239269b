"""GetIngestStatus: how all of ingest is doing, in one answer."""

from __future__ import annotations

import grpc
import pytest

from mdw.ingest.v1 import ingest_pb2
from tests.ingest.backfilling import DAY, STOCK
from tests.support import make_key, reason, with_key


async def test_an_empty_warehouse_has_nothing_to_do_and_no_standby(ingest):
    found = await ingest.call("GetIngestStatus")
    assert (found.queue.slices_pending, found.queue.backfills_running, len(found.series)) == (0, 0, 0)
    assert found.queue.HasField("slices_pending")
    assert (found.limiter.requests_per_minute, found.limiter.granted_last_minute) == (5, 0)
    assert (found.database.standbys, found.database.synchronous) == (0, False)
    assert found.database.schema_version >= 5
    assert found.read_time.seconds > 0


async def test_work_and_freshness_are_said(ingest):
    symbol = await ingest.symbol("AAPL")
    await ingest.sql.execute("UPDATE symbols.symbols SET timeframes = '{7}' WHERE symbol_id = $1", symbol)
    await ingest.start(tickers=["AAPL"])
    found = await ingest.call("GetIngestStatus")
    assert (found.queue.slices_pending, found.queue.backfills_pending) == (1, 1)
    assert found.queue.HasField("oldest_backfill_time")
    (series,) = found.series
    assert (series.asset_class, series.timeframe, series.series, series.empty) == (STOCK, DAY, 1, 1)
    await ingest.sql.execute(
        "UPDATE ingest.series SET bars = 1, first_ts = '2024-01-02Z', last_ts = '2024-01-02Z', sessions_present = 1"
    )
    found = await ingest.call("GetIngestStatus", stalest=1)
    (late,) = found.stalest
    assert (late.ticker, late.symbol_id, late.timeframe) == ("AAPL", symbol, DAY)
    assert late.sessions_behind == found.series[0].most_behind > 250
    assert len((await ingest.call("GetIngestStatus", stalest=0)).stalest) == 0


async def test_what_cannot_be_asked_is_refused(ingest, database):
    assert await ingest.broken_fields("GetIngestStatus", stalest=101) == ["stalest"]
    key = await make_key(database, "bars.read")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ingest.stub.GetIngestStatus(ingest_pb2.GetIngestStatusRequest(), metadata=with_key(key))
    assert reason(caught.value) == "SCOPE_MISSING"
