from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from services.kit import calls, checks, scopes
from services.kit.errors import InvalidArgument

instants = st.datetimes(datetime(1900, 1, 2), datetime(2199, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


@given(instants)
def test_an_instant_survives_the_wire(instant):
    assert checks.time("t", checks.timestamp(instant)) == instant
    assert checks.from_micros(checks.micros(instant)) == instant


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1))
def test_any_timestamp_is_an_instant_or_refused(seconds, nanos):
    try:
        instant = checks.time("t", Timestamp(seconds=seconds, nanos=nanos))
    except InvalidArgument:
        return
    assert 1900 <= instant.year <= 2200


def test_an_absent_instant_stays_absent():
    assert checks.timestamp(None) is None


@given(st.text())
def test_a_text_is_printable_or_refused(value):
    try:
        kept = checks.text("f", value, maximum=20)
    except InvalidArgument:
        return
    assert kept.isprintable()
    assert 1 <= len(kept) <= 20
    assert kept == kept.strip()


def test_a_text_is_normalized():
    assert checks.text("f", "e\u0301", maximum=1) == "é"


@pytest.mark.parametrize("value", ["", "x", "12345678-1234-1234-1234-12345678901", "{x}"])
def test_what_is_no_uuid_is_refused(value):
    with pytest.raises(InvalidArgument):
        checks.uuid("f", value)


def test_a_uuid_is_read():
    assert checks.uuid("f", "7C9E6679-7425-40DE-944B-E07FC1F90AE7") == UUID("7c9e6679-7425-40de-944b-e07fc1f90ae7")


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.7:55012", "10.0.0.7"),
        ("ipv6:%5B::1%5D:55012", "::1"),
        ("ipv6:[2001:db8::1%25eth0]:1", "2001:db8::1"),
        ("ipv6:%5B::ffff:10.0.0.7%5D:1", "10.0.0.7"),
        ("unix:/tmp/socket", ""),
        ("ipv4:nonsense:1", ""),
        ("", ""),
    ],
)
def test_a_peer_is_an_address_or_nothing(peer, address):
    assert calls.address(peer) == address


def test_call_ids_are_random_uuids_of_version_4():
    made = {calls.new_id() for _ in range(1000)}
    assert len(made) == 1000
    assert {(one.version, one.variant) for one in made} == {(4, "specified in RFC 4122")}


def test_a_call_knows_what_is_left_of_its_time():
    call = calls.Call(method="X")
    assert call.remaining(5.0) == 5.0
    call.deadline = call.start - 1
    assert call.remaining(5.0) == 0.0
    assert "X" in repr(call)
    assert (call.key_id, call.key_scopes) == (None, frozenset())


def test_there_is_a_current_call_only_inside_of_one():
    with pytest.raises(LookupError):
        calls.current()
    token = calls.enter(calls.Call(method="X"))
    assert calls.current().method == "X"
    calls.leave(token)


@pytest.mark.parametrize(
    ("held", "needed", "allowed"),
    [
        ({"bars.read"}, ("bars.read",), True),
        ({"bars.read"}, ("ingest.read", "bars.read"), True),
        ({"bars.read"}, ("keys.read",), False),
        ({"admin"}, ("keys.read",), True),
        ({"admin"}, ("service",), False),
        ({"service"}, ("service",), True),
        (set(), ("bars.read",), False),
    ],
)
def test_any_one_scope_suffices_and_admin_is_all_but_service(held, needed, allowed):
    assert scopes.allows(frozenset(held), needed) == allowed


def test_admin_may_grant_everything_and_others_what_they_hold():
    assert "service" in scopes.grantable(frozenset({"admin"}))
    assert scopes.grantable(frozenset({"bars.read"})) == {"bars.read"}
