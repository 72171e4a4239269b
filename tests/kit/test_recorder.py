"""Reads by group commit, changes in their own transaction, and what happens when the database fails in between."""

# ruff: noqa: ASYNC110, PT012 - a change fails at its end, so its whole body stands in the check

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import asyncpg
import pytest

from services.kit import entries
from services.kit.calls import Call
from services.kit.db import Database
from services.kit.errors import Unauthenticated, Unavailable
from services.kit.principals import Principal
from services.kit.recorder import Recorder
from tests.proxy import proxied
from tests.support import make_key
from tests.waiting import LONG, until

THING = "INSERT INTO symbols.requests (key_id, method, request_id, request_hash) VALUES ($1, 'm', $2, '\\x00')"
THINGS = "SELECT count(*) FROM symbols.requests"


@pytest.fixture
async def key(database) -> UUID:
    key_id = uuid4()
    await make_key(database, "symbols.write", key_id=key_id)
    return key_id


@asynccontextmanager
async def recording(url: str):
    db = await Database.open(url, size=6)
    async with Recorder(db, service="symbols") as recorder:
        yield recorder
    await db.close()


def call(key: UUID | None, *scopes: str, method: str = "CreateSymbol") -> Call:
    made = Call(method=method, scopes=scopes or ("symbols.write",), peer="127.0.0.1")
    if key:
        made.key = Principal(key_id=key, preview="mdw_abcdefgh", scopes=frozenset({"symbols.write"}))
    return made


async def change(recorder: Recorder, one: Call) -> None:
    async with recorder.change(one) as conn:
        await conn.execute(THING, one.key_id, uuid4())


async def test_calls_that_end_together_share_a_batch(database, rows, key):
    async with recording(database.symbols_url) as recorder:
        await asyncio.gather(*(recorder.submit(entries.entry(call(key), 0)) for _ in range(200)))
    assert await rows.usage() == 200
    assert await rows.fetchval("SELECT count(*) FROM auth.audit_batches") < 20
    assert await rows.fetchval("SELECT sum(rows) FROM auth.audit_batches") == 200


async def test_a_revoked_key_is_refused_among_others(database, rows, key):
    await rows.execute("UPDATE auth.keys SET revoke_time = now()")
    other = uuid4()
    await make_key(database, "symbols.write", key_id=other)
    async with recording(database.symbols_url) as recorder:
        submitted = [recorder.submit(entries.entry(call(one), 0)) for one in (key, other)]
        assert await asyncio.gather(*submitted) == [True, False]


async def test_a_change_and_its_row_commit_together(database, rows, key):
    async with recording(database.symbols_url) as recorder:
        one = call(key)
        await change(recorder, one)
    assert one.recorded
    assert await rows.codes() == [("CreateSymbol", 0, "")]
    assert await rows.fetchval(THINGS) == 1


async def test_a_refused_key_takes_its_change_back(database, rows, key):
    await rows.execute("UPDATE auth.keys SET expire_time = now()")
    async with recording(database.symbols_url) as recorder:
        with pytest.raises(Unauthenticated) as caught:
            await change(recorder, call(key))
    assert caught.value.audit_reason == "KEY_EXPIRED"
    assert await rows.fetchval(THINGS) == 0
    assert await rows.all() == []


async def test_a_narrowed_key_takes_its_change_back(database, rows, key):
    await rows.execute("UPDATE auth.keys SET scopes = '{bars.read}'")
    async with recording(database.symbols_url) as recorder:
        with pytest.raises(Unauthenticated) as caught:
            await change(recorder, call(key))
    assert caught.value.audit_reason == "SCOPE_REMOVED"


async def test_a_failed_change_leaves_nothing(database, rows, key):
    async with recording(database.symbols_url) as recorder:
        with pytest.raises(RuntimeError):
            async with recorder.change(call(key)) as conn:
                await conn.execute(THING, key, uuid4())
                raise RuntimeError
        await change(recorder, call(key))
    assert await rows.fetchval(THINGS) == 1
    assert await rows.fetchval("SELECT array_agg(seq) FROM auth.audit_batches") == [1]


