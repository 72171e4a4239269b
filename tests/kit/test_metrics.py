"""What a server says of itself when Prometheus asks."""

from __future__ import annotations

import asyncio
import urllib.request

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mdw.ingest.v1 import bars_pb2
from services.kit.exporter import Buckets, Exporter
from tests.kit.conftest import Bars, Rig, make_server
from tests.support import make_key, running, with_key


def read(port: int) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Returns what /metrics shows: values by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


@pytest.fixture
async def scraped(database):
    servicer = Bars()
    server = await make_server(database, servicer, metrics_address="127.0.0.1:0")
    key = await make_key(database, "bars.read")
    async with running(server) as channel:
        yield Rig(server, servicer, channel, key, f"127.0.0.1:{server.port}")


async def test_refusals_are_counted_by_reason(scraped):
    with pytest.raises(grpc.aio.AioRpcError):
        await scraped.stub.ListBars(bars_pb2.ListBarsRequest())
    found = await asyncio.to_thread(read, scraped.server.metrics_port)
    assert found["mdw_calls_refused_total"] == {(("reason", "KEY_MISSING"),): 1}
    labels = (("grpc_method", "ListBars"), ("grpc_service", "mdw.ingest.v1.BarService"), ("grpc_type", "unary"))
    assert found["grpc_server_started_total"][labels] == 1


async def test_methods_and_grave_codes_are_shown_before_their_first_call(scraped):
    found = await asyncio.to_thread(read, scraped.server.metrics_port)
    handled = {
        (dict(labels)["grpc_method"], dict(labels)["grpc_code"]) for labels in found["grpc_server_handled_total"]
    }
    codes = ("OK", "INTERNAL", "UNAVAILABLE")
    assert handled == {(method, code) for method in ("ListBars", "StreamBars", "GetLatestBars") for code in codes}


async def test_streams_and_calls_under_way_are_seen(scraped):
    going, ended = asyncio.Event(), asyncio.Event()

    async def slow(request, context):
        yield bars_pb2.StreamBarsResponse(symbol_id=1)
        going.set()
        await ended.wait()

    scraped.servicer.stream = slow
    call = scraped.stub.StreamBars(bars_pb2.StreamBarsRequest(), metadata=with_key(scraped.key))
    await call.read()
    await going.wait()
    found = await asyncio.to_thread(read, scraped.server.metrics_port)
    ended.set()
    await call.read()
    assert found["mdw_streams_open"] == {(): 1}
    assert found["mdw_calls_open"] == {(): 1}
    assert found["mdw_ready"] == {(): 1}


async def test_batches_of_the_audit_log_are_measured(scraped):
    await scraped.stub.ListBars(bars_pb2.ListBarsRequest(), metadata=with_key(scraped.key))
    found = await asyncio.to_thread(read, scraped.server.metrics_port)
    assert found["mdw_audit_batch_rows_sum"] == {(): 1}
    assert found["mdw_audit_commit_seconds_count"] == {(): 1}
    assert found["mdw_audit_waiting_rows"] == found["mdw_audit_lag_seconds"] == found["mdw_audit_down"] == {(): 0}


async def test_rows_that_wait_are_the_lag_of_the_audit_log(database):
    server = await make_server(database, Bars())
    from services.kit import calls, entries  # noqa: PLC0415

    server.recorder.submit(entries.entry(calls.Call(method="ListBars"), 0))
    value = server.metrics.registry.get_sample_value
    assert value("mdw_audit_waiting_rows") == 1
    await asyncio.sleep(0.01)
    assert value("mdw_audit_lag_seconds") >= 0.01
    await server.stop(grace=0)


async def test_a_pool_says_how_far_it_is_used(scraped):
    async with scraped.server.db.connection():
        found = await asyncio.to_thread(read, scraped.server.metrics_port)
    use = found["mdw_pool_connections"]
    assert use[(("pool", "calls"), ("state", "used"))] == 1
    assert use[(("pool", "calls"), ("state", "limit"))] == 4


async def test_a_check_that_fails_has_its_name(scraped):
    async def broken() -> str:
        return "it is broken"

    scraped.server.readiness.add("thing", broken)
    await scraped.server.readiness.check()
    found = await asyncio.to_thread(read, scraped.server.metrics_port)
    assert found["mdw_check_failing"] == {(("check", "database"),): 0, (("check", "thing"),): 1}
    assert found["mdw_ready"] == {(): 0}


def test_a_name_is_exported_once():
    exporter = Exporter()
    exporter.gauge("mdw_something", "One.", lambda: 1)
    with pytest.raises(ValueError, match="mdw_something"):
        exporter.gauge("mdw_something", "Two.", lambda: 2)


def test_a_value_on_a_bound_belongs_below_it():
    buckets = Buckets((1, 10))
    for value in (1, 10, 11):
        buckets.observe(value)
    assert buckets.cumulative() == [("1", 1), ("10", 2), ("+Inf", 3)]
    assert buckets.total == 22
