"""Mixed load over real processes with random faults; then the books must balance and nothing may have grown.

Not collected by `make test`: `SOAK_MINUTES=20 python -m pytest -s tests/faults/soak.py` (default 3); `make soak` does
that. The seed is printed; SOAK_SEED replays the order of the faults.
"""

# ruff: noqa: T201 - it ends with a report

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import grpc

from mdw.auth.v1 import auth_pb2, auth_pb2_grpc
from mdw.ingest.v1 import bars_pb2, bars_pb2_grpc, ingest_pb2, ingest_pb2_grpc
from mdw.symbols.v1 import symbols_pb2, symbols_pb2_grpc
from tests.faults.auth_faults import verified
from tests.ingest.processes import crew
from tests.ingest.working import DAY, desk, replaying
from tests.proxy import Proxy, through
from tests.standby import own_server
from tests.support import Process, environment, make_key, with_key

MINUTES = float(os.environ.get("SOAK_MINUTES", "3"))
SEED = int(os.environ.get("SOAK_SEED", str(random.randrange(10**6))))
WARM_SECONDS = 20
ALLOWED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
MEGABYTE = 1 << 20
MEGABYTES_IN_TEN_MINUTES = MEGABYTE / 600
GROWTH = 48 * MEGABYTE
"""More than caches and pools take after the warm-up, and far less than a leak of a few bytes a call."""

RECOUNT = """
SELECT count(*)
FROM ingest.series s
LEFT JOIN (SELECT symbol_id, timeframe, count(*) AS bars FROM ingest.bars GROUP BY 1, 2) b USING (symbol_id, timeframe)
WHERE s.bars <> coalesce(b.bars, 0)
"""
DOUBLE = """
SELECT count(*)
FROM (
  SELECT call_id
  FROM auth.audit_entries
  WHERE code = 0 AND method <> 'StreamBars'  -- a stream has a row when it starts and one when it ends
  GROUP BY 1
  HAVING count(*) > 1
) twice
"""


CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'mdw%'"
SLOPE = 3 * MEGABYTES_IN_TEN_MINUTES
"""Of the second half of a run of ten minutes or more; a shorter one says too little."""


@dataclass
class Sample:
    memory: int
    files: int
    threads: int


def sample(pid: int) -> Sample:
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    files, threads = (len(list(Path(f"/proc/{pid}/{name}").iterdir())) for name in ("fd", "task"))
    return Sample(resident, files, threads)


