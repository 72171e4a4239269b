"""Shows what the client costs: bars as tables, against what drivers make of the same rows; each way in its own process.

Runs as part of tests.bench.reading, with its service and its series.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdw_client import Client
from tests.bench.served import peak_mb

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.served import Served

QUERY = """
SELECT ts, open, high, low, close, vwap, volume, trade_count, flags
FROM ingest.bars
WHERE symbol_id = {} AND timeframe = 1
ORDER BY ts
"""


def _client(where: dict[str, Any]) -> Client:
    return Client(targets={"ingest": where["target"]}, key=where["secret"])


def to_pandas(where: dict[str, Any]) -> int:
    with _client(where) as client:
        return len(client.bars(where["symbol_id"], "1m").to_pandas())


def to_polars(where: dict[str, Any]) -> int:
    with _client(where) as client:
        return len(client.bars(where["symbol_id"], "1m").to_polars())


def to_parquet(where: dict[str, Any]) -> int:
    with _client(where) as client, tempfile.TemporaryDirectory() as folder:
        return int(client.bars.save(Path(folder) / "bars.parquet", where["symbol_id"], "1m").receipt.bars)


def in_chunks(where: dict[str, Any]) -> int:
    with _client(where) as client:
        return sum(len(chunk) for chunk in client.bars.chunks(where["symbol_id"], "1m"))


def psycopg_to_pandas(where: dict[str, Any]) -> int:
    import pandas as pd  # noqa: PLC0415 - here alone, so that it counts in this way's memory
    import psycopg2  # noqa: PLC0415 - as above

    conn = psycopg2.connect(where["url"])
    cursor = conn.cursor()
    cursor.execute(QUERY.format(where["symbol_id"]))
    return len(pd.DataFrame(cursor.fetchall(), columns=[column.name for column in cursor.description]).set_index("ts"))


def asyncpg_to_pandas(where: dict[str, Any]) -> int:
    import asyncpg  # noqa: PLC0415 - as above
    import pandas as pd  # noqa: PLC0415 - as above

    async def fetch() -> list[Any]:
        conn = await asyncpg.connect(where["url"])
        return list(await conn.fetch(QUERY.format(where["symbol_id"])))

    rows = asyncio.run(fetch())
    return len(pd.DataFrame(rows, columns=list(rows[0].keys())).set_index("ts"))


WAYS: dict[str, Callable[[dict[str, Any]], int]] = {
    way.__name__: way for way in (to_pandas, to_polars, to_parquet, in_chunks, psycopg_to_pandas, asyncpg_to_pandas)
}


# What each needs: not every driver is installed everywhere.
DRIVERS = {"psycopg2": "psycopg_to_pandas", "asyncpg": "asyncpg_to_pandas"}


async def tables(service: Served, url: str, symbol_id: int, bars: int) -> list[dict[str, object]]:
    """Returns a row for each kind of table; the rival is the faster of the drivers."""
    where = {"target": service.target, "secret": service.secret, "url": url, "symbol_id": symbol_id}
    drivers = [name for module, name in DRIVERS.items() if find_spec(module)]
    rivals = [await _run(name, where, bars) for name in drivers]
    rival, rival_mb = max(rivals)
    found = [(name, *await _run(name, where, bars)) for name in ("to_pandas", "to_polars", "to_parquet")]
    return [_row(f"client_{name}", rate, mb, rival) | {"rival_mb": rival_mb} for name, rate, mb in found]


async def memory(service: Served, symbol_id: int, bars: int, suffix: str) -> list[dict[str, object]]:
    """Returns rows of the ways that need little memory, whatever the length."""
    where = {"target": service.target, "secret": service.secret, "symbol_id": symbol_id}
    return [
        _row(f"client_{name}{suffix}", *await _run(name, where, bars), None) for name in ("in_chunks", "to_parquet")
    ]


def _row(name: str, rate: float, mb: int, rival: float | None) -> dict[str, object]:
    return {
        "name": name,
        "ours": round(rate),
        "limit": None,
        "rival": None if rival is None else round(rival),
        "ratio": None if rival is None else round(rate / rival, 3),
        "target": None,
        "reached": None,
        "client_mb": mb,
    }


async def _run(name: str, where: dict[str, Any], bars: int) -> tuple[float, int]:
    """Runs one way in a process of its own; returns bars a second, and the most memory that it held."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.client", name, json.dumps(where), stdout=asyncio.subprocess.PIPE
    )
    answer, _ = await child.communicate()
    found = json.loads(answer)
    assert found["bars"] == bars
    return bars / found["seconds"], found["mb"]


def main(name: str, where: str) -> None:
    start = time.perf_counter()
    bars = WAYS[name](json.loads(where))
    seconds = time.perf_counter() - start
    print(json.dumps({"bars": bars, "seconds": seconds, "mb": peak_mb(os.getpid())}))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
