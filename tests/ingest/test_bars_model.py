"""Any question against a plain reading of the rules: random histories of bars and actions, an oracle in Fractions."""

from __future__ import annotations

import math
import os
import random
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest

from mdw.ingest.v1 import bars_pb2
from services.ingest.calendar import EVERY_DAY, XNYS, date_of, day_of
from services.ingest.reading import pages, series
from services.ingest.reading.adjust import DIVIDEND, REPEATED, SPLIT, Action
from services.ingest.store import bars as stored
from services.ingest.timeframes import DAY_MS, TIMEFRAMES
from tests.ingest.bars_support import COLUMNS, direct_bars, to_time
from tests.ingest.history import CRYPTO, MINUTE, History, Row
from tests.ingest.test_bars_adjusted import learn
from tests.ingest.test_bars_as_of import applied, rows_of
from tests.ingest.test_bars_rollup import HOURS, PARTIAL, milliseconds, plain_start

NEW_YORK = ZoneInfo("America/New_York")
D1, W1 = 7, 8
QUESTIONS = int(os.environ.get("MODEL_QUESTIONS", "12"))
SEEDS = range(int(os.environ.get("MODEL_SEEDS", "3")))
PENALTIES = {1: 30, 2: 20, 4: 10, 8: 15}
REGULAR, DESC = bars_pb2.HOURS_REGULAR, bars_pb2.ORDER_TIME_DESC
SPLITS, BOTH = bars_pb2.ADJUSTMENT_SPLIT, bars_pb2.ADJUSTMENT_SPLIT_AND_DIVIDEND
# Both clock changes of New York, an early close before a holiday, the turn of a year; in a long run, which MODEL_SEEDS
# asks for, today as well: windows that are still open.
BEGINNINGS = [date(2024, 3, 8), date(2024, 11, 1), date(2024, 7, 1), date(2023, 12, 28)]
DAYS = 12


