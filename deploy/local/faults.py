"""The troubles that the replay can make, each by a switch, so that they can be rehearsed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from deploy.local.aggregates import forget_adjusted, next_url
from deploy.local.spelling import NOT_ENTITLED, NOT_IN_PLAN, TOO_EARLY, TOO_MANY, UNKNOWN_KEY, failure, refusal
from deploy.local.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from deploy.local.aggregates import AggregateQuery, Page

# What each does; those of PAGES change an answer's bars, the others the answer itself.
ANSWERS = {
    "429": "refuses as above the limit; retry_after=SECONDS sends Retry-After, body=empty|html leaves the JSON out",
    "500": "fails with status=500 (or 502, 503, 504); body=json|html|empty",
    "401": "refuses the key",
    "403": "refuses the span: the plan does not include it",
    "early": "refuses the day as not over yet, as plans without real-time data get until midnight in New York",
    "200": "says NOT_AUTHORIZED under HTTP 200",
    "error": "says ERROR under HTTP 200",
    "timeout": "answers after seconds=N (default an hour)",
    "reset": "closes the connection without an answer",
    "cut": "sends half of the JSON as if it were all; hard=1 announces the whole length and closes",
}
LATER_PAGES = {"desc_400": "refuses pages after the first of a descending request, as Polygon did"}
PAGES = {
    "loop": "next_url leads to the same page again",
    "forget": "the cursor forgets `adjusted`, so that later pages are adjusted",
    "null": "results: null",
    "empty": "no results although there are bars (times=1: filled when asked again)",
    "late": "the last bars with other closes and less volume (times=1: corrected when asked again)",
    "duplicate": "the first bar twice",
    "conflict": "the first bar twice, the second time with another close",
    "outside": "a bar from before the asked span",
    "unsorted": "the bars in another order",
    "broken": "one bar whose high is below its low",
    "bare": "bars without n and vw",
    "exponent": "volumes with an exponent",
    "delayed": "status DELAYED, as plans without real-time data get",
    "stranger": "the answer names another ticker",
    "other_basis": "the answer says the other `adjusted`",
}
KINDS = {**ANSWERS, **LATER_PAGES, **PAGES}
REFUSALS = {
    "401": (401, "ERROR", UNKNOWN_KEY, ""),
    "403": (403, "NOT_AUTHORIZED", "", NOT_IN_PLAN),
    "early": (403, "NOT_AUTHORIZED", "", TOO_EARLY),
    "200": (200, "NOT_AUTHORIZED", "", NOT_ENTITLED),
    "error": (200, "ERROR", "An internal error occurred", ""),
}
NUMBERS = ("times", "every", "after")
DAY_MS = 86_400_000


@dataclass
class Fault:
    """One switch: what goes wrong, for which ticker, how often."""

    kind: str
    ticker: str = ""
    times: int = 0  # 0: without end
    every: int = 1
    after: int = 0
    options: dict[str, str] = field(default_factory=dict)
    seen: int = 0
    made: int = 0

    def due(self, ticker: str) -> bool:
        """Counts a request and says whether the fault strikes it."""
        if self.ticker not in ("", ticker) or (self.times and self.made >= self.times):
            return False
        self.seen += 1
        if self.seen <= self.after or (self.seen - self.after) % self.every:
            return False
        self.made += 1
        return True


def parse_faults(text: str) -> list[Fault]:
    """Reads switches such as `429:times=3,retry_after=2 late:ticker=AAPL,times=1`; raises ValueError."""
    return [_parse(part) for part in text.split()]


def _parse(part: str) -> Fault:
    kind, _, rest = part.partition(":")
    if kind not in KINDS:
        raise ValueError(f"unknown fault {kind}: one of {', '.join(KINDS)}")
    options = dict(option.partition("=")[::2] for option in rest.split(",") if option)
    numbers = {name: int(options.pop(name)) for name in NUMBERS if name in options}
    return Fault(kind, ticker=options.pop("ticker", ""), options=options, **numbers)


def strike(faults: Iterable[Fault], kinds: Iterable[str], ticker: str) -> list[Fault]:
    """Returns the faults of these kinds that are due for a request."""
    wanted = set(kinds)
    return [fault for fault in faults if fault.kind in wanted and fault.due(ticker)]


def instead(fault: Fault) -> Answer | None:
    """Returns what a fault of ANSWERS says in place of the answer, or None if that fault changes the answer."""
    body = fault.options.get("body", "json")
    match fault.kind:
        case "429":
            found = failure(429, body) if body != "json" else refusal(429, "ERROR", error=TOO_MANY)
            if "retry_after" in fault.options:
                found.headers["Retry-After"] = fault.options["retry_after"]
            return found
        case "500":
            return failure(int(fault.options.get("status", "500")), body)
        case "reset":
            return Answer(200, b"", reset=True)
    return refusal(*REFUSALS[fault.kind]) if fault.kind in REFUSALS else None


def disturb(answer: Answer, fault: Fault) -> Answer:
    """Returns an answer that comes late, or half of it."""
    if fault.kind == "timeout":
        return replace(answer, wait=float(fault.options.get("seconds", "3600")))
    if "hard" in fault.options:
        return replace(answer, cut=True)
    return replace(answer, body=answer.body[: len(answer.body) // 2], gzipped=None)


def spoil(kind: str, page: Page, query: AggregateQuery) -> None:
    """Applies one fault of PAGES to a page."""
    match kind:
        case "loop":
            page.next_url = next_url(query)
        case "forget":
            page.next_url = page.next_url and forget_adjusted(page.next_url)
        case "null":
            page.bars, page.null_results, page.next_url = (), True, None
        case "empty":
            page.bars, page.base_count, page.next_url = (), 0, None
        case "delayed":
            page.status = "DELAYED"
        case "stranger":
            page.ticker = f"{page.ticker}X"
        case "other_basis":
            page.adjusted = not page.adjusted
        case "outside" if page.bars:
            before = query.window(query.window(query.start)[0] - 1)[0]
            page.bars = [_set(page.bars[0], "t", str(before)), *page.bars]
        case _ if page.bars:
            page.bars = SPOILED_BARS[kind](list(page.bars))


def spoil_day(kind: str, rows: list[bytes], *, adjusted: bool) -> tuple[list[bytes], bool]:
    """Applies one fault of PAGES to a day of the whole market, where it means anything; returns rows and `adjusted`."""
    match kind:
        case "empty" | "null":
            return [], adjusted
        case "other_basis":
            return rows, not adjusted
        case "outside" if rows:
            return [_set(rows[0], "t", str(int(_value(rows[0], "t")) - DAY_MS)), *rows], adjusted
        case _ if rows and kind in SPOILED_BARS:
            return SPOILED_BARS[kind](rows), adjusted
    return rows, adjusted


def _value(bar: bytes, name: str) -> float:
    found = re.search(rb'"%s":([^,}]+)' % name.encode(), bar)
    return float(found[1]) if found else 0.0


def _set(bar: bytes, name: str, text: str) -> bytes:
    return re.sub(rb'("%s":)[^,}]+' % name.encode(), rb"\g<1>" + text.encode(), bar)


def _scale(bar: bytes, name: str, factor: float) -> bytes:
    return _set(bar, name, repr(round(_value(bar, name) * factor, 4)))


SPOILED_BARS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "late": lambda bars: [*bars[:-3], *(_scale(_scale(bar, "v", 0.9), "c", 1.0001) for bar in bars[-3:])],
    "duplicate": lambda bars: [bars[0], *bars],
    "conflict": lambda bars: [bars[0], _scale(bars[0], "c", 1.0001), *bars[1:]],
    "unsorted": lambda bars: [*bars[1::2], *bars[::2]],
    "broken": lambda bars: [_scale(bars[0], "h", 0.5), *bars[1:]],
    "bare": lambda bars: [re.sub(rb'"vw":[^,]+,|,"n":\d+', b"", bar) for bar in bars],
    "exponent": lambda bars: [_set(bar, "v", f"{_value(bar, 'v'):.12e}") for bar in bars],
}
