"""The worker: a process of its own that brings in bars, one slice at a time. `python -m services.ingest.worker`."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop
from tenacity import retry, retry_if_exception_type, wait_fixed

from services.ingest.action_inquiry import ActionsInquiry
from services.ingest.days_inquiry import DaysInquiry
from services.ingest.errands import Deleter, Errands
from services.ingest.fetching import Fetcher
from services.ingest.importing import Importer
from services.ingest.owners import is_gone, my_name
from services.ingest.polygon import Polygon
from services.ingest.registry import registry_of
from services.ingest.store import sessions, slices
from services.ingest.store.limiter import Limiter
from services.ingest.symbols_inquiry import SymbolsInquiry
from services.ingest.tally import Tally
from services.ingest.worker_settings import WorkerSettings
from services.kit import log as logging
from services.kit import tracing
from services.kit.background import Background
from services.kit.db import Database
from services.kit.errors import Unavailable
from services.kit.exporter import Exporter
from services.kit.measuring import measure_pools
from services.kit.schema import RequiredSchema, SchemaError, wait_for_schema
from services.kit.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from services.ingest.calendar import Sessions
    from services.ingest.inquiries import Inquiry
    from services.ingest.registry import Registry

log = logging.get(__name__)

SCHEMA = RequiredSchema(
    version=11,
    columns=(
        "ingest.bars.flags",
        "ingest.bar_revisions.ended_write_id",
        "ingest.absent_bars.fetch_time",
        "ingest.slices.page",
        "symbols.ticker_spans.figi",
    ),
    functions=(
        "ingest.claim_slice",
        "ingest.begin_range",
        "ingest.begin_bars",
        "ingest.end_range",
        "ingest.give_up",
        "ingest.note_suspects",
        "ingest.begin_delete",
        "ingest.end_delete",
        "ingest.close_slice",
        "ingest.begin_many",
        "ingest.end_many",
        "ingest.known_splits",
        "ingest.end_step",
    ),
)

IDLE_SECONDS = 0.25
"""How soon new work is seen."""

REAP_SECONDS = 2.0
# A grant may become free earlier than it seems: the setting of another replica, or one given back.
_LONGEST_LIMIT_WAIT = 5.0
_LONGEST_PAUSE = 10.0
# A part of 50,000 bars takes a fraction of this, on a slow disk, too.
_COMMAND_SECONDS = 60.0
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Worker:
    """Takes slices until it is stopped."""

    def __init__(
        self,
        *,
        db: Database,
        fetcher: Fetcher,
        limiter: Limiter,
        lease: timedelta,
        owner: str | None = None,
        tally: Tally | None = None,
        errands: Errands | None = None,
    ) -> None:
        self._db = db
        self._fetcher = fetcher
        self._limiter = limiter
        self._lease = lease
        self._tally = tally or Tally()
        self._owner = owner or my_name()
        self._errands = errands or Errands(db, {})
        self._errand_next = False
        self._stopping = asyncio.Event()
        self._disturbed = False
        """A step ended in the middle, so that a slice may still be leased to us."""

    def stop(self) -> None:
        """Lets the part under way end, gives back what is only asked for, and takes nothing more."""
        self._stopping.set()
        self._fetcher.interrupt()
        self._errands.interrupt()

    async def run(self) -> None:
        """Works until stopped; survives a database that is away, and whatever else a step may fail with."""
        while not self._stopping.is_set():
            self._tally.step()
            try:
                wait = await self.step()
            except Unavailable as error:
                log.warning("database_away", error=error.message)
                self._tally.steps_failed += 1
                wait, self._disturbed = error.retry_after, True
            except Exception:
                log.exception("step_failed")
                self._tally.steps_failed += 1
                wait, self._disturbed = 1.0, True
            if wait:
                await self._pause(wait)

    async def step(self) -> float:
        """Brings a slice on; returns how long to wait before the next.

        Slices that need a request and those that need none take turns, so that neither wait for the others to end.
        """
        if self._disturbed:
            await slices.free_own(self._db, self._owner)
            self._disturbed = False
        self._errand_next = not self._errand_next
        if self._errand_next and await self._errand():
            return 0
        wait = await self._request()
        return 0 if wait and not self._errand_next and await self._errand() else wait

    async def _errand(self) -> bool:
        """Takes a slice that needs no request and brings it on; says whether there was one."""
        kinds = self._errands.kinds
        if not kinds or not await slices.has_due(self._db, kinds):
            return False
        claim = await slices.claim(self._db, self._owner, self._lease, kinds)
        if claim is None:
            return False
        await self._errands.handle(claim)
        return True

    async def _request(self) -> float:
        """Takes a grant, then a slice, and brings it on by an answer; returns how long to wait before the next."""
        kinds = self._fetcher.kinds
        if not await slices.has_due(self._db, kinds):
            return IDLE_SECONDS
        grant = await self._limiter.take()
        if grant is None:
            self._tally.limiter_waits += 1
            return min(max(await self._limiter.wait(), 0.01), _LONGEST_LIMIT_WAIT)
        claim = await slices.claim(self._db, self._owner, self._lease, kinds)
        if claim is None:
            await self._limiter.give_back(grant)
            return IDLE_SECONDS
        with tracing.span("slice", mdw__slice_id=claim.slice_id, mdw__provider_ticker=claim.provider_ticker):
            await self._fetcher.handle(claim, grant)
        troubles = self._fetcher.troubles
        return min(IDLE_SECONDS * 2.0 ** min(troubles, 30), _LONGEST_PAUSE) if troubles else 0

    async def reap(self) -> int:
        """Frees slices of workers that are lost; returns how many."""
        freed = await slices.free_lost(self._db, is_gone)
        if freed:
            self._tally.slices_freed += freed
            log.warning("slices_freed", count=freed)
        return freed

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return


async def serve(settings: WorkerSettings, *, ready: Callable[[Worker], None] = lambda _: None) -> None:
    """Runs a worker until SIGTERM or SIGINT."""
    db = await Database.open(
        settings.database_url,
        size=3,
        application_name="mdw ingest worker",
        pooler=settings.database_pooler,
        command_timeout=_COMMAND_SECONDS,
    )
    polygon = Polygon(
        settings.polygon_base_url,
        settings.polygon_api_key,
        timeout=settings.request_seconds,
        page_bars=settings.polygon_page_bars,
    )
    tracing.begin("worker", settings.otel_exporter_otlp_endpoint)
    registry = registry_of(settings)
    tally = Tally()
    stop = _Stop()
    scraped = _exporter(db, tally).serve(settings.metrics_address) if settings.metrics_address else None
    try:
        with stop.on_signals():
            await wait_for_schema(db, SCHEMA, settings.schema_wait_seconds)
            worker = await _build(settings, db, polygon, registry, tally)
            stop.gently(worker)
            log.info("worker_started", requests_per_minute=settings.polygon_requests_per_minute)
            await _work(worker, ready)
    finally:
        await polygon.close()
        if registry is not None:
            await registry.close()
        await db.close()
        if scraped is not None:
            scraped.stop()
        await asyncio.to_thread(tracing.end)
    log.info("worker_stopped")


async def _build(
    settings: WorkerSettings, db: Database, polygon: Polygon, registry: Registry | None, tally: Tally
) -> Worker:
    """Wires the worker, once the schema is there."""
    limiter = Limiter(db, settings.polygon_requests_per_minute)
    calendars = await _read_once(db, limiter)
    inquiries: dict[int, Inquiry] = {
        slices.DAY: DaysInquiry(db, calendars, tally),
        slices.ACTIONS: ActionsInquiry(db, calendars),
        slices.SYMBOLS: SymbolsInquiry(db, registry),
    }
    fetcher = Fetcher(db=db, polygon=polygon, limiter=limiter, calendars=calendars, tally=tally, inquiries=inquiries)
    folder = Path(settings.import_folder) if settings.import_folder else None
    importer = Importer(db, calendars, folder, tally=tally)
    errands = Errands(db, {slices.DELETE: Deleter(db, calendars), slices.FILE: importer}, tally=tally)
    lease = timedelta(seconds=settings.lease_seconds)
    return Worker(db=db, fetcher=fetcher, limiter=limiter, lease=lease, tally=tally, errands=errands)


async def _work(worker: Worker, ready: Callable[[Worker], None]) -> None:
    background = Background()
    background.every(REAP_SECONDS, "reap", worker.reap)
    background.start()
    try:
        ready(worker)
        await worker.run()
    finally:
        await background.stop()


class _Stop:
    """What SIGTERM and SIGINT do: a worker ends its part first; before there is one, the process ends at once."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._task = asyncio.current_task()
        self._told = False

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        except asyncio.CancelledError:
            if not self._told or self._worker is not None or self._task is None:
                raise
            self._task.uncancel()
        finally:
            for number in _STOP_SIGNALS:
                loop.remove_signal_handler(number)

    def gently(self, worker: Worker) -> None:
        """From now on the worker is told."""
        self._worker = worker

    def _stop(self) -> None:
        self._told = True
        if self._worker is not None:
            self._worker.stop()
        elif self._task is not None:
            self._task.cancel()


def _exporter(db: Database, tally: Tally) -> Exporter:
    exporter = Exporter()
    exporter.about("worker")
    measure_pools(exporter, lambda: {"worker": db})
    tally.export(exporter)
    return exporter


@retry(retry=retry_if_exception_type(Unavailable), wait=wait_fixed(0.5))
async def _read_once(db: Database, limiter: Limiter) -> dict[str, Sessions]:
    """Does what is done once, however long the database is away."""
    await limiter.prepare()
    return await sessions.load(db)


def main() -> int:
    try:
        settings = WorkerSettings.from_environment()
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - before there is a log
        return 2
    logging.configure(level=settings.log_level, form=settings.log_format)
    try:
        uvloop.run(serve(settings))
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - one line for a person
        return 2
    except SchemaError as error:
        log.error("schema_unfit", error=str(error))  # noqa: TRY400 - the message is all there is to say
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