@dataclass
class Watched:
    """The memory of processes, looked at every few seconds."""

    pids: dict[str, int]
    seen: dict[str, list[tuple[float, int]]] = field(default_factory=dict)

    async def run(self) -> None:
        while True:
            for name, pid in self.pids.items():
                self.seen.setdefault(name, []).append((time.monotonic(), sample(pid).memory))
            await asyncio.sleep(5)

    def slope(self, name: str) -> float:
        """Returns by how many bytes a second a process has grown in the second half of the run."""
        half = self.seen[name][len(self.seen[name]) // 2 :]
        return statistics.linear_regression(*zip(*half, strict=True)).slope if len(half) > 1 else 0.0


@dataclass
class Load:
    """Callers of all services; keeps what was answered."""

    targets: dict[str, str]
    secret: str
    codes: Counter[str] = field(default_factory=Counter)
    names: set[str] = field(default_factory=set)
    """x-request-id of each answered read."""
    made: set[str] = field(default_factory=set)
    stop: bool = False
    faults: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            channels = {
                name: await stack.enter_async_context(grpc.aio.insecure_channel(target))
                for name, target in self.targets.items()
            }
            keys = auth_pb2_grpc.KeyServiceStub(channels["auth"])
            symbols = symbols_pb2_grpc.SymbolServiceStub(channels["symbols"])
            ingest = ingest_pb2_grpc.IngestServiceStub(channels["ingest"])
            bars = bars_pb2_grpc.BarServiceStub(channels["ingest"])
            await asyncio.gather(
                *(self._read(keys.ListKeys, auth_pb2.ListKeysRequest(page_size=5)) for _ in range(3)),
                *(self._read(symbols.ListSymbols, symbols_pb2.ListSymbolsRequest(page_size=5)) for _ in range(2)),
                *(self._read(bars.ListBars, bars_pb2.ListBarsRequest(ticker="AAPL", timeframe=DAY)) for _ in range(2)),
                self._stream(bars.StreamBars, bars_pb2.StreamBarsRequest(tickers=["AAPL"], timeframe=DAY)),
                self._change(
                    keys.CreateKey,
                    lambda name: auth_pb2.CreateKeyRequest(display_name="soak", scopes=["bars.read"], request_id=name),
                ),
                self._change(
                    ingest.StartBackfill,
                    lambda name: ingest_pb2.StartBackfillRequest(
                        tickers=["AAPL", "MSFT"],
                        timeframes=[DAY],
                        mode=2,
                        request_id=name,
                        start_time={"seconds": 1_072_915_200},
                        end_time={"seconds": 1_104_537_600},
                    ),
                    wait=2.0,
                ),
            )

    async def _answered(self, call: Any) -> bool:
        try:
            if hasattr(call, "__aiter__") and not hasattr(call, "__await__"):
                async for _ in call:
                    pass
            else:
                await call
        except grpc.aio.AioRpcError as error:
            self.codes[error.code().name] += 1
            if error.code() not in ALLOWED:
                raise
            await asyncio.sleep(0.1)
            return False
        self.codes["OK"] += 1
        return True

    async def _read(self, method: Any, request: Any) -> None:
        while not self.stop:
            name = uuid4().hex
            metadata = (*with_key(self.secret), ("x-request-id", name))
            if await self._answered(method(request, metadata=metadata, timeout=5)):
                self.names.add(name)
            await asyncio.sleep(0.05)

    async def _stream(self, method: Any, request: Any) -> None:
        while not self.stop:
            await self._answered(method(request, metadata=with_key(self.secret), timeout=10))
            await asyncio.sleep(0.2)

    async def _change(self, method: Any, request: Any, wait: float = 0.2) -> None:
        """Makes one change after the other, each until it is answered, with one request_id."""
        while not self.stop:
            name = str(uuid4())
            while not await self._answered(method(request(name), metadata=with_key(self.secret), timeout=8)):
                if self.stop:
                    return
            self.made.add(name)
            await asyncio.sleep(wait)


async def disturb(load: Load, proxy: Proxy, workers: Any, own: tuple[Any, Any], end: float) -> None:
    """Something goes wrong every few seconds."""
    chance, (server, database) = random.Random(SEED), own
    while time.monotonic() < end:
        await asyncio.sleep(chance.uniform(2, 6))
        way = chance.choice(["cut", "reset", "half_close", "hole", "late", "terminate", "kill worker", "crash"])
        if way == "crash" and load.faults[way] > MINUTES / 3:
            continue  # after each all caches and connections are new, and a leak has no time to show
        load.faults[way] += 1
        if way in ("cut", "reset", "half_close"):
            getattr(proxy, way)()
        elif way == "hole":
            proxy.hole = True
            await asyncio.sleep(chance.uniform(0.2, 4))
            proxy.heal()
        elif way == "late":
            proxy.latency = chance.uniform(0.005, 0.1)
            await asyncio.sleep(2)
            proxy.latency = 0.0
        elif way == "terminate":
            conn = await asyncpg.connect(database.admin_url)
            await conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'mdw%'"
            )
            await conn.close()
        elif way == "kill worker":
            workers.kill(chance.choice(workers.children))
            workers.start()
        else:
            server.child.stop((signal.SIGQUIT, 20))
            server.start()  # in this thread: Postgres ends with the one that started it


