"""Calls: tried again where that is safe, with the same request, within their timeout."""

from __future__ import annotations

import contextlib
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import grpc_testing
import pytest

from mdw.auth.v1 import auth_pb2
from mdw.auth.v1.auth_pb2 import CreateKeyResponse, Key, ListKeysResponse
from mdw.auth.v1.auth_pb2_grpc import KeyServiceStub
from mdw.ingest.v1.ingest_pb2 import Backfill, WatchBackfillResponse, WatchSessionResponse
from mdw_client import (
    Aborted,
    AsyncClient,
    CallError,
    Cancelled,
    Client,
    DeadlineExceeded,
    NotFound,
    ResourceExhausted,
    channel,
    retries,
)
from mdw_client.channel import wrap
from mdw_client.errors import Details
from mdw_client.settings import load
from services.kit import errors
from services.kit.keys import new_secret
from tests.mdw_client.warehouse import Warehouse, in_turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

MET = errors.Aborted("CONFLICT", "two changes met")
LIMIT = errors.ResourceExhausted("KEY_LIMIT", "too many calls", retry_after=0.01)
AWAY = errors.Unavailable("DATABASE_UNAVAILABLE", "the database is away", retry_after=0)
CREATE = auth_pb2.DESCRIPTOR.services_by_name["KeyService"].methods_by_name["CreateKey"]


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "backoff", lambda _: 0.0)


def test_a_change_that_met_another_is_sent_again_as_the_same(warehouse: Warehouse, client: Client) -> None:
    warehouse.answers["CreateKey"] = in_turn(MET, LIMIT, CreateKeyResponse(secret="s"))
    assert client.keys.create("name", "bars.read").secret == "s"
    ids = [request.request_id for request in warehouse.requests("CreateKey")]
    assert len(ids) == 3
    assert len(set(ids)) == 1


async def test_it_is_on_asyncio_too(warehouse: Warehouse, aclient: AsyncClient) -> None:
    warehouse.answers["CreateKey"] = in_turn(MET, LIMIT, CreateKeyResponse(secret="s"))
    assert (await aclient.keys.create("name", "bars.read")).secret == "s"
    assert len({request.request_id for request in warehouse.requests("CreateKey")}) == 1


async def test_it_is_given_up_after_five_tries(warehouse: Warehouse, client: Client, aclient: AsyncClient) -> None:
    warehouse.answers["GetKey"] = MET
    with pytest.raises(Aborted):
        client.keys.get("7")
    with pytest.raises(Aborted):
        await aclient.keys.get("7")
    assert len(warehouse.received) == 10


def test_it_is_given_up_where_the_wait_is_longer_than_the_timeout(warehouse: Warehouse) -> None:
    warehouse.answers["GetKey"] = errors.ResourceExhausted("KEY_LIMIT", "too many", retry_after=60)
    with Client(warehouse.target, timeout=5) as client, pytest.raises(ResourceExhausted):
        client.keys.get("7")
    assert len(warehouse.received) == 1


def test_what_is_refused_is_not_sent_again(warehouse: Warehouse, client: Client) -> None:
    warehouse.answers["GetKey"] = errors.NotFound("KEY_NOT_FOUND", "no such key")
    with pytest.raises(NotFound):
        client.keys.get("7")
    assert len(warehouse.received) == 1


def test_a_call_without_an_end_is_ended(warehouse: Warehouse) -> None:
    never = threading.Event()
    warehouse.answers["GetKey"] = lambda _: never.wait(10)
    with Client(warehouse.target, timeout=0.1) as client, pytest.raises(DeadlineExceeded):
        client.keys.get("7")
    never.set()


def test_a_list_is_read_page_after_page(warehouse: Warehouse, client: Client) -> None:
    warehouse.answers["ListKeys"] = _pages
    keys = client.keys.list(active_only=True)
    assert warehouse.received == []
    assert [key.key_id for key in keys] == ["a", "b", "c"]
    assert [request.page_token for request in warehouse.requests("ListKeys")] == ["", "b", "c"]
    assert all(request.active_only for request in warehouse.requests("ListKeys"))


