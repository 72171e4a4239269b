"""Reads an answer of StreamBars to its end, wherever its stream breaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mdw.ingest.v1 import bars_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from google.protobuf.timestamp_pb2 import Timestamp

    from mdw_client.columns import Chunk, Message

STREAM = "/mdw.ingest.v1.BarService/StreamBars"


_SUMS: Final = (
    "bars",
    "sessions_expected",
    "sessions_missing",
    "bars_filtered",
    "actions_applied",
)


class Reader:
    """Reads one answer of StreamBars to its end, over as many calls as it takes.

    A stream that broke is asked for again in the `as_of` of its first message, which gives the same bars in the same
    order, without the symbols that had come whole, and from the last message on within a symbol. What comes again all
    the same, from a server that gave no token, is passed over.
    """

    method = STREAM

    def __init__(self, request: pb.StreamBarsRequest) -> None:
        self._request = request
        self._last: dict[int, np.datetime64 | None] = {}
        self.symbol_ids: list[int] = []
        """Those of the answer, in its order; known from its first message on."""
        self._whole: dict[int, pb.Receipt] = {}
        self._token = ""
        self.receipt = pb.Receipt()
        self.unresolved: list[pb.UnresolvedSymbol] = []

    def request(self) -> pb.StreamBarsRequest:
        """Returns what is to be asked for now."""
        if not self._whole:
            self._request.resume_token = self._token
            return self._request
        # The receipt is still to come: where nothing else is left, with the last symbol.
        left = [symbol_id for symbol_id in self.symbol_ids if symbol_id not in self._whole] or self.symbol_ids[-1:]
        rest = pb.StreamBarsRequest()
        rest.CopyFrom(self._request)
        rest.ClearField("tickers")
        rest.ClearField("symbol_ids")
        rest.ClearField("asset_class")
        rest.ClearField("all_active")
        rest.symbol_ids.extend(left)
        # They all were served before; one that is purged meanwhile ends the answer.
        rest.strict = True
        rest.resume_token = self._token
        return rest

    def take(self, message: Message) -> Iterable[Chunk]:
        rest = message.rest
        if rest.HasField("as_of") and not self._whole:
            self._request.as_of.CopyFrom(rest.as_of)
            self.symbol_ids = list(rest.symbol_ids)
            self.unresolved = list(rest.unresolved)
        if rest.HasField("receipt"):
            self.receipt = self._joined(rest.receipt)
        if message.chunk is not None:
            new = self._new(message.chunk)
            self._token = rest.resume_token
            if rest.HasField("symbol_receipt"):
                self._whole[new.symbol_id], self._token = rest.symbol_receipt, ""
            if len(new) or len(new.deleted) or new.replaces_all:
                yield new

    def _new(self, chunk: Chunk) -> Chunk:
        """Returns the part of a chunk that was not received before the stream broke."""
        seen = self._last.get(chunk.symbol_id)
        new = chunk if seen is None else chunk.after(seen)
        times = new.columns["start_time"]
        self._last[chunk.symbol_id] = times[-1] if len(times) else seen
        return new

    def _joined(self, last: pb.Receipt) -> pb.Receipt:
        """Returns the receipt of the whole answer, of which the last stream may have sent a part."""
        last_ids = set(last.symbol_ids)
        before = [one for symbol_id, one in self._whole.items() if symbol_id not in last_ids]
        if not before:
            return last
        joined = pb.Receipt()
        joined.CopyFrom(last)
        parts = [*before, last]
        for name in _SUMS:
            if any(part.HasField(name) for part in parts):
                setattr(joined, name, sum(getattr(part, name) for part in parts))
        first, end = [part.first_time for part in parts if part.bars], [part.last_time for part in parts if part.bars]
        joined.first_time.CopyFrom(min(first, key=_moment))
        joined.last_time.CopyFrom(max(end, key=_moment))
        joined.ClearField("empty_reason")
        joined.ClearField("sessions_suspect")  # which the symbols' receipts do not say
        joined.as_of_lowered = any(part.as_of_lowered for part in parts)
        joined.ClearField("symbol_ids")
        joined.symbol_ids.extend(self.symbol_ids)
        return joined


def _moment(time: Timestamp) -> tuple[int, int]:
    return time.seconds, time.nanos
