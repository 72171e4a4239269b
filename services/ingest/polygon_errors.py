"""What may go wrong with Polygon, told apart by what helps.

PolygonError
  PassingError       worth another try: overload, broken connections, cut or confused answers
  GrantExpiredError  not sent
  KeyRefusedError    nothing works until an operator puts the key right
  NotOutYetError     the subscription gets it later
  OutsidePlanError   the subscription does not cover it
  RefusedError       wrong, and wrong again the next time
    MissingError     there is no such thing
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.ingest.pages import Head

NOT_OUT = "before end of day"
"""What Polygon says of a session that the subscription gets later."""

_SUCCESS = frozenset({"OK", "DELAYED"})
# Timeouts and overload: the same request may be answered a moment later.
_PASSING = frozenset({408, 425, 499})
_MOST_WORDS = 300


class PolygonError(Exception):
    """Polygon did not give an answer. The text has its own words, and what an operator can do."""

    def __init__(self, words: str, advice: str = "") -> None:
        super().__init__(f"{words} ({advice})" if advice else words)


class PassingError(PolygonError):
    """Worth another try, in so many seconds if Polygon said so."""

    def __init__(
        self, words: str, advice: str = "", *, retry_after: float | None = None, throttled: bool = False
    ) -> None:
        super().__init__(words, advice)
        self.retry_after = retry_after
        self.throttled = throttled


class GrantExpiredError(PolygonError):
    """The request was not sent, because its grant had run out on the way to the socket."""


class KeyRefusedError(PolygonError):
    """Polygon does not know the key."""


class NotOutYetError(PolygonError):
    """The day is over for its market, and not for the subscription: to be asked for again in so many seconds."""

    wait = 900.0


class OutsidePlanError(PolygonError):
    """The subscription does not cover what was asked; `too_old` when it is its age."""

    def __init__(self, words: str, advice: str, *, too_old: bool) -> None:
        super().__init__(words, advice)
        self.too_old = too_old


class RefusedError(PolygonError):
    """The request is wrong."""


class MissingError(RefusedError):
    """There is nothing under this path."""


def check_answer(code: int, phrase: str, headers: Mapping[str, str], head: Head) -> None:
    """Judges by the status of HTTP and by that of the body, since errors come under 200, too; raises PolygonError."""
    if code == HTTPStatus.OK and head.status in _SUCCESS:
        return
    said = (head.error or head.message or phrase or head.status)[:_MOST_WORDS].strip()
    words = f"Polygon answered {code}: {said}" if said else f"Polygon answered {code}"
    if code == HTTPStatus.UNAUTHORIZED or (code == HTTPStatus.OK and "API Key" in said):
        raise KeyRefusedError(words, "check POLYGON_API_KEY, then resume the backfill")
    if NOT_OUT in said:
        raise NotOutYetError(words, "it is asked for again until the subscription gets it")
    if code == HTTPStatus.FORBIDDEN or head.status == "NOT_AUTHORIZED":
        too_old = "timeframe" in said.lower()
        reach = "reach this span" if too_old else "include this"
        raise OutsidePlanError(words, f"the subscription does not {reach}", too_old=too_old)
    if code == HTTPStatus.TOO_MANY_REQUESTS:
        advice = "lower POLYGON_REQUESTS_PER_MINUTE, or see who else uses the key"
        raise PassingError(words, advice, retry_after=_retry_after(headers), throttled=True)
    if code == HTTPStatus.NOT_FOUND or head.status == "NOT_FOUND":
        raise MissingError(words, "check the symbol's provider ticker")
    if code in _PASSING or code >= HTTPStatus.INTERNAL_SERVER_ERROR or code == HTTPStatus.OK:
        raise PassingError(words, retry_after=_retry_after(headers))
    raise RefusedError(words)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Reads the header in both of its forms; seconds."""
    text = headers.get("retry-after", "").strip()
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
