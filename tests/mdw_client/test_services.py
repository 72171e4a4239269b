"""The client against the real services: what the contract promises is what a user sees."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdw_client import AsyncClient, Client, NotFound, PermissionDenied, Unauthenticated
from services.ingest.__main__ import build as build_ingest
from services.ingest.settings import IngestSettings
from services.kit.keys import new_secret
from services.symbols.__main__ import build as build_symbols
from services.symbols.settings import SymbolsSettings
from tests.ingest.history import MINUTE, History, days
from tests.proxy import Proxy
from tests.support import auth_serving, environment, make_key, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def services(database) -> AsyncIterator[dict[str, str]]:
    """auth, symbols and ingest in this process; yields their addresses."""
    async with AsyncExitStack() as stack:
        auth = await stack.enter_async_context(auth_serving(database))
        key = await make_key(database, "service", name="services")
        symbols = SymbolsSettings.from_environment(environment(database.symbols_url, auth_target=auth, service_key=key))
        ingest = IngestSettings.from_environment(environment(database.ingest_url, auth_target=auth, service_key=key))
        yield {
            "auth": auth,
            "symbols": await stack.enter_async_context(serving(await build_symbols(symbols))),
            "ingest": await stack.enter_async_context(serving(await build_ingest(ingest))),
        }


@pytest.fixture
async def admin(services, database) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(targets=services, key=await make_key(database)) as made:
        yield made


async def test_a_key_is_made_used_and_revoked(admin: AsyncClient, services: dict[str, str]) -> None:
    made = await admin.keys.create("reader", "symbols.read")
    async with AsyncClient(targets=services, key=made.secret) as reader:
        assert [symbol async for symbol in reader.symbols.list()] == []
        with pytest.raises(PermissionDenied) as denied:
            await reader.symbols.create("AAPL", "stock")
        await admin.keys.revoke(made.key.key_id)
        with pytest.raises(Unauthenticated) as revoked:
            _ = [symbol async for symbol in reader.symbols.list()]
    assert (denied.value.reason, revoked.value.reason) == ("SCOPE_MISSING", "KEY_INVALID")
    entries = [entry async for entry in admin.audit.list(key_id=made.key.key_id)]
    assert {entry.code for entry in entries} == {"OK", "PERMISSION_DENIED", "UNAUTHENTICATED"}


async def test_a_repeated_change_happens_once(admin: AsyncClient) -> None:
    first = await admin.keys.create("reader", "bars.read", request_id="5f0c0b5e-0000-4000-8000-000000000001")
    again = await admin.keys.create("reader", "bars.read", request_id="5f0c0b5e-0000-4000-8000-000000000001")
    assert (again.key.key_id, again.secret) == (first.key.key_id, "")


async def test_bars_come_back_the_same_as_of_then(admin: AsyncClient, database) -> None:
    history = History(database.ingest_url, database.admin_url)
    apple = await history.symbol("AAPL")
    await history.write(apple, days("2024-01-02", [10, 11]))
    before = await admin.bars("AAPL", "1d")
    await history.write(apple, days("2024-01-02", [10, 12, 13]))
    after = await admin.bars(["AAPL", "GONE"], "1d")
    again = await admin.bars("AAPL", "1d", as_of=before.receipt)
    assert list(before.columns()["close"]) == list(again.columns()["close"]) == [10, 11]
    assert list(after.columns()["close"]) == [10, 12, 13]
    assert [each.ticker for each in after.unresolved] == ["GONE"]
    assert (after.receipt.bars, list(after.receipt.symbol_ids)) == (3, [apple])
    assert [bar.close async for bar in admin.bars.list("AAPL", order="time_desc")] == [13, 12, 10]
    assert (await admin.bars.latest(["AAPL"])).bars[0].bar.close == 13


async def test_a_long_read_whose_connection_is_cut_after_each_message_is_whole(
    admin: AsyncClient, services, database
) -> None:
    history = History(database.ingest_url, database.admin_url)
    async with history.begin(await history.symbol("AAPL"), MINUTE) as write:
        await write.fill(35_000)
        await write.finish()
    whole = await admin.bars("AAPL", "1m")
    proxy = Proxy("127.0.0.1", int(services["ingest"].rpartition(":")[2]))
    proxied = {**services, "ingest": f"127.0.0.1:{await proxy.start()}"}
    starts: list[int] = []
    async with AsyncClient(targets=proxied, key=admin.settings.key) as client:
        chunks = client.bars.chunks("AAPL", "1m")
        async for chunk in chunks:
            starts += chunk.columns["start_time"].astype(int).tolist()
            proxy.cut()
    await proxy.stop()
    assert starts == whole.columns()["start_time"].astype(int).tolist()
    assert (len(starts), chunks.receipt) == (35_000, whole.receipt)


async def test_a_mirror_is_what_a_full_read_gives(admin: AsyncClient, database, tmp_path: Path) -> None:
    history = History(database.ingest_url, database.admin_url)
    apple, microsoft = await history.symbol("AAPL"), await history.symbol("MSFT")
    await history.write(apple, days("2024-01-02", [10, 11, 12]))
    await admin.sync(tmp_path, ["AAPL", "MSFT"])
    await history.write(apple, days("2024-01-02", [10, 21, 12, 13]))
    await history.write(microsoft, days("2024-01-02", [5]))
    synced = await admin.sync(tmp_path)
    full = (await admin.bars([apple, microsoft], as_of=synced.as_of)).to_arrow()
    files = pa.concat_tables([pq.read_table(path) for path in sorted((tmp_path / "1d").glob("*.parquet"))])
    assert files.to_pylist() == full.to_pylist()
    assert (synced.symbols, synced.files) == (2, 2)


async def test_the_blocking_client_reads_them_too(admin: AsyncClient, services, database) -> None:
    history = History(database.ingest_url, database.admin_url)
    await history.write(await history.symbol("AAPL"), days("2024-01-02", [10, 11]))

    def read() -> tuple[list[float], str, datetime]:
        with Client(targets=services, key=admin.settings.key) as client:
            frame = client.bars("AAPL", "1d", "2024-01-01").to_pandas()
            with pytest.raises(NotFound) as raised:
                client.bars("GONE")
            return list(frame["close"]), raised.value.reason, frame.index[0].to_pydatetime()

    closes, reason, first = await asyncio.to_thread(read)
    assert (closes, reason, first) == ([10, 11], "SYMBOL_NOT_FOUND", datetime(2024, 1, 2))  # noqa: DTZ001 # a date


async def test_a_backfill_is_planned_started_and_cancelled(admin: AsyncClient) -> None:
    await admin.symbols.create("AAPL", "stock", name="Apple")
    plan = await admin.backfills.plan("AAPL", "1d", "2024-01-02", "2024-02-01")
    assert (plan.slices, plan.sessions_held) == (1, 0)
    started = await admin.backfills.start("AAPL", "1d", "2024-01-02", "2024-02-01")
    watched = admin.backfills.watch(started.backfill_id)
    assert (await anext(watched)).backfill_id == started.backfill_id
    assert [slice_.provider_ticker async for slice_ in admin.backfills.slices(started.backfill_id)] == ["AAPL"]
    await admin.backfills.cancel(started.backfill_id)
    states = [latest.state async for latest in watched]
    assert states[-1] == started.CANCELLED
    assert [each.backfill_id async for each in admin.backfills.list()] == [started.backfill_id]


async def test_a_wrong_key_and_none_read_the_same(services: dict[str, str]) -> None:
    messages = set()
    for key in (None, new_secret()):
        async with AsyncClient(targets=services, key=key) as stranger:
            with pytest.raises(Unauthenticated) as raised:
                await stranger.bars("AAPL")
            messages.add(str(raised.value))
    assert len(messages) == 1
