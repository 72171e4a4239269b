"""One `as_of`, the same bytes, whichever process is asked and whatever has happened since.

Meanwhile bars are corrected, withdrawn, deleted and fetched anew, splits are learned, changed and withdrawn, and
workers and services are killed. Not collected by `make test`: `python -m pytest tests/faults/as_of.py`.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
import pytest

from mdw.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from services.ingest.calendar import XNYS, day_of, start_of_day
from tests.ingest.acting import Acting, ActingProvider, acting_provider
from tests.ingest.bars_support import Bars, to_time
from tests.ingest.processes import crew
from tests.ingest.test_bars_as_of import applied, rows_of
from tests.ingest.working import DAY, STOCK, Ask, Desk, desk
from tests.support import Process, auth_process, environment, make_key, with_key
from tests.waiting import until

if TYPE_CHECKING:
    from tests.ingest.bars_support import Streamed

SECONDS = 60
SERVICES, WORKERS = 3, 4
TICKERS = ("AAPL", "MSFT", "NVDA", "AMD")
FIRST, DAYS = date(2024, 1, 2), 120
D1, W1 = 7, 8
LEASE = {"LEASE_SECONDS": "1.5", "REQUEST_SECONDS": "1"}


class Services:
    """Ingest services as processes, each of which may be killed and replaced."""

    def __init__(self, database: Any, auth: str, keys: tuple[str, str], stack: AsyncExitStack) -> None:
        self._variables = environment(database.ingest_url, auth_target=auth, service_key=keys[1])
        self._key, self._stack = keys[0], stack
        self.processes: list[Process] = []
        self._readers: list[Bars] = []

    async def start(self) -> None:
        process = await Process.start("services.ingest", self._variables)
        self._stack.push_async_callback(process.stop)
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(process.target))
        self.processes.append(process)
        self._readers.append(Bars(channel, self._key, process.target))

    async def replace(self, number: int) -> None:
        process = self.processes.pop(number)
        del self._readers[number]
        process.kill()
        await process.end()
        await self.start()

    def reader(self, number: int) -> Bars:
        return self._readers[number % len(self._readers)]

    async def delete(self, request: ingest_pb2.DeleteBarsRequest) -> None:
        async with grpc.aio.insecure_channel(self.processes[0].target) as channel:
            await ingest_pb2_grpc.IngestServiceStub(channel).DeleteBars(request, metadata=with_key(self._key))


@dataclass
class Play:
    """What happens to the bars, and what was read of them."""

    work: Desk
    provider: ActingProvider
    services: Services
    chance: Random
    symbols: dict[str, int] = field(default_factory=dict)
    seen: list[tuple[dict[str, Any], Streamed]] = field(default_factory=list)
    repeated: int = 0
    done: dict[str, int] = field(default_factory=dict)

    async def prepare(self) -> None:
        for ticker in TICKERS:
            self.symbols[ticker] = await self.work.symbol(ticker)
            self.provider.bars[f"{ticker} day"] = {self._instant(n): 100.0 + n for n in range(DAYS)}

    async def step(self) -> None:
        """One thing happens, and some reads."""
        way = self.chance.choice(("fetch", "fetch", "fetch", "delete", "split"))
        self.done[way] = self.done.get(way, 0) + 1
        ticker = self.chance.choice(TICKERS)
        first, last = sorted(self.chance.sample(range(DAYS), 2))
        if way == "fetch":
            self._correct(ticker)
            await self.work.start(Ask(self.symbols[ticker], ticker, self._day(first), self._day(last), DAY, STOCK))
        elif way == "delete":
            span = (to_time(datetime.fromisoformat(self._day(day)).replace(tzinfo=UTC)) for day in (first, last))
            await self.services.delete(
                ingest_pb2.DeleteBarsRequest(
                    **dict(zip(("start_time", "end_time"), span, strict=True)),
                    symbol_id=self.symbols[ticker],
                    timeframe=DAY,
                    reason="a test",
                    request_id=str(uuid4()),
                )
            )
        else:
            self._split(ticker)
            await Acting(self.work, self.provider, None).ask(tickers=ticker)
        for _ in range(4):
            await self.read()

    async def read(self) -> None:
        """Reads something, or again what was read before, by another process, and what has changed since."""
        reader = self.services.reader(self.chance.randrange(SERVICES))
        if not self.seen or self.chance.random() < 0.3:
            fields = {
                "symbol_ids": self.chance.sample(sorted(self.symbols.values()), self.chance.randint(1, len(TICKERS))),
                "timeframe": self.chance.choice([D1, D1, W1]),
                "adjustment": self.chance.choice([0, 2]),
                "min_quality": self.chance.choice([0, 0, 0.85]),
            }
            self.seen.append((fields, await reader.streamed(**fields)))
            return
        await self.repeat(*self.chance.choice(self.seen), reader)

    async def repeat(self, fields: dict[str, Any], before: Streamed, reader: Bars) -> None:
        again = await reader.streamed(**fields, as_of=before.receipt.as_of)
        assert [one.SerializeToString() for one in again.chunks] == [one.SerializeToString() for one in before.chunks]
        changes = await reader.streamed(**fields, changed_since=before.receipt.as_of)
        now = await reader.streamed(**fields, as_of=changes.receipt.as_of)
        assert applied(rows_of(before), changes) == rows_of(now)
        self.repeated += 1

    def _correct(self, ticker: str) -> None:
        bars = self.provider.bars[f"{ticker} day"]
        for _ in range(self.chance.randint(0, 8)):
            instant = self._instant(self.chance.randrange(DAYS))
            if self.chance.random() < 0.3:
                bars.pop(instant, None)
            else:
                bars[instant] = self.chance.choice((100.0, 101.0, 150.0, 700.0))

    def _split(self, ticker: str) -> None:
        known = [row for row in self.provider.splits if row["ticker"] == ticker]
        if known and self.chance.random() < 0.5:
            self.provider.splits.remove(self.chance.choice(known))
        else:
            day = self._day(self.chance.randrange(DAYS))
            self.provider.splits[:] = [row for row in self.provider.splits if row not in known]
            self.provider.split(ticker, day, 1, self.chance.choice([2, 4]), id=uuid4().hex)

    @staticmethod
    def _day(number: int) -> str:
        return (FIRST + timedelta(days=number)).isoformat()

    def _instant(self, number: int) -> int:
        return start_of_day(day_of(date.fromisoformat(self._day(number))), XNYS)


async def disturb(play: Play, workers: Any) -> None:
    """Kills a worker or a service now and then."""
    while True:
        await asyncio.sleep(play.chance.uniform(1, 4))
        if play.chance.random() < 0.5:
            workers.kill(play.chance.choice(workers.children))
            workers.start()
            play.done["worker killed"] = play.done.get("worker killed", 0) + 1


@pytest.mark.parametrize("seed", range(2))
async def test_an_as_of_gives_the_same_bytes_from_every_process_whatever_happens(database, tmp_path, seed):
    chance = Random(seed)
    keys = await make_key(database), await make_key(database, "service", name="ingest")
    async with AsyncExitStack() as stack:
        work = await stack.enter_async_context(desk(database))
        provider = await stack.enter_async_context(acting_provider())
        auth = await stack.enter_async_context(auth_process(database))
        services = Services(database, auth.target, keys, stack)
        for _ in range(SERVICES):
            await services.start()
        workers = await stack.enter_async_context(crew(tmp_path, work.url, provider.url, **LEASE))
        for _ in range(WORKERS):
            workers.start()
        play = Play(work, provider, services, chance)
        await play.prepare()
        disturbing = asyncio.create_task(disturb(play, workers))
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            await play.step()
            if chance.random() < 0.05:
                await services.replace(chance.randrange(SERVICES))
                play.done["service killed"] = play.done.get("service killed", 0) + 1
        disturbing.cancel()
        await asyncio.gather(disturbing, return_exceptions=True)
        await until(lambda: _settled(work), 120)
        for number, (fields, before) in enumerate(play.seen):
            await play.repeat(fields, before, services.reader(number))
        print(f"\n{len(play.seen)} answers, {play.repeated} had again; {play.done}")  # noqa: T201
    assert play.repeated > len(play.seen)


async def _settled(work: Desk) -> bool:
    return await work.open_slices() == 0
