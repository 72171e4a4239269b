"""Backfills and refused bars: IngestService as methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mdw.ingest.v1 import ingest_pb2 as pb
from mdw_client import words
from mdw_client.calls import Call, Pages, Part, R
from mdw_client.methods import listing, operation, subscription
from mdw_client.symbols import Ticker, Tickers, chosen, named

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mdw_client.words import Time, Word

_RPC = "/mdw.ingest.v1.IngestService/"
_PLAN_TIMEOUT = 120.0
ENDED = frozenset({pb.Backfill.SUCCEEDED, pb.Backfill.FAILED, pb.Backfill.CANCELLED})
"""The states that a backfill does not leave by itself."""


@dataclass
class _Watch:
    """Follows one backfill; the server says everything anew to whoever comes back."""

    backfill_id: str
    method: str = _RPC + "WatchBackfill"

    def request(self) -> pb.WatchBackfillRequest:
        return pb.WatchBackfillRequest(backfill_id=self.backfill_id)

    def take(self, message: pb.WatchBackfillResponse) -> Iterable[pb.Backfill]:
        return (message.backfill,)


class Backfills(Part[R]):
    """The work that brings bars in. It is durable: closing the client does not stop it."""

    @operation
    def plan(
        self,
        tickers: Tickers | None = None,
        timeframes: Word | Iterable[Word] = "1d",
        start: Time | None = None,
        end: Time | None = None,
        *,
        asset_class: Word | None = None,
        all_active: bool = False,
        mode: Word | None = None,
        priority: Word | None = None,
    ) -> Call[pb.BackfillPlan]:
        """Says what a backfill would take, and what it would skip and why; changes nothing."""
        request = _request(
            tickers,
            timeframes,
            asset_class,
            all_active=all_active,
            start=start,
            end=end,
            mode=mode,
            priority=priority,
        )
        request.validate_only = True
        return Call(_RPC + "StartBackfill", request, lambda answer: answer.plan, _PLAN_TIMEOUT)

    @operation
    def start(
        self,
        tickers: Tickers | None = None,
        timeframes: Word | Iterable[Word] = "1d",
        start: Time | None = None,
        end: Time | None = None,
        *,
        asset_class: Word | None = None,
        all_active: bool = False,
        mode: Word | None = None,
        priority: Word | None = None,
        request_id: str | None = None,
    ) -> Call[pb.Backfill]:
        """Starts a backfill of tickers (or symbol_ids), of all active ones of a class, or of all active ones.

        `start` is inclusive and `end` exclusive; without them from as far back as there is, to the last closed session.
        """
        request = _request(
            tickers,
            timeframes,
            asset_class,
            all_active=all_active,
            start=start,
            end=end,
            mode=mode,
            priority=priority,
        )
        request.request_id = words.request_id(request_id)
        return Call(_RPC + "StartBackfill", request, lambda answer: answer.backfill, _PLAN_TIMEOUT)

    @operation
    def import_files(
        self,
        path: str,
        timeframe: Word | None = None,
        asset_class: Word | None = None,
        *,
        mode: Word | None = None,
        priority: Word | None = None,
        request_id: str | None = None,
    ) -> Call[pb.Backfill]:
        """Starts the import of a flat file or a folder of them, by its path in the folder that the workers read."""
        request = pb.ImportFilesRequest(
            path=path,
            asset_class=words.asset_class(asset_class),
            timeframe=words.timeframe(timeframe),
            mode=words.word(pb.BackfillMode, mode, "mode", "BACKFILL_MODE_"),
            priority=words.word(pb.Priority, priority, "priority", "PRIORITY_"),
            request_id=words.request_id(request_id),
        )
        return Call(_RPC + "ImportFiles", request, lambda answer: answer.backfill)

    @operation
    def get(self, backfill_id: str) -> Call[pb.Backfill]:
        """Returns one backfill with its progress."""
        request = pb.GetBackfillRequest(backfill_id=backfill_id)
        return Call(_RPC + "GetBackfill", request, lambda answer: answer.backfill)

    @operation
    def status(self, *, stalest: int = 5) -> Call[pb.GetIngestStatusResponse]:
        """Says how all of ingest is doing: queue, limiter, freshness, the series furthest behind, the database."""
        return Call(_RPC + "GetIngestStatus", pb.GetIngestStatusRequest(stalest=stalest), lambda answer: answer)

    @listing
    def list(
        self, *, states: Word | Iterable[Word] = (), kinds: Word | Iterable[Word] = (), page_size: int = 0
    ) -> Pages[pb.Backfill]:
        """Iterates over backfills, newest first."""
        request = pb.ListBackfillsRequest(
            states=words.words(pb.Backfill.State, states, "states"),
            kinds=words.words(pb.Backfill.Kind, kinds, "kinds"),
            page_size=page_size,
        )
        return Pages(_RPC + "ListBackfills", request, lambda answer: answer.backfills)

    @listing
    def slices(
        self, backfill_id: str, *, states: Word | Iterable[Word] = (), symbol_id: int = 0, page_size: int = 0
    ) -> Pages[pb.Slice]:
        """Iterates over the slices of a backfill, each with its state and reason."""
        request = pb.ListSlicesRequest(
            backfill_id=backfill_id,
            states=words.words(pb.Slice.State, states, "states"),
            symbol_id=symbol_id,
            page_size=page_size,
        )
        return Pages(_RPC + "ListSlices", request, lambda answer: answer.slices)

    @subscription
    def watch(self, backfill_id: str) -> _Watch:
        """Iterates over a backfill's progress until it ends: at once, then with every change."""
        return _Watch(backfill_id)

    @operation
    def set_priority(self, backfill_id: str, priority: Word) -> Call[pb.Backfill]:
        """Changes a backfill's priority at once: low, normal or high."""
        value = words.word(pb.Priority, priority, "priority", "PRIORITY_")
        request = pb.UpdateBackfillRequest(backfill_id=backfill_id, priority=value)
        return Call(_RPC + "UpdateBackfill", request, lambda answer: answer.backfill)

    @operation
    def pause(self, backfill_id: str, reason: str = "") -> Call[pb.Backfill]:
        """Pauses a backfill after the parts under way."""
        request = pb.PauseBackfillRequest(backfill_id=backfill_id, reason=reason)
        return Call(_RPC + "PauseBackfill", request, lambda answer: answer.backfill)

    @operation
    def resume(self, backfill_id: str) -> Call[pb.Backfill]:
        """Lets a paused backfill go on."""
        request = pb.ResumeBackfillRequest(backfill_id=backfill_id)
        return Call(_RPC + "ResumeBackfill", request, lambda answer: answer.backfill)

    @operation
    def cancel(self, backfill_id: str) -> Call[pb.Backfill]:
        """Ends a backfill after the parts under way; what is written stays."""
        request = pb.CancelBackfillRequest(backfill_id=backfill_id)
        return Call(_RPC + "CancelBackfill", request, lambda answer: answer.backfill)

    @operation
    def retry(self, backfill_id: str) -> Call[pb.RetryBackfillResponse]:
        """Sets the failed slices of an ended backfill to work again."""
        request = pb.RetryBackfillRequest(backfill_id=backfill_id)
        return Call(_RPC + "RetryBackfill", request, lambda answer: answer)


