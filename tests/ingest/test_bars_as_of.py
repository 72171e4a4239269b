"""Reads that can be repeated: random writes beside random reads, each read again, and compared with a replay."""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta

import grpc
import pytest

from mdw.ingest.v1 import bars_pb2
from mdw.type.v1 import type_pb2
from services.ingest.reading.answers import Question
from services.ingest.store import bars as stored
from services.ingest.store.bars import FEW
from services.ingest.timeframes import TIMEFRAMES
from tests.ingest.bars_support import COLUMNS, at, direct_bars, refused, to_time
from tests.ingest.history import DAY, MINUTE, History, Row, day, days
from tests.support import info, reason, violations

M1, H1, D1, W1 = 1, 5, 7, 8
READS = int(os.environ.get("AS_OF_READS", "40"))
MOST_CLOSED = 200
START = datetime(2024, 6, 24, tzinfo=UTC)
VALUES = COLUMNS[1:]


def rows_of(streamed):
    """Returns the bars of a stream by symbol and time; NaN and absent compare equal."""
    return {
        (chunk.symbol_id, ts): tuple(repr(getattr(chunk, name)[at]) for name in VALUES)
        for chunk in streamed.chunks
        for at, ts in enumerate(chunk.start_time_ms)
    }


def applied(old, changes):
    """Applies an answer with changed_since to the old one."""
    result = dict(old)
    for chunk in changes.chunks:
        if chunk.replaces_all:
            result = {key: row for key, row in result.items() if key[0] != chunk.symbol_id}
        for ts in chunk.deleted_time_ms:
            del result[chunk.symbol_id, ts]
    return {**result, **rows_of(changes)}


@dataclass
class Committed:
    commit_time: datetime
    symbol_id: int
    timeframe: int
    put: list[Row]
    delete: list[datetime]


