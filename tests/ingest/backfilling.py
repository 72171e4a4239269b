"""Helpers for tests of backfills: a running ingest service, symbols in the registry, and a worker played by hand."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import asyncpg
import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mdw.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from services.ingest.__main__ import build
from services.ingest.settings import IngestSettings
from tests.support import environment, make_key, reason, serving, violations, with_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

INSERT_SYMBOL = """
INSERT INTO symbols.symbols (asset_class, active) VALUES ($1, $2) RETURNING symbol_id
"""
INSERT_TICKER = """
INSERT INTO symbols.tickers (symbol_id, from_date, to_date, asset_class, ticker, provider_ticker)
VALUES ($1, $2, $3, $4, $5, $6)
"""
CLAIM = "SELECT * FROM ingest.claim_slice('{1}', 'tests', interval '1 minute')"
END_SLICE = """
UPDATE ingest.slices
SET state = $2, end_time = clock_timestamp(), lease_until = NULL, lease_owner = NULL, write_id = NULL, reason = $3,
    inserted = $4
WHERE slice_id = $1
"""
RETURN_SLICE = """
UPDATE ingest.slices SET state = 1, lease_until = NULL, lease_owner = NULL, cursor = $2 WHERE slice_id = $1
"""

STOCK, ETF, CRYPTO = 1, 2, 3
DAY, MINUTE = 7, 1


@dataclass
class Ingest:
    """A running ingest service: `call` calls it with a key, `sql` is the database as its owner."""

    channel: grpc.aio.Channel
    sql: asyncpg.Connection
    key: str
    server: Any
    target: str = ""

    @property
    def stub(self) -> Any:
        return ingest_pb2_grpc.IngestServiceStub(self.channel)

    async def call(self, method: str, key: str | None = None, **fields: Any) -> Any:
        request = getattr(ingest_pb2, f"{method}Request")(**fields)
        return await getattr(self.stub, method)(request, metadata=with_key(key or self.key), timeout=60)

    async def refused(self, method: str, **fields: Any) -> tuple[grpc.StatusCode, str]:
        """Calls a method that must fail; returns code and reason."""
        error = await self.failure(method, **fields)
        return error.code(), reason(error)

    async def failure(self, method: str, **fields: Any) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(method, **fields)
        return caught.value

    async def broken_fields(self, method: str, **fields: Any) -> list[str]:
        return violations(await self.failure(method, **fields))

    async def start(self, **fields: Any) -> Any:
        """Starts a backfill of daily bars of 2024 unless told otherwise; returns the answer."""
        defaults = {"timeframes": [DAY], "start_time": at("2024-01-01"), "end_time": at("2025-01-01")}
        return await self.call("StartBackfill", **{**defaults, **fields})

    async def get(self, backfill_id: str) -> Any:
        return (await self.call("GetBackfill", backfill_id=backfill_id)).backfill

    async def slices(self, backfill_id: str, **fields: Any) -> list[Any]:
        return list((await self.call("ListSlices", backfill_id=backfill_id, **fields)).slices)

    async def symbol(
        self, ticker: str, asset_class: int = STOCK, *, active: bool = True, spans: tuple[Any, ...] = ()
    ) -> int:
        """Registers a symbol; `spans` are (ticker, from, to) where it had several."""
        symbol_id = await self.sql.fetchval(INSERT_SYMBOL, asset_class, active)
        for name, first, last in spans or ((ticker, date(1900, 1, 1), None),):
            provider = "X:" + name.replace("-", "") if asset_class == CRYPTO else name
            await self.sql.execute(INSERT_TICKER, symbol_id, first, last, asset_class, name, provider)
        return int(symbol_id)

    async def claim(self) -> Any:
        """Takes the next slice as a worker does; None if nothing is due."""
        return await self.sql.fetchrow(CLAIM)

    async def end(self, slice_id: int, state: int = 3, reason: str = "", inserted: int = 0) -> None:
        """Ends a slice as a worker does, without telling the jobs."""
        await self.sql.execute(END_SLICE, slice_id, state, reason, inserted)


@asynccontextmanager
async def ingest_running(database: Any, auth_target: str, **variables: str) -> AsyncIterator[Ingest]:
    """Runs the ingest service in this process."""
    key, own = await make_key(database), await make_key(database, "service", name="ingest")
    variables = {"auth_target": auth_target, "service_key": own, **variables}
    server = await build(IngestSettings.from_environment(environment(database.ingest_url, **variables)))
    async with serving(server) as target, grpc.aio.insecure_channel(target) as channel:
        conn = await asyncpg.connect(database.admin_url)
        try:
            yield Ingest(channel, conn, key, server, target)
        finally:
            await conn.close()


def at(text: str) -> Timestamp:
    """Returns an instant in UTC from its date, or date and time."""
    stamp = Timestamp()
    stamp.FromJsonString(text if "T" in text else f"{text}T00:00:00Z")
    return stamp