async def test_a_cancelled_change_is_rolled_back(database, rows, key):
    inside = asyncio.Event()

    async def stuck(recorder):
        async with recorder.change(call(key)) as conn:
            await conn.execute(THING, key, uuid4())
            inside.set()
            await asyncio.sleep(60)

    async with recording(database.symbols_url) as recorder:
        task = asyncio.create_task(stuck(recorder))
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await change(recorder, call(key))
    assert await rows.fetchval(THINGS) == 1


async def test_concurrent_changes_have_seqs_without_holes(database, rows, key):
    async with recording(database.symbols_url) as recorder:
        await asyncio.gather(*(change(recorder, call(key)) for _ in range(30)))
    assert await rows.fetchval("SELECT array_agg(seq ORDER BY seq) FROM auth.audit_batches") == list(range(1, 31))


@pytest.mark.parametrize("text", ["a\x00b", "\ud800", "x" * 50_000_000, "\n\x1b[31m"])
async def test_a_poisoned_text_is_cleaned_before_it_is_queued(database, rows, key, text):
    async with recording(database.symbols_url) as recorder:
        bad = call(key, method=text)
        bad.request_id = text
        good = [recorder.submit(entries.entry(call(key), 0)) for _ in range(5)]
        assert await recorder.submit(entries.entry(bad, 0)) is False
        assert await asyncio.gather(*good) == [False] * 5


async def test_a_row_that_the_database_cannot_read_stands_back_for_its_neighbours(database, rows, key):
    async with recording(database.symbols_url) as recorder:
        good = [entries.entry(call(key), 0) for _ in range(20)]
        bad = [good[0]._replace(call_id=uuid4(), duration_us=2**70), good[0]._replace(call_id=uuid4(), method="a\x00b")]
        batch = [*good[:7], bad[0], *good[7:], bad[1]]
        assert not any(await asyncio.gather(*(recorder.submit(one) for one in batch)))
    kept = await rows.all()
    assert len(kept) == 22
    assert [row["reason"] for row in kept].count("ROW_UNREADABLE") == 2


async def test_rows_survive_a_lost_connection_once_each(database, rows, key):
    async with proxied(database.symbols_url) as (proxy, url), recording(url) as recorder:
        await recorder.submit(entries.entry(call(key), 0))
        for _ in range(10):
            waiting = [recorder.submit(entries.entry(call(key), 0)) for _ in range(20)]
            await asyncio.sleep(0)
            proxy.cut()
            assert await asyncio.gather(*waiting) == [False] * 20
    assert await rows.usage() == 201
    assert await rows.fetchval("SELECT count(DISTINCT call_id) FROM auth.audit_entries") == 201
    assert await rows.fetchval("SELECT count(*) FROM auth.audit_entries") == 201


async def test_callers_are_told_in_time_while_the_database_is_away_and_it_recovers(database, rows, key):
    async with proxied(database.symbols_url) as (proxy, url), recording(url) as recorder:
        await recorder.submit(entries.entry(call(key), 0))
        proxy.hole = True
        with pytest.raises(Unavailable):
            await asyncio.wait_for(recorder.submit(entries.entry(call(key), 0)), LONG)
        assert recorder.down
        proxy.heal()
        await until(lambda: not recorder.down)
        assert await recorder.submit(entries.entry(call(key), 0)) is False
    assert await rows.usage() == 3


async def test_a_commit_whose_answer_was_lost_is_found_to_be_in(database, rows, key):
    async with proxied(database.symbols_url) as (proxy, url), recording(url) as recorder:
        await change(recorder, call(key))
        for number in range(5):
            proxy.cut_after("COMMIT\x00")
            one = call(key)
            await change(recorder, one)
            assert one.recorded
            assert proxy.triggered == number + 1
    assert await rows.fetchval(THINGS) == 6
    assert await rows.usage() == 6


