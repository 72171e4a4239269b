"""What the worker's own parts write can be read again as it was: corrections, late fills and deletions included."""

from __future__ import annotations

import random

import pytest

from tests.ingest.bars_support import direct_bars
from tests.ingest.test_bars_as_of import applied, rows_of
from tests.ingest.test_deletions import ask_to_delete, delete
from tests.ingest.test_deletions import work as work_of_deletions
from tests.ingest.test_parts import ask, provider_says, write

D1, W1 = 7, 8
work = work_of_deletions


def questions(symbol_id):
    """Returns the questions that are put again and again."""
    for timeframe in (D1, W1):
        for min_quality in (0.0, 0.85):
            yield {"symbol_ids": [symbol_id], "timeframe": timeframe, "min_quality": min_quality}


async def answers(reads, symbol_id, as_of=None):
    """Returns the answer to each question, newest or as of an earlier one's receipt."""
    extra = {} if as_of is None else {"as_of": as_of}
    return [await reads.streamed(**fields, **extra) for fields in questions(symbol_id)]


def sent(streamed):
    return [chunk.SerializeToString() for chunk in streamed.chunks]


@pytest.mark.parametrize("seed", range(2))
async def test_every_answer_between_the_workers_parts_is_the_same_later(database, work, seed):
    chance = random.Random(seed)
    said = [provider_says(chance) for _ in range(8)]
    claims = [await ask(work, work.btc, first, last) for first, last, _ in said]
    seen = []
    async with direct_bars(database) as reads:
        for at in chance.sample(range(8), 8):
            seen.append(await answers(reads, work.btc))
            await write(work, claims[at], said[at][2])
            if chance.random() < 0.4:
                seen.append(await answers(reads, work.btc))
                first = chance.randint(1, 28)
                await delete(work, await ask_to_delete(work, first, first + 3))
        newest = await answers(reads, work.btc)
        for before in chance.sample(seen, 5):
            again = await answers(reads, work.btc, before[0].receipt.as_of)
            assert [sent(one) for one in again] == [sent(one) for one in before]
            for fields, old, now in zip(questions(work.btc), before, newest, strict=True):
                changes = await reads.streamed(**fields, changed_since=old.receipt.as_of)
                assert applied(rows_of(old), changes) == rows_of(now)


async def test_an_answer_that_came_late_is_not_in_an_earlier_one(database, work):
    slow, quick = await ask(work, work.btc, 1, 10), await ask(work, work.btc, 4, 6)
    async with direct_bars(database) as reads:
        await write(work, quick, {4: 40})
        (before, *_) = await answers(reads, work.btc)
        await write(work, slow, {3: 3, 4: 4, 5: 5})
        (now, *_) = await answers(reads, work.btc)
        (again, *_) = await answers(reads, work.btc, before.receipt.as_of)
    assert (before.column("close"), now.column("close")) == ([40], [3, 40, 5])
    assert sent(again) == sent(before)
