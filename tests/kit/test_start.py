"""A service's start: it waits for its database, refuses an old schema, and says what is missing."""

# ruff: noqa: ASYNC110 - what another task or process does is polled

from __future__ import annotations

import asyncio
import signal

import grpc
import pytest

from mdw.ingest.v1 import bars_pb2, bars_pb2_grpc
from services.kit.background import Background
from services.kit.db import Database
from services.kit.errors import Unavailable
from services.kit.health import Health
from services.kit.readiness import Readiness
from services.kit.schema import RequiredSchema, SchemaError, wait_for_schema
from tests.kit.conftest import Bars, make_server
from tests.kit.test_server import NOT_SERVING, SERVING, health
from tests.proxy import proxied
from tests.support import Process, environment, make_key, reason, with_key
from tests.waiting import LONG, until


@pytest.fixture
async def db(database):
    db = await Database.open(database.symbols_url)
    yield db
    await db.close()


async def test_a_newer_schema_is_fine(db):
    assert await wait_for_schema(db, RequiredSchema(version=1), 0) > 1


async def test_an_older_schema_is_refused_with_both_versions_and_the_command(db):
    with pytest.raises(SchemaError, match=r"at version \d+, this service needs 999.*python -m migrator up"):
        await wait_for_schema(db, RequiredSchema(version=999), 0.1)


async def test_an_empty_database_is_at_version_0(empty_database):
    db = await Database.open(empty_database)
    with pytest.raises(SchemaError, match=r"at version 0"):
        await wait_for_schema(db, RequiredSchema(version=1), 0.1)
    await db.close()


async def test_missing_columns_and_functions_are_named(db):
    required = RequiredSchema(
        version=1,
        columns=("symbols.symbols.symbol_id", "symbols.symbols.nothing", "symbols.nothing.x"),
        functions=("auth.record_calls", "auth.nothing"),
    )
    with pytest.raises(SchemaError, match=r"lacks auth.nothing, symbols.nothing.x, symbols.symbols.nothing"):
        await wait_for_schema(db, required, 0)


async def test_a_server_waits_for_its_database_alive_and_not_ready(database):
    async with proxied(database.ingest_url) as (proxy, url):
        proxy.refuse = True
        server = await make_server(database, Bars())
        server.db = await Database.open(url, size=2)
        starting = asyncio.create_task(server.start())
        while not server.port:
            await asyncio.sleep(0.01)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            assert await health(channel, "liveness") == SERVING
            assert await health(channel, "readiness") == NOT_SERVING
            key = await make_key(database, "bars.read")
            stub = bars_pb2_grpc.BarServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ListBars(bars_pb2.ListBarsRequest(), metadata=with_key(key))
            assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")
            proxy.refuse = False
            await asyncio.wait_for(starting, LONG)
            assert await health(channel, "readiness") == SERVING
            await stub.ListBars(bars_pb2.ListBarsRequest(), metadata=with_key(key))
        await server.stop(grace=0)


async def test_a_server_that_loses_its_database_says_so_and_recovers(database):
    async with proxied(database.ingest_url) as (proxy, url):
        server = await make_server(database, Bars(), database_url=url)
        port = await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert await health(channel, "readiness") == SERVING
            proxy.refuse = True
            proxy.cut()
            await server.readiness.check()
            await until(lambda: says(channel, NOT_SERVING))
            assert await health(channel, "liveness") == SERVING
            proxy.refuse = False
            await until(lambda: says(channel, SERVING))
        await server.stop(grace=0)


async def says(channel, wanted) -> bool:
    return await health(channel, "readiness") == wanted


async def test_checks_decide_readiness_and_what_is_away_may_keep_it():
    told = Health()
    readiness = Readiness(told)
    answers: dict[str, str | Exception] = {"a": "", "b": ""}

    async def ask(name):
        if isinstance(answers[name], Exception):
            raise answers[name]
        return answers[name]

    readiness.add("a", lambda: ask("a"), seconds=0)
    readiness.add("b", lambda: ask("b"), seconds=0, keep_while_away=True)
    await readiness.check()
    assert told.ready
    answers["b"] = Unavailable("AUTH_UNAVAILABLE", "away", retry_after=1)
    await readiness.check()
    assert told.ready
    answers["b"] = "refused"
    await readiness.check()
    assert readiness.problems == {"b": "refused"}
    answers["b"] = ""
    answers["a"] = ZeroDivisionError()
    await readiness.check()
    assert readiness.problems == {"a": "ZeroDivisionError"}


async def test_a_part_that_ends_by_itself_is_noticed_and_a_failing_verb_is_tried_again():
    background, tries = Background(), []

    async def verb():
        tries.append(1)
        raise Unavailable("X", "y", retry_after=1) if len(tries) % 2 else RuntimeError

    async def part():
        await until(lambda: len(tries) > 1)

    background.every(0.001, "verb", verb)
    background.add("part", part)
    background.start()
    await asyncio.wait_for(background.failed(), LONG)
    await background.stop()


async def test_a_process_refuses_bad_settings_with_one_line(database):
    with pytest.raises(AssertionError, match=r"^POOL_SIZE: 'x' is not a number"):
        await Process.start("services.auth", environment(database.auth_url, pool_size="x"))


async def test_a_process_refuses_an_old_schema_and_ends(empty_database):
    with pytest.raises(AssertionError, match=r"python -m migrator up"):
        await Process.start("services.auth", environment(empty_database, schema_wait_seconds="0"))


async def test_a_process_ends_with_0_when_told_to(database):
    process = await Process.start("services.auth", environment(database.auth_url, metrics_address="127.0.0.1:0"))
    process.kill(signal.SIGTERM)
    assert await process.end() == 0
    assert process.events[-1]["event"] == "stopped"


async def test_a_process_that_cannot_listen_ends_with_1(database):
    first = await Process.start("services.auth", environment(database.auth_url))
    with pytest.raises(AssertionError, match=r"cannot_listen"):
        await Process.start("services.auth", environment(database.auth_url, listen_address=first.target))
    await first.stop()
