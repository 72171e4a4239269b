"""Corporate actions: read from both endpoints, learned with versions, resolved by date, and judged by."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from services.ingest.calendar import XNYS, date_of, day_of, start_of_day
from services.ingest.columns import Columns
from services.ingest.corporate_actions import ABSURD, REPEATED, SUBJECTS, Fact, Known, Terms, learn, read_actions
from services.ingest.inquiries import AskLaterError
from services.ingest.pages import PageError
from services.ingest.quality import GAP, NO_CONTEXT, Split, judge, validated
from services.ingest.store import slices
from services.ingest.store.instants import to_ms
from services.ingest.timeframes import DAY_MS
from tests.ingest.acting import acting
from tests.ingest.working import DAY, FAILED, MINUTE, SUCCEEDED, WRITTEN, Ask

SPLITS, DIVIDENDS = SUBJECTS["splits"], SUBJECTS["dividends"]
FEBRUARY = date(2024, 2, 1)


def split(day: int, before: float = 1, after: float = 2, month: int = 2) -> Terms:
    return Terms(date(2024, month, day), 1, split_from=before, split_to=after)


def known(number: int, terms: Terms, source_id: str = "", **fields) -> Known:
    return Known(number, number, terms, source_id, **fields)


def test_a_new_action_is_learned_and_the_same_one_again_changes_nothing():
    learned = learn([], [Fact("A", split(5), "x")])
    assert [(one.terms, one.flags, one.replaces) for one in learned.versions] == [(split(5), 0, None)]
    assert learned.moments == [date(2024, 2, 5)]
    again = learn([known(1, split(5), "x")], [Fact("A", split(5), "x")])
    assert (bool(again), again.unchanged) == (False, 1)


def test_an_action_keeps_its_number_under_another_id_or_with_other_terms():
    assert not learn([known(1, split(5), "old")], [Fact("A", split(5), "new")])
    corrected = learn([known(1, split(5), "x")], [Fact("A", split(6), "x")])
    assert [one.replaces.action_id for one in corrected.versions] == [1]
    assert corrected.moments == [date(2024, 2, 5), date(2024, 2, 6)]


def test_what_an_answer_lacks_is_withdrawn_only_where_the_answer_covers_it():
    assert [one.action_id for one in learn([known(1, split(5))], []).withdrawn] == [1]
    assert not learn([known(1, split(5), covered=False)], [])


def test_of_two_that_are_the_same_the_later_one_is_flagged_and_counts_once_the_first_is_gone():
    learned = learn([], [Fact("A", split(5), "x"), Fact("A", split(6), "y")])
    assert [one.flags for one in learned.versions] == [0, REPEATED]
    first, second = known(1, split(5), "x"), known(2, split(6), "y", flags=REPEATED)
    left = learn([first, second], [Fact("A", split(6), "y")])
    assert ([one.flags for one in left.versions], [one.action_id for one in left.withdrawn]) == ([0], [1])
    assert left.moments == [date(2024, 2, 5), date(2024, 2, 6)]
    far = learn([], [Fact("A", split(5), "x"), Fact("A", split(20), "y")])
    assert [one.flags for one in far.versions] == [0, 0]


@pytest.mark.parametrize(
    ("before", "after", "flags"), [(2e6, 1, ABSURD), (10_000, 1, ABSURD), (1, 1, ABSURD), (1000, 1046, 0), (1, 50, 0)]
)
def test_ratios_that_can_hardly_be_true_are_flagged(before, after, flags):
    assert [one.flags for one in learn([], [Fact("A", split(5, before, after))]).versions] == [flags]


def test_equal_dividends_of_a_day_are_one_and_leave_the_bars_alone():
    paid = Terms(FEBRUARY, 2, cash_amount=0.5, currency="USD")
    learned = learn([], [Fact("A", paid, "x"), Fact("A", paid, "y"), Fact("A", replace(paid, cash_amount=0.6), "z")])
    assert sorted(one.flags for one in learned.versions) == [0, 0, REPEATED]
    assert learned.moments == []


def test_a_page_is_read_whatever_its_numbers_look_like_and_what_cannot_be_is_kept_apart():
    page = read_actions(
        SPLITS,
        b'{"status":"OK","results":[{"ticker":"NPWZ","execution_date":"2024-02-05","split_from":2e+06,"split_to":1},'
        b'{"ticker":"X","execution_date":"2024-02-06","split_from":0,"split_to":1},'
        b'{"ticker":"X","execution_date":"soon","split_from":1,"split_to":2},7]}',
    )
    assert [fact.terms for fact in page.facts] == [split(5, 2e6, 1)]
    assert len(page.impossible) == 3
    assert page.until(FEBRUARY, date(2024, 3, 1)) == date(2024, 3, 2)


def test_a_page_with_more_behind_it_answers_up_to_its_last_date():
    rows = '{"ticker":"A","ex_dividend_date":"2024-02-%s","cash_amount":1}'
    body = '{"status":"OK","next_url":"x","results":[%s,%s]}'
    page = read_actions(DIVIDENDS, (body % (rows % "05", rows % "07")).encode())
    assert page.until(FEBRUARY, date(2024, 3, 1)) == date(2024, 2, 7)
    assert page.until(date(2024, 2, 7), date(2024, 3, 1)) is None
    with pytest.raises(PageError):
        read_actions(DIVIDENDS, (body % (rows % "07", rows % "05")).encode())
    for broken in (b"[]", b"{", b'{"results":7}'):
        with pytest.raises(PageError):
            read_actions(SPLITS, broken)


def test_both_endpoints_are_asked_for_a_span_oldest_first():
    march = date(2024, 3, 1)
    assert SPLITS.target(["AAPL", "BRK.B"], FEBRUARY, march) == (
        "/stocks/v1/splits?ticker.any_of=AAPL,BRK.B&execution_date.gte=2024-02-01&execution_date.lte=2024-03-01"
        "&sort=execution_date.asc&limit=5000"
    )
    old = DIVIDENDS.target(["B", "A", "C"], FEBRUARY, march, old=True)
    assert old.startswith("/v3/reference/dividends?ticker.gte=A&ticker.lte=C&ex_dividend_date.gte=2024-02-01")
    assert "?ticker=B&" in DIVIDENDS.target(["B"], FEBRUARY, march, old=True)
    assert SPLITS.target([], FEBRUARY, march, old=True).startswith("/v3/reference/splits?execution_date.gte")


@pytest.fixture
async def work(database):
    async with acting(database) as made:
        yield made


async def test_actions_are_learned_page_by_page_and_a_second_time_change_nothing(work):
    a, b = [await work.desk.symbol(ticker) for ticker in "AB"]
    work.provider.page = 3
    work.provider.split("A", "2020-08-31", 1, 4, id="E1")
    work.provider.split("B", "2021-07-20", 1, 4, id="E2")
    work.provider.split("Z", "2021-07-20", 1, 5)
    work.provider.split("A", "2022-01-03", 1, 3)
    work.provider.split("A", "2023-01-03", 0, 3)
    done = await work.slice(await work.learn())
    assert (done["state"], done["inserted"], done["unknown"], done["rejected"]) == (SUCCEEDED, 3, 1, 1)
    assert [row[:4] for row in await work.live()] == [
        (a, date(2020, 8, 31), 1, 4), (a, date(2022, 1, 3), 1, 3), (b, date(2021, 7, 20), 1, 4),
    ]  # fmt: skip
    again = await work.slice(await work.learn())
    assert (again["inserted"], again["updated"], again["unchanged"]) == (0, 0, 3)
    assert await work.desk.sql.fetchval("SELECT count(*) FROM ingest.series") == 0
    assert await work.desk.sql.fetchval("SELECT every(state = 4) FROM ingest.backfills")


@pytest.mark.parametrize("missing", [(), ("stocks",)])
@pytest.mark.parametrize("names", ["", "B,C,D,E,F"])
async def test_a_date_with_more_actions_than_a_page_holds_is_asked_for_by_ticker(work, missing, names):
    """Those of the date are split into pages of tickers; what is gone is withdrawn where its turn comes."""
    work.provider.page, work.provider.missing = 2, missing
    ids = {ticker: await work.desk.symbol(ticker) for ticker in "ABCDEF"}
    for ticker in ids if not names else names.split(","):
        work.provider.split(ticker, "2020-08-31", 1, 4)
        work.provider.split(ticker, "2020-09-15", 1, 2 if ticker == "F" else 3)
    work.provider.split("B", "2020-08-28", 1, 9)
    work.provider.split("B", "2020-10-01", 1, 9)
    slice_id = await work.learn(tickers=names)
    done = await work.slice(slice_id)
    assert (done["state"], done["reason"], done["page"]) == (SUCCEEDED, "", "")
    told = len(work.provider.splits)
    assert (done["inserted"], len(await work.live())) == (told, told)
    gone = next(row for row in work.provider.splits if (row["ticker"], row["execution_date"]) == ("D", "2020-08-31"))
    work.provider.splits.remove(gone)
    again = await work.slice(await work.learn(tickers=names))
    assert (again["state"], again["inserted"], again["updated"], again["unchanged"]) == (SUCCEEDED, 0, 1, told - 1)
    assert ids["D"] not in {row[0] for row in await work.live() if str(row[1]) == "2020-08-31"}


async def test_a_page_of_one_ticker_on_one_date_is_not_asked_for_for_ever(work):
    work.provider.page = 1
    await work.desk.symbol("A")
    for before in (1, 2):
        work.provider.split("A", "2020-08-31", before, 4)
    lost = await work.slice(await work.learn())
    assert (lost["state"], "one ticker on one date" in lost["reason"]) == (FAILED, True)


async def test_the_old_endpoint_is_asked_where_the_new_one_is_not_there(work):
    a = await work.desk.symbol("A")
    await work.desk.symbol("C")
    work.provider.missing = ("stocks",)
    for ticker in "ABC":
        work.provider.dividend(ticker, "2024-02-05", 0.25)
    done = await work.slice(await work.learn("dividends", "A,C"))
    assert (done["state"], done["inserted"], done["unknown"], done["attempts"]) == (SUCCEEDED, 2, 0, 0)
    assert [target.partition("?")[0] for target in work.provider.asked] == [
        "/stocks/v1/dividends", "/v3/reference/dividends",
    ]  # fmt: skip
    assert (await work.live())[0][:6] == (a, date(2024, 2, 5), None, None, 0.25, "USD")
    work.provider.missing = ("stocks", "v3")
    assert (await work.slice(await work.learn("dividends", "A,C")))["state"] == FAILED


async def test_an_action_belongs_to_whoever_held_the_ticker_at_its_date(work):
    sql = work.desk.sql
    old, new = await work.desk.symbol("META"), await work.desk.symbol("FB")
    await sql.execute("UPDATE symbols.tickers SET to_date = '2022-01-28' WHERE symbol_id = $1", old)
    await sql.execute("UPDATE symbols.tickers SET to_date = '2022-06-08' WHERE symbol_id = $1", new)
    await sql.execute(
        "INSERT INTO symbols.tickers (symbol_id, from_date, asset_class, ticker, provider_ticker) "
        "VALUES ($1, '2022-06-09', 1, 'META', 'META')",
        new,
    )
    for ticker, day in (("META", "2021-12-20"), ("META", "2022-03-01"), ("META", "2024-02-21"), ("FB", "2020-01-02")):
        work.provider.dividend(ticker, day, 0.5)
    done = await work.slice(await work.learn("dividends"))
    assert done["unknown"] == 1
    assert [row[:2] for row in await work.live()] == [
        (old, date(2021, 12, 20)), (new, date(2020, 1, 2)), (new, date(2024, 2, 21)),
    ]  # fmt: skip


async def test_an_answer_about_some_tickers_withdraws_nothing_of_others(work):
    for ticker in "AB":
        await work.desk.symbol(ticker)
        work.provider.split(ticker, "2020-08-31", 1, 4)
    await work.learn()
    work.provider.splits.clear()
    await work.learn(tickers="A")
    assert len(await work.live()) == 1
    await work.learn(first="2021-01-01")
    assert len(await work.live()) == 1
    await work.learn()
    assert await work.live() == []
    assert await work.desk.sql.fetchval("SELECT count(*) FROM ingest.actions") == 2


async def test_an_answer_that_lacks_most_of_what_is_known_is_not_believed(work):
    await work.desk.symbol("A")
    for day in range(1, 25):
        work.provider.dividend("A", f"2024-01-{day:02}", day)
    await work.learn("dividends")
    work.provider.dividends.clear()
    done = await work.slice(await work.learn("dividends"))
    assert (done["state"], len(await work.live())) == (FAILED, 24)
    assert "lacks 24 of 24" in done["reason"]


async def test_an_older_answer_that_comes_late_is_asked_for_again(work):
    await work.desk.symbol("A")
    await work.ask()
    slow = await slices.claim(work.desk.db, "slow", timedelta(minutes=1), [slices.ACTIONS])
    await work.ask()
    await work.worker.step()
    await work.worker.step()

    async def ask(target):
        row = {"ticker": "A", "execution_date": "2020-08-31", "split_from": 1, "split_to": 4}
        return slow, json.dumps({"status": "OK", "results": [row]}).encode()

    with pytest.raises(AskLaterError, match="later answer"):
        await work.inquiry.advance(slow, ask)
    assert await work.live() == []


async def test_a_step_of_a_slice_that_was_taken_away_changes_nothing(work):
    await work.desk.symbol("A")
    work.provider.split("A", "2020-08-31", 1, 4)
    work.provider.dividend("A", "2020-08-31", 1)
    for subject in ("splits", "dividends"):
        await work.ask(subject)
        lost = await slices.claim(work.desk.db, "lost", timedelta(minutes=1), [slices.ACTIONS])
        await work.desk.sql.execute("UPDATE ingest.slices SET token = token + 1 WHERE state = 2")

        async def ask(target, lost=lost):
            rows = {"splits": work.provider.splits, "dividends": work.provider.dividends}[lost.subject]
            return lost, json.dumps({"status": "OK", "results": rows}).encode()

        assert await work.inquiry.advance(lost, ask) is None
    assert await work.live() == []


def days_of(first: str, count: int) -> list[int]:
    """Returns weekdays from a date on."""
    start = day_of(date.fromisoformat(first))
    return [day for day in range(start, start + 3 * count) if (day + 3) % 7 < 5][:count]


def serve_days(work, ticker: str, closes: dict[int, float]) -> None:
    work.provider.bars[f"{ticker} day"] = {start_of_day(day, XNYS): close for day, close in closes.items()}


async def test_a_split_learned_changed_and_withdrawn_judges_the_bars_around_it_again_as_versions(work):
    a = await work.desk.symbol("A")
    days = days_of("2024-01-02", 60)
    serve_days(work, "A", {day: 100.0 if at < 30 else 25.0 for at, day in enumerate(days)})
    await work.fetch(a, "A", "2024-01-01", "2024-06-28", DAY)
    gaps = "SELECT ts::date FROM ingest.bars WHERE flags & 2 <> 0 ORDER BY ts"
    assert [row[0] for row in await work.desk.sql.fetch(gaps)] == [date_of(days[30])]
    before = await work.desk.sql.fetchval("SELECT max(commit_time) FROM ingest.writes")
    row = work.provider.split("A", str(date_of(days[30])), 1, 4, id="x")
    await work.learn()
    assert await work.desk.sql.fetch(gaps) == []
    write = await work.desk.sql.fetchrow(
        "SELECT * FROM ingest.writes WHERE commit_time > $1 AND min_ts IS NOT NULL", before
    )
    assert (write["symbol_id"], write["min_ts"].date()) == (a, date_of(days[30]))
    revised = await work.desk.sql.fetchrow("SELECT ts::date, flags, ended_write_id FROM ingest.bar_revisions")
    assert tuple(revised) == (date_of(days[30]), GAP, write["write_id"])
    row["execution_date"] = str(date_of(days[31]))
    await work.learn()
    assert {row[0] for row in await work.desk.sql.fetch(gaps)} == {date_of(days[30]), date_of(days[31])}
    work.provider.splits.clear()
    await work.learn()
    assert [row[0] for row in await work.desk.sql.fetch(gaps)] == [date_of(days[30])]
    await recount(work, a, [])


async def recount(work, symbol_id: int, splits: list[tuple[int, float, float]]) -> None:
    """Compares flags and figures of a symbol with a fresh judgement of its bars."""
    for timeframe in (DAY, MINUTE):
        rows = await work.desk.sql.fetch(
            "SELECT * FROM ingest.bars WHERE symbol_id = $1 AND timeframe = $2 ORDER BY ts", symbol_id, timeframe
        )
        if not rows:
            continue
        ts = np.array([to_ms(row["ts"]) for row in rows], np.int64)
        close, volume = (np.array([row[name] for row in rows]) for name in ("close", "volume"))
        known = [
            Split(day * DAY_MS if timeframe == DAY else start_of_day(day, XNYS), before, after)
            for day, before, after in splits
        ]
        flags = judge(Columns(ts, close, close, close, close, volume, close, ts), NO_CONTEXT, known)
        assert [row["flags"] for row in rows] == flags.tolist()
        series = await work.desk.series(symbol_id, timeframe)
        assert series["validated"] == int(validated(flags).sum())


def serve_jumps(work, days, jumps, chance):
    """Has the provider answer bars that jump on some days, and between February and March of minutes."""
    opening = datetime(2024, 3, 1, 9, 30, tzinfo=ZoneInfo("America/New_York"))
    closes, price = {}, 100.0
    for at, day in enumerate(days):
        price = price * chance.choice((0.25, 0.5, 2.0, 5.0)) if at in jumps else price
        closes[day] = price
    serve_days(work, "A", closes)
    minutes = {int(opening.timestamp() * 1000) + at * 60_000: 100.0 if at < 25 else 50.0 for at in range(50)}
    before = {start_of_day(day_of(date(2024, 2, 29)), XNYS) + 40_000_000 + at * 60_000: 400.0 for at in range(25)}
    work.provider.bars["A minute"] = before | minutes


async def test_a_split_learned_before_or_after_the_bars_ends_in_the_same_flags(work):
    """Random bars with jumps, some of them splits; fetched in pieces and learned in any order, or at once."""
    chance = random.Random(5)
    days = days_of("2024-01-02", 60)
    for _ in range(8):
        await work.desk.empty(*WRITTEN, "actions")
        a = await work.desk.symbol("A")
        work.provider.splits.clear()
        jumps = sorted(chance.sample(range(60), 3))
        serve_jumps(work, days, jumps, chance)
        told = [(day, 1.0, float(chance.choice((2, 4)))) for day in (days[at] for at in jumps[:2])]
        told.append((day_of(date(2024, 3, 1)), 1.0, 4.0))
        for day, one, other in told:
            work.provider.split("A", str(date_of(day)), one, other)
        half = date_of(days[30])
        steps = [
            Ask(a, "A", "2024-01-01", str(half), DAY),
            Ask(a, "A", str(half), "2024-06-28", DAY),
            Ask(a, "A", "2024-02-28", "2024-03-01", MINUTE),
            None,
        ]
        chance.shuffle(steps)
        for step in steps:
            if step is None:
                await work.ask()
            else:
                await work.desk.start(step)
            if chance.random() < 0.6:
                await work.desk.drain(work.worker)
        await work.desk.drain(work.worker)
        counted = list({day: (day, one, other) for day, one, other in told}.values())
        live = [(day_of(row[1]), row[2], row[3]) for row in await work.live() if not row[7] & REPEATED]
        assert {day for day, _, _ in live} <= {day for day, _, _ in counted}
        await recount(work, a, live)
        await work.desk.sql.execute("DELETE FROM symbols.tickers")
