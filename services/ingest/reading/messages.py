"""Bars and receipts as messages of the BarService."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from mdw.ingest.v1 import bars_pb2
from mdw.type.v1 import type_pb2
from services.ingest.calendar import date_of, days_of_minutes
from services.ingest.quality import quality
from services.ingest.timeframes import DAY_MS
from services.kit import checks

if TYPE_CHECKING:
    from services.ingest.reading.blocks import Block
    from services.ingest.reading.receipts import Receipt
    from services.ingest.resolving import Resolution, Unresolved
    from services.ingest.store.snapshots import Snapshot
    from services.ingest.timeframes import Timeframe

MAX_EMPTY = 1_000
RECEIPT_TRAILER = "x-mdw-receipt-bin"
# Clients take at most 8 KiB of metadata, in which binary values grow by a third.
_TRAILER_BYTES = 4_400
_TOLD = ("SYMBOL_AMBIGUOUS", "AS_OF_PURGED")
# A page of 10,000 bars takes a tenth of a second: other calls get their turn in between.
_TURN = 500


def time_of(milliseconds: int | None) -> Timestamp | None:
    """Returns an instant as a message; None stays absent."""
    if milliseconds is None:
        return None
    seconds, rest = divmod(milliseconds, 1000)
    return Timestamp(seconds=seconds, nanos=rest * 1_000_000)


async def to_bars(block: Block, timeframe: Timeframe, calendar: str, symbol_id: int) -> list[bars_pb2.Bar]:
    """Returns one message a bar."""
    messages: list[bars_pb2.Bar] = []
    for start in range(0, len(block), _TURN):
        messages.extend(_bars(block.take(slice(start, start + _TURN)), timeframe, calendar, symbol_id))
        await asyncio.sleep(0)
    return messages


def _bars(block: Block, timeframe: Timeframe, calendar: str, symbol_id: int) -> list[bars_pb2.Bar]:
    bars = block.bars
    days = bars.ts // DAY_MS if timeframe.daily else days_of_minutes(bars.ts, calendar)
    dates = {day: date_of(day).isoformat() for day in np.unique(days).tolist()}
    columns = (bars.ts, days, bars.open, bars.high, bars.low, bars.close, bars.volume, bars.vwap, bars.trade_count)
    rows = zip(*(column.tolist() for column in (*columns, block.flags, quality(block.flags))), strict=True)
    return [
        bars_pb2.Bar(
            start_time=time_of(ts),
            session_date=dates[day],
            open=open_,
            high=high,
            low=low,
            close=close,
            volume=volume,
            vwap=None if vwap != vwap else vwap,  # noqa: PLR0124 - NaN is what differs from itself
            trade_count=None if trades < 0 else trades,
            flags=flags,
            quality=score,
            symbol_id=symbol_id,
        )
        for ts, day, open_, high, low, close, volume, vwap, trades, flags, score in rows
    ]


def to_opening(found: Resolution, snapshot: Snapshot) -> bars_pb2.StreamBarsResponse:
    """Returns the first message of a stream."""
    return bars_pb2.StreamBarsResponse(
        unresolved=[to_unresolved(one) for one in found.unresolved],
        as_of=checks.timestamp(snapshot.as_of),
        symbol_ids=[symbol.symbol_id for symbol in found.symbols],
    )


def to_unresolved(one: Unresolved) -> bars_pb2.UnresolvedSymbol:
    """Returns what was asked for and is not served."""
    told = one.error.reason if one.error.reason in _TOLD else "SYMBOL_NOT_FOUND"
    reason = type_pb2.ErrorReason.Value(told)
    return bars_pb2.UnresolvedSymbol(ticker=one.ticker, symbol_id=one.symbol_id, reason=reason)


def to_receipt(receipt: Receipt) -> bars_pb2.Receipt:
    """Returns the account of an answer."""
    return bars_pb2.Receipt(
        bars=receipt.bars,
        first_time=time_of(receipt.first_ms),
        last_time=time_of(receipt.last_ms),
        sessions_expected=receipt.sessions_expected,
        sessions_missing=receipt.sessions_missing,
        sessions_suspect=receipt.sessions_suspect,
        bars_filtered=receipt.bars_filtered,
        actions_applied=receipt.actions_applied,
        empty_reason=receipt.empty_reason or 0,  # type: ignore[arg-type]
        as_of=checks.timestamp(receipt.snapshot.as_of),
        as_of_lowered=receipt.snapshot.lowered,
        symbol_ids=receipt.symbol_ids,
        empty_series=[
            bars_pb2.EmptySeries(symbol_id=symbol.symbol_id, ticker=symbol.ticker, reason=reason)  # type: ignore[arg-type]
            for symbol, reason in receipt.empty[:MAX_EMPTY]
        ],
    )


def trailer(receipt: bars_pb2.Receipt) -> tuple[str, bytes]:
    """Returns a receipt as metadata, without those of its lists that are too long for it."""
    short = bars_pb2.Receipt()
    short.CopyFrom(receipt)
    for name in ("empty_series", "symbol_ids"):
        if short.ByteSize() > _TRAILER_BYTES:
            short.ClearField(name)
    return RECEIPT_TRAILER, short.SerializeToString()
