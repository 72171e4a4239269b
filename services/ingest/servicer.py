"""mdw.ingest.v1.IngestService: backfills, their slices, refused bars, and deletions."""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from google.protobuf.json_format import MessageToJson

from mdw.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from services.ingest import requests
from services.ingest.answers import to_backfill, to_plan, to_rejected_bar, to_slice, to_watched
from services.ingest.resolving import MAX_SYMBOLS, resolve, resolve_one
from services.ingest.store.known import Ask
from services.ingest.store.starts import Original
from services.ingest.watching import overall_pace
from services.kit import calls, checks, paging
from services.kit.errors import FailedPrecondition, InvalidArgument
from services.kit.scopes import scopes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from google.protobuf.message import Message

    from services.ingest.bulk import Bulk
    from services.ingest.completeness import Completeness
    from services.ingest.schedule_calls import Scheduling
    from services.ingest.status import Status
    from services.ingest.store.jobs import Job, Jobs
    from services.ingest.store.rejects import Rejects
    from services.ingest.store.starts import Started, Starts
    from services.ingest.store.steering import Steering
    from services.ingest.store.symbols import Symbol, SymbolStore
    from services.ingest.syncing import Syncing
    from services.ingest.watching import Watching
    from services.kit.paging import PageTokens

_NAMED_IN_ERRORS = 20


