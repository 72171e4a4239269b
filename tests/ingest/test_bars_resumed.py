"""A stream that was cut off within a long symbol goes on behind the last message, and accounts for the whole."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from services.ingest.reading import series, streams
from services.ingest.store import bars as stored
from tests.ingest.bars_support import bars_serving, direct_bars, refused
from tests.ingest.history import CRYPTO, MINUTE, History, Row
from tests.ingest.test_bars_as_of import rows_of
from tests.ingest.test_bars_model import BEGINNINGS, EVERY_DAY, XNYS, Game, World
from tests.support import reason, violations

M1, D1 = 1, 7


def whole(chunks):
    return {one.symbol_id: one.symbol_receipt for one in chunks if one.HasField("symbol_receipt")}


async def go_on(bars, fields, answer, at):
    """Cuts an answer off behind one of its messages, and returns what is sent when it goes on there."""
    message, came = answer.chunks[at], whole(answer.chunks[: at + 1])
    left = [symbol_id for symbol_id in answer.opening.symbol_ids if symbol_id not in came]
    asked = {**fields, "symbol_ids": left, "resume_token": message.resume_token}
    rest = await bars.streamed(**asked)
    assert rest.opening.as_of == answer.opening.as_of
    return rest


async def check(bars, fields, answer, at):
    rest = await go_on(bars, fields, answer, at)
    before = rows_of(type(answer)(answer.opening, answer.chunks[: at + 1], answer.receipt))
    assert not set(before) & set(rows_of(rest))
    assert {**before, **rows_of(rest)} == rows_of(answer)
    assert {**whole(answer.chunks[: at + 1]), **whole(rest.chunks)} == whole(answer.chunks)


@pytest.mark.parametrize("seed", range(2))
async def test_any_answer_goes_on_from_any_message(database, monkeypatch, seed):
    rng = random.Random(seed)
    monkeypatch.setattr(series, "CHUNK", 5)
    monkeypatch.setattr(streams, "CHUNK", rng.choice([3, 5, 8]))
    monkeypatch.setattr(stored, "FEW", 2)
    history = History(database.ingest_url, database.admin_url)
    ids = [await history.symbol("AAPL"), await history.symbol("MSFT"), await history.symbol("BTC-USD", CRYPTO)]
    world = World(rng, rng.choice(BEGINNINGS), dict(zip(ids, (XNYS, XNYS, EVERY_DAY), strict=True)))
    checked = 0
    async with direct_bars(database) as bars:
        game = Game(world, history, bars, ids)
        for _ in range(25):
            await game.change()
        while checked < 40:
            fields = {**game.question(), "last": rng.choice([0, 0, 12, 30])}
            answer = await bars.streamed(**fields)
            await game.change()
            places = [at for at, one in enumerate(answer.chunks) if one.resume_token]
            for at in rng.sample(places, min(3, len(places))):
                await check(bars, fields, answer, at)
                checked += 1
    await history.close()


async def test_a_long_symbol_is_not_sent_from_its_start(database):
    history = History(database.ingest_url, database.admin_url)
    aapl = await history.symbol("AAPL")
    async with history.begin(aapl, MINUTE) as write:
        await write.fill(35_000)
        await write.finish()
    async with bars_serving(database) as bars:
        fields = {"timeframe": M1, "symbol_ids": [aapl]}
        answer = await bars.streamed(**fields)
        await history.write(aapl, [Row(datetime(2020, 1, 20, tzinfo=UTC), close=5.0)], timeframe=MINUTE)
        rest = await go_on(bars, fields, answer, 1)
    assert [one.SerializeToString() for one in rest.chunks] == [one.SerializeToString() for one in answer.chunks[2:]]
    assert rest.receipt == answer.receipt
    await history.close()


async def test_a_token_belongs_to_its_question_and_to_its_symbol(database):
    history = History(database.ingest_url, database.admin_url)
    aapl, msft = await history.symbol("AAPL"), await history.symbol("MSFT")
    async with history.begin(aapl, MINUTE) as write:
        await write.fill(25_000)
        await write.finish()
    async with bars_serving(database) as bars:
        token = (await bars.streamed(tickers=["AAPL"], timeframe=M1)).chunks[0].resume_token
        for fields in (
            {"symbol_ids": [aapl], "timeframe": D1},
            {"symbol_ids": [aapl], "timeframe": M1, "min_quality": 0.5},
            {"symbol_ids": [msft], "timeframe": M1},
            {"symbol_ids": [aapl], "timeframe": M1, "resume_token": "x"},
        ):
            error = await refused(bars.streamed(**{"resume_token": token, **fields}))
            assert (reason(error), violations(error)) == ("PAGE_TOKEN_INVALID", ["resume_token"])
    await history.close()