@dataclass
class World:
    """What was written, version by version, and what any answer must be."""

    rng: random.Random
    first: date
    calendars: dict[int, str]
    bars: list[tuple[datetime, int, int, list[Row], list[datetime]]] = field(default_factory=list)
    actions: list[tuple[datetime, int, bool, list[Action]]] = field(default_factory=list)

    def stored(self, symbol_id, timeframe, as_of):
        held = {}
        for moment, of, kind, put, delete in self.bars:
            if (of, kind) == (symbol_id, timeframe) and moment <= as_of:
                for ts in delete:
                    held.pop(milliseconds(ts), None)
                held.update({milliseconds(row.ts): row for row in put})
        return dict(sorted(held.items()))

    def known(self, symbol_id, as_of, *, dividends):
        """Returns the actions that count, by their effect on what lies before."""
        now: list[Action] = []
        for moment, of, withdraw, added in self.actions:
            if of == symbol_id and moment <= as_of:
                now = [*([] if withdraw else now), *added]
        today = as_of.astimezone(NEW_YORK).date()
        return [
            one
            for one in now
            if date_of(one.ex_day) <= today
            and not one.flags & REPEATED
            and (one.kind == SPLIT or (dividends and one.currency in {"", "USD"}))
        ]

    def factors(self, symbol_id, as_of, adjustment):
        """Returns (ex day, factor of prices, factor of volumes) of each action."""
        actions = self.known(symbol_id, as_of, dividends=adjustment == BOTH) if adjustment in {SPLITS, BOTH} else []
        found = []
        for one in actions:
            if one.kind == SPLIT:
                ratio = Fraction(one.split_from) / Fraction(one.split_to)
                found.append((one.ex_day, ratio, 1 / ratio))
                continue
            closes = [row.close for ms, row in self.stored(symbol_id, D1, as_of).items() if ms < one.ex_day * DAY_MS]
            if not closes:
                continue
            close = Fraction(closes[-1])
            for other in actions:
                if other.kind == SPLIT and other.ex_day == one.ex_day:
                    close *= Fraction(other.split_from) / Fraction(other.split_to)
            if Fraction(one.cash_amount) < close:
                found.append((one.ex_day, 1 - Fraction(one.cash_amount) / close, Fraction(1)))
        return found

    def day(self, symbol_id, ms, timeframe):
        if TIMEFRAMES[timeframe].daily or self.calendars[symbol_id] == EVERY_DAY:
            return ms // DAY_MS
        return day_of(new_york(ms).date())

    def answer(self, symbol_id, fields, as_of):
        """Returns every bar of the answer, ascending: start, prices, volume, vwap, trades, flags."""
        timeframe = TIMEFRAMES[fields["timeframe"]]
        start, end = (fields[name].ToMilliseconds() if name in fields else None for name in ("start_time", "end_time"))
        calendar = self.calendars[symbol_id]
        regular = fields["hours"] == REGULAR and calendar == XNYS and not timeframe.daily
        factors = self.factors(symbol_id, as_of, fields["adjustment"])
        groups: dict[int, list] = {}
        for ms, row in self.stored(symbol_id, timeframe.stored, as_of).items():
            if (start is not None and ms < start) or (end is not None and ms >= end):
                continue
            if regular and not is_regular(ms):
                continue
            if 100 - sum(cost for flag, cost in PENALTIES.items() if row.flags & flag) < 100 * fields["min_quality"]:
                continue
            day, price, volume = self.day(symbol_id, ms, timeframe.number), Fraction(1), Fraction(1)
            touched = False
            for ex_day, up, more in factors:
                if day < ex_day:
                    price, volume, touched = price * up, volume * more, True
            window = plain_start(ms, timeframe.number, calendar, regular=regular) if timeframe.derived else ms
            groups.setdefault(window, []).append(plain_bar(row, price, volume, touched=touched))
        limits = (start, end, int(as_of.timestamp() * 1000))
        return [
            self._rolled(window, bars, timeframe)
            | {"flags": self._flags(window, bars, timeframe, limits, calendar, regular=regular)}
            for window, bars in groups.items()
        ]

    def sessions(self, symbol_id, fields, as_of):
        """Returns how many sessions of the span should be held, and how many of them are not."""
        timeframe, calendar = TIMEFRAMES[fields["timeframe"]], self.calendars[symbol_id]
        start = fields["start_time"].ToMilliseconds() if "start_time" in fields else 0
        end = fields["end_time"].ToMilliseconds() if "end_time" in fields else 10**14
        all_bars = list(self.stored(symbol_id, timeframe.stored, as_of))
        held = [ms for ms in all_bars if start <= ms < end]
        before, after = any(ms < start for ms in all_bars), any(ms >= end for ms in all_bars)
        if not held and not (before and after):
            return 0, 0
        days = {self.day(symbol_id, ms, timeframe.number) for ms in held}
        low, high = (0 if before else min(days)), (10**9 if after else max(days))
        expected = {day for day in self._days(calendar, timeframe, start, end) if low <= day <= high}
        return len(expected), len(expected - days)

    def _days(self, calendar, timeframe, start, end):
        """Returns the sessions around this world that a span touches."""
        for day in range(day_of(self.first) - 40, day_of(self.first) + 40):
            hours = HOURS.get(date_of(day), ()) if calendar == XNYS else (date_of(day), date_of(day + 1))
            if not hours:
                continue
            opens, closes = (milliseconds(one) if calendar == XNYS else day_of(one) * DAY_MS for one in hours)
            if start <= day * DAY_MS < end if timeframe.daily else closes > start and opens < end:
                yield day

    @staticmethod
    def _rolled(window, bars, timeframe):
        counts = [bar["trade_count"] for bar in bars]
        weighed = [(bar["vwap"], bar["volume"]) for bar in bars if bar["vwap"] is not None]
        weight = sum(volume for _, volume in weighed)
        vwap = sum(price * volume for price, volume in weighed) / weight if weight else None
        return {
            "start_time_ms": window,
            "open": bars[0]["open"],
            "high": max(bar["high"] for bar in bars),
            "low": min(bar["low"] for bar in bars),
            "close": bars[-1]["close"],
            "volume": sum(bar["volume"] for bar in bars),
            "vwap": vwap if timeframe.derived else bars[0]["vwap"],
            "trade_count": -1 if -1 in counts else sum(counts),
        }

    @staticmethod
    def _flags(window, bars, timeframe, limits, calendar, *, regular):
        flags = 0
        for bar in bars:
            flags |= bar["flags"]
        if not timeframe.derived:
            return flags
        start, end, as_of_ms = limits
        after = window + timeframe.length_ms
        if timeframe.name == "4h" and calendar == XNYS and not regular:
            # The first four hours of a day on which the clock is set are three or five.
            local = new_york(window).replace(tzinfo=None) + timedelta(hours=4)
            after = milliseconds(local.replace(tzinfo=NEW_YORK))
        partial = (start is not None and window < start) or (end is not None and after > end) or after > as_of_ms
        if regular:
            partial = partial or after > milliseconds(HOURS[new_york(window).date()][1])
        return flags | (PARTIAL if partial else 0)


def new_york(ms):
    return datetime.fromtimestamp(ms / 1000, UTC).astimezone(NEW_YORK)


def is_regular(ms):
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    hours = HOURS.get(moment.astimezone(NEW_YORK).date())
    return hours is not None and hours[0] <= moment < hours[1]


def plain_bar(row, price, volume, *, touched):
    """Adjusts one bar; a touched price is rounded once."""
    bar = {"flags": row.flags, "trade_count": row.trade_count, "volume": Fraction(row.volume) * volume}
    for name in ("open", "high", "low", "close", "vwap"):
        value = row.close if (given := getattr(row, name)) is None else given
        if math.isnan(value):
            bar[name] = None
        else:
            bar[name] = round(Fraction(value) * price, 4) if touched else Fraction(value)
    return bar


