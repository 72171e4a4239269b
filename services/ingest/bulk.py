"""What the IngestService does with bars in bulk: deletions, and imports of files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToJson

from mdw.ingest.v1 import ingest_pb2
from services.ingest import requests
from services.ingest.answers import to_backfill
from services.ingest.resolving import resolve_one
from services.ingest.store.deletions import Ask
from services.ingest.store.starts import Original
from services.ingest.watching import overall_pace
from services.kit import calls

if TYPE_CHECKING:
    from services.ingest.store.deletions import Deletions
    from services.ingest.store.imports import Imports
    from services.ingest.store.jobs import Job
    from services.ingest.store.starts import Starts
    from services.ingest.store.symbols import SymbolStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """Checks what is asked for, and starts the work."""

    symbols: SymbolStore
    starts: Starts
    deletions: Deletions
    imports: Imports

    async def delete(self, request: ingest_pb2.DeleteBarsRequest) -> ingest_pb2.DeleteBarsResponse:
        """Starts a deletion, or says how many bars it would take away."""
        terms = requests.deletion_terms(request, await self.starts.horizon())
        symbol = await resolve_one(self.symbols, request.ticker, request.asset_class, request.symbol_id)
        ask = Ask(
            symbol_id=symbol.symbol_id,
            asset_class=symbol.asset_class,
            ticker=symbol.spans[-1].provider_ticker,
            timeframe=request.timeframe,
            first=terms.first,
            last=terms.end - timedelta(days=1),
            reason=terms.reason,
            purge=request.purge,
            priority=terms.priority,
        )
        bars = await self.deletions.count(ask)
        if request.validate_only:
            return ingest_pb2.DeleteBarsResponse(bars=bars)

        def answer(job: Job) -> bytes:
            started = ingest_pb2.DeleteBarsResponse(backfill=to_backfill(job, overall_pace(job)), bars=bars)
            return started.SerializeToString(deterministic=True)

        body = request.SerializeToString(deterministic=True)
        original = Original(request.request_id, body, MessageToJson(request))
        return ingest_pb2.DeleteBarsResponse.FromString(
            await self.deletions.start(calls.current(), ask, original, answer)
        )

    async def import_files(self, request: ingest_pb2.ImportFilesRequest) -> ingest_pb2.ImportFilesResponse:
        """Starts an import of files, which the workers find."""
        ask = requests.import_terms(request)

        def answer(job: Job) -> bytes:
            started = ingest_pb2.ImportFilesResponse(backfill=to_backfill(job, overall_pace(job)))
            return started.SerializeToString(deterministic=True)

        body = request.SerializeToString(deterministic=True)
        original = Original(request.request_id, body, MessageToJson(request))
        return ingest_pb2.ImportFilesResponse.FromString(
            await self.imports.start(calls.current(), ask, original, answer)
        )
