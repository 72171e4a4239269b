"""Spells answers as Polygon does: pages of bars, lists, and refusals, each with its request id."""

from __future__ import annotations

import json
import secrets
import zlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from deploy.local.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from deploy.local.aggregates import Page

PRICING = "https://polygon.io/pricing"
TOO_MANY = "You've exceeded the maximum requests per minute, please wait or upgrade your subscription to continue. "
TOO_MANY += PRICING
NO_KEY = "API Key was not provided"
UNKNOWN_KEY = "Unknown API Key"
NOT_ENTITLED = f"You are not entitled to this data. Please upgrade your plan at {PRICING}"
NOT_IN_PLAN = f"Your plan doesn't include this data timeframe. Please upgrade your plan at {PRICING}"
TOO_EARLY = f"Attempted to request today's data before end of day. Please upgrade your plan at {PRICING}"
HTML = "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n</body>\r\n</html>\r\n"
REASONS = {
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
KEPT_BYTES = 256 * 1024 * 1024
KEPT_ABOVE = 32_768  # bytes; a smaller answer is quicker made than looked up


def refusal(status: int, word: str, error: str = "", message: str = "") -> Answer:
    """Returns a JSON body that says why not, in `error` or `message`."""
    request_id = secrets.token_hex(16)
    body = {"status": word, "request_id": request_id, **({"error": error} if error else {"message": message})}
    return Answer(status, json.dumps(body, separators=(",", ":")).encode(), _headers(request_id))


def failure(status: int, body: str) -> Answer:
    """Returns what a proxy or a broken server says: html, empty or json."""
    reason = REASONS.get(status, "Error")
    if body == "html":
        return Answer(status, HTML.format(f"{status} {reason}").encode(), content_type="text/html")
    return Answer(status, b"") if body == "empty" else refusal(status, "ERROR", error=reason)


def listing(results: Any, next_url: str | None = None) -> Answer:
    """Returns a reference answer."""
    request_id = secrets.token_hex(16)
    body = {"results": results, "status": "OK", "request_id": request_id}
    if isinstance(results, list) and results:
        body["count"] = len(results)
    if next_url:
        body["next_url"] = next_url
    return Answer(200, json.dumps(body, separators=(",", ":")).encode(), _headers(request_id))


def plain(body: Any) -> Answer:
    """Returns an answer that has no envelope."""
    return Answer(200, json.dumps(body, separators=(",", ":")).encode(), _headers(secrets.token_hex(16)))


def grouped(rows: Sequence[bytes], *, adjusted: bool, ticker: str = "") -> Answer:
    """Returns the bars of one day, of all tickers or of one."""
    named = f'"ticker":{json.dumps(ticker)},' if ticker else ""
    head = f'{named}"queryCount":{len(rows)},"resultsCount":{len(rows)},"adjusted":{_bool(adjusted)}'
    return Speller().answer(b"{" + head.encode(), rows, "OK", "")


class Speller:
    """Spells pages of bars, and keeps big ones compressed but for their end, which holds the request id."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, tuple[bytes, bytes, Any]] = OrderedDict()
        self._bytes = 0

    def page(self, page: Page, base_url: str, key: Hashable) -> Answer:
        """Returns a page; equal keys promise equal bars."""
        head = (
            f'{{"ticker":{json.dumps(page.ticker)},"queryCount":{page.base_count},"resultsCount":{len(page.bars)},'
            f'"adjusted":{_bool(page.adjusted)}'
        )
        tail = f',"next_url":"{base_url}{page.next_url}"' if page.next_url else ""
        if page.null_results:
            head += ',"results":null'
        return self.answer(head.encode(), page.bars, page.status, tail, key)

    def answer(self, head: bytes, bars: Sequence[bytes], status: str, tail: str, key: Hashable = None) -> Answer:
        """Returns the answer: head, results unless there are none, and an end with a request id of its own."""
        request_id = secrets.token_hex(16)
        count = f',"count":{len(bars)}' if bars else ""
        end = f',"status":"{status}","request_id":"{request_id}"{count}{tail}}}'.encode()
        start, compressed, state = self._begin(head, bars, key)
        gzipped = None
        if state is not None:
            rest = state.copy()
            gzipped = compressed + rest.compress(end) + rest.flush()
        return Answer(200, start + end, _headers(request_id), gzipped=gzipped)

    def _begin(self, head: bytes, bars: Sequence[bytes], key: Hashable) -> tuple[bytes, bytes, Any]:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        start = head + (b',"results":[' + b",".join(bars) + b"]" if bars else b"")
        if key is None or len(start) < KEPT_ABOVE:
            return start, b"", None
        state = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        compressed = state.compress(start) + state.flush(zlib.Z_SYNC_FLUSH)
        self._kept[key] = start, compressed, state
        self._bytes += len(start) + len(compressed)
        while self._bytes > KEPT_BYTES and len(self._kept) > 1:
            _, (old_start, old_compressed, _) = self._kept.popitem(last=False)
            self._bytes -= len(old_start) + len(old_compressed)
        return self._kept[key]


def _bool(value: bool) -> str:  # noqa: FBT001
    return "true" if value else "false"


def _headers(request_id: str) -> dict[str, str]:
    return {"X-Request-Id": request_id, "Strict-Transport-Security": "max-age=31536000; includeSubDomains"}
