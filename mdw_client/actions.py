"""Splits and dividends, and what is fetched besides bars: those RPCs of IngestService as methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdw.ingest.v1 import ingest_pb2 as pb
from mdw_client import words
from mdw_client.calls import Call, Pages, Part, R
from mdw_client.methods import listing, operation
from mdw_client.symbols import chosen

if TYPE_CHECKING:
    from mdw_client.symbols import Tickers
    from mdw_client.words import Time, Word

_RPC = "/mdw.ingest.v1.IngestService/"


class Actions(Part[R]):
    """Corporate actions as the provider tells them, and symbols from its lists."""

    @listing
    def list(
        self,
        ticker: str | int | None = None,
        kind: Word | None = None,
        start: Time | None = None,
        end: Time | None = None,
        *,
        asset_class: Word | None = None,
        page_size: int = 0,
    ) -> Pages[pb.CorporateAction]:
        """Iterates over splits and dividends, the latest ex-date first; `start` is inclusive and `end` exclusive."""
        request = pb.ListCorporateActionsRequest(
            ticker=ticker if isinstance(ticker, str) else "",
            symbol_id=ticker if isinstance(ticker, int) else 0,
            asset_class=words.asset_class(asset_class),
            kind=words.word(pb.CorporateAction.Kind, kind, "kind"),
            start_time=words.instant(start, "start"),
            end_time=words.instant(end, "end"),
            page_size=page_size,
        )
        return Pages(_RPC + "ListCorporateActions", request, lambda answer: answer.actions)

    @operation
    def sync(
        self,
        tickers: Tickers | None = None,
        start: Time | None = None,
        *,
        asset_class: Word | None = None,
        priority: Word | None = None,
        request_id: str | None = None,
    ) -> Call[pb.Backfill]:
        """Starts a job that fetches splits and dividends; without tickers those of every registered stock and ETF."""
        request = pb.SyncActionsRequest(
            **chosen(tickers),
            asset_class=words.asset_class(asset_class),
            start_time=words.instant(start, "start"),
            priority=words.word(pb.Priority, priority, "priority", "PRIORITY_"),
            request_id=words.request_id(request_id),
        )
        return Call(_RPC + "SyncActions", request, lambda answer: answer.backfill)

    @operation
    def sync_symbols(
        self, asset_class: Word | None = None, *, priority: Word | None = None, request_id: str | None = None
    ) -> Call[pb.Backfill]:
        """Starts a job that brings the registry up to the provider's lists, new symbols inactive."""
        request = pb.SyncSymbolsRequest(
            asset_class=words.asset_class(asset_class),
            priority=words.word(pb.Priority, priority, "priority", "PRIORITY_"),
            request_id=words.request_id(request_id),
        )
        return Call(_RPC + "SyncSymbols", request, lambda answer: answer.backfill)