class IngestServicer(ingest_pb2_grpc.IngestServiceServicer):
    """mdw.ingest.v1.IngestService, in the order of the proto."""

    def __init__(
        self,
        *,
        symbols: SymbolStore,
        starts: Starts,
        jobs: Jobs,
        steering: Steering,
        rejects: Rejects,
        watching: Watching,
        tokens: PageTokens,
        completeness: Completeness,
        scheduling: Scheduling,
        bulk: Bulk,
        syncing: Syncing,
        status: Status,
    ) -> None:
        self._symbols = symbols
        self._starts = starts
        self._jobs = jobs
        self._steering = steering
        self._rejects = rejects
        self._watching = watching
        self._tokens = tokens
        self._completeness = completeness
        self._scheduling = scheduling
        self._bulk = bulk
        self._syncing = syncing
        self._status = status

    @scopes("ingest.write")
    async def StartBackfill(
        self, request: ingest_pb2.StartBackfillRequest, context: Any
    ) -> ingest_pb2.StartBackfillResponse:
        terms = requests.backfill_terms(request, datetime.now(UTC), await self._starts.horizon())
        found = await resolve(self._symbols, terms.wanted, strict=True)
        ask = Ask(
            symbols=_all_active(found.symbols),
            timeframes=terms.timeframes,
            first=terms.first,
            end=terms.end,
            mode=terms.mode,
            priority=terms.priority,
        )
        if request.validate_only:
            return ingest_pb2.StartBackfillResponse(plan=to_plan(await self._starts.plan(ask)))
        original = Original(request.request_id, _body(request), MessageToJson(request))
        answer = await self._starts.start(calls.current(), ask, original, _started)
        return ingest_pb2.StartBackfillResponse.FromString(answer)

    @scopes("ingest.read")
    async def GetBackfill(self, request: ingest_pb2.GetBackfillRequest, context: Any) -> ingest_pb2.GetBackfillResponse:
        return ingest_pb2.GetBackfillResponse(backfill=_backfill(await self._jobs.get(_id(request))))

    @scopes("ingest.read")
    async def ListBackfills(
        self, request: ingest_pb2.ListBackfillsRequest, context: Any
    ) -> ingest_pb2.ListBackfillsResponse:
        size = paging.page_size(request.page_size)
        states = requests.all_known("states", request.states, ingest_pb2.Backfill.State)
        kinds = requests.all_known("kinds", request.kinds, ingest_pb2.Backfill.Kind)
        position = self._tokens.read(request.page_token, "ListBackfills", _filters(request))
        jobs = await self._jobs.page(states, kinds, _created(position), size + 1)
        answer = ingest_pb2.ListBackfillsResponse(backfills=[_backfill(job) for job in jobs[:size]])
        if len(jobs) > size:
            last = jobs[size - 1]
            where = (checks.micros(last.create_time), str(last.backfill_id))
            answer.next_page_token = self._tokens.make("ListBackfills", _filters(request), where)
        return answer

    @scopes("ingest.read")
    async def ListSlices(self, request: ingest_pb2.ListSlicesRequest, context: Any) -> ingest_pb2.ListSlicesResponse:
        size = paging.page_size(request.page_size)
        states = requests.all_known("states", request.states, ingest_pb2.Slice.State)
        symbol_id = requests.symbol_id(request.symbol_id)
        position = self._tokens.read(request.page_token, "ListSlices", _filters(request))
        after = _int(position[0]) if position else 0
        rows = await self._jobs.slices(_id(request), states, symbol_id, after, size + 1)
        answer = ingest_pb2.ListSlicesResponse(slices=[to_slice(row) for row in rows[:size]])
        if len(rows) > size:
            answer.next_page_token = self._tokens.make("ListSlices", _filters(request), [rows[size - 1].slice_id])
        return answer

    @scopes("ingest.read")
    async def WatchBackfill(
        self, request: ingest_pb2.WatchBackfillRequest, context: Any
    ) -> AsyncIterator[ingest_pb2.WatchBackfillResponse]:
        async with aclosing(self._watching.watch(_id(request))) as observations:
            async for seen in observations:
                yield to_watched(seen)

    @scopes("ingest.write")
    async def UpdateBackfill(
        self, request: ingest_pb2.UpdateBackfillRequest, context: Any
    ) -> ingest_pb2.UpdateBackfillResponse:
        priority = requests.settable_priority(request.priority)
        job = await self._steering.set_priority(calls.current(), _id(request), priority)
        return ingest_pb2.UpdateBackfillResponse(backfill=_backfill(job))

    @scopes("ingest.write")
    async def PauseBackfill(
        self, request: ingest_pb2.PauseBackfillRequest, context: Any
    ) -> ingest_pb2.PauseBackfillResponse:
        call = calls.current()
        reason = requests.pause_reason(request.reason, default=f"paused by key {call.key_preview}")
        job = await self._steering.pause(call, _id(request), reason)
        return ingest_pb2.PauseBackfillResponse(backfill=_backfill(job))

    @scopes("ingest.write")
    async def ResumeBackfill(
        self, request: ingest_pb2.ResumeBackfillRequest, context: Any
    ) -> ingest_pb2.ResumeBackfillResponse:
        job = await self._steering.resume(calls.current(), _id(request))
        return ingest_pb2.ResumeBackfillResponse(backfill=_backfill(job))

    @scopes("ingest.write")
    async def CancelBackfill(
        self, request: ingest_pb2.CancelBackfillRequest, context: Any
    ) -> ingest_pb2.CancelBackfillResponse:
        job = await self._steering.cancel(calls.current(), _id(request))
        return ingest_pb2.CancelBackfillResponse(backfill=_backfill(job))

    @scopes("ingest.write")
    async def RetryBackfill(
        self, request: ingest_pb2.RetryBackfillRequest, context: Any
    ) -> ingest_pb2.RetryBackfillResponse:
        job, slices = await self._steering.retry(calls.current(), _id(request))
        return ingest_pb2.RetryBackfillResponse(backfill=_backfill(job), slices=slices)

    @scopes("ingest.read")
    async def ListRejectedBars(
        self, request: ingest_pb2.ListRejectedBarsRequest, context: Any
    ) -> ingest_pb2.ListRejectedBarsResponse:
        size = paging.page_size(request.page_size)
        timeframe = requests.stored_timeframe(request.timeframe)
        reason = requests.reject_reason(request.reason)
        symbol_id = await self._asked_symbol(request)
        position = self._tokens.read(request.page_token, "ListRejectedBars", _filters(request))
        before = _int(position[0]) if position else None
        rows = await self._rejects.page(symbol_id, timeframe, reason, before, size + 1)
        answer = ingest_pb2.ListRejectedBarsResponse(bars=[to_rejected_bar(row) for row in rows[:size]])
        if len(rows) > size:
            last = [rows[size - 1].reject_id]
            answer.next_page_token = self._tokens.make("ListRejectedBars", _filters(request), last)
        return answer

    @scopes("ingest.read", "bars.read")
    async def GetCoverage(self, request: ingest_pb2.GetCoverageRequest, context: Any) -> ingest_pb2.GetCoverageResponse:
        return await self._completeness.coverage(request)

    @scopes("ingest.read", "bars.read")
    async def WatchSession(
        self, request: ingest_pb2.WatchSessionRequest, context: Any
    ) -> AsyncIterator[ingest_pb2.WatchSessionResponse]:
        async with aclosing(self._completeness.watch(request)) as messages:
            async for message in messages:
                yield message

    @scopes("ingest.read")
    async def GetSchedule(self, request: ingest_pb2.GetScheduleRequest, context: Any) -> ingest_pb2.GetScheduleResponse:
        return ingest_pb2.GetScheduleResponse(schedule=await self._scheduling.overview())

    @scopes("ingest.write")
    async def RunSchedule(self, request: ingest_pb2.RunScheduleRequest, context: Any) -> ingest_pb2.RunScheduleResponse:
        return await self._scheduling.run(request)

    @scopes("ingest.write")
    async def PauseSchedule(
        self, request: ingest_pb2.PauseScheduleRequest, context: Any
    ) -> ingest_pb2.PauseScheduleResponse:
        return ingest_pb2.PauseScheduleResponse(schedule=await self._scheduling.set_paused(request.note, paused=True))

    @scopes("ingest.write")
    async def ResumeSchedule(
        self, request: ingest_pb2.ResumeScheduleRequest, context: Any
    ) -> ingest_pb2.ResumeScheduleResponse:
        return ingest_pb2.ResumeScheduleResponse(schedule=await self._scheduling.set_paused(request.note, paused=False))

    @scopes("ingest.write")
    async def SyncSymbols(self, request: ingest_pb2.SyncSymbolsRequest, context: Any) -> ingest_pb2.SyncSymbolsResponse:
        return await self._syncing.sync_symbols(request)

    @scopes("ingest.write")
    async def SyncActions(self, request: ingest_pb2.SyncActionsRequest, context: Any) -> ingest_pb2.SyncActionsResponse:
        return await self._syncing.sync_actions(request)

    @scopes("ingest.read", "bars.read")
    async def ListCorporateActions(
        self, request: ingest_pb2.ListCorporateActionsRequest, context: Any
    ) -> ingest_pb2.ListCorporateActionsResponse:
        return await self._syncing.list_actions(request)

    @scopes("ingest.write")
    async def ImportFiles(self, request: ingest_pb2.ImportFilesRequest, context: Any) -> ingest_pb2.ImportFilesResponse:
        return await self._bulk.import_files(request)

    @scopes("ingest.delete")
    async def DeleteBars(self, request: ingest_pb2.DeleteBarsRequest, context: Any) -> ingest_pb2.DeleteBarsResponse:
        return await self._bulk.delete(request)

    @scopes("ingest.read")
    async def GetIngestStatus(
        self, request: ingest_pb2.GetIngestStatusRequest, context: Any
    ) -> ingest_pb2.GetIngestStatusResponse:
        return await self._status.read(request)

    async def _asked_symbol(self, request: ingest_pb2.ListRejectedBarsRequest) -> int:
        """Returns the symbol's id, 0 if none is asked for."""
        if not request.ticker and not request.symbol_id:
            return 0
        found = await resolve_one(self._symbols, request.ticker, request.asset_class, request.symbol_id)
        return found.symbol_id


