"""Asks Polygon.io for bars, a page a request."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from isal import isal_zlib
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

from services.ingest.calendar import date_of
from services.ingest.pages import PageError, decode_head, decode_page
from services.ingest.polygon_errors import GrantExpiredError, PassingError, check_answer
from services.ingest.timeframes import DAY, DAY_MS, MINUTE
from services.kit import tracing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from services.ingest.pages import Head, Page

    Again = Callable[[], Awaitable[float | None]]

T = TypeVar("T")

PAGE_BARS = 50_000
"""The most bars that Polygon sends in one answer."""

# A page of 50,000 bars has 5 MB; what is larger is no answer to what was asked.
_MOST_BYTES = 64 * 1024 * 1024
_GZIP = 31  # zlib's window bits for the gzip format
_TIMESPANS = {MINUTE: "minute", DAY: "day"}
_CONNECT_SECONDS = 5.0
# The event before a request goes to the wire; connecting may have taken its time until then.
_SENDING = ".send_request_headers.started"
# A claim is not held longer than this for another try.
_LONGEST_WAIT = 2.0


@dataclass(frozen=True, slots=True)
class Question:
    """A span of one ticker's bars; milliseconds, start inclusive, end exclusive (days: the 00:00Z of their dates)."""

    ticker: str
    timeframe: int
    start_ms: int
    end_ms: int

    @property
    def path(self) -> str:
        """Days are named by their dates, since midnight differs by market; minutes by their instants."""
        first, last = self.start_ms, self.end_ms - 1
        span = f"{first}/{last}" if self.timeframe != DAY else f"{date_of(first // DAY_MS)}/{date_of(last // DAY_MS)}"
        return f"/v2/aggs/ticker/{quote(self.ticker, safe=':')}/range/1/{_TIMESPANS[self.timeframe]}/{span}"


class _NoGrantError(Exception):
    """There is no grant for another try now."""


class Polygon:
    """Sends requests over kept connections; the limiter is the caller's: `sent_by` says until when its grant holds."""

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        timeout: float = 30.0,
        tries: int = 3,
        wait: float = 0.25,
        page_bars: int = PAGE_BARS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """An answer takes `timeout` seconds at most; passing failures are tried again, about `wait` seconds apart."""
        self._timeout = timeout
        self._tries = tries
        self._wait = wait
        self._query = f"adjusted=false&sort=asc&limit={page_bars}"
        self._http = httpx.AsyncClient(
            base_url=base_url,
            headers={"Authorization": f"Bearer {key}", "Accept-Encoding": "gzip", "Accept": "application/json"},
            timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
            limits=httpx.Limits(max_connections=4, max_keepalive_connections=2, keepalive_expiry=90),
            transport=transport,
            # A proxy of the environment is for the way out, not for a replay on this machine.
            trust_env=urlsplit(base_url).hostname not in ("127.0.0.1", "::1", "localhost"),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def page(self, question: Question, *, sent_by: float, again: Again) -> Page:
        """Returns the first page of an answer, oldest bars first; raises PolygonError.

        sent_by is on time.monotonic's clock. Before another try `again` is asked until when that may be sent; None
        means that it may not.
        """
        return await self._try(lambda deadline: self._ask(question, deadline), sent_by, again)

    async def body(self, target: str, *, sent_by: float, again: Again) -> bytes:
        """Returns the answer to any path and query that has the usual frame, as it came; otherwise as page does."""
        return await self._try(lambda deadline: self._ask_any(target, deadline), sent_by, again)

    async def _try(self, ask: Callable[[float], Awaitable[T]], sent_by: float, again: Again) -> T:
        failed: PassingError | None = None

        async def once() -> T:
            nonlocal failed
            deadline = sent_by if failed is None else await again()
            if deadline is None:
                raise _NoGrantError
            try:
                return await ask(deadline)
            except PassingError as error:
                failed = error
                raise

        try:
            return await self._retrying()(once)
        except _NoGrantError:
            raise failed or PassingError("not sent") from None

    def _retrying(self) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception(_worth_another_try_at_once),
            # The last try may take the whole timeout, and all of them must end within a lease.
            stop=stop_after_attempt(self._tries) | stop_after_delay(self._timeout / 3),
            wait=wait_random_exponential(self._wait, max=_LONGEST_WAIT),
            reraise=True,
        )

    async def _ask(self, question: Question, sent_by: float) -> Page:
        response, body = await self._get(f"{question.path}?{self._query}", sent_by)
        code, phrase = response.status_code, response.reason_phrase
        if code != HTTPStatus.OK:
            check_answer(code, phrase, response.headers, decode_head(body))
        try:
            page = decode_page(body)
        except PageError as error:
            raise PassingError(f"the answer is {error}") from error
        check_answer(code, "", response.headers, page.head)
        _check_subject(page.head, question, empty=not len(page.bars))
        return page

    async def _ask_any(self, target: str, sent_by: float) -> bytes:
        response, body = await self._get(target, sent_by)
        code = response.status_code
        check_answer(code, "" if code == HTTPStatus.OK else response.reason_phrase, response.headers, decode_head(body))
        return body

    async def _get(self, target: str, sent_by: float) -> tuple[httpx.Response, bytes]:
        """Sends one request and reads its whole answer within the timeout."""

        async def before_sending(event: str, _: dict[str, Any]) -> None:
            if event.endswith(_SENDING):
                _check_grant(sent_by)

        _check_grant(sent_by)
        try:
            # The path alone: what comes behind it may one day be a key.
            with tracing.span("GET", tracing.CLIENT, url__path=target.partition("?")[0]) as noted:
                async with (
                    asyncio.timeout(self._timeout),
                    self._http.stream("GET", target, extensions={"trace": before_sending}) as response,
                ):
                    noted.add(http__response__status_code=response.status_code)
                    return response, await _read(response)
        except TimeoutError as error:
            raise PassingError(f"no answer within {self._timeout:g} s") from error
        except (httpx.TransportError, httpx.StreamError) as error:
            detail = f"{type(error).__name__}: {error}".rstrip(": ")
            raise PassingError(f"the connection failed: {detail}") from error