async def test_a_commit_that_never_arrived_is_found_not_to_be_in(database, rows, key):
    async with proxied(database.symbols_url) as (proxy, url), recording(url) as recorder:
        await change(recorder, call(key))
        with pytest.raises(Unavailable):
            async with recorder.change(call(key)) as conn:
                await conn.execute(THING, key, uuid4())
                original = recorder._record

                async def record_then_cut(connection, one):
                    await original(connection, one)
                    proxy.cut()
                    await asyncio.sleep(0.05)

                recorder._record = record_then_cut
        recorder._record = original
        await change(recorder, call(key))
    assert await rows.fetchval(THINGS) == 2
    assert await rows.usage() == 2


async def test_an_unknown_commit_is_counted_once(database, rows, key, monkeypatch):
    monkeypatch.setattr("services.kit.recorder.RESOLVE_SECONDS", 0.3)
    async with proxied(database.symbols_url) as (proxy, url), recording(url) as recorder:
        await change(recorder, call(key))
        proxy.cut_after("COMMIT\x00")
        proxy_down = asyncio.create_task(_refuse_when_triggered(proxy))
        with pytest.raises(Unavailable) as caught:
            await change(recorder, call(key))
        assert caught.value.reason == "COMMIT_UNKNOWN"
        await proxy_down
        proxy.refuse = False
        await until(lambda: _so_many(rows, 3))
    assert sorted((row["code"], row["call_count"]) for row in await rows.all()) == [(0, 1), (0, 1), (14, 0)]
    assert await rows.usage() == 2


async def _so_many(rows, number: int) -> bool:
    return len(await rows.all()) == number


async def _refuse_when_triggered(proxy) -> None:
    while not proxy.triggered:
        await asyncio.sleep(0)
    proxy.refuse = True


async def test_a_dead_committer_fails_those_who_wait_and_ends(database, key, monkeypatch):
    async def broken(self, seq, columns):
        raise ZeroDivisionError

    monkeypatch.setattr("services.kit.committer.Committer._send", broken)
    db = await Database.open(database.symbols_url, size=2)
    recorder = Recorder(db, service="symbols")
    task = await recorder.start()
    with pytest.raises(Unavailable):
        await recorder.submit(entries.entry(call(key), 0))
    with pytest.raises(ZeroDivisionError):
        await task
    assert recorder.down
    with pytest.raises(Unavailable):
        await recorder.submit(entries.entry(call(key), 0))
    await db.close()


async def test_a_recorder_whose_row_is_gone_starts_anew(database, rows, key):
    async with recording(database.symbols_url) as recorder:
        await recorder.submit(entries.entry(call(key), 0))
        await recorder.submit(entries.entry(call(key), 0))
        writer = recorder.writer
        await rows.execute("DELETE FROM auth.audit_writers")
        assert await recorder.submit(entries.entry(call(key), 0)) is False
        assert recorder.writer != writer


async def test_a_new_writer_is_taken_after_so_many_batches(database, rows, key, monkeypatch):
    monkeypatch.setattr("services.kit.committer.BATCHES_A_WRITER", 3)
    async with recording(database.symbols_url) as recorder:
        for _ in range(8):
            await recorder.submit(entries.entry(call(key), 0))
    assert await rows.fetchval("SELECT count(*) FROM auth.audit_writers") == 3
    assert await rows.usage() == 8


async def test_the_writer_stays_while_a_change_is_open(database, key, monkeypatch):
    monkeypatch.setattr("services.kit.committer.BATCHES_A_WRITER", 1)
    async with recording(database.symbols_url) as recorder:
        async with recorder.change(call(key)) as conn:
            writer = recorder.writer
            for _ in range(3):
                await recorder.submit(entries.entry(call(key), 0))
            assert recorder.writer == writer
            await conn.execute(THING, key, uuid4())
        await recorder.submit(entries.entry(call(key), 0))
        assert recorder.writer != writer


async def test_the_function_refuses_another_isolation(database, key):
    conn = await asyncpg.connect(database.symbols_url)
    row = entries.columns([entries.entry(call(key), 0)])
    with pytest.raises(asyncpg.PostgresError) as caught:
        async with conn.transaction(isolation="repeatable_read"):
            await conn.fetchval(entries.RECORD, uuid4(), "reads", 1, "symbols", *row)
    assert caught.value.sqlstate == "MD004"
    await conn.close()