@dataclass
class Play:
    """Writers and readers that know nothing of each other, and what each of them saw."""

    bars: object
    history: History
    symbol_ids: list[int]
    rng: random.Random
    log: list[Committed] = field(default_factory=list)
    seen: list[tuple[dict, object]] = field(default_factory=list)
    compared: int = 0

    @property
    def running(self):
        return self.compared < READS

    async def write(self):
        while self.running:
            symbol_id, timeframe = self.rng.choice(self.symbol_ids), self.rng.choice([DAY, MINUTE])
            unit = timedelta(days=1) if timeframe == DAY else timedelta(minutes=self.rng.choice([1, 7]))
            times = sorted({START + unit * self.rng.randrange(60) for _ in range(self.rng.randint(1, 20))})
            put = [Row(ts, close=self.rng.randint(1, 9), flags=self.rng.choice([0, 0, 2, 8])) for ts in times]
            delete = [] if self.rng.random() < 0.7 else [put.pop().ts for _ in range(len(put) // 2)]
            async with self.history.begin(symbol_id, timeframe) as write:
                await write.apply(put, delete)
                await asyncio.sleep(self.rng.random() * 0.02)
                if self.rng.random() < 0.2:
                    # One that is left open stays below all that follow, for ever.
                    await write.give_up(close=len(self.log) < MOST_CLOSED or self.rng.random() < 0.9)
                else:
                    self.log.append(Committed(await write.finish(), symbol_id, timeframe, put, delete))

    async def read(self):
        while self.running:
            fields = {
                "symbol_ids": self.rng.sample(self.symbol_ids, self.rng.randint(1, len(self.symbol_ids))),
                "timeframe": self.rng.choice([M1, H1, D1, W1]),
                "min_quality": self.rng.choice([0, 0, 0.85]),
                "hours": self.rng.choice([0, 2]),
            }
            if self.rng.random() < 0.3:
                fields["start_time"] = to_time(START + timedelta(days=7))
            if self.log and self.rng.random() < 0.2:
                fields["as_of"] = to_time(self.rng.choice(self.log).commit_time)
            self.seen.append((fields, await self.bars.streamed(**fields)))
            await self.repeat()

    async def repeat(self):
        """Reads an earlier answer again, and asks what has changed since."""
        fields, before = self.rng.choice(self.seen)
        again = await self.bars.streamed(**{**fields, "as_of": before.receipt.as_of})
        assert [chunk.SerializeToString() for chunk in again.chunks] == [
            chunk.SerializeToString() for chunk in before.chunks
        ]
        plain = {key: value for key, value in fields.items() if key != "as_of"}
        changes = await self.bars.streamed(**plain, changed_since=before.receipt.as_of)
        now = await self.bars.streamed(**plain, as_of=changes.receipt.as_of)
        assert applied(rows_of(before), changes) == rows_of(now)
        self.compared += 1

    async def run(self):
        async with asyncio.TaskGroup() as group:
            for work in (self.write, self.write, self.write, self.read, self.read):
                group.create_task(work())

    def replay(self, fields, as_of):
        """Returns the stored bars that an answer in a stored timeframe must have, from the log alone."""
        held = {}
        for write in sorted(self.log, key=lambda one: one.commit_time):
            if (
                to_time(write.commit_time).ToNanoseconds() <= as_of.ToNanoseconds()
                and write.timeframe == fields["timeframe"]
            ):
                for ts in write.delete:
                    held.pop((write.symbol_id, ts), None)
                held.update({(write.symbol_id, row.ts): (row.close, row.flags) for row in write.put})
        return {
            (symbol_id, round(ts.timestamp() * 1000)): values
            for (symbol_id, ts), values in held.items()
            if symbol_id in fields["symbol_ids"]
            and ("start_time" not in fields or ts >= START + timedelta(days=7))
            and not (fields["min_quality"] and values[1] == 2)
        }


@pytest.mark.parametrize("few", [FEW, 3], ids=["few-at-once", "by-copy"])
async def test_every_answer_can_be_had_again_and_brought_up_to_date(database, history, monkeypatch, few):
    monkeypatch.setattr(stored, "FEW", few)
    symbol_ids = [await history.symbol(ticker) for ticker in ("AAPL", "MSFT", "NVDA", "AMD")]
    async with direct_bars(database) as bars:
        play = Play(bars, history, symbol_ids, random.Random(2024))
        await play.run()
    await history.close()
    for fields, one in play.seen:
        if fields["timeframe"] == D1 or (fields["timeframe"] == M1 and not fields["hours"]):
            closes = {key: (float(row[3]), int(row[7])) for key, row in rows_of(one).items()}
            assert closes == play.replay(fields, one.receipt.as_of)


async def test_what_changed_is_sent_with_the_times_of_what_is_gone(history, bars):
    aapl, msft, bare = [await history.symbol(ticker) for ticker in ("AAPL", "MSFT", "NVDA")]
    await history.write(msft, days("2024-01-01", [1]))
    since = await history.write(aapl, days("2024-01-01", [1, 2, 3, 4]))
    await history.write(aapl, days("2024-01-02", [20]))
    await history.write(aapl, days("2024-01-05", [5]))
    await history.write(aapl, delete=[day("2024-01-03").ts])
    answer = await bars.streamed(symbol_ids=[aapl, msft, bare], timeframe=D1, changed_since=to_time(since))
    (only,) = answer.chunks
    assert (only.symbol_id, list(only.close)) == (aapl, [20, 5])
    assert list(only.deleted_time_ms) == [at("2024-01-03").seconds * 1000]
    assert [(one.symbol_id, one.reason) for one in answer.receipt.empty_series] == [
        (msft, bars_pb2.Receipt.UNCHANGED),
        (bare, bars_pb2.Receipt.UNCHANGED),
    ]
    assert answer.receipt.bars == 2
    assert not answer.receipt.HasField("sessions_expected")


async def test_a_bar_that_the_quality_asked_for_now_leaves_out_is_gone(history, bars):
    aapl = await history.symbol("AAPL")
    since = await history.write(aapl, days("2024-01-01", [1, 2]))
    await history.write(aapl, [day("2024-01-02", close=2, flags=2)])
    fields = {"symbol_ids": [aapl], "timeframe": D1, "changed_since": to_time(since)}
    strict = await bars.streamed(**fields, min_quality=0.85)
    assert (strict.column("close"), strict.column("deleted_time_ms")) == ([], [at("2024-01-02").seconds * 1000])
    assert (await bars.streamed(**fields)).column("flags") == [2]


async def test_a_week_that_was_open_then_is_sent_again_when_it_is_over(database, history):
    aapl = await history.symbol("AAPL")
    await history.write(aapl, days("2024-01-01", [1, 2]))
    async with direct_bars(database) as bars:
        now = await bars.reader.snapshot(None)
        snapshots = [replace(now, as_of=datetime(2024, 1, number, tzinfo=UTC)) for number in (3, 4, 8)]
        wednesday, thursday, monday = [Question(timeframe=TIMEFRAMES[W1], snapshot=one) for one in snapshots]
        assert [list(one.flags) for one in await bars.changed(wednesday, monday, aapl)] == [[0]]
        assert await bars.changed(wednesday, thursday, aapl) == []
        assert await bars.changed(monday, replace(monday, snapshot=now), aapl) == []


async def test_since_when_must_fit_the_rest_of_the_question(history, bars):
    aapl = await history.symbol("AAPL")
    first = await history.write(aapl, days("2024-01-01", [1]))
    last = await history.write(aapl, days("2024-01-01", [2]))
    for fields, named in (
        ({"changed_since": to_time(last), "as_of": to_time(first)}, "changed_since"),
        ({"changed_since": to_time(last + timedelta(seconds=1))}, "changed_since"),
        ({"changed_since": to_time(first), "last": 5}, "last"),
    ):
        error = await refused(bars.streamed(symbol_ids=[aapl], timeframe=D1, **fields))
        assert violations(error) == [named]
    assert (await bars.streamed(symbol_ids=[aapl], timeframe=D1, changed_since=to_time(last))).chunks == []


async def purge(history, symbol_id, first, end, timeframe=DAY):
    async with history.begin(symbol_id, timeframe) as write:
        await write.purge(first, end)
        return await write.finish()


async def test_an_answer_that_lost_bars_to_a_purge_is_refused_and_says_from_when_on_it_can_be_had(history, bars):
    aapl = await history.symbol("AAPL")
    before = await history.write(aapl, days("2024-01-01", [1, 2, 3, 4]))
    purged = await purge(history, aapl, date(2024, 1, 2), date(2024, 1, 4))
    old = {"timeframe": D1, "as_of": to_time(before)}
    for call in (
        bars.list(ticker="AAPL", **old),
        bars.streamed(symbol_ids=[aapl], **old),
        bars.latest(symbol_ids=[aapl], **old),
    ):
        error = await refused(call)
        assert (error.code(), reason(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "AS_OF_PURGED")
        assert info(error).metadata["as_of"] == f"{purged:%Y-%m-%dT%H:%M:%S.%f}Z"
    outside = await bars.list(ticker="AAPL", **old, start_time=at("2024-01-04"))
    assert [bar.close for bar in outside.bars] == [4]
    assert [bar.close for bar in (await bars.list(ticker="AAPL", timeframe=D1)).bars] == [1, 4]


async def test_among_others_a_purged_symbol_is_told_and_the_rest_is_served(history, bars):
    aapl, msft = await history.symbol("AAPL"), await history.symbol("MSFT")
    await history.write(aapl, days("2024-01-01", [1, 2]))
    before = await history.write(msft, days("2024-01-01", [5]))
    await purge(history, aapl, date(2024, 1, 1), date(2024, 1, 2))
    fields = {"symbol_ids": [aapl, msft], "timeframe": D1, "as_of": to_time(before)}
    answer = await bars.streamed(**fields)
    assert [(one.symbol_id, one.reason) for one in answer.opening.unresolved] == [(aapl, type_pb2.AS_OF_PURGED)]
    assert answer.column("close") == [5]
    assert reason(await refused(bars.streamed(**fields, strict=True))) == "AS_OF_PURGED"


async def test_a_purge_since_sends_the_series_again(history, bars):
    aapl = await history.symbol("AAPL")
    before = await history.write(aapl, days("2024-01-01", [1, 2, 3]))
    await purge(history, aapl, date(2024, 1, 2), date(2024, 1, 3))
    changes = await bars.streamed(symbol_ids=[aapl], timeframe=D1, changed_since=to_time(before))
    assert [(one.replaces_all, list(one.close)) for one in changes.chunks] == [(True, [1, 3])]


async def test_a_purge_while_a_stream_is_read_ends_it(history, bars):
    aapl, long = await history.symbol("AAPL"), await history.symbol("MSFT")
    await history.write(aapl, [Row(START)], timeframe=MINUTE)
    async with history.begin(long, MINUTE) as write:
        await write.fill(150_000)
        await write.finish()
    call = bars.stream(symbol_ids=[long, aapl], timeframe=M1)
    await call.read()
    await purge(history, aapl, START.date(), START.date() + timedelta(days=1), MINUTE)

    async def rest():
        while await call.read() is not grpc.aio.EOF:
            pass

    assert reason(await refused(rest())) == "AS_OF_PURGED"