async def test_a_list_is_read_page_after_page_on_asyncio(warehouse: Warehouse, aclient: AsyncClient) -> None:
    warehouse.answers["ListKeys"] = _pages
    assert [key.key_id async for key in aclient.keys.list()] == ["a", "b", "c"]


def _pages(request: Any) -> ListKeysResponse:
    token = request.page_token or "a"
    return ListKeysResponse(keys=[Key(key_id=token)], next_page_token={"a": "b", "b": "c", "c": ""}[token])


def _progress(*states: Backfill.State.ValueType) -> list[Any]:
    return [WatchBackfillResponse(backfill=Backfill(state=state)) for state in states]


def test_watching_goes_on_where_it_broke(warehouse: Warehouse, client: Client) -> None:
    running, succeeded = Backfill.RUNNING, Backfill.SUCCEEDED
    warehouse.answers["WatchBackfill"] = in_turn([*_progress(running), AWAY], LIMIT, _progress(running, succeeded))
    assert [each.state for each in client.backfills.watch("b")] == [running, running, succeeded]


async def test_watching_goes_on_where_it_broke_on_asyncio(warehouse: Warehouse, aclient: AsyncClient) -> None:
    warehouse.answers["WatchBackfill"] = in_turn([*_progress(Backfill.RUNNING), AWAY], _progress(Backfill.SUCCEEDED))
    assert [each.state async for each in aclient.backfills.watch("b")] == [Backfill.RUNNING, Backfill.SUCCEEDED]


def test_waiting_for_a_session_goes_on_for_the_time_that_is_left(warehouse: Warehouse, client: Client) -> None:
    waiting, complete = WatchSessionResponse(state="WAITING"), WatchSessionResponse(state="COMPLETE")
    warehouse.answers["WatchSession"] = in_turn([waiting, AWAY], [waiting, complete])
    states = [each.state for each in client.watch_session("2024-01-02", all_active=True, wait=timedelta(hours=1))]
    assert states == [WatchSessionResponse.WAITING, WatchSessionResponse.WAITING, WatchSessionResponse.COMPLETE]
    waits = [request.wait.ToTimedelta() for request in warehouse.requests("WatchSession")]
    assert timedelta(hours=1) >= waits[0] > waits[1] > timedelta(minutes=59)
    list(client.watch_session("2024-01-02", all_active=True))
    assert not warehouse.requests("WatchSession")[-1].HasField("wait")


async def test_watching_what_is_not_there_ends(warehouse: Warehouse, client: Client, aclient: AsyncClient) -> None:
    warehouse.answers["WatchBackfill"] = errors.NotFound("BACKFILL_NOT_FOUND", "no such backfill", backfill_id="b")
    with pytest.raises(NotFound):
        list(client.backfills.watch("b"))
    with pytest.raises(NotFound):
        _ = [each async for each in aclient.backfills.watch("b")]


def test_leaving_a_stream_ends_it(warehouse: Warehouse, client: Client) -> None:
    gone = threading.Event()

    def endless(_: Any) -> Any:
        try:
            while True:
                yield from _progress(Backfill.RUNNING)
        finally:
            gone.set()

    warehouse.answers["WatchBackfill"] = endless
    watch = client.backfills.watch("b")
    next(watch)
    watch.close()
    assert gone.wait(5)


class Played:
    """A client on a channel whose server's part the test plays itself."""

    def __init__(self) -> None:
        clock = grpc_testing.strict_fake_time(0)
        self.channel = grpc_testing.channel(auth_pb2.DESCRIPTOR.services_by_name.values(), clock)
        self.client = Client.from_settings(load(key=new_secret(), environ={}))
        self.client._connection._make = lambda *_, **options: wrap(self.channel, key=options["key"])
        self.raised: Exception | None = None

    def start(self, call: Callable[[], Any]) -> threading.Thread:
        def run() -> None:
            with contextlib.suppress(CallError):
                self.answer = call()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def serve(self, code: grpc.StatusCode, answer: Message | None = None) -> Any:
        metadata, request, rpc = self.channel.take_unary_unary(CREATE)
        rpc.send_initial_metadata(())
        rpc.terminate(answer, (), code, "")
        return dict(metadata), request


