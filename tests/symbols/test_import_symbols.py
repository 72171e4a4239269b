"""ImportSymbols: thousands of rows, a result each."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from mdw.symbols.v1 import symbols_pb2 as pb
from mdw.type.v1 import type_pb2 as types
from tests.support import violations
from tests.symbols.making import CRYPTO, ETF, create, facebook, new, refusal

CREATED, EXISTED, REFUSED = pb.ImportResult.CREATED, pb.ImportResult.EXISTED, pb.ImportResult.REFUSED
COUNTS = "SELECT (SELECT count(*) FROM symbols.symbols), (SELECT count(*) FROM symbols.tickers)"


async def load(symbols, *rows: pb.NewSymbol, **fields) -> pb.ImportSymbolsResponse:
    return await symbols.ImportSymbols(pb.ImportSymbolsRequest(symbols=rows, **fields), timeout=60)


async def test_each_row_has_its_result(symbols):
    """Created, there already, taken, wrong: in the order of the request, and wrong rows leave the others alone."""
    known, meta = await create(symbols, "AAPL"), await facebook(symbols)
    answer = await load(
        symbols, new("MSFT"), new("AAPL"), new("FB"), new("aapl", name="x" * 201), new("btcusd", CRYPTO)
    )
    assert [result.outcome for result in answer.results] == [CREATED, EXISTED, REFUSED, REFUSED, CREATED]
    assert [result.row for result in answer.results] == [0, 1, 2, 3, 4]
    assert (answer.created, answer.existed, answer.refused) == (2, 1, 2)
    assert answer.results[1].symbol_id == known.symbol_id
    assert answer.results[2].reason == types.TICKER_TAKEN
    assert answer.results[2].error == f"symbol {meta.symbol_id} holds FB from 2012-05-18 to 2022-06-08"
    assert answer.results[3].reason == types.FIELD_INVALID
    assert answer.results[3].error.startswith("ticker: must look like AAPL")
    assert "name: has 201 characters" in answer.results[3].error
    found = await symbols.GetSymbol(pb.GetSymbolRequest(symbol_id=answer.results[4].symbol_id))
    assert found.symbol.ticker == "BTC-USD"


ROWS = [
    new("META", ETF, from_date="2021-06-30", to_date="2022-01-28"),
    new("META", from_date="2022-06-09"),
    new("META", from_date="2020-01-01"),
    new("META", ETF, from_date="2022-01-28", to_date="2022-02-01"),
    new("BTC", CRYPTO),
    new("X:BTCUSD", CRYPTO),
    new("BTC"),
]
OUTCOMES = [CREATED, CREATED, EXISTED, REFUSED, CREATED, EXISTED, CREATED]


async def test_rows_of_one_import_meet_each_other_too(symbols):
    """Dated rows of one ticker stand side by side; the same symbol twice is one; what overlaps is refused."""
    answer = await load(symbols, *ROWS)
    assert [result.outcome for result in answer.results] == OUTCOMES
    assert answer.results[5].symbol_id == answer.results[4].symbol_id != answer.results[6].symbol_id
    assert answer.results[3].error == "row 0 has the ticker on some of these days"


async def test_validate_only_says_the_same_and_changes_nothing(symbols, admin_db):
    """The outcomes are those of the import, without ids for what would be made; nothing is stored."""
    plan = await load(symbols, *ROWS, validate_only=True)
    assert [result.outcome for result in plan.results] == OUTCOMES
    assert {result.symbol_id for result in plan.results} == {0}
    assert tuple(await admin_db.fetchrow(COUNTS)) == (0, 0)
    done = await load(symbols, *ROWS)
    assert [result.error for result in done.results] == [result.error for result in plan.results]


async def test_importing_again_changes_nothing(symbols, admin_db):
    """Rows that are registered say so, with the ids of before."""
    rows = [new("AAPL"), new("SPY", ETF), new("ETH", CRYPTO), new("X", delist_date="2015-03-31")]
    first, second = await load(symbols, *rows), await load(symbols, *rows)
    assert [result.symbol_id for result in second.results] == [result.symbol_id for result in first.results]
    assert (second.created, second.existed, second.refused) == (0, 4, 0)
    assert tuple(await admin_db.fetchrow(COUNTS)) == (4, 4)


async def test_the_same_request_id_gives_the_first_answer(symbols):
    """A repeat says what was created, as the first time."""
    request_id = str(uuid4())
    first = await load(symbols, new("AAPL"), request_id=request_id)
    assert first.created == 1
    assert await load(symbols, new("AAPL"), request_id=request_id) == first


async def test_five_thousand_rows_go_in_together(symbols, admin_db):
    """One call, one transaction, one audit row; and not one row more."""
    rows = [new(f"A{n}.B", 1 + n % 2, name=f"Company {n}") for n in range(5_000)]
    answer = await load(symbols, *rows)
    assert (answer.created, len(answer.results)) == (5_000, 5_000)
    assert await admin_db.fetchval("SELECT count(DISTINCT xmin::text) FROM symbols.symbols") == 1
    audited = "SELECT count(*) FROM auth.audit_entries WHERE method = 'ImportSymbols' AND code = 0"
    assert await admin_db.fetchval(audited) == 1
    assert violations(await refusal(load(symbols, *rows, new("AAPL")), "FIELD_INVALID")) == ["symbols"]


async def test_an_empty_import_is_refused(symbols):
    """There must be a row."""
    assert violations(await refusal(load(symbols), "FIELD_INVALID")) == ["symbols"]


@pytest.mark.parametrize("asset_class", [1, CRYPTO])
async def test_imports_at_once_register_each_symbol_once(symbols, admin_db, asset_class):
    """The same rows from four sides, in different orders: all end, each symbol is made by one, the others find it."""
    rows = [new(f"C{n}", asset_class) for n in range(300)]
    orders = [rows, rows[::-1], rows[150:] + rows[:150], rows[::2] + rows[1::2]]
    answers = await asyncio.gather(*(load(symbols, *order) for order in orders))
    assert [answer.refused for answer in answers] == [0] * 4
    assert sum(answer.created for answer in answers) == 300
    assert tuple(await admin_db.fetchrow(COUNTS)) == (300, 300)
    ids = [{result.ticker: result.symbol_id for result in answer.results} for answer in answers]
    assert ids[0] == ids[1] == ids[2] == ids[3]
