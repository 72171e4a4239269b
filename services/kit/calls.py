"""The call that is being answered: who calls, what, from where, until when."""

from __future__ import annotations

import ipaddress
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

if TYPE_CHECKING:
    from contextvars import Token

    from services.kit.errors import MdwError
    from services.kit.principals import Principal

NOBODY: frozenset[str] = frozenset()


@dataclass(slots=True, kw_only=True)
class Call:
    """One RPC as the audit sees it. The kit makes it, sets the key once it is known, and hands it on."""

    method: str
    scopes: tuple[str, ...] = ()
    peer: str = ""
    """The caller's address without its port; empty if it has none."""
    request_id: str = ""
    call_id: UUID = field(default_factory=uuid4)
    key: Principal | None = None
    key_preview: str = ""
    start: float = field(default_factory=time.monotonic)
    deadline: float | None = None
    """On the monotonic clock; None if the caller gave none."""
    recorded: bool = False
    """True once a committed audit row says how the call ended."""
    messages: int = 0
    begun: bool = False
    """True once the handler runs: what is refused before that may come in floods."""
    started: bool = False
    """True once a stream's first row is committed."""
    ended_by: MdwError | None = None
    """Why the kit itself ended a stream."""

    @property
    def key_id(self) -> UUID | None:
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


_current: ContextVar[Call] = ContextVar("mdw_call")


def current() -> Call:
    """Returns the call that this task answers; raises LookupError outside of one."""
    return _current.get()


def enter(call: Call) -> Token[Call]:
    """Makes a call the current one."""
    return _current.set(call)


def leave(token: Token[Call]) -> None:
    """Ends what `enter` began."""
    _current.reset(token)


def address(peer: str) -> str:
    """Returns the plain address of what gRPC calls a peer (`ipv4:10.0.0.7:55012`, `ipv6:%5B::1%5D:55012`), else ''."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    host = rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]").partition("%")[0]
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return ""
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)
