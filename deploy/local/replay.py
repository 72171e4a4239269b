"""A server that speaks Polygon's wire format from recorded bars; it makes nothing up."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from deploy.local import reference, spelling, summaries
from deploy.local.actions import actions
from deploy.local.aggregates import TO_BEFORE_FROM, AggregateQuery, BadRequestError, answer, parse
from deploy.local.faults import (
    ANSWERS,
    KINDS,
    LATER_PAGES,
    PAGES,
    Fault,
    disturb,
    instead,
    parse_faults,
    spoil,
    spoil_day,
    strike,
)
from deploy.local.market import RecordedMarket
from deploy.local.windows import session_of
from deploy.local.wire import Answer, Request, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deploy.local.market import Market

OFFICIAL_URL = "https://api.polygon.io"
MINUTE = 60.0


@dataclass(frozen=True)
class Served:
    """One request that was answered, for tests to look at."""

    time: float
    target: str
    status: int


@dataclass
class Plan:
    """What the key's subscription allows; 0 means no limit."""

    requests_per_minute: int = 0
    years: int = 0
    granted: deque[float] = field(default_factory=deque)

    def admits(self, now: float) -> bool:
        """Counts a request, unless the last minute had too many."""
        while self.granted and now - self.granted[0] >= MINUTE:
            self.granted.popleft()
        if self.requests_per_minute and len(self.granted) >= self.requests_per_minute:
            return False
        self.granted.append(now)
        return True

    def covers(self, day: date, today: date) -> bool:
        """Whether the plan reaches back to a day; the future is in no plan."""
        oldest = today.replace(year=today.year - self.years, day=min(today.day, 28)) if self.years else date.min
        return oldest <= day <= today


