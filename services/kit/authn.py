"""Who calls: reads the key from the metadata and finds what it stands for, through a bounded cache.

The cache only saves look-ups. Whether a key still counts is decided by `auth.record_calls` before each answer, so an
old entry can let nothing through.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from services.kit import keys
from services.kit.errors import Unauthenticated, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from services.kit.principals import Principal

FRESH_SECONDS = 10.0
MISS_SECONDS = 1.0
"""Short, so that a restored key works again within a second on services that have seen it refused."""

MAX_KEYS = 10_000
LOOKUP_SECONDS = 2.0


class Authenticator(Protocol):
    """Finds the principal of a secret; None if there is none that counts."""

    def cached(self, digest: bytes) -> Principal | None:
        """Returns what is known of a key without asking anybody."""

    def asking(self, digest: bytes) -> bool:
        """Says whether somebody asks about a key right now, so that `find` would wait for the same answer."""

    async def find(self, secret: str) -> Principal | None:
        """Raises Unavailable if nobody can say."""


@dataclass(slots=True)
class _Known:
    principal: Principal | None
    until: float


class KeyCache:
    """Looks up each key once at a time and keeps the answer, misses too. While the source is away, old hits go on."""

    def __init__(
        self,
        lookup: Callable[[str], Awaitable[Principal | None]],
        *,
        fresh_seconds: float = FRESH_SECONDS,
        miss_seconds: float = MISS_SECONDS,
        capacity: int = MAX_KEYS,
    ) -> None:
        self._lookup = lookup
        self._fresh_seconds = fresh_seconds
        self._miss_seconds = miss_seconds
        self._capacity = capacity
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Principal | None]] = {}
        self._generation = 0

    def cached(self, digest: bytes) -> Principal | None:
        known = self._known.get(digest)
        return known.principal if known is not None and known.until > time.monotonic() else None

    def asking(self, digest: bytes) -> bool:
        return digest in self._asking

    async def find(self, secret: str) -> Principal | None:
        digest = keys.digest(secret)
        known = self._known.get(digest)
        if known is not None and known.until > time.monotonic():
            return known.principal
        try:
            return await self._ask_once(digest, secret)
        except Unavailable:
            if known is not None and known.principal is not None:
                return known.principal
            raise

    def forget_all(self) -> None:
        """Drops all entries, and what look-ups under way will say: a key has changed here."""
        self._generation += 1
        self._known.clear()
        self._asking.clear()

    async def _ask_once(self, digest: bytes, secret: str) -> Principal | None:
        task = self._asking.get(digest)
        if task is None:
            task = asyncio.create_task(self._ask(digest, secret, self._generation))
            self._asking[digest] = task
        # Shielded: others wait for the same answer.
        return await asyncio.shield(task)

    async def _ask(self, digest: bytes, secret: str, generation: int) -> Principal | None:
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                principal = await self._lookup(secret)
        except TimeoutError:
            raise Unavailable("AUTH_UNAVAILABLE", "the key could not be checked in time", retry_after=1.0) from None
        finally:
            if self._generation == generation:
                del self._asking[digest]
        if self._generation == generation:
            self._keep(digest, principal)
        return principal

    def _keep(self, digest: bytes, principal: Principal | None) -> None:
        seconds = self._fresh_seconds if principal else self._miss_seconds
        self._known[digest] = _Known(principal, time.monotonic() + seconds)
        self._known.move_to_end(digest)
        while len(self._known) > self._capacity:
            self._known.popitem(last=False)


class Credentials:
    """What a call brought to prove who it is. Not more than one key, or none counts."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: list[str | bytes] = []

    def take(self, name: str, value: str | bytes) -> None:
        """Looks at one metadata pair."""
        if name == "x-api-key":
            self._found.append(value)
        elif name == "authorization":
            self._found.append(_bearer(value))
        elif name in ("x-api-key-bin", "authorization-bin"):
            self._found.append(b"")

    def secret(self) -> str:
        """Returns the key's text, whose form nobody has looked at; raises Unauthenticated for none or several."""
        if not self._found:
            raise Unauthenticated("KEY_MISSING")
        if len(self._found) > 1:
            raise Unauthenticated("KEY_TWICE")
        if not isinstance(self._found[0], str):
            raise Unauthenticated("KEY_MALFORMED")
        return self._found[0]


def _bearer(value: str | bytes) -> str | bytes:
    scheme, _, rest = value.partition(" ") if isinstance(value, str) else ("", "", "")
    return rest if scheme.lower() == "bearer" else b""