def _all_active(symbols: Sequence[Symbol]) -> Sequence[Symbol]:
    """Returns symbols as they are, if all are active and they are not too many."""
    if len(symbols) > MAX_SYMBOLS:
        raise InvalidArgument(
            "asset_class", f"{len(symbols)} symbols are active, a backfill takes {MAX_SYMBOLS}: name them"
        )
    inactive = [one.ticker for one in symbols if not one.active]
    if inactive:
        names = ", ".join(inactive[:_NAMED_IN_ERRORS])
        raise FailedPrecondition("SYMBOL_INACTIVE", f"not active: {names}; ActivateSymbols makes them so", ticker=names)
    return symbols


def _started(started: Started) -> bytes:
    return _body(ingest_pb2.StartBackfillResponse(backfill=_backfill(started.job), plan=to_plan(started.planned)))


def _backfill(job: Job) -> ingest_pb2.Backfill:
    return to_backfill(job, overall_pace(job))


def _id(request: Any) -> UUID:
    return checks.uuid("backfill_id", request.backfill_id)


def _created(position: Sequence[Any] | None) -> tuple[datetime, UUID] | None:
    return (checks.from_micros(_int(position[0])), UUID(str(position[1]))) if position else None


def _int(value: Any) -> int:
    return int(value or 0)


def _filters(request: Any) -> bytes:
    """Returns what a page token must have been made for: all fields but those of the page."""
    filters = type(request)()
    filters.CopyFrom(request)
    filters.ClearField("page_size")
    filters.ClearField("page_token")
    return _body(filters)


def _body(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)
