"""Records what callers saw of one key's life, and says whether one order of events explains it all."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

from mdw.auth.v1 import auth_pb2, auth_pb2_grpc
from services.kit.authn import MISS_SECONDS
from tests.auth.test_keys import Keys
from tests.support import reason, with_key
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Change:
    """The key came to `version` and was valid or not, at some moment between start and end."""

    version: int
    valid: bool
    start: float
    end: float


@dataclass(frozen=True)
class Use:
    """A call with the key that was answered, or refused."""

    valid: bool
    start: float
    end: float


@dataclass
class History:
    changes: list[Change] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)

    def explained(self) -> str:
        """Returns '' if some order of all events, each between its start and its end, explains every answer.

        The versions give the order of the changes, so what is left is to find for each use the version that it saw: one
        that may have been in force while it ran, and none older than what an earlier use saw. Only a refusal may be
        older: a process that has refused a key does not ask again for a second, from the end of its question on.
        """
        stale = MISS_SECONDS + max((use.end - use.start for use in self.uses), default=0.0)
        changes = sorted(self.changes, key=lambda one: one.version)
        for earlier, later in itertools.pairwise(changes):
            if later.version != earlier.version + 1:
                return f"version {earlier.version + 1} is missing"
            if later.end < earlier.start:
                return f"version {later.version} was over before {earlier.version} began"
        seen: list[tuple[float, int]] = []
        for use in sorted(self.uses, key=lambda one: one.start):
            least = max((number for end, number in seen if end < use.start), default=0) if use.valid else 0
            slack = 0.0 if use.valid else stale
            fitting = [number for number in range(least, len(changes)) if _may_see(use, changes, number, slack)]
            if not fitting:
                return f"no version explains {use}; at least {least} of {changes}"
            if use.valid:
                seen.append((use.end, fitting[0]))
        return ""


def _may_see(use: Use, changes: Sequence[Change], number: int, slack: float) -> bool:
    change = changes[number]
    follower = changes[number + 1] if number + 1 < len(changes) else None
    begun = use.end >= change.start
    not_over = follower is None or use.start - slack <= follower.end
    return change.valid == use.valid and begun and not_over


async def record(channels: list[Any], admin: str, *, changes: int, users: int = 3, pause: float = 0.01) -> History:
    """Lets two administrators revoke and restore one key, over all channels, while others use it; rotates it last."""
    history = History()
    roots = [Keys(channel, admin) for channel in channels]
    start = time.monotonic()
    made = await roots[0].make("keys.read")
    history.changes.append(Change(made.key.version, valid=True, start=start, end=time.monotonic()))
    stop = asyncio.Event()
    using = [
        asyncio.create_task(_use(channels[number % len(channels)], made.secret, history, stop))
        for number in range(users * len(channels))
    ]
    await until(lambda: history.uses)
    await asyncio.gather(*(_change(roots, made.key.key_id, history, changes, pause) for _ in range(2)))
    start = time.monotonic()
    rotated = await random.choice(roots).RotateKey(key_id=made.key.key_id, overlap={})
    history.changes.append(Change(rotated.old_key.version, valid=False, start=start, end=time.monotonic()))
    ended = time.monotonic()
    await until(lambda: any(use.start > ended for use in history.uses))
    stop.set()
    await asyncio.gather(*using)
    return history


async def _change(roots: list[Keys], key_id: str, history: History, number: int, pause: float) -> None:
    for step in range(number):
        verb = "RevokeKey" if step % 2 == 0 and step < number - 1 else "RestoreKey"  # a revoked key cannot be rotated
        start = time.monotonic()
        key = (await getattr(random.choice(roots), verb)(key_id=key_id)).key
        event = Change(key.version, key.state == auth_pb2.Key.ACTIVE, start, time.monotonic())
        # Of two that say the same version one did nothing; either knows that the change lies before its end.
        other = next((one for one in history.changes if one.version == event.version), None)
        if other is not None:
            history.changes.remove(other)
            event = Change(event.version, event.valid, min(start, other.start), min(event.end, other.end))
        history.changes.append(event)
        await asyncio.sleep(random.uniform(0, pause))


async def _use(channel: Any, secret: str, history: History, stop: asyncio.Event) -> None:
    stub = auth_pb2_grpc.KeyServiceStub(channel)
    while not stop.is_set():
        start = time.monotonic()
        try:
            await stub.ListKeys(auth_pb2.ListKeysRequest(page_size=1), metadata=with_key(secret))
            valid = True
        except grpc.aio.AioRpcError as error:
            if reason(error) != "KEY_INVALID":
                raise
            valid = False
        history.uses.append(Use(valid, start, time.monotonic()))
