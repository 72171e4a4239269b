"""Faults at the pool of a Database, by seed and rate: an error, a delay, or a statement that runs and times out."""

from __future__ import annotations

import asyncio
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.kit.db import Database

STATEMENTS = frozenset(
    {
        "execute",
        "fetch",
        "fetchrow",
        "fetchval",
        "executemany",
        "copy_records_to_table",
        "copy_to_table",
        "copy_from_query",
    }
)


@dataclass
class Faults:
    """What may happen to each statement; the rates are shares of 1.

    `error`: the connection is lost before the statement is sent. `lost`: the statement is executed, then the connection
    is lost before its answer comes. `late`: the statement waits for `seconds` first.
    `once(pattern)`: the next statement that the pattern finds is lost in the second way, whatever the rates.
    """

    seed: int = 0
    error: float = 0.0
    lost: float = 0.0
    late: float = 0.0
    seconds: float = 0.05
    met: list[tuple[str, str]] = field(default_factory=list)
    """The faults that were injected: kind and statement."""

    def __post_init__(self) -> None:
        self._chance = Random(self.seed)
        self._once: list[str] = []

    def once(self, pattern: str, times: int = 1) -> None:
        self._once += [pattern] * times

    def draw(self, statement: str) -> str:
        """Says what happens to a statement: '' for nothing."""
        for pattern in self._once:
            if re.search(pattern, statement):
                self._once.remove(pattern)
                return self._note("lost", statement)
        drawn = self._chance.random()
        for kind in ("error", "lost", "late"):
            rate = getattr(self, kind)
            if drawn < rate:
                return self._note(kind, statement)
            drawn -= rate
        return ""

    def _note(self, kind: str, statement: str) -> str:
        self.met.append((kind, statement.strip().split("\n")[0][:60]))
        return kind


class _Connection:
    """A connection whose statements meet faults; all else is the real one's."""

    def __init__(self, real: Any, faults: Faults) -> None:
        self._real, self._faults = real, faults

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        return self._disturbed(found) if name in STATEMENTS else found

    def _disturbed(self, run: Any) -> Any:
        async def disturbed(statement: str, *args: Any, **options: Any) -> Any:
            kind = self._faults.draw(statement)
            if kind == "error":
                self._real.terminate()
                raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
            if kind == "late":
                await asyncio.sleep(self._faults.seconds)
            answer = await run(statement, *args, **options)
            if kind == "lost":
                self._real.terminate()
                raise TimeoutError
            return answer

        return disturbed


class _Pool:
    """A pool that lends such connections."""

    def __init__(self, real: Any, faults: Faults) -> None:
        self._real, self._faults = real, faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def acquire(self, **options: Any) -> _Connection:
        return _Connection(await self._real.acquire(**options), self._faults)

    async def release(self, connection: _Connection, **options: Any) -> None:
        await self._real.release(connection._real, **options)


@contextmanager
def faulty(db: Database, faults: Faults) -> Iterator[Faults]:
    """Lets a Database's statements meet faults, those of its connections outside of the pool, too."""
    pool, connect = db._pool, db.connect

    async def connect_faulty(*args: Any, **options: Any) -> Any:
        return _Connection(await connect(*args, **options), faults)

    db._pool = _Pool(pool, faults)  # type: ignore[assignment]
    db.connect = connect_faulty  # type: ignore[method-assign]
    try:
        yield faults
    finally:
        db._pool = pool
        db.connect = connect  # type: ignore[method-assign]
