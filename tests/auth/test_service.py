"""AuthService: what services ask about keys and calls."""

from __future__ import annotations

from uuid import uuid4

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from mdw.auth.v1 import auth_pb2, auth_pb2_grpc
from services.kit import keys
from tests.auth.test_keys import Keys, refused
from tests.support import make_key, reason, violations, with_key

READS, CHANGES = auth_pb2.RecordCallsRequest.READS, auth_pb2.RecordCallsRequest.CHANGES


@pytest.fixture
async def service(database) -> str:
    return await make_key(database, "service")


class Service:
    """AuthService as a service sees it."""

    def __init__(self, channel, secret: str) -> None:
        self._stub = auth_pb2_grpc.AuthServiceStub(channel)
        self._metadata = with_key(secret)

    async def validate(self, secret: str, peer: str = "") -> auth_pb2.ValidateKeyResponse:
        request = auth_pb2.ValidateKeyRequest(secret=secret, peer=peer)
        return await self._stub.ValidateKey(request, metadata=self._metadata)

    async def record(self, *calls, writer=None, kind=READS, seq=1) -> list[str]:
        request = auth_pb2.RecordCallsRequest(
            writer=writer or str(uuid4()), kind=kind, seq=seq, service="elsewhere", calls=calls
        )
        answer = await self._stub.RecordCalls(request, metadata=self._metadata)
        return list(answer.refused_call_ids)


@pytest.fixture
def auth(channel, service) -> Service:
    return Service(channel, service)


def call(key_id: str = "", **fields) -> auth_pb2.CallRecord:
    fields = {"method": "DoIt", "call_count": 1, "peer": "127.0.0.1", "scopes": ["bars.read"], **fields}
    return auth_pb2.CallRecord(call_id=str(uuid4()), key_id=key_id, **fields)


async def test_a_valid_key_is_described_and_all_others_are_an_answer_without_one(channel, auth, admin):
    root = Keys(channel, admin)
    made = await root.make("bars.read", max_streams=4)
    found = await auth.validate(made.secret)
    assert (found.key.key_id, list(found.key.scopes), found.key.max_streams) == (made.key.key_id, ["bars.read"], 4)
    assert not (await auth.validate(keys.new_secret())).HasField("key")
    assert not (await auth.validate("x" * 1_000_000)).HasField("key")
    await root.RevokeKey(key_id=made.key.key_id)
    assert not (await auth.validate(made.secret)).HasField("key")


async def test_a_peer_is_checked_when_it_is_named(channel, auth, admin):
    made = await Keys(channel, admin).make("bars.read", allowed_peers=["10.0.0.0/8"])
    assert (await auth.validate(made.secret)).HasField("key")
    assert (await auth.validate(made.secret, "10.1.2.3")).HasField("key")
    assert not (await auth.validate(made.secret, "192.168.0.1")).HasField("key")
    assert violations(await refused(auth.validate(made.secret, "nowhere"))) == ["peer"]


async def test_what_services_ask_leaves_no_row_when_it_succeeds(channel, auth, admin):
    await auth.validate(admin)
    entries = (await Keys(channel, admin).ListAuditEntries()).entries
    assert [entry.method for entry in entries] == []


async def test_a_revoked_service_key_is_refused_at_once(channel, auth, service, admin):
    await auth.validate(admin)
    root = Keys(channel, admin)
    mine = next(key for key in (await root.ListKeys()).keys if key.preview == service[:12])
    await root.RevokeKey(key_id=mine.key_id)
    for ask in (auth.validate(admin), auth.record(call())):
        assert (await refused(ask)).code() == grpc.StatusCode.UNAUTHENTICATED


async def test_recorded_calls_are_judged_stored_and_counted(channel, auth, admin):
    root = Keys(channel, admin)
    good, gone = await root.make("bars.read"), await root.make("bars.read")
    await root.RevokeKey(key_id=gone.key.key_id)
    calls = [call(good.key.key_id, duration=Duration(nanos=1_500_000), messages=3), call(gone.key.key_id)]
    assert await auth.record(*calls) == [calls[1].call_id]
    listed = {entry.call_id: entry for entry in (await root.ListAuditEntries(service="elsewhere")).entries}
    assert (listed[calls[0].call_id].code, listed[calls[0].call_id].duration.nanos) == ("OK", 1_500_000)
    assert (listed[calls[1].call_id].code, listed[calls[1].call_id].reason) == ("UNAUTHENTICATED", "KEY_REVOKED")
    assert (await root.GetKey(key_id=good.key.key_id)).key.request_count == 1


async def test_a_repeated_batch_gets_the_same_verdict_and_inserts_nothing(channel, auth, admin):
    root = Keys(channel, admin)
    writer, batch = str(uuid4()), [call(str(uuid4())), call()]
    first = await auth.record(*batch, writer=writer)
    assert first == [batch[0].call_id]
    assert await auth.record(*batch, writer=writer) == first
    assert len((await root.ListAuditEntries(service="elsewhere")).entries) == 2
    assert violations(await refused(auth.record(call(), writer=writer, seq=7))) == ["seq"]


async def test_a_refused_change_refuses_its_batch(channel, auth, admin):
    batch = [call(), call(str(uuid4()))]
    assert (await refused(auth.record(*batch, kind=CHANGES))).code() == grpc.StatusCode.UNAUTHENTICATED
    assert (await Keys(channel, admin).ListAuditEntries(service="elsewhere")).entries == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"method": ""}, "calls[0].method"),
        ({"method": "x" * 201}, "calls[0].method"),
        ({"code": 17}, "calls[0].code"),
        ({"code": -2}, "calls[0].code"),
        ({"peer": "nowhere"}, "calls[0].peer"),
        ({"key_id": "x"}, "calls[0].key_id"),
        ({"call_count": -1}, "calls[0].call_count"),
        ({"messages": -1}, "calls[0].messages"),
    ],
)
async def test_a_bad_record_is_named(auth, fields, field):
    assert violations(await refused(auth.record(call(**fields)))) == [field]


async def test_a_bad_batch_is_named(auth):
    assert violations(await refused(auth.record())) == ["calls"]
    assert violations(await refused(auth.record(call(), seq=0))) == ["seq"]
    assert violations(await refused(auth.record(call(), kind=0))) == ["kind"]
    assert violations(await refused(auth.record(call(), writer="x"))) == ["writer"]
    assert violations(await refused(auth.record(*[call()] * 513))) == ["calls"]


async def test_texts_of_a_record_are_cleaned(channel, auth, admin):
    await auth.record(call(reason="a\x00b\n", request_id="\x1b[31m" + "x" * 500))
    (entry,) = (await Keys(channel, admin).ListAuditEntries(service="elsewhere")).entries
    assert entry.reason == "a?b?"
    assert len(entry.request_id) == 100


async def test_a_malformed_body_is_named(channel, service):
    ask = channel.unary_unary("/mdw.auth.v1.AuthService/ValidateKey")
    assert reason(await refused(ask(b"\xff", metadata=with_key(service)))) == "REQUEST_MALFORMED"