async def test_the_books_balance_and_nothing_grows(tmp_path):
    print(f"\nsoak of {MINUTES} minutes, SOAK_SEED={SEED}")
    async with own_server(tmp_path / "server") as (server, database), replaying() as replay, AsyncExitStack() as stack:
        address = urlsplit(database.auth_url)
        proxy = Proxy(address.hostname or "", address.port or 0)
        port = await proxy.start()
        stack.push_async_callback(proxy.stop)
        async with desk(database) as work:
            for ticker in ("AAPL", "MSFT"):
                await work.symbol(ticker)
        secret, own = await make_key(database), await make_key(database, "service", name="own")
        processes = await _services(stack, database, port, own)
        workers = await stack.enter_async_context(
            crew(tmp_path, through(database.ingest_url, port), replay.url, LEASE_SECONDS="5", REQUEST_SECONDS="4")
        )
        workers.start()
        await workers.ready()
        load = Load({name: process.target for name, process in processes.items()}, secret)
        running = asyncio.create_task(load.run())
        await asyncio.sleep(WARM_SECONDS)
        before = {name: sample(process.pid) for name, process in processes.items()}
        watched = Watched({name: process.pid for name, process in processes.items()})
        watching = asyncio.create_task(watched.run())
        disturbing = asyncio.create_task(
            disturb(load, proxy, workers, (server, database), time.monotonic() + MINUTES * 60 - WARM_SECONDS)
        )
        await asyncio.wait([running, disturbing], return_when=asyncio.FIRST_COMPLETED)
        await disturbing
        await asyncio.sleep(3)
        load.stop = True
        await running
        watching.cancel()
        after = {name: sample(process.pid) for name, process in processes.items()}
        await _report(load, before, after, watched, database)
        await _balanced(load, database)
        assert all(process.running for process in processes.values())
        _flat(before, after, watched)
        async with desk(database) as work:
            await _settled(work, workers)
            assert await work.sql.fetchval(RECOUNT) == 0


async def _services(stack: AsyncExitStack, database: Any, port: int, key: str) -> dict[str, Process]:
    """Starts the services, their database behind a port of the proxy."""
    processes: dict[str, Process] = {}
    for name in ("auth", "symbols", "ingest"):
        more = {} if name == "auth" else {"auth_target": processes["auth"].target, "service_key": key}
        url = through(getattr(database, f"{name}_url"), port)
        processes[name] = await Process.start(f"services.{name}", environment(url, **more))
        stack.push_async_callback(processes[name].stop)
    return processes


def _flat(before: dict[str, Any], after: dict[str, Any], watched: Watched) -> None:
    """No process has grown."""
    for name, one in after.items():
        assert one.memory - before[name].memory < GROWTH, name
        assert one.files - before[name].files < 30, name
        assert one.threads - before[name].threads < 10, name
        assert MINUTES < 10 or watched.slope(name) < SLOPE, name


async def _settled(work: Any, workers: Any) -> None:
    """All slices end; those that do not are printed."""
    try:
        await work.settled(60)
    except TimeoutError:
        print([dict(row) for row in await work.slices() if row["state"] in (1, 2)])
        print(workers.log.read_text()[-3_000:])
        raise


async def _balanced(load: Load, database: Any) -> None:
    """Every answered call has its row, no change is in twice, use equals the rows, and the chains hold."""
    conn = await asyncpg.connect(database.admin_url)
    rows = {row[0] for row in await conn.fetch("SELECT request_id FROM auth.audit_entries")}
    assert load.names - rows == set()
    assert load.made - rows == set()
    assert await conn.fetchval(DOUBLE) == 0
    counted = "SELECT sum(call_count) FROM auth.audit_entries WHERE code <> 16 AND key_id IS NOT NULL"
    assert await conn.fetchval(counted) == await conn.fetchval("SELECT sum(call_count) FROM auth.key_usage")
    keys = await conn.fetchval("SELECT count(*) FROM auth.keys WHERE display_name = 'soak'")
    asked = await conn.fetchval("SELECT count(*) FROM auth.requests WHERE method = 'CreateKey'")
    assert keys == asked
    await conn.close()
    await verified(database)


async def _report(
    load: Load, before: dict[str, Sample], after: dict[str, Sample], watched: Watched, database: Any
) -> None:
    conn = await asyncpg.connect(database.admin_url)
    connections = await conn.fetchval(CONNECTIONS)
    rows = await conn.fetchval("SELECT sum(call_count) FROM auth.audit_entries")
    await conn.close()
    print(f"calls: {dict(load.codes)}; changes: {len(load.made)}; faults: {dict(load.faults)}")
    print(f"the audit log counts {rows} calls; {connections} connections of services and workers at the end")
    for name, one in after.items():
        was = before[name]
        print(
            f"{name}: {one.memory / MEGABYTE:.0f} MB ({(one.memory - was.memory) / MEGABYTE:+.1f} since the warm-up, "
            f"{watched.slope(name) / MEGABYTES_IN_TEN_MINUTES:+.2f} in ten minutes of the second half), "
            f"{one.files} files ({was.files} before), {one.threads} threads ({was.threads})"
        )