def test_a_call_that_its_server_left_is_sent_again_with_its_key() -> None:
    played = Played()
    thread = played.start(lambda: played.client.keys.create("name", "bars.read"))
    first = played.serve(grpc.StatusCode.CANCELLED)
    second = played.serve(grpc.StatusCode.OK, CreateKeyResponse(secret="s"))
    thread.join(5)
    assert first == second
    assert second[0]["x-api-key"].startswith("mdw_")
    assert played.answer.secret == "s"


@pytest.mark.parametrize("code", [grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS])
def test_a_call_that_may_be_at_fault_itself_is_not(code: grpc.StatusCode) -> None:
    played = Played()
    thread = played.start(lambda: played.client.keys.create("name", "bars.read"))
    played.serve(code)
    thread.join(5)
    assert not thread.is_alive()
    assert not hasattr(played, "answer")


@pytest.mark.parametrize(
    ("code", "again"),
    [
        (grpc.StatusCode.UNAVAILABLE, True),
        (grpc.StatusCode.CANCELLED, True),
        (grpc.StatusCode.UNKNOWN, True),
        (grpc.StatusCode.INTERNAL, True),
        (grpc.StatusCode.DEADLINE_EXCEEDED, False),
        (grpc.StatusCode.PERMISSION_DENIED, False),
    ],
)
def test_a_stream_is_taken_up_again_when_its_connection_broke(code: grpc.StatusCode, again) -> None:
    error = CallError(code, "")
    assert (retries.Streams(60).wait(error) is not None) is again


def test_a_service_that_was_never_reached_is_not_waited_for_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_NOBODY_THERE_SECONDS", 0.0)
    nobody = CallError(grpc.StatusCode.UNAVAILABLE, "refused")
    assert retries.Streams(60).wait(nobody) is None
    assert retries.Streams(60).wait(CallError(nobody.code, "", Details("NODE_UNAVAILABLE"))) is not None
    tries = retries.Streams(60)
    tries.answered()
    assert tries.wait(nobody) is not None


def test_a_fault_that_the_server_explains_ends_a_stream() -> None:
    assert retries.Streams(60).wait(Cancelled(grpc.StatusCode.CANCELLED, "", Details("CALLER_GONE"))) is None


def test_waits_grow_and_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    waits = [[retries.backoff(tries) for _ in range(50)] for tries in range(1, 7)]
    assert [round(sum(each) / 50, 0) for each in waits[2:]] == [1, 3, 3, 3]
    assert all(len(set(each)) > 40 for each in waits)


async def test_stubs_may_be_used_on_the_clients_channels(
    warehouse: Warehouse, client: Client, aclient: AsyncClient
) -> None:
    KeyServiceStub(client.channel("auth")).GetKey(auth_pb2.GetKeyRequest())
    await KeyServiceStub(aclient.channel("auth")).GetKey(auth_pb2.GetKeyRequest())
    assert all("x-api-key" in each.metadata for each in warehouse.received)
    with channel(warehouse.target) as bare:
        KeyServiceStub(bare).GetKey(auth_pb2.GetKeyRequest())
    assert "x-api-key" not in warehouse.received[-1].metadata


async def test_a_closed_client_connects_anew(warehouse: Warehouse, client: Client, aclient: AsyncClient) -> None:
    client.keys.get("7")
    client.close()
    client.keys.get("7")
    await aclient.keys.get("7")
    await aclient.close()
    await aclient.keys.get("7")
    assert len(warehouse.received) == 4