class Replay:
    """The server; `faults` may be changed while it runs, `served` holds the newest requests."""

    def __init__(
        self,
        *,
        key: str = "replay",
        market: Market | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        public_url: str | None = OFFICIAL_URL,
        plan: Plan | None = None,
        faults: Sequence[Fault] = (),
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`public_url` stands in next_url, whatever host was asked, as at Polygon; None means this server's own."""
        self.market: Market = market or RecordedMarket(today=today())
        self.faults = list(faults)
        self.served: deque[Served] = deque(maxlen=10_000)
        self.plan = plan or Plan()
        self._key = key
        self._host = host
        self._port = port
        self._public_url = public_url
        self._today = today
        self._clock = clock
        self._speller = spelling.Speller()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        """Listens and returns the base URL."""
        self._server = await asyncio.start_server(self._connected, self._host, self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self.url

    async def stop(self) -> None:
        """Closes the port and every connection."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://{self._host}:{self._port}"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.ensure_future(serve(reader, writer, self.respond))
        self._connections.add(connection)
        with contextlib.suppress(asyncio.CancelledError):
            await connection
        self._connections.discard(connection)
        writer.close()

    def respond(self, request: Request) -> Answer:
        """Answers one request."""
        try:
            found = self._refused(request) or self._routed(request)
        except BadRequestError as error:
            found = spelling.refusal(400, "ERROR", error=str(error))
        except reference.NotFoundError as error:
            found = spelling.refusal(404, "NOT_FOUND", message=str(error))
        self.served.append(Served(self._clock(), request.target, found.status))
        return found

    def _refused(self, request: Request) -> Answer | None:
        secret = (
            request.params.get("apiKey") or request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        )
        if not secret:
            return spelling.refusal(401, "ERROR", error=spelling.NO_KEY)
        if secret != self._key:
            return spelling.refusal(401, "ERROR", error=spelling.UNKNOWN_KEY)
        if not self.plan.admits(self._clock()):
            return spelling.refusal(429, "ERROR", error=spelling.TOO_MANY)
        return None

    def _routed(self, request: Request) -> Answer:
        path = request.path
        ticker = path[3] if path[:3] == ["v2", "aggs", "ticker"] and path[3:] else ""
        struck = strike(self.faults, ANSWERS, ticker)
        for fault in struck:
            if (broken := instead(fault)) is not None:
                return broken
        found = self._answered(request)
        for fault in struck:
            found = disturb(found, fault)
        return found

    def _answered(self, request: Request) -> Answer:
        match request.path:
            case ["v2", "aggs", "ticker", ticker, "range", multiplier, timespan, start, end]:
                return self._aggregates(parse((ticker, multiplier, timespan, start, end), request.params))
            case ["v2", "aggs", "grouped", "locale", ("us" | "global") as locale, "market", _, day]:
                return self._grouped(locale, day, request)
        return self._reference(request)

    def _aggregates(self, query: AggregateQuery) -> Answer:
        if not self.plan.covers(session_of(query.start, query.zone), self._today()):
            return spelling.refusal(403, "NOT_AUTHORIZED", message=spelling.NOT_IN_PLAN)
        if query.descending and query.continued and strike(self.faults, LATER_PAGES, query.ticker):
            raise BadRequestError(TO_BEFORE_FROM)
        page = answer(self.market, query)
        spoiled = strike(self.faults, PAGES, query.ticker)
        for fault in spoiled:
            spoil(fault.kind, page, query)
        return self._speller.page(page, self._public_url or self.url, None if spoiled else query.key)

    def _grouped(self, locale: str, day: str, request: Request) -> Answer:
        rows = reference.grouped(self.market, locale, day, request.params)
        adjusted = request.params.get("adjusted", "true") == "true"
        for fault in strike(self.faults, PAGES, ""):
            rows, adjusted = spoil_day(fault.kind, rows, adjusted=adjusted)
        return spelling.grouped(rows, adjusted=adjusted)

    def _reference(self, request: Request) -> Answer:
        market, params, today = self.market, request.params, self._today()
        match request.path:
            case ["v3", "reference", "tickers"]:
                return self._listed(*reference.tickers(market, params, today))
            case ["v3", "reference", "tickers", ticker]:
                return spelling.listing(reference.ticker(market, ticker, params, today))
            case ["vX", "reference", "tickers", ticker, "events"]:
                return spelling.listing(reference.events(market, ticker))
            case ["v3", "reference", ("splits" | "dividends") as subject]:
                return self._listed(*actions(market, subject, params, old=True))
            case ["stocks", "v1", ("splits" | "dividends") as subject]:
                return self._listed(*actions(market, subject, params, old=False))
        return self._summary(request)

    def _listed(self, rows: list[reference.Row], following: str | None) -> Answer:
        return spelling.listing(rows, following and f"{self._public_url or self.url}{following}")

    def _summary(self, request: Request) -> Answer:
        market, params = self.market, request.params
        match request.path:
            case ["v2", "aggs", "ticker", ticker, "prev"]:
                rows = summaries.previous(market, ticker, params, self._today())
                return spelling.grouped(rows, adjusted=params.get("adjusted", "true") == "true", ticker=ticker)
            case ["v1", "open-close", "crypto", coin, money, day]:
                return spelling.plain(summaries.crypto_open_close(market, (coin, money), day))
            case ["v1", "open-close", ticker, day]:
                return spelling.plain(summaries.open_close(market, ticker, day, params))
            case ["v1", "marketstatus", "now"]:
                return spelling.plain(summaries.status_now(datetime.now(UTC)))
            case ["v1", "marketstatus", "upcoming"]:
                return spelling.plain(summaries.status_upcoming(self._today()))
        raise reference.NotFoundError("Data not found.")


def main() -> None:
    """Serves until it is told to stop; the key is read from REPLAY_KEY."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.replay", description=__doc__, epilog=FAULTS_HELP)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--requests-per-minute", type=int, default=0, help="0: no limit")
    parser.add_argument("--plan-years", type=int, default=0, help="how far back the plan reaches; 0: to the beginning")
    parser.add_argument(
        "--faults", type=parse_faults, default=[], help="for example '429:times=3 late:ticker=AAPL,times=1'"
    )
    parser.add_argument("--load", metavar="TICKERS:FIRST:LAST", help="serve a made-up market, for load tests only")
    options = parser.parse_args()
    replay = Replay(
        key=os.environ.get("REPLAY_KEY", "replay"),
        market=read_market(options.load) if options.load else None,
        host=options.host,
        port=options.port,
        plan=Plan(options.requests_per_minute, options.plan_years),
        faults=options.faults,
    )
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve_forever(replay))


def read_market(text: str) -> Market:
    """Returns the made-up market of TICKERS:FIRST:LAST."""
    from deploy.local.load import LoadMarket  # noqa: PLC0415 - its calendar takes a second to import

    tickers, first, last = text.split(":")
    return LoadMarket(int(tickers), date.fromisoformat(first), date.fromisoformat(last))


async def _serve_forever(replay: Replay) -> None:
    told = asyncio.Event()
    # The first process of a container gets no signal that it has no handler for.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    print(f"replay of Polygon on {await replay.start()}", flush=True)
    await told.wait()
    await replay.stop()


FAULTS_HELP = "Each fault takes times=N, every=N, after=N and ticker=T beside its own options:\n" + "\n".join(
    f"  {kind:12} {text}" for kind, text in KINDS.items()
)

if __name__ == "__main__":
    main()
