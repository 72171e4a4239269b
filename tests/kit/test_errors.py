"""Errors and the statuses they become."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from mdw.type.v1 import type_pb2
from services.kit import errors, status
from services.kit.errors import InvalidArgument, MdwError, NotFound, ResourceExhausted, Unauthenticated, Unavailable

if TYPE_CHECKING:
    from google.protobuf.message import Message


def unpacked(error: MdwError, message: Message) -> Message | None:
    for packed in status_pb2.Status.FromString(status.details(error)).details:
        if packed.Unpack(message):
            return message
    return None


def test_every_error_says_its_reason_and_domain():
    found = unpacked(NotFound("KEY_NOT_FOUND", "there is no key x", key_id="x"), error_details_pb2.ErrorInfo())
    assert (found.reason, found.domain, dict(found.metadata)) == ("KEY_NOT_FOUND", "mdw", {"key_id": "x"})


def test_retryable_errors_say_when_to_try_again():
    for error in (
        Unavailable("DATABASE_UNAVAILABLE", "away", retry_after=1.5),
        ResourceExhausted("X", "y", retry_after=1.5),
    ):
        found = unpacked(error, error_details_pb2.RetryInfo())
        assert (found.retry_delay.seconds, found.retry_delay.nanos) == (1, 500_000_000)


def test_twenty_violations_are_kept_and_fit_into_metadata():
    error = InvalidArgument.many([(f"field_{n}" * 50, "is wrong " * 100) for n in range(500)])
    found = unpacked(error, error_details_pb2.BadRequest())
    assert len(found.field_violations) == 20
    assert len(status.details(error)) < 6_500


def test_long_texts_are_cut():
    assert len(status.details(NotFound("X", "m" * 100_000, key="v" * 100_000))) < 2_000


def test_all_strangers_read_the_same():
    texts = {
        (str(Unauthenticated(reason)), Unauthenticated(reason).reason) for reason in ("KEY_MISSING", "KEY_REVOKED")
    }
    assert len(texts) == 1
    assert Unauthenticated("KEY_REVOKED").audit_reason == "KEY_REVOKED"


@pytest.mark.parametrize(
    "kind",
    [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, MdwError) and one.code != 2],
)
def test_every_error_has_the_code_that_its_name_says(kind):
    name = "".join("_" + sign if sign.isupper() else sign for sign in kind.__name__).lstrip("_").upper()
    assert status.CODES[kind.code] == getattr(grpc.StatusCode, name)


def test_the_kits_reasons_are_in_the_contract():
    known = set(type_pb2.ErrorReason.keys())
    used = {
        "FIELD_INVALID", "REQUEST_MALFORMED", "PAGE_TOKEN_INVALID", "REQUEST_ID_REUSED", "KEY_INVALID", "SCOPE_MISSING",
        "KEY_LIMIT", "TOO_MANY_CALLS", "DATABASE_UNAVAILABLE", "AUTH_UNAVAILABLE", "COMMIT_UNKNOWN", "INTERNAL_ERROR",
        "METHOD_UNKNOWN", "CONFLICT", "DEADLINE_PASSED", "CALLER_GONE",
    }  # fmt: skip
    assert used <= known


def test_codes_have_names():
    assert status.name(16) == "UNAUTHENTICATED"
    assert status.name(99) == "99"
