"""Benches `call_overhead` and `recorded_calls`, and what stands around them.

call_overhead: CPU of service and Postgres for a call with key check and durable audit, 64 in flight, against the same
handler bare, median of rounds in turns; the rival inserts a row a call. Beside it, in the same rounds: the key check
alone, and ValidateKey over gRPC for each call. recorded_calls: calls recorded a second by one process, 64 waiting,
against one INSERT a call on 16 connections; beside it 1 and 256 waiting. revoke_under_load: how long RevokeKey takes.
greedy_neighbour: a calm key's calls while another is refused above its rate, 64 callers strong.

The load comes from h2load (Debian's nghttp2-client) where it is installed, so that the client takes little of the
machine; else from gRPC in this process. CPU is counted of service and Postgres alone. `python -m tests.bench.calls
[ROUNDS [CALLS]]` runs it alone; with fewer CALLS all else is shorter in proportion.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import struct
import sys
import tempfile
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import grpc
import uvloop

from mdw.auth.v1 import auth_pb2, auth_pb2_grpc
from mdw.ingest.v1 import bars_pb2
from services.kit import entries, keys
from services.kit.calls import Call
from services.kit.db import Database
from services.kit.principals import Principal
from services.kit.recorder import Recorder
from tests.bench.calls_server import INSERT
from tests.bench.server import migrated_server
from tests.support import auth_process, with_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.bench.server import Server

MODES = ("bare", "checked", "recorded", "inserted", "remote")
ROUNDS, CALLS = 5, 6_000
IN_FLIGHT, CLIENTS = 64, 8
SECONDS = 2.0
TICKS = os.sysconf("SC_CLK_TCK")
REVOCATIONS, CALM_CALLS = 30, 500
OVERHEAD, RECORDED = 1.35, 3.0

NEW_KEY = """
INSERT INTO auth.keys (key_id, display_name, preview, digest, scopes) VALUES ($1, 'bench', $2, $3, $4)
"""
PLAIN_AUDIT = """
CREATE TABLE public.plain_audit (
  id bigint GENERATED ALWAYS AS IDENTITY, time timestamptz NOT NULL DEFAULT now(), call_id uuid, key_id uuid,
  key_preview text, service text, method text, code smallint, reason text, peer text, request_id text,
  duration_us bigint, messages bigint, call_count integer, PRIMARY KEY (time, id)
);
CREATE INDEX ON public.plain_audit (key_id, time, id);
CREATE INDEX ON public.plain_audit (call_id);
GRANT ALL ON public.plain_audit TO mdw_auth
"""


async def measure(rounds: int = ROUNDS, number: int = CALLS) -> list[dict[str, object]]:
    """Runs all of it on a Postgres of its own; CPU in microseconds a call, rates a second, latencies in ms."""
    async with migrated_server() as server:
        secrets = await _prepare(server)
        return [
            *await _overhead(server, secrets, rounds, number),
            *await _recorded(server, SECONDS * number / CALLS),
            await _revoke(server, secrets, REVOCATIONS * number // CALLS),
            await _greedy(server, secrets, CALM_CALLS * number // CALLS),
        ]


async def _prepare(server: Server) -> dict[str, str]:
    made = {name: keys.new_secret() for name in ("admin", "service")}
    conn = await asyncpg.connect(server.superuser_url)
    for name, secret in made.items():
        await conn.execute(NEW_KEY, uuid4(), keys.preview(secret), keys.digest(secret), [name])
    await conn.execute(PLAIN_AUDIT)
    await conn.close()
    return made


async def _overhead(server: Server, secrets: dict[str, str], rounds: int, number: int) -> list[dict[str, object]]:
    cpu: dict[str, list[float]] = {mode: [] for mode in MODES}
    async with auth_process(server, key_max_calls_per_second="1000000") as auth:
        for _ in range(rounds):
            for mode in MODES:
                async with _serving(mode, server.auth_url, auth.target, secrets["service"]) as (pid, target):
                    await _load(target, secrets["admin"], number // 4)
                    pids = [pid, auth.pid] if mode == "remote" else [pid]
                    before = _cpu(pids, server)
                    await _fast_load(target, secrets["admin"], number)
                    taken = max(_cpu(pids, server) - before, 1 / TICKS)
                    cpu[mode].append(taken / number * 1e6)
    ratios = {
        mode: statistics.median(ours / bare for ours, bare in zip(cpu[mode], cpu["bare"], strict=True))
        for mode in MODES
    }
    rival = statistics.median(cpu["inserted"])
    return [
        _row("call_overhead", cpu["recorded"], cpu["bare"], rival=rival, ratio=ratios["recorded"], target=OVERHEAD),
        _row("call_checked", cpu["checked"], cpu["bare"], rival=rival, ratio=ratios["checked"]),
        _row("call_inserted", cpu["inserted"], cpu["bare"], rival=None, ratio=ratios["inserted"]),
        _row("call_remote_validate", cpu["remote"], cpu["bare"], rival=rival, ratio=ratios["remote"]),
    ]


def _row(
    name: str, ours: list[float], limit: list[float], *, rival: float | None, ratio: float, target: float | None = None
) -> dict[str, object]:
    return {
        "name": name,
        "ours": round(statistics.median(ours), 1),
        "limit": round(statistics.median(limit), 1),
        "rival": None if rival is None else round(rival, 1),
        "ratio": round(ratio, 3),
        "target": target,
        "reached": None if target is None else ratio <= target,
    }


@asynccontextmanager
async def _serving(mode: str, url: str, auth_target: str, service_key: str) -> AsyncIterator[tuple[int, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.calls_server", mode, url, auth_target,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "SERVICE_KEY": service_key},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process.pid, f"127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.kill()
        await process.wait()


async def _fast_load(target: str, secret: str, number: int) -> None:
    """Makes calls as _load does; h2load takes any answer for a good one, so that _load comes before it."""
    if shutil.which("h2load") is None:
        return await _load(target, secret, number)
    message = bars_pb2.ListBarsRequest(ticker="AAPL").SerializeToString()
    with tempfile.NamedTemporaryFile() as body:
        body.write(struct.pack(">BI", 0, len(message)) + message)
        body.flush()
        process = await asyncio.create_subprocess_exec(
            "h2load", "-n", str(number), "-c", str(CLIENTS), "-m", str(IN_FLIGHT // CLIENTS), "-d", body.name,
            "-H", "content-type: application/grpc", "-H", "te: trailers", "-H", f"x-api-key: {secret}",
            f"http://{target}/mdw.ingest.v1.BarService/ListBars", stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        printed = (await process.communicate())[0].decode()
    if f" {number} succeeded" not in printed:
        raise RuntimeError(f"h2load: {printed}")
    return None


async def _load(target: str, secret: str, number: int) -> None:
    left = number
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary(
            "/mdw.ingest.v1.BarService/ListBars", request_serializer=bars_pb2.ListBarsRequest.SerializeToString
        )

        async def caller() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await call(bars_pb2.ListBarsRequest(ticker="AAPL"), metadata=with_key(secret))

        await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))


def _cpu(pids: list[int], server: Server) -> float:
    """Returns the CPU seconds of processes and of Postgres, those of its ended children included."""
    postmaster = int((server.folder / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])
    total = sum(_times(pid)[0] for pid in pids) + sum(_times(postmaster))
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == postmaster:
            total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


def _times(pid: int) -> tuple[float, float]:
    """Returns the CPU seconds of a process, and of its ended children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS, (int(fields[13]) + int(fields[14])) / TICKS