class Rejects(Part[R]):
    """Bars that were refused as impossible, with the text in which they came."""

    @listing
    def list(
        self,
        ticker: Ticker = "",
        asset_class: Word | None = None,
        *,
        timeframe: Word | None = None,
        reason: str = "",
        page_size: int = 0,
    ) -> Pages[pb.RejectedBar]:
        """Iterates over refused bars, newest first."""
        request = pb.ListRejectedBarsRequest(
            **named(ticker, asset_class), timeframe=words.timeframe(timeframe), reason=reason, page_size=page_size
        )
        return Pages(_RPC + "ListRejectedBars", request, lambda answer: answer.bars)


def _request(
    tickers: Tickers | None,
    timeframes: Word | Iterable[Word],
    asset_class: Word | None,
    *,
    all_active: bool,
    start: Time | None,
    end: Time | None,
    mode: Word | None,
    priority: Word | None,
) -> pb.StartBackfillRequest:
    return pb.StartBackfillRequest(
        **chosen(tickers),
        asset_class=words.asset_class(asset_class),
        all_active=all_active,
        timeframes=words.timeframes(timeframes),
        start_time=words.instant(start, "start"),
        end_time=words.instant(end, "end"),
        mode=words.word(pb.BackfillMode, mode, "mode", "BACKFILL_MODE_"),
        priority=words.word(pb.Priority, priority, "priority", "PRIORITY_"),
    )
