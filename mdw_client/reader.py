"""Reads an answer of StreamBars to its end, wherever its stream breaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdw.ingest.v1 import bars_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

    from mdw_client.columns import Chunk, Message

STREAM = "/mdw.ingest.v1.BarService/StreamBars"


class Reader:
    """Reads one answer of StreamBars to its end, over as many calls as it takes.

    A stream that broke is asked for again in the `as_of` of its first message, which gives the same bars in the same
    order, and what was received before is passed over.
    """

    method = STREAM

    def __init__(self, request: pb.StreamBarsRequest) -> None:
        self._request = request
        self._last: dict[int, np.datetime64 | None] = {}
        self.receipt = pb.Receipt()
        self.unresolved: list[pb.UnresolvedSymbol] = []

    def request(self) -> pb.StreamBarsRequest:
        return self._request

    def take(self, message: Message) -> Iterable[Chunk]:
        rest = message.rest
        if rest.HasField("as_of"):
            self._request.as_of.CopyFrom(rest.as_of)
            self.unresolved = list(rest.unresolved)
        if rest.HasField("receipt"):
            self.receipt = rest.receipt
        if message.chunk is not None:
            new = self._new(message.chunk)
            if len(new) or len(new.deleted) or new.replaces_all:
                yield new

    def _new(self, chunk: Chunk) -> Chunk:
        """Returns the part of a chunk that was not received before the stream broke."""
        seen = self._last.get(chunk.symbol_id)
        new = chunk if seen is None else chunk.after(seen)
        times = new.columns["start_time"]
        self._last[chunk.symbol_id] = times[-1] if len(times) else seen
        return new