async def _recorded(server: Server, seconds: float) -> list[dict[str, object]]:
    inserts = await _inserts(server, seconds)
    found = []
    for waiting in (64, 1, 256):
        rate = await _recorder_rate(server, waiting, seconds)
        target = RECORDED if waiting == IN_FLIGHT else None
        found.append(
            {
                "name": "recorded_calls" if waiting == IN_FLIGHT else f"recorded_calls_{waiting}",
                "ours": round(rate),
                "limit": round(inserts),
                "rival": round(inserts),
                "ratio": round(rate / inserts, 3),
                "target": target,
                "reached": None if target is None else rate / inserts >= target,
            }
        )
    return found


async def _recorder_rate(server: Server, waiting: int, seconds: float) -> float:
    db = await Database.open(server.auth_url, size=2)
    async with Recorder(db, service="bench") as recorder:
        rate = await _repeat(waiting, seconds, lambda: recorder.submit(_entry()))
    await db.close()
    return rate


async def _inserts(server: Server, seconds: float) -> float:
    db = await Database.open(server.auth_url, size=16)

    async def insert() -> None:
        values = _entry()._asdict()
        del values["scopes"]
        await db.execute(INSERT, *values.values())

    rate = await _repeat(16, seconds, insert)
    await db.close()
    return rate


