"""The call that is being answered: who calls, what, from where, until when."""

from __future__ import annotations

import ipaddress
import os
import random
import time
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING

from asyncpg.pgproto.pgproto import UUID  # a uuid.UUID that is made and printed several times as fast

if TYPE_CHECKING:
    import uuid
    from contextvars import Token

    from services.kit.errors import MdwError
    from services.kit.principals import Principal

_bits = random.Random(os.urandom(32)).getrandbits  # noqa: S311 - see new_id
# Version 4 in bits 76 to 79, variant 1 in bits 62 and 63.
_FREE = (1 << 128) - 1 ^ (0xF << 76) ^ (0x3 << 62)
_VERSION_4 = (0x4 << 76) | (0x2 << 62)

NOBODY: frozenset[str] = frozenset()


class Call:
    """One RPC as the audit sees it. The kit makes it, sets the key once it is known, and hands it on.

    What most calls never set stands on the class: a call is made for every RPC.
    """

    key: Principal | None = None
    key_preview: str = ""
    deadline: float | None = None
    """On the monotonic clock; None if the caller gave none."""

    begun: bool = False
    """True once the handler runs: what is refused before that may come in floods."""

    turned_away: bool = False
    """True if the server was full when it came: it is told so at once, and counted afterwards."""

    started: bool = False
    """True once a stream's first row is committed."""

    recorded: bool = False
    """True once a committed audit row says how the call ended."""

    messages: int = 0
    ended_by: MdwError | None = None
    """Why the kit itself ended a stream."""

    trailers: tuple[tuple[str, str | bytes], ...] = ()
    """Metadata behind an answer that succeeds; together well below 8 KiB, which clients take at most."""

    def __init__(self, *, method: str, scopes: tuple[str, ...] = (), peer: str = "", request_id: str = "") -> None:
        self.method = method
        self.scopes = scopes
        self.peer = peer
        """The caller's address without its port; empty if it has none."""
        self.request_id = request_id
        self.call_id = new_id()
        self.start = time.monotonic()

    def __repr__(self) -> str:
        return f"Call({self.method}, {self.call_id})"

    @property
    def key_id(self) -> uuid.UUID | None:
        return self.key.key_id if self.key else None

    @property
    def key_scopes(self) -> frozenset[str]:
        return self.key.scopes if self.key else NOBODY

    @property
    def duration_us(self) -> int:
        return int((time.monotonic() - self.start) * 1_000_000)

    def remaining(self, at_most: float) -> float:
        """Returns the seconds that are left, at most so many; never less than zero."""
        if self.deadline is None:
            return at_most
        return max(0.0, min(at_most, self.deadline - time.monotonic()))


def new_id() -> UUID:
    """Returns a random UUID (version 4): unique, and no secret, so a fast generator will do."""
    return UUID((_bits(128) & _FREE | _VERSION_4).to_bytes(16))


_current: ContextVar[Call] = ContextVar("mdw_call")


def current() -> Call:
    """Returns the call that this task answers; raises LookupError outside of one."""
    return _current.get()


def present() -> Call | None:
    """Returns the call that this task answers, None outside of one."""
    return _current.get(None)


def enter(call: Call) -> Token[Call]:
    """Makes a call the current one."""
    return _current.set(call)


def leave(token: Token[Call]) -> None:
    """Ends what `enter` began."""
    _current.reset(token)


def address(peer: str) -> str:
    """Returns the plain address of what gRPC calls a peer (`ipv4:10.0.0.7:55012`, `ipv6:%5B::1%5D:55012`), else ''."""
    return _address(peer.rpartition(":")[0])


@lru_cache(maxsize=4_096)
def _address(without_port: str) -> str:
    kind, _, rest = without_port.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    host = rest.replace("%5B", "").replace("%5D", "").strip("[]").partition("%")[0]
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return ""
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)
