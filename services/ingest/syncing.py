"""What the IngestService does besides bars: symbols, splits and dividends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToJson

from mdw.ingest.v1 import ingest_pb2
from services.ingest import requests
from services.ingest.answers import to_backfill
from services.ingest.corporate_actions import ABSURD
from services.ingest.reading.adjust import REPEATED
from services.ingest.resolving import Wanted, resolve, resolve_one
from services.ingest.store.starts import Original
from services.ingest.store.syncs import ACTIONS, AHEAD, SYMBOLS
from services.ingest.symbol_lists import MARKETS
from services.ingest.sync_plans import SyncSlice, plan_actions
from services.ingest.watching import overall_pace
from services.kit import calls, checks, paging
from services.kit.errors import InvalidArgument
from services.kit.tickers import CRYPTO, ETF, STOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from services.ingest.store.jobs import Job
    from services.ingest.store.symbols import SymbolStore
    from services.ingest.store.syncs import ListedAction, Syncs
    from services.kit.paging import PageTokens

MARKET_OF = {STOCK: "stocks", ETF: "stocks", CRYPTO: "crypto"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Syncing:
    """Checks what is asked for, starts the work, and lists what it brought."""

    symbols: SymbolStore
    syncs: Syncs
    tokens: PageTokens

    async def sync_symbols(self, request: ingest_pb2.SyncSymbolsRequest) -> ingest_pb2.SyncSymbolsResponse:
        """Starts a job that asks for the provider's lists of symbols."""
        priority = requests.symbols_priority(request)
        markets = [one for one in MARKETS if not request.asset_class or one == MARKET_OF[request.asset_class]]
        answer = await self.syncs.start(
            calls.current(),
            SYMBOLS,
            [SyncSlice(one) for one in markets],
            _original(request),
            _answering(ingest_pb2.SyncSymbolsResponse),
            priority=priority,
        )
        return ingest_pb2.SyncSymbolsResponse.FromString(answer)

    async def sync_actions(self, request: ingest_pb2.SyncActionsRequest) -> ingest_pb2.SyncActionsResponse:
        """Starts a job that asks for splits and dividends."""
        terms = requests.sync_terms(request, datetime.now(UTC))
        span = terms.first, datetime.now(UTC).date() + AHEAD
        slices = plan_actions(await self._tickers(request), *span)
        answer = await self.syncs.start(
            calls.current(),
            ACTIONS,
            slices,
            _original(request),
            _answering(ingest_pb2.SyncActionsResponse),
            priority=terms.priority,
            span=span,
        )
        return ingest_pb2.SyncActionsResponse.FromString(answer)

    async def list_actions(
        self, request: ingest_pb2.ListCorporateActionsRequest
    ) -> ingest_pb2.ListCorporateActionsResponse:
        """Answers ListCorporateActions."""
        size = paging.page_size(request.page_size)
        kind = requests.known("kind", request.kind, ingest_pb2.CorporateAction.Kind) if request.kind else 0
        span = requests.dates_between(request)
        filters = _filters(request)
        position = self.tokens.read(request.page_token, "ListCorporateActions", filters)
        before = (date.fromisoformat(str(position[0])), int(position[1] or 0)) if position else None
        symbol_id = await self._symbol_id(request)
        rows = await self.syncs.actions(symbol_id=symbol_id, kind=kind, span=span, before=before, limit=size + 1)
        answer = ingest_pb2.ListCorporateActionsResponse(actions=[to_action(row) for row in rows[:size]])
        if len(rows) > size:
            last = rows[size - 1]
            where = (str(last.ex_date), last.action_id)
            answer.next_page_token = self.tokens.make("ListCorporateActions", filters, where)
        return answer

    async def _tickers(self, request: ingest_pb2.SyncActionsRequest) -> list[Sequence[str]]:
        """Returns the provider's tickers of the symbols that are asked for, symbol by symbol."""
        if not request.tickers and not request.symbol_ids:
            return await self.syncs.listed_tickers()
        wanted = Wanted(tickers=request.tickers, asset_class=request.asset_class, symbol_ids=request.symbol_ids)
        found = (await resolve(self.symbols, wanted, strict=True)).symbols
        coins = [one.ticker for one in found if one.asset_class == CRYPTO]
        if coins:
            raise InvalidArgument("tickers", f"coins have no corporate actions: {', '.join(coins[:20])}")
        return [[span.provider_ticker for span in one.spans] for one in found]

    async def _symbol_id(self, request: ingest_pb2.ListCorporateActionsRequest) -> int:
        if not request.ticker and not request.symbol_id:
            return 0
        found = await resolve_one(self.symbols, request.ticker, request.asset_class, request.symbol_id)
        return found.symbol_id


def to_action(row: ListedAction) -> ingest_pb2.CorporateAction:
    """Returns an action as people see it."""
    return ingest_pb2.CorporateAction(
        action_id=row.action_id,
        symbol_id=row.symbol_id,
        ticker=row.ticker or "",
        kind=row.kind,  # type: ignore[arg-type]
        ex_date=str(row.ex_date),
        split_from=row.split_from,
        split_to=row.split_to,
        cash_amount=row.cash_amount,
        currency=row.currency,
        source_id=row.source_id,
        source_time=checks.timestamp(row.source_time),
        repeats_another=bool(row.flags & REPEATED),
        absurd_ratio=bool(row.flags & ABSURD),
    )


def _original(request: Any) -> Original:
    return Original(request.request_id, request.SerializeToString(deterministic=True), MessageToJson(request))


def _answering(response: Any) -> Callable[[Job], bytes]:
    def answer(job: Job) -> bytes:
        started = response(backfill=to_backfill(job, overall_pace(job)))
        return bytes(started.SerializeToString(deterministic=True))

    return answer


def _filters(request: ingest_pb2.ListCorporateActionsRequest) -> bytes:
    """Returns what a page token must have been made for: all fields but those of the page."""
    filters = ingest_pb2.ListCorporateActionsRequest()
    filters.CopyFrom(request)
    filters.ClearField("page_size")
    filters.ClearField("page_token")
    return filters.SerializeToString(deterministic=True)
