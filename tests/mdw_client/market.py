"""Made-up bars, and a StreamBars that answers from them as the contract says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp

from mdw.ingest.v1.bars_pb2 import Receipt, StreamBarsRequest, StreamBarsResponse, UnresolvedSymbol
from mdw.type.v1.type_pb2 import SYMBOL_NOT_FOUND
from services.kit.errors import MdwError, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY_MS = 86_400_000
FIRST_MS = 1_577_923_200_000
"""2020-01-02T00:00Z."""
AS_OF = Timestamp(seconds=1_700_000_000, nanos=123_456_000)
ABSENT = float("nan")


def chunk(symbol_id: int, ticker: str, rows: range, step_ms: int = DAY_MS) -> StreamBarsResponse:
    """Bars whose values tell their symbol and row; each third has no vwap and no trade_count."""
    closes = [symbol_id * 1000.0 + row for row in rows]
    return StreamBarsResponse(
        symbol_id=symbol_id,
        ticker=ticker,
        start_time_ms=[FIRST_MS + row * step_ms for row in rows],
        open=[close - 0.5 for close in closes],
        high=[close + 1 for close in closes],
        low=[close - 1 for close in closes],
        close=closes,
        volume=[row + 0.25 for row in rows],
        vwap=[ABSENT if row % 3 == 0 else close for row, close in zip(rows, closes, strict=True)],
        trade_count=[-1 if row % 3 == 0 else row * 1000 for row in rows],
        flags=[300 if row == 1 else 0 for row in rows],
    )


@dataclass
class Market:
    """Each symbol has `bars` bars, sent `a_chunk` at a time; the first streams break after `breaks` messages."""

    symbols: dict[str, int] = field(default_factory=lambda: {"AAPL": 1, "MSFT": 2, "BTC-USD": 3})
    bars: int = 10
    a_chunk: int = 4
    step_ms: int = DAY_MS
    tokens: bool = False
    """Whether it says within a symbol where to go on."""
    sent: int = 0
    breaks: list[tuple[int, MdwError | Exception]] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)

    def stream(self, request: StreamBarsRequest) -> Iterator[Any]:
        self.requests.append(request)
        last, error = self.breaks.pop(0) if self.breaks else (None, None)
        return self._messages(request, last, error)

    def _messages(self, request: StreamBarsRequest, last: int | None, error: Any) -> Iterator[Any]:
        for sent, message in enumerate(self._answer(request)):
            if sent == last:
                yield error
            yield message

    def _answer(self, request: StreamBarsRequest) -> Iterator[Any]:
        known = {**self.symbols, **{symbol_id: symbol_id for symbol_id in self.symbols.values()}}
        names = {symbol_id: ticker for ticker, symbol_id in self.symbols.items()}
        wanted = [*request.tickers, *request.symbol_ids] or list(self.symbols)
        unknown = [ticker for ticker in wanted if ticker not in known]
        if unknown and (len(wanted) == 1 or request.strict):
            yield NotFound("SYMBOL_NOT_FOUND", f"no symbol {unknown[0]}", ticker=str(unknown[0]))
        unresolved = [UnresolvedSymbol(ticker=ticker, reason=SYMBOL_NOT_FOUND) for ticker in unknown]
        ids = [known[one] for one in wanted if one in known]
        yield StreamBarsResponse(as_of=AS_OF, unresolved=unresolved, symbol_ids=ids)
        token_of, _, row = request.resume_token.partition(":")
        for symbol_id in ids:
            for first in range(int(row) if token_of == str(symbol_id) else 0, self.bars, self.a_chunk):
                rows = range(first, min(first + self.a_chunk, self.bars))
                message = chunk(symbol_id, names[symbol_id], rows, self.step_ms)
                self.sent += len(rows)
                if self.tokens:
                    message.resume_token = f"{symbol_id}:{rows[-1] + 1}"
                if rows[-1] + 1 == self.bars:
                    message.symbol_receipt.CopyFrom(self._receipt([symbol_id]))
                yield message
        yield StreamBarsResponse(receipt=self._receipt(ids))

    def _receipt(self, symbol_ids: list[int]) -> Receipt:
        last_ms = FIRST_MS + (self.bars - 1) * self.step_ms
        return Receipt(
            bars=self.bars * len(symbol_ids),
            first_time=Timestamp(seconds=FIRST_MS // 1000),
            last_time=Timestamp(seconds=last_ms // 1000),
            sessions_expected=self.bars * len(symbol_ids),
            sessions_missing=0,
            symbol_ids=symbol_ids,
            as_of=AS_OF,
        )
