"""A change is committed and nobody is told: a repeat with the same request_id gives the first answer, and it is one."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from uuid import uuid4

import asyncpg
import grpc
import pytest
from google.protobuf import message_factory

from services.kit import recorder
from tests.faulty import Faults, faulty
from tests.fuzzing import GOOD
from tests.support import make_key, reason, with_key
from tests.whole import OWNERS, fill, methods, whole

MADE = {
    "CreateKey": "auth.keys",
    "RotateKey": "auth.keys",
    "CreateSymbol": "symbols.symbols",
    "ImportSymbols": "symbols.symbols",
    "StartBackfill": "ingest.backfills",
    "RunSchedule": "ingest.backfills",
    "SyncActions": "ingest.backfills",
    "SyncSymbols": "ingest.backfills",
    "ImportFiles": "ingest.backfills",
    "DeleteBars": "ingest.backfills",
}
"""Each change that takes a request_id, and where it leaves one row."""

FIELDS = {
    "StartBackfill": {"mode": 2},
    "SyncActions": {"tickers": ["AAPL"]},
    "ImportFiles": {"path": "some/folder", "asset_class": 1, "timeframe": 7},
}


class Changes:
    """The changes with a request_id, each with a request that makes something new every time."""

    def __init__(self, services, conn: asyncpg.Connection, database) -> None:
        self._services, self._conn, self._database = services, conn, database
        self.names = {m.name: m for m in methods() if "request_id" in m.input_type.fields_by_name}

    async def request(self, name: str):
        method = self.names[name]
        fields = {**GOOD.get(method.input_type.name, {}), **FIELDS.get(name, {}), "request_id": str(uuid4())}
        ticker = "".join(chr(65 + int(digit, 16)) for digit in uuid4().hex[:6])
        if name == "RotateKey":
            fields["key_id"] = str(uuid4())
            await make_key(self._database, "bars.read", key_id=fields["key_id"])
        elif name == "CreateSymbol":
            fields["symbol"] = {"ticker": ticker, "asset_class": 1}
        elif name == "ImportSymbols":
            fields["symbols"] = [{"ticker": ticker, "asset_class": 1}]
        return message_factory.GetMessageClass(method.input_type)(**fields)

    async def call(self, name: str, request):
        """Calls, and returns the answer without a secret, which is given only once."""
        method = self.names[name]
        unary = self._services.channel(method).unary_unary(
            f"/{method.containing_service.full_name}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        answer = await unary(request, metadata=with_key(self._services.admin), timeout=60)
        if "secret" in method.output_type.fields_by_name:
            answer.ClearField("secret")
        return answer

    def server(self, name: str):
        return self._services.servers[OWNERS[self.names[name].containing_service.full_name]]

    async def count(self, name: str) -> int:
        return int(await self._conn.fetchval(f"SELECT count(*) FROM {MADE[name]}"))

    async def kept(self, name: str, request) -> int:
        schema = MADE[name].partition(".")[0]
        return int(
            await self._conn.fetchval(
                f"SELECT count(*) FROM {schema}.requests WHERE request_id::text = $1", request.request_id
            )
        )


@pytest.fixture
async def changes(database):
    await fill(database)
    conn = await asyncpg.connect(database.admin_url)
    async with whole(database) as services:
        yield Changes(services, conn, database)
    await conn.close()


def test_every_change_with_a_request_id_is_tried_here():
    assert {m.name for m in methods() if "request_id" in m.input_type.fields_by_name} <= set(MADE)


async def test_a_commit_that_timed_out_is_looked_up_and_answered(changes):
    for name in changes.names:
        request = await changes.request(name)
        before = await changes.count(name)
        with faulty(changes.server(name).db, Faults()) as faults:
            faults.once("^COMMIT")
            first = await changes.call(name, request)
            assert [kind for kind, _ in faults.met] == ["lost"], name
        assert await changes.call(name, request) == first, name
        assert await changes.count(name) - before <= 1, name
        assert await changes.kept(name, request) == 1, name


async def test_a_commit_that_nobody_can_look_up_is_done_once_and_answered_to_the_repeat(changes, monkeypatch):
    monkeypatch.setattr(recorder, "RESOLVE_SECONDS", 0.15)
    for name in changes.names:
        request = await changes.request(name)
        before = await changes.count(name)
        with ExitStack() as stack:
            faults = stack.enter_context(faulty(changes.server(name).db, Faults()))
            faults.once("^COMMIT")
            faults.once("change_committed", times=50)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await changes.call(name, request)
        assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "COMMIT_UNKNOWN"), name
        second = await changes.call(name, request)
        assert await changes.call(name, request) == second, name
        assert await changes.count(name) - before <= 1, name
        assert await changes.kept(name, request) == 1, name


async def test_a_statement_that_timed_out_before_the_commit_leaves_nothing(changes):
    for name in changes.names:
        request = await changes.request(name)
        before = await changes.count(name)
        with faulty(changes.server(name).db, Faults()) as faults:
            faults.once("record_calls")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await changes.call(name, request)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE, name
        assert await changes.count(name) == before, name
        assert await changes.kept(name, request) == 0, name
        await changes.call(name, request)
        assert await changes.kept(name, request) == 1, name


async def test_an_id_that_comes_again_with_another_request_is_refused(changes):
    for name in changes.names:
        request, other = await changes.request(name), await changes.request(name)
        other.request_id = request.request_id
        if request == other:
            continue
        await changes.call(name, request)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await changes.call(name, other)
        assert (caught.value.code(), reason(caught.value)) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "REQUEST_ID_REUSED",
        ), name


async def test_twelve_at_once_with_one_id_are_one_change_with_twelve_equal_answers(changes):
    for name in changes.names:
        request = await changes.request(name)
        before = await changes.count(name)
        first, *others = await asyncio.gather(*(changes.call(name, request) for _ in range(12)))
        assert all(other == first for other in others), name
        assert await changes.count(name) - before <= 1, name
        assert await changes.kept(name, request) == 1, name
