"""Helpers for tests of corporate actions: a provider of bars and actions that changes its mind, and jobs for them."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from deploy.local.wire import Answer, Request, serve
from services.ingest.calendar import XNYS, day_of, start_of_day
from services.ingest.store import slices
from services.ingest.tally import Tally
from tests.ingest.working import STOCK, Ask, Desk, desk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

INSERT_JOB = """
INSERT INTO ingest.backfills (backfill_id, kind, mode, priority, timeframes)
VALUES ($1, 4, 2, 2, '{}')
"""
INSERT_SLICE = """
INSERT INTO ingest.slices (kind, mode, priority, turn, subject, provider_ticker, first_date, last_date)
VALUES (6, 2, 2, nextval('ingest.job_turns'), $1, $2, $3, $4)
RETURNING slice_id
"""
LIVE = """
SELECT symbol_id, ex_date, split_from, split_to, cash_amount, currency, source_id, flags
FROM ingest.actions
WHERE ended_write_id IS NULL
ORDER BY symbol_id, kind, ex_date, action_id
"""
FLAGS = """
SELECT symbol_id, timeframe, ts, flags
FROM ingest.bars
ORDER BY symbol_id, timeframe, ts
"""


@dataclass
class ActingProvider:
    """Serves bars by ticker and instant, and splits and dividends, `page` of them at a time."""

    page: int = 1000
    bars: dict[str, dict[int, float]] = field(default_factory=dict)
    splits: list[dict[str, Any]] = field(default_factory=list)
    dividends: list[dict[str, Any]] = field(default_factory=list)
    missing: tuple[str, ...] = ()
    """First parts of the paths that are not there."""
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def split(self, ticker: str, day: str, before: float, after: float, **fields: Any) -> dict[str, Any]:
        """Adds a split and returns its row, which may be changed."""
        row = {"ticker": ticker, "execution_date": day, "split_from": before, "split_to": after, **fields}
        self.splits.append(row)
        return row

    def dividend(self, ticker: str, day: str, cash: float, **fields: Any) -> dict[str, Any]:
        """Adds a dividend and returns its row, which may be changed."""
        row = {"ticker": ticker, "ex_dividend_date": day, "cash_amount": cash, "currency": "USD", **fields}
        self.dividends.append(row)
        return row

    def respond(self, request: Request) -> Answer:
        self.asked.append(request.target)
        if request.path[0] in self.missing:
            return Answer(404, b'{"status":"NOT_FOUND","message":"Data not found."}')
        if request.path[0] == "v2":
            return self._bars(request)
        rows, name = (
            (self.splits, "execution_date") if request.path[-1] == "splits" else (self.dividends, "ex_dividend_date")
        )
        return self._actions(rows, name, request.params)

    def _bars(self, request: Request) -> Answer:
        _, _, _, ticker, _, _, timespan, first, last = request.path
        if timespan == "day":
            start, end = (start_of_day(day_of(date.fromisoformat(text)), XNYS) for text in (first, last))
        else:
            start, end = int(first), int(last)
        found = [(ms, close) for ms, close in sorted(self.bars.get(f"{ticker} {timespan}", {}).items())]
        rows = [
            {"t": ms, "o": close, "h": close, "l": close, "c": close, "v": 1000 / close, "vw": close, "n": 1}
            for ms, close in found
            if start <= ms <= end
        ]
        return Answer(200, json.dumps({"ticker": ticker, "adjusted": False, "status": "OK", "results": rows}).encode())

    def _actions(self, rows: list[dict[str, Any]], name: str, asked: dict[str, str]) -> Answer:
        chosen = [
            row
            for row in rows
            if asked.get(f"{name}.gte", "") <= row[name] <= asked.get(f"{name}.lte", "~")
            and row[name] == asked.get(name, row[name])
            and row["ticker"] > asked.get("ticker.gt", "")
            and ("ticker.any_of" not in asked or row["ticker"] in asked["ticker.any_of"].split(","))
            and row["ticker"] == asked.get("ticker", row["ticker"])
            and asked.get("ticker.gte", "") <= row["ticker"] <= asked.get("ticker.lte", "~")
        ]
        chosen.sort(key=lambda row: row[asked["sort"].partition(".")[0]])
        answer: dict[str, Any] = {"status": "OK", "results": chosen[: self.page]}
        if len(chosen) > self.page:
            answer["next_url"] = "https://api.polygon.io/next?cursor=x"
        return Answer(200, json.dumps(answer).encode())


@asynccontextmanager
async def acting_provider(**options: Any) -> AsyncIterator[ActingProvider]:
    """Runs the provider in this process."""
    provider = ActingProvider(**options)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer, provider.respond))
        tasks.add(task)
        with suppress(asyncio.CancelledError):
            await task
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield provider
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Acting:
    """A database, a provider and a worker that asks it."""

    desk: Desk
    provider: ActingProvider
    worker: Any

    @property
    def inquiry(self) -> Any:
        return self.worker._fetcher._inquiries[slices.ACTIONS]

    async def learn(
        self, subject: str = "splits", tickers: str = "", first: str = "2000-01-01", last: str = "2027-01-01"
    ) -> int:
        """Runs a job of one slice; returns the slice's id."""
        slice_id = await self.ask(subject, tickers, first, last)
        await self.desk.drain(self.worker)
        return slice_id

    async def ask(
        self, subject: str = "splits", tickers: str = "", first: str = "2000-01-01", last: str = "2027-01-01"
    ) -> int:
        """Writes a job of one slice."""
        job: UUID = uuid4()
        async with self.desk.sql.transaction():
            await self.desk.sql.execute(INSERT_JOB, job)
            span = date.fromisoformat(first), date.fromisoformat(last)
            slice_id = await self.desk.sql.fetchval(INSERT_SLICE, subject, tickers, *span)
            await self.desk.sql.execute("INSERT INTO ingest.backfill_slices VALUES ($1, $2)", job, slice_id)
        return int(slice_id)

    async def fetch(self, symbol_id: int, ticker: str, first: str, last: str, timeframe: int) -> None:
        """Fetches bars of a span."""
        await self.desk.start(Ask(symbol_id, ticker, first, last, timeframe, STOCK))
        await self.desk.drain(self.worker)

    async def live(self) -> list[tuple[Any, ...]]:
        """Returns the actions that are known now."""
        return [tuple(row) for row in await self.desk.sql.fetch(LIVE)]

    async def flags(self) -> list[tuple[Any, ...]]:
        """Returns the flags of all bars."""
        return [tuple(row) for row in await self.desk.sql.fetch(FLAGS)]

    async def slice(self, slice_id: int) -> Any:
        return await self.desk.sql.fetchrow("SELECT * FROM ingest.slices WHERE slice_id = $1", slice_id)


@asynccontextmanager
async def acting(database: Any, **options: Any) -> AsyncIterator[Acting]:
    async with acting_provider(**options) as provider, desk(database) as opened:
        yield Acting(opened, provider, await opened.worker(provider.url, tally=Tally()))
