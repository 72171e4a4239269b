"""Limits kept per process: failures of a peer, calls and streams of a key."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from services.kit.errors import ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from services.kit.principals import Principal

BURST_SECONDS: Final = 5.0
"""So many seconds' worth of failures may come at once."""

PATIENCE_SECONDS: Final = 1.0
MAX_TRACKED: Final = 10_000


class Buckets:
    """Token buckets of one rate each key, in constant memory a key: only the time at which it will be full again."""

    def __init__(self, *, capacity: int = MAX_TRACKED) -> None:
        self._full_at: dict[Hashable, float] = {}
        self._capacity = capacity

    def take(self, key: Hashable, rate: float, burst: float, now: float | None = None) -> float:
        """Takes a token if there is one, and returns the seconds until one is there; 0 if one was taken."""
        now = time.monotonic() if now is None else now
        full_at = max(now, self._full_at.get(key, now))
        wait = full_at - now - (burst - 1.0) / rate
        if wait > 0.0:
            return wait
        self._full_at[key] = full_at + 1.0 / rate
        if len(self._full_at) > self._capacity:
            self._prune(now)
        return 0.0

    def give_back(self, key: Hashable, rate: float) -> None:
        """Returns a token that `take` took."""
        if key in self._full_at:
            self._full_at[key] -= 1.0 / rate

    def _prune(self, now: float) -> None:
        self._full_at = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
        for key in list(self._full_at)[: max(0, len(self._full_at) - self._capacity // 2)]:
            del self._full_at[key]


class PeerThrottle:
    """Slows down who fails often. By peer only: by key, a stranger could lock out the key's owner.

    Keys that are in the cache are not slowed, whatever else comes from their address.
    """

    def __init__(self, *, rate: float) -> None:
        self._buckets = Buckets()
        self._rate = rate
        self._burst = rate * BURST_SECONDS

    def failed(self, peer: str) -> None:
        """Counts a failure; raises ResourceExhausted if the peer has none left."""
        self._refuse(self._buckets.take(peer, self._rate, self._burst))

    async def turn(self, peer: str) -> None:
        """Takes a failure in advance for a key that must be looked up; waits a second for one, then refuses."""
        limit = time.monotonic() + PATIENCE_SECONDS
        while wait := self._buckets.take(peer, self._rate, self._burst):
            if time.monotonic() + wait > limit:
                self._refuse(wait)
            await asyncio.sleep(wait)

    def give_back(self, peer: str) -> None:
        """Returns what `turn` took: the key was good."""
        self._buckets.give_back(peer, self._rate)

    def _refuse(self, wait: float) -> None:
        if wait:
            raise ResourceExhausted("TOO_MANY_CALLS", "too many refused calls from this address", retry_after=wait)


class KeyLimits:
    """Calls a second and streams at once of each key."""

    def __init__(self, *, max_calls_per_second: int, max_streams: int) -> None:
        self._calls_default = max_calls_per_second
        self._streams_default = max_streams
        self._buckets = Buckets()
        self._streams: Counter[Hashable] = Counter()

    def take(self, key: Principal) -> None:
        """Counts a call; raises ResourceExhausted KEY_LIMIT above the limit. A full second may be used at once."""
        limit = float(key.max_calls_per_second or self._calls_default)
        wait = self._buckets.take(key.key_id, limit, limit)
        if wait:
            raise ResourceExhausted(
                "KEY_LIMIT", f"the key may make {limit:.0f} calls a second", retry_after=wait, limit=f"{limit:.0f}"
            )

    @property
    def open_streams(self) -> int:
        """How many streams are held by all keys; may be read from any thread."""
        return sum(self._streams.copy().values())

    @contextmanager
    def stream(self, key: Principal) -> Iterator[None]:
        """Holds one of the key's streams; raises ResourceExhausted KEY_LIMIT if all are in use."""
        limit = key.max_streams or self._streams_default
        if self._streams[key.key_id] >= limit:
            raise ResourceExhausted(
                "KEY_LIMIT", f"the key may hold {limit} streams at once", retry_after=1.0, limit=str(limit)
            )
        self._streams[key.key_id] += 1
        try:
            yield
        finally:
            self._streams[key.key_id] -= 1
            if not self._streams[key.key_id]:
                del self._streams[key.key_id]