async def _repeat(waiting: int, seconds: float, verb: object) -> float:
    """Returns how often a verb ends a second with so many at once."""
    done = 0
    end = time.perf_counter() + seconds

    async def caller() -> None:
        nonlocal done
        while True:
            await verb()  # type: ignore[operator]
            done += 1
            if time.perf_counter() > end:
                return

    await asyncio.gather(*(caller() for _ in range(waiting)))
    return done / seconds


def _entry() -> entries.Entry:
    call = Call(method="ListBars", scopes=("bars.read",), peer="127.0.0.1")
    call.key = Principal(key_id=uuid4(), preview="mdw_00000000", scopes=frozenset())
    call.begun = True
    # No such key: judged as every other, and no usage row, so that both sides write one row a call.
    return entries.entry(call, 16, "KEY_REFUSED")


async def _greedy(server: Server, secrets: dict[str, str], calls: int) -> dict[str, object]:
    """Measures a calm key's calls while a greedy one is refused; the limit is the same without it."""
    greedy = keys.new_secret()
    conn = await asyncpg.connect(server.superuser_url)
    await conn.execute(NEW_KEY, uuid4(), keys.preview(greedy), keys.digest(greedy), ["bars.read"])
    await conn.execute("UPDATE auth.keys SET max_calls_per_second = 50 WHERE digest = $1", keys.digest(greedy))
    await conn.close()
    async with _serving("recorded", server.auth_url, "", "") as (_, target):
        alone = await _latencies(target, secrets["admin"], calls)
        loading = [asyncio.create_task(_hammer(target, greedy)) for _ in range(IN_FLIGHT)]
        beside = await _latencies(target, secrets["admin"], calls)
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)
    return _milliseconds("greedy_neighbour", beside, alone)


async def _hammer(target: str, secret: str) -> None:
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary("/mdw.ingest.v1.BarService/ListBars")
        while True:
            with suppress(grpc.aio.AioRpcError):
                await call(b"", metadata=with_key(secret))


async def _latencies(target: str, secret: str, number: int) -> list[float]:
    found = []
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary("/mdw.ingest.v1.BarService/ListBars")
        for _ in range(number):
            started = time.perf_counter()
            await call(b"", metadata=with_key(secret))
            found.append((time.perf_counter() - started) * 1e3)
    return found


def _milliseconds(name: str, ours: list[float], limit: list[float]) -> dict[str, object]:
    """Makes a row of two medians that has no target."""
    mine, other = statistics.median(ours), statistics.median(limit)
    return {
        "name": name,
        "ours": round(mine, 2),
        "limit": round(other, 2),
        "rival": None,
        "ratio": round(mine / other, 2),
        "target": None,
        "reached": None,
    }


async def _revoke(server: Server, secrets: dict[str, str], number: int) -> dict[str, object]:
    """Measures RevokeKey while 64 calls are in flight; the limit is the same call without load."""
    async with auth_process(server, key_max_calls_per_second="1000000") as auth:
        quiet = await _revocations(auth.target, secrets["admin"], number)
        async with _serving("recorded", server.auth_url, auth.target, secrets["service"]) as (_, target):
            loading = asyncio.create_task(_load(target, secrets["admin"], 10**9))
            await asyncio.sleep(0.5)
            busy = await _revocations(auth.target, secrets["admin"], number)
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
    return _milliseconds("revoke_under_load", busy, quiet)


async def _revocations(target: str, secret: str, number: int) -> list[float]:
    found = []
    async with grpc.aio.insecure_channel(target) as channel:
        stub = auth_pb2_grpc.KeyServiceStub(channel)
        for _ in range(number):
            request = auth_pb2.CreateKeyRequest(display_name="bench", scopes=["bars.read"])
            made = await stub.CreateKey(request, metadata=with_key(secret))
            started = time.perf_counter()
            await stub.RevokeKey(auth_pb2.RevokeKeyRequest(key_id=made.key.key_id), metadata=with_key(secret))
            found.append((time.perf_counter() - started) * 1e3)
    return found


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(*map(int, sys.argv[1:]))), indent=2))  # noqa: T201
