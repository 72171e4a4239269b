"""A worker node is down: reads of its symbols say so, the others go on, its slices wait, and nothing is INTERNAL."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2

from mdw.ingest.v1 import bars_pb2, bars_pb2_grpc
from services.ingest.store import slices
from tests.citus.moving import PORT_OF
from tests.citus.nodes import settled
from tests.ingest.backfilling import at as time_of
from tests.ingest.backfilling import ingest_running
from tests.ingest.history import History, days
from tests.ingest.working import PENDING, Ask, Desk, desk, replaying
from tests.support import auth_serving, detail, make_key, with_key
from tests.waiting import until

TICKERS = [f"T{number}" for number in range(12)]
DAY = 7


@pytest.fixture
async def serving(warehouse):
    """A whole ingest service over the cluster."""
    async with auth_serving(warehouse) as auth_target, ingest_running(warehouse, auth_target) as running:
        yield running


class Caller:
    """Calls the BarService of a running service."""

    def __init__(self, running, key):
        self._stub = bars_pb2_grpc.BarServiceStub(running.channel)
        self._more = {"metadata": with_key(key), "timeout": 60}

    async def list(self, *ids):
        return await self._stub.ListBars(bars_pb2.ListBarsRequest(symbol_ids=ids, timeframe=DAY), **self._more)

    async def latest(self, *ids):
        request = bars_pb2.GetLatestBarsRequest(symbol_ids=ids, timeframe=DAY)
        return await self._stub.GetLatestBars(request, **self._more)

    async def stream(self, *ids):
        request = bars_pb2.StreamBarsRequest(symbol_ids=ids, timeframe=DAY)
        return [message async for message in self._stub.StreamBars(request, **self._more)]


async def by_node(warehouse, nodes, history):
    """Registers symbols with a bar each; returns those of the first worker node, and the others."""
    found = ([], [])
    async with desk(warehouse) as work:
        for ticker in TICKERS:
            key = await history.symbol(ticker)
            await history.write(key, days("2024-01-02", [1]))
            port = await work.sql.fetchval(PORT_OF, key)
            found[f":{port}/" not in nodes[1].url].append(key)
    assert all(found)
    return found


async def away(call):
    """Expects UNAVAILABLE, with the time to wait."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE, caught.value
    assert detail(caught.value, error_details_pb2.RetryInfo()) is not None


async def test_reads_of_a_lost_nodes_symbols_are_unavailable_and_the_others_go_on(warehouse, nodes, serving):
    history = History(warehouse.ingest_url, warehouse.admin_url)
    lost, held = await by_node(warehouse, nodes, history)
    bars = Caller(serving, await make_key(warehouse))
    span = {"start_time": time_of("2024-01-01"), "end_time": time_of("2024-02-01"), "timeframe": DAY}
    await nodes[1].kill()
    for _ in range(3):  # the first over connections that break, later ones that are refused
        for call in (bars.list, bars.latest, bars.stream):
            await away(call(lost[0]))
            await away(call(*held, *lost))
            assert await call(*held)
        await away(serving.call("GetCoverage", symbol_ids=[lost[0]], **span))
        assert await serving.call("GetCoverage", symbol_ids=held, **span)
        assert await serving.call("GetIngestStatus")
    await nodes[1].start()
    await until(lambda: answered(bars.list(*lost, *held)))
    assert len((await bars.list(*lost, *held)).bars) == len(TICKERS)
    assert len((await bars.latest(*lost, *held)).bars) == len(TICKERS)
    await history.close()


async def answered(call):
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        if error.code() != grpc.StatusCode.UNAVAILABLE:
            raise
        return None


async def test_slices_of_a_lost_node_wait_without_an_attempt_and_the_others_end(warehouse, nodes):
    async with desk(warehouse) as work, replaying() as replay:
        ports = {}
        for number in range(8):
            key = await work.symbol("AAPL" if not number else f"AAPL{number}")
            ports[key] = await work.sql.fetchval(PORT_OF, key)
        keys = [key for key, port in ports.items() if f":{port}/" in nodes[1].url]
        others = [key for key in ports if key not in keys]
        assert keys
        assert others
        await work.start(*(Ask(key, "AAPL", "2005-01-03", "2005-01-31") for key in ports))
        await nodes[1].kill()
        worker = await work.worker(replay.url)
        await drain_others(work, worker, len(others))
        rows = await work.slices()
        assert {row["state"] for row in rows if row["symbol_id"] in others} == {slices.SUCCEEDED}
        waiting = [row for row in rows if row["symbol_id"] in keys]
        assert {(row["state"], row["attempts"], row["reason"]) for row in waiting} == {
            (PENDING, 0, "a node of the database is away")
        }
        await nodes[1].start()
        await work.drain(worker, 120)
        await settled(nodes, warehouse.name)
        bars = await work.sql.fetch("SELECT symbol_id, count(*) FROM ingest.bars GROUP BY symbol_id")
        assert {row["symbol_id"]: row["count"] for row in bars} == dict.fromkeys(ports, 20)


async def drain_others(work: Desk, worker, count):
    """Steps until all slices were taken: so many have ended, the rest has been put back."""

    async def stepped():
        await worker.step()
        states = [(row["state"], row["reason"]) for row in await work.slices()]
        return sum(state == slices.SUCCEEDED for state, _ in states) == count and all(
            state == slices.SUCCEEDED or reason for state, reason in states
        )

    await until(stepped, 120)
