"""What the tests of symbols say again and again."""

from __future__ import annotations

import grpc
import pytest

from mdw.symbols.v1 import symbols_pb2 as pb
from mdw.type.v1 import type_pb2 as types
from tests.support import reason

STOCK, ETF, CRYPTO = types.ASSET_CLASS_STOCK, types.ASSET_CLASS_ETF, types.ASSET_CLASS_CRYPTO
DAY, MINUTE = types.TIMEFRAME_1D, types.TIMEFRAME_1M


def new(ticker: str, asset_class: int = STOCK, **fields) -> pb.NewSymbol:
    return pb.NewSymbol(ticker=ticker, asset_class=asset_class, **fields)


def request(ticker: str, asset_class: int = STOCK, request_id: str = "", **fields) -> pb.CreateSymbolRequest:
    return pb.CreateSymbolRequest(symbol=new(ticker, asset_class, **fields), request_id=request_id)


async def create(symbols, ticker: str, asset_class: int = STOCK, **fields) -> pb.Symbol:
    return (await symbols.CreateSymbol(request(ticker, asset_class, **fields))).symbol


async def get(symbols, ticker: str = "", **fields) -> pb.Symbol:
    return (await symbols.GetSymbol(pb.GetSymbolRequest(ticker=ticker, **fields))).symbol


async def rename(symbols, ticker: str, new_ticker: str, day: str, asset_class: int = STOCK) -> pb.Symbol:
    change = pb.RecordTickerChangeRequest(
        symbol=pb.SymbolKey(ticker=ticker, asset_class=asset_class), new_ticker=new_ticker, from_date=day
    )
    return (await symbols.RecordTickerChange(change)).symbol


async def facebook(symbols) -> pb.Symbol:
    """Registers Meta, which was FB until June 2022."""
    await create(symbols, "FB", from_date="2012-05-18", name="Meta Platforms, Inc.")
    return await rename(symbols, "FB", "META", "2022-06-09")


async def refusal(call, expected: str) -> grpc.aio.AioRpcError:
    """Awaits a call that must be refused for a reason, and returns the error."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    assert reason(refused.value) == expected, refused.value
    return refused.value


def spans(symbol: pb.Symbol) -> list[tuple[str, str, str]]:
    return [(span.ticker, span.from_date, span.to_date) for span in symbol.tickers]
