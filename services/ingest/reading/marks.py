"""Where an answer that was cut off goes on: a token in each message, which a later request hands back."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, cast

from services.kit import checks
from services.kit.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from mdw.ingest.v1 import bars_pb2
    from services.kit.paging import PageTokens

_METHOD = "StreamBars"
_FREE = ("tickers", "asset_class", "symbol_ids", "all_active", "strict", "as_of", "resume_token")
"""What may differ between a request and the one that goes on for it."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a series has come: what was sent, what is to be read again, and what is counted already."""

    sent_ms: int
    """Start of the last bar that was sent."""
    start_ms: int
    """Where the question begins: with `last`, later than was asked."""
    next_ms: int
    """Stored bars are read from here on; some may wait for the rest of their window."""
    counted_ms: int
    """Stored bars up to here are in the account."""
    account: tuple[int | None, ...]
    bars: int
    first_ms: int | None
    last_ms: int | None


class Marks:
    """Makes the tokens of one answer, and knows the one of its request."""

    def __init__(self, tokens: PageTokens, request: bars_pb2.StreamBarsRequest) -> None:
        """Raises InvalidArgument PAGE_TOKEN_INVALID for a token of another question."""
        self._tokens = tokens
        same: Any = type(request)()
        same.CopyFrom(request)
        for name in _FREE:
            same.ClearField(name)
        self._filters = same.SerializeToString(deterministic=True)
        self.as_of: datetime | None = None
        """Of the answer that was cut off."""
        self._given: tuple[int, Standing] | None = None
        read = tokens.read(request.resume_token, _METHOD, self._filters, field="resume_token")
        if read is not None:
            micros, symbol_id, sent, start, next_, counted, bars, first, last, *account = cast("list[Any]", read)
            self.as_of = checks.from_micros(micros)
            self._given = symbol_id, Standing(sent, start, next_, counted, tuple(account), bars, first, last)

    def check(self, symbol_ids: Iterable[int]) -> None:
        """Raises InvalidArgument PAGE_TOKEN_INVALID where the token is of none of these symbols."""
        if self._given and self._given[0] not in symbol_ids:
            text = "goes on in a symbol that is not asked for"
            raise InvalidArgument("resume_token", text, reason="PAGE_TOKEN_INVALID")

    def of(self, symbol_id: int) -> Standing | None:
        """Returns from where a symbol goes on, None where it is sent from its start."""
        return self._given[1] if self._given and self._given[0] == symbol_id else None

    def make(self, as_of: datetime, symbol_id: int, standing: Standing) -> str:
        """Returns the token of a message."""
        sent, start, next_, counted, account, *answered = astuple(standing)
        position = (checks.micros(as_of), symbol_id, sent, start, next_, counted, *answered, *account)
        return self._tokens.make(_METHOD, self._filters, position)
