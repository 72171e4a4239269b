"""Errors: what a refused call says, decoded from what the services' kit writes."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.status_pb2 import Status

import mdw_client
from mdw_client import (
    AsyncClient,
    CallError,
    Client,
    ForkedProcessError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Violation,
)
from mdw_client.errors import DETAILS_KEY, Details, from_rpc_error, read_details
from services.kit import errors, status

if TYPE_CHECKING:
    from tests.mdw_client.warehouse import Warehouse

CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


class Ended:
    """What a stub raises, as far as it is read."""

    def __init__(self, code: grpc.StatusCode, details: str | None = "text", trailing=None) -> None:
        self.code = lambda: code
        self.details = lambda: details
        self.trailing_metadata = lambda: trailing


def test_says_reason_message_and_metadata(warehouse: Warehouse, client: Client) -> None:
    warehouse.answers["GetKey"] = errors.NotFound("KEY_NOT_FOUND", "there is no such key", key_id="7")
    with pytest.raises(NotFound) as raised:
        client.keys.get("7")
    assert (raised.value.code, raised.value.reason) == (grpc.StatusCode.NOT_FOUND, "KEY_NOT_FOUND")
    assert raised.value.metadata == {"key_id": "7"}
    assert str(raised.value) == "KEY_NOT_FOUND: there is no such key"


def test_names_each_wrong_field(warehouse: Warehouse, client: Client) -> None:
    wrong = [("display_name", "is empty"), ("scopes", "at least one")]
    warehouse.answers["CreateKey"] = errors.InvalidArgument.many(wrong)
    with pytest.raises(InvalidArgument) as raised:
        client.keys.create("", [])
    assert raised.value.violations == (Violation("display_name", "is empty"), Violation("scopes", "at least one"))
    assert "display_name: is empty" in str(raised.value)
    assert "scopes: at least one" in str(raised.value)


async def test_raises_the_same_on_asyncio(warehouse: Warehouse, aclient: AsyncClient) -> None:
    warehouse.answers["GetKey"] = errors.Unauthenticated()
    with pytest.raises(Unauthenticated) as raised:
        await aclient.keys.get("7")
    assert raised.value.reason == "KEY_INVALID"


def test_says_when_to_come_back(warehouse: Warehouse, client: Client) -> None:
    warehouse.answers["GetKey"] = errors.ResourceExhausted("KEY_LIMIT", "too many calls", retry_after=90.5)
    with pytest.raises(ResourceExhausted) as raised:
        client.keys.get("7")
    assert raised.value.retry_after == 90.5


def test_a_service_that_is_not_there_is_named(client: Client, warehouse: Warehouse) -> None:
    warehouse.stop()
    with Client(warehouse.target, timeout=0.2) as impatient, pytest.raises(CallError) as raised:
        impatient.keys.get("7")
    assert raised.value.target == warehouse.target
    gone = Unavailable(grpc.StatusCode.UNAVAILABLE, "connection refused", target="127.0.0.1:1")
    assert str(gone) == "UNAVAILABLE: connection refused (is the service running at 127.0.0.1:1?)"


@pytest.mark.parametrize("code", CODES)
def test_every_status_has_its_exception(code: grpc.StatusCode) -> None:
    error = from_rpc_error(Ended(code, details=None))
    assert (error.code, error.message, error.reason) == (code, "", "")
    name = code.name.title().replace("_", "")
    assert type(error) is getattr(mdw_client, name, mdw_client.Internal)


@pytest.mark.parametrize(
    "trailing", [None, (), ((DETAILS_KEY, b"\xff\xff\xff"),), ((DETAILS_KEY, b""),), (("other", "x"),)]
)
def test_details_that_cannot_be_read_count_as_absent(trailing) -> None:
    assert read_details(trailing) == Details()


def test_a_details_type_that_is_unknown_is_passed_over() -> None:
    error = errors.NotFound("KEY_NOT_FOUND", "gone")
    parsed = Status.FromString(status.details(error))
    parsed.details.add().Pack(Duration(seconds=1))
    assert read_details(((DETAILS_KEY, parsed.SerializeToString()),)).reason == "KEY_NOT_FOUND"


def test_errors_travel_between_processes() -> None:
    error = NotFound(grpc.StatusCode.NOT_FOUND, "gone", Details("KEY_NOT_FOUND", {"key_id": "7"}), "here:1")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.code, copy.reason, copy.metadata) == (
        NotFound,
        error.code,
        "KEY_NOT_FOUND",
        {"key_id": "7"},
    )
    assert str(pickle.loads(pickle.dumps(ForkedProcessError()))) == str(ForkedProcessError())
