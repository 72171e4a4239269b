"""Channels: the key and a deadline in each call, replicas in turn, another try where it is safe."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import grpc
import pytest

from mdw.auth.v1.auth_pb2 import GetKeyRequest, GetKeyResponse, Key
from mdw.auth.v1.auth_pb2_grpc import KeyServiceStub
from mdw.ingest.v1.ingest_pb2 import WatchBackfillRequest, WatchBackfillResponse
from mdw.ingest.v1.ingest_pb2_grpc import IngestServiceStub
from mdw_client import ConfigurationError, aio_channel, channel, credentials
from mdw_client.channel import is_loopback
from mdw_client.credentials import KeyFile, Tls
from services.kit.errors import FailedPrecondition, Unavailable
from tests.mdw_client.warehouse import Warehouse, in_turn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AWAY = Unavailable("DATABASE_UNAVAILABLE", "the database is away", retry_after=1)


def test_sends_the_key_and_a_deadline_with_each_call(warehouse: Warehouse) -> None:
    with channel(warehouse.target, key="a key", timeout=20) as made:
        KeyServiceStub(made).GetKey(GetKeyRequest(), metadata=[("x-request-id", "7")])
    received = warehouse.received[0]
    assert (received.metadata["x-api-key"], received.metadata["x-request-id"]) == ("a key", "7")
    assert 0 < received.time_left <= 20.5
    assert received.metadata["user-agent"].startswith("mdw-client/")


async def test_sends_them_on_asyncio_too(warehouse: Warehouse) -> None:
    async with aio_channel(warehouse.target, key="a key", timeout=20) as made:
        await made.channel_ready()
        await KeyServiceStub(made).GetKey(GetKeyRequest())
        assert made.get_state() is grpc.ChannelConnectivity.READY
    assert warehouse.received[0].metadata["x-api-key"] == "a key"
    assert 0 < warehouse.received[0].time_left <= 20.5


def test_the_callers_own_timeout_wins(warehouse: Warehouse) -> None:
    with channel(warehouse.target, timeout=20) as made:
        answer, call = KeyServiceStub(made).GetKey.with_call(GetKeyRequest(), timeout=500)
        KeyServiceStub(made).GetKey.future(GetKeyRequest(), timeout=600).result()
    assert (answer, call.code()) == (GetKeyResponse(), grpc.StatusCode.OK)
    assert [round(each.time_left, -1) for each in warehouse.received] == [500, 600]


def test_streams_have_no_deadline(warehouse: Warehouse) -> None:
    warehouse.answers["WatchBackfill"] = [WatchBackfillResponse()]
    with channel(warehouse.target) as made:
        assert len(list(IngestServiceStub(made).WatchBackfill(WatchBackfillRequest()))) == 1
    # A call without a deadline is one of many years to the server.
    assert warehouse.received[0].time_left is None or warehouse.received[0].time_left > 1e8


def test_tries_again_while_a_service_is_unavailable(warehouse: Warehouse) -> None:
    warehouse.answers["GetKey"] = in_turn(AWAY, AWAY, GetKeyResponse(key=Key(key_id="k")))
    with channel(warehouse.target) as made:
        assert KeyServiceStub(made).GetKey(GetKeyRequest()).key.key_id == "k"
    assert [each.metadata.get("grpc-previous-rpc-attempts") for each in warehouse.received] == [None, "1", "2"]


def test_tries_nothing_else_again(warehouse: Warehouse) -> None:
    warehouse.answers["GetKey"] = FailedPrecondition("KEY_REVOKED", "the key is revoked")
    with channel(warehouse.target) as made, pytest.raises(grpc.RpcError):
        KeyServiceStub(made).GetKey(GetKeyRequest())
    assert len(warehouse.received) == 1


def test_spreads_calls_over_all_replicas() -> None:
    replicas = [Warehouse() for _ in range(3)]
    ports = [replica.start() for replica in replicas]
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    with channel(target) as made:
        stub = KeyServiceStub(made)
        end = time.monotonic() + 60
        while any(len(replica.received) < 15 for replica in replicas) and time.monotonic() < end:
            stub.GetKey(GetKeyRequest(), wait_for_ready=True)
    for replica in replicas:
        replica.stop()
    assert all(len(replica.received) >= 15 for replica in replicas)


def test_a_replica_that_dies_costs_no_call() -> None:
    replicas = [Warehouse() for _ in range(2)]
    ports = [replica.start() for replica in replicas]
    with channel("ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)) as made:
        stub = KeyServiceStub(made)
        stub.GetKey(GetKeyRequest())
        replicas[0].stop()
        for _ in range(20):
            stub.GetKey(GetKeyRequest())
    replicas[1].stop()


def test_finds_a_service_that_comes_back(warehouse: Warehouse) -> None:
    with channel(warehouse.target) as made:
        stub = KeyServiceStub(made)
        stub.GetKey(GetKeyRequest())
        address = warehouse.target
        warehouse.stop()
        with pytest.raises(grpc.RpcError) as raised:
            stub.GetKey(GetKeyRequest(), timeout=0.3)
        warehouse.start(address)
        stub.GetKey(GetKeyRequest())
    assert raised.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_the_state_of_a_connection_can_be_followed(warehouse: Warehouse) -> None:
    ready = threading.Event()

    def follow(state: grpc.ChannelConnectivity) -> None:
        if state is grpc.ChannelConnectivity.READY:
            ready.set()

    with channel(warehouse.target) as made:
        made.subscribe(follow, try_to_connect=True)
        assert ready.wait(10)
        made.unsubscribe(follow)


async def test_it_can_on_asyncio(warehouse: Warehouse) -> None:
    async with aio_channel(warehouse.target) as made:
        state = made.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.READY:
            await made.wait_for_state_change(state)
            state = made.get_state()


async def test_calls_with_many_requests_have_the_key_too(warehouse: Warehouse) -> None:
    """No RPC of the warehouse has them; other services behind the same channel may."""
    seen: list[str] = []

    def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        seen.append(dict(context.invocation_metadata())["x-api-key"])
        return b"".join(requests)

    def answers(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield answer(requests, context)

    methods = {
        "Join": grpc.stream_unary_rpc_method_handler(answer),
        "Each": grpc.stream_stream_rpc_method_handler(answers),
    }
    warehouse._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Many", methods)])
    with channel(warehouse.target, key="k") as made:
        assert made.stream_unary("/test.Many/Join")(iter([b"a", b"b"])) == b"ab"
        assert list(made.stream_stream("/test.Many/Each")(iter([b"a", b"b"]))) == [b"ab"]
    async with aio_channel(warehouse.target, key="k") as amade:
        assert await amade.stream_unary("/test.Many/Join")(iter([b"a", b"b"])) == b"ab"
        assert [each async for each in amade.stream_stream("/test.Many/Each")(iter([b"c"]))] == [b"c"]
    assert seen == ["k"] * 4


@pytest.mark.parametrize("make", [channel, aio_channel])
def test_refuses_plaintext_to_other_machines(make) -> None:
    with pytest.raises(ConfigurationError, match="MDW_ALLOW_PLAINTEXT"):
        make("dns:///symbols.mdw.svc:15052", key="k")


async def test_speaks_plaintext_to_other_machines_when_asked() -> None:
    channel("symbols.invalid:15052", allow_plaintext=True).close()
    await aio_channel("symbols.invalid:15052", allow_plaintext=True).close()


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        ("127.0.0.1:15051", True),
        ("127.8.8.8", True),
        ("localhost:15051", True),
        ("dns:///localhost:15051", True),
        ("dns://1.1.1.1/localhost:15051", True),
        ("ipv4:127.0.0.1:1,127.0.0.2:1", True),
        ("ipv6:[::1]:15051", True),
        ("[::1]:15051", True),
        ("unix:/tmp/socket", True),
        ("unix-abstract:name", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:1", False),
        ("10.0.0.1:15051", False),
        ("localhost.example.com:15051", False),
        ("dns:///symbols.mdw.svc:15052", False),
        ("xds:///symbols", False),
        ("[2001:db8::1]:15051", False),
    ],
)
def test_knows_which_targets_are_this_machine(target: str, answer) -> None:
    assert is_loopback(target) is answer


def test_a_renewed_key_file_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warehouse: Warehouse
) -> None:
    monkeypatch.setattr(credentials, "_LOOK_AGAIN_SECONDS", 0)
    path = tmp_path / "key"
    path.write_text("first\n")
    with channel(warehouse.target, key=path) as made:
        for text in ("first\n", "second\n", ""):
            path.write_text(text)
            KeyServiceStub(made).GetKey(GetKeyRequest())
        path.unlink()
        KeyServiceStub(made).GetKey(GetKeyRequest())
    assert [each.metadata["x-api-key"] for each in warehouse.received] == ["first", "second", "second", "second"]


def test_a_key_file_is_not_looked_at_for_every_call(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("first")
    key = KeyFile(path)
    path.write_text("second")
    assert key() == "first"


def test_a_key_may_come_from_a_function(warehouse: Warehouse) -> None:
    with channel(warehouse.target, key=lambda: "made for this call") as made:
        KeyServiceStub(made).GetKey(GetKeyRequest())
    assert warehouse.received[0].metadata["x-api-key"] == "made for this call"


def test_a_client_certificate_needs_its_key(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs its key"):
        Tls(cert_file=tmp_path / "cert.pem").credentials()
