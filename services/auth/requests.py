"""What requests to the KeyService must look like, and who may ask for it: pure functions that raise."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from services.kit import checks
from services.kit.errors import InvalidArgument, PermissionDenied
from services.kit.log import redact
from services.kit.scopes import KNOWN, allows, grantable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp

MAX_NAME = 63
MAX_NETWORKS = 32
MAX_CALLS_PER_SECOND = 1_000_000
MAX_STREAMS = 10_000
DEFAULT_OVERLAP = timedelta(hours=24)
MAX_OVERLAP = timedelta(days=90)
NANOS = 1_000_000_000

UPDATABLE = ("display_name", "scopes", "allowed_peers", "expire_time", "max_calls_per_second", "max_streams")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def display_name(value: str, field: str = "display_name") -> str:
    """Returns a name; one that holds a key's text would show it to everybody who lists keys."""
    if redact(value) != value:
        raise InvalidArgument(field, "must not hold the text of a key")
    return checks.text(field, value, maximum=MAX_NAME)


def scopes(values: Sequence[str], field: str = "scopes") -> tuple[str, ...]:
    """Returns scopes without repeats, in the order of the table; an empty list would be a key for nothing."""
    if not values:
        raise InvalidArgument(field, "needs at least one scope")
    unknown = sorted(set(values) - set(KNOWN))
    if unknown:
        raise InvalidArgument(field, f"{unknown[0]!r} is none of {', '.join(KNOWN)}"[:150])
    return tuple(name for name in KNOWN if name in values)


def allowed_peers(values: Sequence[str], field: str = "allowed_peers") -> tuple[Network, ...]:
    """Returns networks; a bare address is a network of one."""
    if len(values) > MAX_NETWORKS:
        raise InvalidArgument(field, f"has {len(values)} networks, at most {MAX_NETWORKS}")
    return tuple(_network(value, field) for value in values)


def calls_per_second(value: int, field: str = "max_calls_per_second") -> int:
    return checks.integer(field, value, minimum=1, maximum=MAX_CALLS_PER_SECOND)


def streams(value: int, field: str = "max_streams") -> int:
    return checks.integer(field, value, minimum=1, maximum=MAX_STREAMS)


def expire_time(value: Timestamp, field: str = "expire_time") -> datetime:
    instant = checks.time(field, value)
    if instant <= datetime.now(UTC):
        raise InvalidArgument(field, "must lie in the future")
    return instant


def overlap(value: Duration) -> timedelta:
    # Compared as a number first: a Duration may hold more than a timedelta.
    if not 0 <= value.seconds <= MAX_OVERLAP.total_seconds() or not 0 <= value.nanos < NANOS:
        raise InvalidArgument("overlap", f"must be 0 to {MAX_OVERLAP.days} days")
    return min(timedelta(seconds=value.seconds, microseconds=value.nanos // 1_000), MAX_OVERLAP)


def update_paths(paths: Iterable[str], present: Iterable[str]) -> tuple[str, ...]:
    """Returns the fields to change: those of the mask, all for `*`, those that are set when there is no mask."""
    named = tuple(paths)
    if not named:
        return tuple(path for path in UPDATABLE if path in present)
    if "*" in named:
        return UPDATABLE
    unknown = sorted(set(named) - set(UPDATABLE))
    if unknown:
        raise InvalidArgument("update_mask", f"{unknown[0]!r} is none of {', '.join(UPDATABLE)}"[:150])
    return tuple(path for path in UPDATABLE if path in named)


def require_no_wider(wanted: Iterable[str], held: frozenset[str]) -> None:
    """Raises PermissionDenied SCOPE_TOO_WIDE if a key would come to more than its maker may grant."""
    beyond = sorted(set(wanted) - grantable(held))
    if beyond:
        raise PermissionDenied(
            "SCOPE_TOO_WIDE", f"these scopes are beyond yours: {', '.join(beyond)}", scopes=" ".join(beyond)
        )


def require_narrower(wanted: Iterable[str], before: frozenset[str]) -> None:
    """Raises PermissionDenied SCOPE_TOO_WIDE if a change would let a key do what it could not do before."""
    beyond = sorted(scope for scope in wanted if not allows(before, (scope,)))
    if beyond:
        raise PermissionDenied(
            "SCOPE_TOO_WIDE",
            f"a key's scopes can be narrowed, never widened by {', '.join(beyond)}: make another key",
            scopes=" ".join(beyond),
        )


def _network(value: str, field: str) -> Network:
    try:
        return ipaddress.ip_network(value)
    except ValueError:
        raise InvalidArgument(field, f"{value[:60]!r} is no network in CIDR notation") from None