def same(found, expected):
    """Compares one bar; a price that lies between two ten-thousandths may be rounded either way."""
    for name in COLUMNS:
        value, wanted = found[name], expected[name]
        if wanted is None:
            if not math.isnan(value):
                return False
        elif name in {"start_time_ms", "trade_count", "flags"}:
            if value != wanted:
                return False
        elif not math.isclose(value, wanted, rel_tol=1e-9, abs_tol=1.001e-4 if name != "volume" else 1e-9):
            return False
    return True


def of_stream(answer, symbol_id):
    columns = [answer.column(name, symbol_id) for name in COLUMNS]
    return [dict(zip(COLUMNS, values, strict=True)) for values in zip(*columns, strict=True)]


def of_pages(found, symbol_id):
    return [
        {
            **{name: getattr(bar, name) for name in ("open", "high", "low", "close", "volume", "flags")},
            "start_time_ms": bar.start_time.ToMilliseconds(),
            "vwap": bar.vwap if bar.HasField("vwap") else math.nan,
            "trade_count": bar.trade_count if bar.HasField("trade_count") else -1,
        }
        for page in found
        for bar in page.bars
        if bar.symbol_id == symbol_id
    ]


@dataclass
class Game:
    """Changes the world and asks questions, in turns."""

    world: World
    history: History
    bars: object
    symbol_ids: list[int]
    seen: list = field(default_factory=list)

    def __post_init__(self):
        self.rng = self.world.rng

    def moment(self, *, daily):
        """Returns an instant on the grid, often at the edge of something."""
        rng = self.rng
        day = self.world.first + timedelta(days=rng.randrange(DAYS))
        if daily:
            return datetime(day.year, day.month, day.day, tzinfo=UTC)
        edges = [0, 1, 90, 119, 120, 180, 240, 569, 570, 571, 599, 600, 629, 630, 779, 780, 959, 960, 1200, 1439]
        minute = rng.choice(edges) if rng.random() < 0.4 else rng.randrange(1440)
        start = datetime(day.year, day.month, day.day, tzinfo=NEW_YORK).astimezone(UTC)
        return start + timedelta(minutes=minute)

    async def change(self):
        rng, symbol_id = self.rng, self.rng.choice(self.symbol_ids)
        if rng.random() < 0.25:
            await self._learn(symbol_id)
            return
        daily = rng.random() < 0.4
        times = sorted({self.moment(daily=daily) for _ in range(rng.randint(1, 12 if daily else 50))})
        cut = rng.choice([0, 0, 1, len(times) // 2])
        put = [self._row(ts) for ts in times[cut:]]
        moment = await self.history.write(symbol_id, put, times[:cut], timeframe=D1 if daily else MINUTE)
        self.world.bars.append((moment, symbol_id, D1 if daily else MINUTE, put, times[:cut]))

    def _row(self, ts):
        rng = self.rng
        open_, close = rng.choice([8.0, 50.5, 101.25]), rng.choice([7.5, 33.33, 120.0])
        return Row(
            ts,
            open=open_,
            close=close,
            high=max(open_, close) + rng.choice([0, 0.7]),
            low=min(open_, close) - rng.choice([0, 1.01]),
            volume=rng.choice([0.0, 10.0, 0.125, 977.0]),
            vwap=rng.choice([math.nan, 50.0, 41.37]),
            trade_count=rng.choice([-1, 0, 5, 300]),
            flags=rng.choice([0, 0, 0, 1, 2, 4, 8, 12, 16, 18]),
        )

    async def _learn(self, symbol_id):
        rng, found = self.rng, []
        for _ in range(rng.randint(0, 2)):
            ex_day = day_of(self.world.first) + rng.choice([*range(DAYS), DAYS * 400])
            if rng.random() < 0.5:
                pair = rng.choice([(1, 2), (1, 3), (2, 3), (10, 1), (1, 7)])
                found.append(Action(ex_day, SPLIT, *pair, flags=rng.choice([0, 0, 0, REPEATED])))
            else:
                amount, currency = rng.choice([0.24, 5.0, 60.0]), rng.choice(["", "USD", "EUR"])
                found.append(Action(ex_day, DIVIDEND, cash_amount=amount, currency=currency))
        withdraw = rng.random() < 0.5
        moment = await learn(self.history, symbol_id, *found, withdraw=withdraw)
        self.world.actions.append((moment, symbol_id, withdraw, found))

    def question(self):
        rng, number = self.rng, self.rng.choice([1, 2, 3, 4, 5, 6, 7, 8])
        daily = TIMEFRAMES[number].daily
        fields = {
            "symbol_ids": rng.sample(self.symbol_ids, rng.randint(1, len(self.symbol_ids))),
            "timeframe": number,
            "adjustment": rng.choice([0, SPLITS, BOTH]),
            "hours": rng.choice([0, REGULAR]),
            "min_quality": rng.choice([0, 0, 0.85, 0.75, 1.0]),
        }
        span = sorted({self.moment(daily=daily), self.moment(daily=daily)})
        if rng.random() < 0.6:
            fields["start_time"] = to_time(span[0])
        if len(span) == 2 and rng.random() < 0.6:
            fields["end_time"] = to_time(span[1])
        return fields

    def expect(self, found, fields, as_of, symbol_id, cut=slice(None)):
        expected = self.world.answer(symbol_id, fields, as_of)[cut]
        assert len(found) == len(expected), (symbol_id, fields, as_of, found, expected)
        for one, other in zip(found, expected, strict=True):
            assert same(one, other), (symbol_id, fields, as_of, one, other)

    async def ask(self):
        """Puts a question in every way, as of now or of an earlier instant, and compares."""
        rng, fields = self.rng, self.question()
        extra = {}
        if rng.random() < 0.4:
            extra["as_of"] = to_time(rng.choice([*self.world.bars, *self.world.actions])[0])
        answer = await self.bars.streamed(**fields, **extra)
        as_of = answer.receipt.as_of.ToDatetime(UTC)
        last = rng.choice([1, 2, 3, 5, 20])
        newest = await self.bars.streamed(**fields, last=last, as_of=answer.receipt.as_of)
        order = rng.choice([0, DESC])
        listed = await self.bars.pages(
            **fields, order=order, page_size=rng.choice([1, 3, 7, 1000]), as_of=answer.receipt.as_of
        )
        for symbol_id in fields["symbol_ids"]:
            self.expect(of_stream(answer, symbol_id), fields, as_of, symbol_id)
            self.expect(of_stream(newest, symbol_id), fields, as_of, symbol_id, slice(-last, None))
            found = of_pages(listed, symbol_id)
            self.expect(found[::-1] if order else found, fields, as_of, symbol_id)
        self.account(answer, listed, fields, as_of)
        self.seen.append((fields, answer))

    def account(self, answer, listed, fields, as_of):
        """Compares the receipts of pages with the stream's, and both with what was written."""
        total = answer.receipt
        own = [one.symbol_receipt for one in answer.chunks if one.HasField("symbol_receipt")]
        assert sum(one.bars for one in own) == total.bars
        counts = [self.world.sessions(symbol_id, fields, as_of) for symbol_id in fields["symbol_ids"]]
        expected, missing = (sum(column) for column in zip(*counts, strict=True))
        assert (total.sessions_expected, total.sessions_missing) == (expected, missing), (fields, as_of)
        for name in ("bars", "sessions_expected", "sessions_missing", "bars_filtered"):
            assert sum(getattr(page.receipt, name) for page in listed) == getattr(total, name), name

    async def compare(self):
        """Brings an earlier answer up to date, and has it again as it was."""
        fields, old = self.rng.choice(self.seen)
        again = await self.bars.streamed(**fields, as_of=old.receipt.as_of)
        assert [one.SerializeToString() for one in again.chunks] == [one.SerializeToString() for one in old.chunks]
        changes = await self.bars.streamed(**fields, changed_since=old.receipt.as_of)
        now = await self.bars.streamed(**fields, as_of=changes.receipt.as_of)
        assert applied(rows_of(old), changes) == rows_of(now), (fields, old.receipt.as_of)


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_way_to_ask_agrees_with_a_plain_reading(database, monkeypatch, seed):
    rng = random.Random(seed)
    for module, name, values in (
        (stored, "FEW", (3, 40, 2_000)),
        (series, "CHUNK", (7, 10_000)),
        (pages, "_MIN_BATCH", (2, 30, 1_000)),
        (pages, "MAX_STORED", (20, 200_000)),
    ):
        monkeypatch.setattr(module, name, rng.choice(values))
    history = History(database.ingest_url, database.admin_url)
    ids = [await history.symbol("AAPL"), await history.symbol("MSFT"), await history.symbol("BTC-USD", CRYPTO)]
    today = [datetime.now(UTC).date() - timedelta(days=DAYS - 2)] if "MODEL_SEEDS" in os.environ else []
    first = rng.choice([*BEGINNINGS, *today])
    world = World(rng, first, dict(zip(ids, (XNYS, XNYS, EVERY_DAY), strict=True)))
    async with direct_bars(database) as bars:
        game = Game(world, history, bars, ids)
        for _ in range(6):
            await game.change()
        for _ in range(QUESTIONS):
            await game.ask()
            await game.compare()
            if rng.random() < 0.5:
                await game.change()
    await history.close()
