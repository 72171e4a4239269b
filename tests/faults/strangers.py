"""What strangers may try: to tell keys apart by the time of a refusal, and to tire a service with calls they take back.

Not collected by `make test`: `python -m pytest tests/faults/strangers.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import random
import statistics
import time
from pathlib import Path

import asyncpg
import grpc

from mdw.auth.v1 import auth_pb2, auth_pb2_grpc
from services.kit import keys
from tests.raw import connected
from tests.support import auth_process, make_key, with_key

SAMPLES, CALLERS = 10_000, 128
"""Refusals of each kind."""
RESETS = 5_000
SECONDS_OF_CPU, MEGABYTES = 10, 100
ENDS = {
    "revoked": "revoke_time = now()",
    "expired": "expire_time = now()",
    "deleted": "delete_time = now(), digest = NULL",
}


async def kinds(database) -> dict[str, list[str]]:
    """Returns secrets of each kind that is refused; that one is malformed anybody can see without asking."""
    conn = await asyncpg.connect(database.admin_url)
    found = {"unknown": [keys.new_secret() for _ in range(50)]}
    for kind, end in ENDS.items():
        found[kind] = [await make_key(database, name=f"{kind} {n}") for n in range(50)]
        await conn.execute(f"UPDATE auth.keys SET {end} WHERE display_name LIKE $1", f"{kind} %")
    await conn.close()
    return found


def differ(one: list[float], other: list[float]) -> float:
    """Returns the p of Welch's t-test; so many samples make t a normal."""
    error = math.sqrt(statistics.variance(one) / len(one) + statistics.variance(other) / len(other))
    return math.erfc(abs(statistics.fmean(one) - statistics.fmean(other)) / error / math.sqrt(2))


async def test_the_time_of_a_refusal_does_not_tell_why(database):
    seed = random.randrange(10**6)
    chance, samples = random.Random(seed), {}
    async with auth_process(database) as process, grpc.aio.insecure_channel(process.target) as channel:
        stub = auth_pb2_grpc.KeyServiceStub(channel)
        secrets = await kinds(database)
        order = [kind for kind in secrets for _ in range(SAMPLES)]
        chance.shuffle(order)
        left = iter(order)

        async def caller() -> None:
            for kind in left:
                began = time.perf_counter()
                try:
                    await stub.ListKeys(auth_pb2.ListKeysRequest(), metadata=with_key(chance.choice(secrets[kind])))
                except grpc.aio.AioRpcError as error:
                    samples.setdefault(kind, []).append(time.perf_counter() - began)
                    assert error.code() is grpc.StatusCode.UNAUTHENTICATED  # noqa: PT017 - callers go on

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
    medians = {kind: statistics.median(taken) * 1e3 for kind, taken in samples.items()}
    ps = {pair: differ(samples[pair[0]], samples[pair[1]]) for pair in itertools.combinations(sorted(samples), 2)}
    print(f"\nseed {seed}; medians in ms {medians}; least p {min(ps.values()):.3f}")  # noqa: T201
    assert min(ps.values()) > 0.05 / len(ps), ps  # of that many pairs one may look different by chance


async def test_thousands_of_calls_taken_back_at_once_cost_little_and_others_are_served(database):
    secret = await make_key(database)
    async with auth_process(database) as process, grpc.aio.insecure_channel(process.target) as channel:
        stub = auth_pb2_grpc.KeyServiceStub(channel)
        await stub.ListKeys(auth_pb2.ListKeysRequest(), metadata=with_key(secret))
        before = used(process.pid)
        async with connected(process.target) as connection:
            for number in range(RESETS):
                connection.reset(connection.call("/mdw.auth.v1.KeyService/ListKeys"))
                if number % 100 == 0:
                    await connection.writer.drain()
                    await stub.ListKeys(auth_pb2.ListKeysRequest(), metadata=with_key(secret), timeout=10)
            await connection.writer.drain()
            await stub.ListKeys(auth_pb2.ListKeysRequest(), metadata=with_key(secret), timeout=10)
        after = used(process.pid)
    cpu, memory = after[0] - before[0], (after[1] - before[1]) / 2**20
    conn = await asyncpg.connect(database.admin_url)
    rows = await conn.fetchval("SELECT count(*) FROM auth.audit_entries WHERE code <> 0")
    await conn.close()
    print(f"\n{RESETS} resets: {cpu:.2f} s of CPU, {memory:+.1f} MB, {rows} rows")  # noqa: T201
    assert cpu < SECONDS_OF_CPU
    assert memory < MEGABYTES
    assert rows < RESETS / 10


def used(pid: int) -> tuple[float, int]:
    """Returns the seconds of CPU and the bytes of memory that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), resident
