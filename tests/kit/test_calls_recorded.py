"""Every call leaves its row, and is answered with a clean status."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest

from mdw.ingest.v1 import bars_pb2
from services.kit import keys
from services.kit.answering import DENIAL_SECONDS
from services.kit.errors import InvalidArgument, NotFound
from tests.raw import connected
from tests.support import make_key, reason, violations, with_key
from tests.waiting import LONG, until

REQUEST = bars_pb2.ListBarsRequest(ticker="AAPL")


async def failing(awaitable) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value


async def test_an_answered_call_has_its_row_and_is_counted(rig, rows):
    await rig.stub.ListBars(REQUEST, metadata=(*with_key(rig.key), ("x-request-id", "abc")))
    (row,) = await rows.all()
    assert (row["service"], row["method"], row["code"]) == ("ingest", "ListBars", 0)
    assert (row["peer"], row["request_id"], row["key_preview"]) == ("127.0.0.1", "abc", rig.key[:12])
    assert await rows.usage() == 1


async def test_every_answer_carries_the_version(rig):
    call = rig.stub.ListBars(REQUEST, metadata=with_key(rig.key))
    await call
    assert dict(await call.trailing_metadata())["x-mdw-version"]
    error = await failing(rig.stub.ListBars(REQUEST))
    assert dict(error.trailing_metadata())["x-mdw-version"]


async def test_an_error_of_the_handler_becomes_its_status_and_its_row(rig, rows):
    async def missing(request, context):
        raise NotFound("SYMBOL_NOT_FOUND", "there is no symbol AAPL", ticker="AAPL")

    rig.servicer.list = missing
    error = await failing(rig.stub.ListBars(REQUEST, metadata=with_key(rig.key)))
    assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "SYMBOL_NOT_FOUND")
    assert await rows.codes() == [("ListBars", 5, "SYMBOL_NOT_FOUND")]


async def test_an_invalid_argument_names_its_fields(rig):
    async def invalid(request, context):
        raise InvalidArgument.many([("ticker", "is required"), ("timeframe", "is required")])

    rig.servicer.list = invalid
    error = await failing(rig.stub.ListBars(REQUEST, metadata=with_key(rig.key)))
    assert violations(error) == ["ticker", "timeframe"]


async def test_the_text_of_an_exception_stays_inside(rig, rows):
    async def broken(request, context):
        raise ValueError("postgres://mdw:s3cret@db/mdw")

    rig.servicer.list = broken
    error = await failing(rig.stub.ListBars(REQUEST, metadata=with_key(rig.key)))
    assert error.code() == grpc.StatusCode.INTERNAL
    assert "s3cret" not in str(error)
    assert error.details().startswith("internal error; id=")
    assert await rows.codes() == [("ListBars", 13, "INTERNAL_ERROR")]


async def test_a_stray_cancellation_does_not_hang_the_caller(rig):
    async def cancelled(request, context):
        raise asyncio.CancelledError

    rig.servicer.list = cancelled
    error = await failing(rig.stub.ListBars(REQUEST, metadata=with_key(rig.key), timeout=LONG))
    assert error.code() == grpc.StatusCode.INTERNAL


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("x-api-key", "mdw_" + "0" * 72),),
        (("x-api-key", ""),),
        (("x-api-key", "no key at all"),),
        (("authorization", "Basic abc"),),
        (("x-api-key-bin", b"\xff\x00"),),
    ],
    ids=["none", "wrong checksum", "empty", "no key", "not bearer", "binary"],
)
async def test_strangers_hear_the_same_words(rig, rows, metadata):
    error = await failing(rig.stub.ListBars(REQUEST, metadata=metadata))
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert reason(error) == "KEY_INVALID"
    assert error.details() == "the call needs a valid API key in the metadata x-api-key"
    assert rig.servicer.begun == 0
    assert [row["code"] for row in await rows.all()] == [16]
    assert await rows.usage() == 0


async def test_one_key_only(rig):
    error = await failing(rig.stub.ListBars(REQUEST, metadata=with_key(rig.key) * 2))
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    both = (*with_key(rig.key), ("authorization", f"Bearer {rig.key}"))
    assert (await failing(rig.stub.ListBars(REQUEST, metadata=both))).code() == grpc.StatusCode.UNAUTHENTICATED


async def test_a_bearer_token_is_a_key_too(rig):
    await rig.stub.ListBars(REQUEST, metadata=(("authorization", f"Bearer {rig.key}"),))


async def test_a_key_without_the_scope_is_denied_and_recorded(database, rig, rows):
    other = await make_key(database, "keys.read")
    error = await failing(rig.stub.ListBars(REQUEST, metadata=with_key(other)))
    assert (error.code(), reason(error)) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    assert await rows.codes() == [("ListBars", 7, "SCOPE_MISSING")]


async def test_a_key_is_bound_to_its_networks(database, rig, rows):
    here = await make_key(database, "bars.read", allowed_peers=("127.0.0.0/8",))
    elsewhere = await make_key(database, "bars.read", allowed_peers=("10.0.0.0/8",))
    await rig.stub.ListBars(REQUEST, metadata=with_key(here))
    error = await failing(rig.stub.ListBars(REQUEST, metadata=with_key(elsewhere)))
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert (await rows.codes())[-1] == ("ListBars", 16, "PEER_NOT_ALLOWED")


async def test_what_a_caller_says_of_its_address_does_not_count(database, rig, rows):
    elsewhere = await make_key(database, "bars.read", allowed_peers=("10.0.0.0/8",))
    claims = (("x-forwarded-for", "10.0.0.1"), ("forwarded", "for=10.0.0.1"), ("x-real-ip", "10.0.0.1"))
    error = await failing(rig.stub.ListBars(REQUEST, metadata=(*with_key(elsewhere), *claims)))
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert [row["peer"] for row in await rows.all()] == ["127.0.0.1"]


async def test_a_body_that_is_no_message_is_refused_and_recorded(rig, rows):
    call = rig.channel.unary_unary("/mdw.ingest.v1.BarService/ListBars")
    error = await failing(call(b"\xff\xff\xff", metadata=with_key(rig.key)))
    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_MALFORMED")
    assert await rows.codes() == [("ListBars", 3, "REQUEST_MALFORMED")]


async def test_an_unknown_method_is_not_told_apart_by_strangers(rig, rows):
    call = rig.channel.unary_unary("/mdw.ingest.v1.BarService/Nothing\nhere")
    assert (await failing(call(b""))).code() == grpc.StatusCode.UNAUTHENTICATED
    error = await failing(call(b"", metadata=with_key(rig.key)))
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNIMPLEMENTED, "METHOD_UNKNOWN")
    assert [row["code"] for row in await rows.all()] == [16, 12]


async def test_what_grpc_refuses_itself_is_counted(rig, rows):
    call = rig.channel.unary_unary("/mdw.ingest.v1.BarService/ListBars")
    error = await failing(call(b"\x0a" * 5_000_000, metadata=with_key(rig.key)))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await until(rows.codes) == [("ListBars", 1, "REQUEST_UNREAD")]


async def test_oversized_metadata_is_refused_every_time(rig):
    for _ in range(3):
        error = await failing(rig.stub.ListBars(REQUEST, metadata=(*with_key(rig.key), ("x-filler", "a" * 9_000))))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_call_that_only_checks_leaves_no_row_of_its_success(database, rig, rows):
    service = await make_key(database, "service")
    await rig.stub.GetLatestBars(bars_pb2.GetLatestBarsRequest(), metadata=with_key(service))
    assert await rows.all() == []
    admin = await make_key(database, "admin")
    error = await failing(rig.stub.GetLatestBars(bars_pb2.GetLatestBarsRequest(), metadata=with_key(admin)))
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_a_caller_that_goes_away_leaves_a_row(rig, rows):
    entered = asyncio.Event()

    async def slow(request, context):
        entered.set()
        await asyncio.sleep(2 * LONG)

    rig.servicer.list = slow
    call = rig.stub.ListBars(REQUEST, metadata=with_key(rig.key))
    await entered.wait()
    call.cancel()
    assert await until(rows.codes) == [("ListBars", 1, "CALLER_GONE")]


async def test_a_passed_deadline_leaves_a_row(rig, rows):
    async def slow(request, context):
        await asyncio.sleep(2 * LONG)

    rig.servicer.list = slow
    seconds = 0.2
    while not rig.servicer.begun:  # on a slow machine a short deadline may pass before the handler runs
        error = await failing(rig.stub.ListBars(REQUEST, metadata=with_key(rig.key), timeout=seconds))
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        seconds *= 4
    assert (await until(rows.codes))[-1] == ("ListBars", 4, "DEADLINE_PASSED")


async def test_a_key_that_goes_while_the_handler_runs_is_refused(rig, rows):
    async def revoke(request, context):
        await rows.execute("UPDATE auth.keys SET revoke_time = now()")
        return bars_pb2.ListBarsResponse()

    rig.servicer.list = revoke
    error = await failing(rig.stub.ListBars(REQUEST, metadata=with_key(rig.key)))
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert await rows.codes() == [("ListBars", 16, "KEY_REVOKED")]
    assert await rows.usage() == 0


async def test_calls_that_are_taken_back_at_once_become_few_rows(rig, rows):
    """Rapid resets cost no row each, whether gRPC or a handler notices them."""
    async with connected(rig.target) as connection:
        for _ in range(300):
            connection.reset(connection.call("/mdw.ingest.v1.BarService/ListBars"))
        await connection.writer.drain()
        await rig.stub.ListBars(REQUEST, metadata=with_key(rig.key))
        await until(lambda: _refused(rows))
    refused = await _refused(rows)
    assert sum(row["call_count"] for row in refused) <= 300
    # Of each of the two kinds ten rows a second and five merged ones; the machine decides how long it takes.
    assert len(refused) < 60 or len(refused) <= 2 * 16 * len({int(row["time"].timestamp()) for row in refused})


async def _refused(rows):
    return [row for row in await rows.all() if row["code"] != 0]


@pytest.mark.parametrize(
    "end", ["unknown", "revoke_time = now()", "expire_time = now()", "delete_time = now(), digest = NULL"]
)
async def test_a_denial_takes_as_long_whatever_its_reason(database, rig, rows, end):
    """None is answered sooner than the slowest look-up takes, and all read the same."""
    key = keys.new_secret() if end == "unknown" else rig.key
    if end != "unknown":
        await rows.execute(f"UPDATE auth.keys SET {end}")
    started = time.monotonic()
    error = await failing(rig.stub.ListBars(REQUEST, metadata=with_key(key)))
    assert time.monotonic() - started >= DENIAL_SECONDS
    assert error.details() == "the call needs a valid API key in the metadata x-api-key"
    assert [name for name, _ in error.trailing_metadata()] == ["x-mdw-version", "grpc-status-details-bin"]
