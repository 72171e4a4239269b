"""A standby takes the place of its primary: writes go on within seconds, and nothing that was answered is lost.

Not collected by `make test`, which does one of them (tests/e2e/test_failover.py): `python -m pytest
tests/faults/failover.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg
import grpc
import pytest

from mdw_client import AsyncClient, CallError
from tests.faults.auth_faults import verified
from tests.proxy import Proxy, through
from tests.standby import replicated
from tests.support import Process, environment, make_key
from tests.waiting import until

if TYPE_CHECKING:
    from tests.standby import Pair

WRITERS, READERS = 4, 4
POOL = 4
SECONDS = 10
"""After the promotion, by then a write must have succeeded."""

AWAY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


@dataclass
class Callers:
    """Callers with our client, that make keys and list them."""

    made: dict[str, float] = field(default_factory=dict)
    """When each key was answered, by its id."""
    read: int = 0
    failed: Counter[Any] = field(default_factory=Counter)
    said: set[str] = field(default_factory=set)
    stop: bool = False

    async def run(self, target: str, key: str) -> None:
        async with AsyncClient(target, key=key) as client:
            await asyncio.gather(
                *(self._call(lambda: client.keys.create("made", "bars.read"), self._note) for _ in range(WRITERS)),
                *(self._call(lambda: anext(aiter(client.keys.list())), self._count) for _ in range(READERS)),
            )

    def _note(self, answer: Any) -> None:
        self.made[answer.key.key_id] = time.monotonic()

    def _count(self, _: Any) -> None:
        self.read += 1

    async def _call(self, call: Any, done: Any) -> None:
        while not self.stop:
            try:
                done(await call())
            except CallError as error:
                self.failed[error.code] += 1
                self.said.add(str(error))
            await asyncio.sleep(0.01)

    def since(self, moment: float) -> int:
        return sum(answered > moment for answered in self.made.values())


async def fail_over(pair: Pair, *, moves: bool, gone: bool, within: float) -> Counter[Any]:
    """Lets the standby take over under load; returns what callers of our client saw fail.

    Services reach the primary at an address that `moves`, or know both servers. The old one is `gone`, or stays up and
    refuses writes.
    """
    proxy = Proxy("127.0.0.1", pair.primary.port)
    url = pair.database.auth_url
    async with AsyncExitStack() as stack:
        port = await proxy.start()
        stack.push_async_callback(proxy.stop)
        key = await make_key(pair.database)
        variables = environment(through(url, port) if moves else pair.both(url), pool_size=str(POOL))
        process = await Process.start("services.auth", variables)
        stack.push_async_callback(process.stop)
        callers = Callers()
        running = asyncio.create_task(callers.run(process.target, key))
        await until(lambda: len(callers.made) > 20 and callers.read > 20)
        if gone:
            pair.primary.kill()
        else:
            await pair.forbid_writes()
        await pair.promote()
        proxy.lead_to(pair.standby.port)
        promoted = time.monotonic()
        await until(lambda: callers.since(promoted) > 20)
        assert min(at for at in callers.made.values() if at > promoted) - promoted <= within
        callers.stop = True
        await running
        read_only = [event for event in process.events if event["event"] == "database_read_only"]
        process.kill(15)
        assert await process.end() == 0
    assert set(callers.failed) <= AWAY
    assert not [text for text in callers.said if "read-only" in text or "25006" in text]
    await _nothing_lost(pair, callers)
    # No connection that a server has refused writes on is used again, so each is met at most once before the move.
    assert not gone or read_only == []
    return callers.failed


async def _nothing_lost(pair: Pair, callers: Callers) -> None:
    """All that was answered is on the new primary, with its row, and the chains hold."""
    conn = await asyncpg.connect(pair.successor.admin_url)
    made = {str(row[0]) for row in await conn.fetch("SELECT key_id FROM auth.keys WHERE display_name = 'made'")}
    rows = await conn.fetchval("SELECT count(*) FROM auth.audit_entries WHERE method = 'CreateKey' AND code = 0")
    await conn.close()
    assert set(callers.made) <= made
    assert rows == len(made)
    await verified(pair.successor)


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "read-only"])
@pytest.mark.parametrize("moves", [True, False], ids=["address moves", "both known"])
async def test_writes_go_on_within_seconds_of_a_promotion(tmp_path, moves, gone):
    async with replicated(tmp_path) as pair:
        failed = await fail_over(pair, moves=moves, gone=gone, within=SECONDS)
        print(f"\nfailed after all retries: {dict(failed)}")  # noqa: T201
