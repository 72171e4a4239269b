"""What a type checker must know of the installed package; `make lint` and `make dist-check` check it with mypy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, assert_type

from mdw.auth.v1.auth_pb2 import CreateKeyResponse, Key
from mdw.ingest.v1.ingest_pb2 import Backfill
from mdw_client.bars import AsyncChunks, Chunks
from mdw_client.frames import Bars
from mdw_client.parquet import Saved

if TYPE_CHECKING:
    from mdw_client import AsyncClient, Client


def blocking(client: Client) -> None:
    assert_type(client.bars("AAPL", "1d", "2020-01-01", last=5), Bars)
    assert_type(client.bars.chunks(["AAPL"]), Chunks)
    assert_type(client.bars.save("aapl.parquet", "AAPL"), Saved)
    assert_type(client.keys.create("reader", "bars.read"), CreateKeyResponse)
    assert_type(client.keys.list(active_only=True), Iterator[Key])
    assert_type(client.backfills.watch("7d1e0b4c-0000-4000-8000-000000000000"), Iterator[Backfill])


async def asynchronous(client: AsyncClient) -> None:
    assert_type(await client.bars("AAPL", "1d", "2020-01-01", last=5), Bars)
    assert_type(client.bars.chunks(["AAPL"]), AsyncChunks)
    assert_type(await client.bars.save("aapl.parquet", "AAPL"), Saved)
    assert_type(await client.keys.create("reader", "bars.read"), CreateKeyResponse)
    assert_type(client.keys.list(active_only=True), AsyncIterator[Key])
    assert_type(client.backfills.watch("7d1e0b4c-0000-4000-8000-000000000000"), AsyncIterator[Backfill])