def next_start(head: Head) -> int | None:
    """Returns the instant at which Polygon says that the next page begins; None when it does not say so.

    Only the path of next_url counts: its host is Polygon's own whatever host was asked, and its cursor may forget what
    was asked.
    """
    start = urlsplit(head.next_url or "").path.rstrip("/").split("/")[-2:][0]
    return int(start) if start.isdigit() else None


def _worth_another_try_at_once(error: BaseException) -> bool:
    """A throttled request, or one that is to wait long, goes back to the queue instead."""
    return isinstance(error, PassingError) and not error.throttled and (error.retry_after or 0) <= _LONGEST_WAIT


def _check_grant(sent_by: float) -> None:
    if time.monotonic() > sent_by:
        raise GrantExpiredError("not sent: its grant had run out")


async def _read(response: httpx.Response) -> bytes:
    """Reads and unzips a body piece by piece; raises PassingError when it was cut."""
    zipped = response.headers.get("content-encoding", "").lower() in ("gzip", "x-gzip")
    unzip = isal_zlib.decompressobj(_GZIP) if zipped else None
    pieces: list[bytes] = []
    size = 0
    async for piece in response.aiter_raw():
        try:
            plain = unzip.decompress(piece, _MOST_BYTES) if unzip else piece
        except isal_zlib.error as error:  # type: ignore[misc]  # its stub takes the class for an instance
            raise PassingError(f"the answer cannot be unzipped: {error}") from error
        size += len(plain)
        if size > _MOST_BYTES or (unzip and unzip.unconsumed_tail):
            raise PassingError(f"the answer is larger than {_MOST_BYTES} bytes")
        pieces.append(plain)
    if unzip and pieces and not unzip.eof:
        raise PassingError("the answer was cut")
    return b"".join(pieces)


def _check_subject(head: Head, question: Question, *, empty: bool) -> None:
    """An answer about another ticker, or adjusted prices, must not be stored; an empty one need not say."""
    if head.ticker != question.ticker and not (empty and not head.ticker):
        raise PassingError(f"the answer is about {head.ticker or 'no ticker'}, {question.ticker} was asked for")
    if head.adjusted is not False and not (empty and head.adjusted is None):
        raise PassingError("the answer has adjusted prices, raw ones were asked for")
