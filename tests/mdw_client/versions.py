"""A StreamBars over made-up bars of which every version is kept: as_of, changed_since, purging, new tickers."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp

from mdw.ingest.v1.bars_pb2 import Receipt, StreamBarsRequest, StreamBarsResponse, UnresolvedSymbol
from services.kit.errors import FailedPrecondition, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY_MS = 86_400_000
_A_CHUNK = 2
Bars = dict[int, float]


@dataclass
class Versions:
    """`history[n]` is what is stored as of second n: the bars of each symbol, close by day."""

    history: list[dict[int, Bars]] = field(default_factory=lambda: [{}])
    tickers: dict[int, str] = field(default_factory=dict)
    actions: list[tuple[int, int]] = field(default_factory=list)
    purged: int = 0
    """Answers as of before this second are refused: for `purged_symbol` alone, else (0) for all."""
    purged_symbol: int = 0
    breaks: list[int] = field(default_factory=list)
    requests: list[StreamBarsRequest] = field(default_factory=list)

    @property
    def now(self) -> dict[int, Bars]:
        return self.history[-1]

    def change(self, symbol_id: int, bars: dict[int, float | None]) -> None:
        """Writes, corrects and deletes bars in one go."""
        new = copy.deepcopy(self.now)
        held = new.setdefault(symbol_id, {})
        for day, close in bars.items():
            held.pop(day, None)
            if close is not None:
                held[day] = close
        self.tickers.setdefault(symbol_id, f"T{symbol_id}")
        self.history.append(new)

    def act(self, symbol_id: int) -> None:
        """A split: every bar changes."""
        self.change(symbol_id, {day: close / 2 for day, close in self.now.get(symbol_id, {}).items()})
        self.actions.append((symbol_id, len(self.history) - 1))

    def stream(self, request: StreamBarsRequest) -> Any:
        self.requests.append(request)
        last = self.breaks.pop(0) if self.breaks else None
        since = request.changed_since.seconds if request.HasField("changed_since") else None
        alone = list(request.symbol_ids) == [self.purged_symbol]
        if since is not None and since < self.purged and (alone or not self.purged_symbol):
            return FailedPrecondition("AS_OF_PURGED", "purged")
        return self._cut(self._answer(request, since), last)

    def _cut(self, messages: Iterator[Any], last: int | None) -> Iterator[Any]:
        for sent, message in enumerate(messages):
            if sent == last:
                yield Unavailable("NODE_UNAVAILABLE", "away", retry_after=0)
            yield message

    def _answer(self, request: StreamBarsRequest, since: int | None) -> Iterator[Any]:
        at = request.as_of.seconds if request.HasField("as_of") else len(self.history) - 1
        as_of = Timestamp(seconds=at)
        ids = list(request.symbol_ids) or sorted(self.history[at])
        left_out = (
            [self.purged_symbol] if since is not None and since < self.purged and self.purged_symbol in ids else []
        )
        ids = [symbol_id for symbol_id in ids if symbol_id not in left_out]
        unresolved = [UnresolvedSymbol(symbol_id=symbol_id, reason="AS_OF_PURGED") for symbol_id in left_out]
        yield StreamBarsResponse(as_of=as_of, unresolved=unresolved, symbol_ids=ids)
        sent = 0
        for symbol_id in ids:
            for message in self._symbol(symbol_id, at, since):
                sent += len(message.close)
                yield message
        yield StreamBarsResponse(receipt=Receipt(bars=sent, symbol_ids=ids, as_of=as_of))

    def _symbol(self, symbol_id: int, at: int, since: int | None) -> Iterator[StreamBarsResponse]:
        new = self.history[at].get(symbol_id, {})
        old = self.history[since].get(symbol_id, {}) if since is not None else {}
        again = since is not None and any(each == symbol_id and since < then <= at for each, then in self.actions)
        if again:
            old = {}
        rows = sorted(day for day, close in new.items() if old.get(day) != close)
        gone = [] if again else sorted(set(old) - set(new))
        head = {"symbol_id": symbol_id, "ticker": self.tickers[symbol_id]}
        if again:
            yield StreamBarsResponse(**head, replaces_all=True)
        for first in range(0, max(len(rows), len(gone)), _A_CHUNK):
            days = rows[first : first + _A_CHUNK]
            closes: Any = [new[day] for day in days]
            prices: Any = dict.fromkeys(("open", "high", "low", "close", "volume", "vwap"), closes)
            yield StreamBarsResponse(
                **head,
                start_time_ms=[day * DAY_MS for day in days],
                **prices,
                trade_count=[-1] * len(days),
                flags=[0] * len(days),
                deleted_time_ms=[day * DAY_MS for day in gone[first : first + _A_CHUNK]],
            )
