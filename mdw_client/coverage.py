"""What is held and what is not, and the wait for a session: the rest of IngestService as methods."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import date as Date  # noqa: N812 # a parameter is called date
from datetime import timedelta
from typing import TYPE_CHECKING

from mdw.ingest.v1 import ingest_pb2 as pb
from mdw_client import words
from mdw_client.calls import Pages, Part, R
from mdw_client.methods import listing, subscription
from mdw_client.symbols import chosen

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mdw_client.symbols import Tickers
    from mdw_client.words import Time, Word

_RPC = "/mdw.ingest.v1.IngestService/"


class Coverage(Part[R]):
    """Which sessions are held, and why others are not."""

    @listing
    def __call__(
        self,
        tickers: Tickers | None = None,
        timeframe: Word = "1d",
        start: Time | None = None,
        end: Time | None = None,
        *,
        asset_class: Word | None = None,
        all_active: bool = False,
        page_size: int = 0,
    ) -> Pages[pb.SeriesCoverage]:
        """Iterates over series: sessions expected, present and missing, and each hole with its reason.

        `start` is inclusive and `end` exclusive; without them from 2000 to the last closed session.
        """
        request = pb.GetCoverageRequest(
            **chosen(tickers),
            asset_class=words.asset_class(asset_class),
            all_active=all_active,
            timeframe=words.timeframe(timeframe),
            start_time=words.instant(start, "start"),
            end_time=words.instant(end, "end"),
            page_size=page_size,
        )
        return Pages(_RPC + "GetCoverage", request, lambda answer: answer.series)

    @subscription
    def watch_session(
        self,
        date: str | Date,
        tickers: Tickers | None = None,
        timeframe: Word = "1d",
        *,
        asset_class: Word | None = None,
        all_active: bool = False,
        wait: timedelta | float | None = None,
    ) -> Session:
        """Iterates over what is missing of a session: at once, with every change, until nothing is or `wait` is over.

        `wait` is a timedelta or seconds; without it as long as it takes. The last message says COMPLETE or INCOMPLETE.
        """
        request = pb.WatchSessionRequest(
            **chosen(tickers),
            asset_class=words.asset_class(asset_class),
            all_active=all_active,
            timeframe=words.timeframe(timeframe),
            session_date=words.day(date),
        )
        seconds = wait.total_seconds() if isinstance(wait, timedelta) else wait
        return Session(request, None if seconds is None else time.monotonic() + seconds)


@dataclass
class Session:
    """Follows one session; whoever comes back waits for what is left of the time."""

    wanted: pb.WatchSessionRequest
    until: float | None
    method: str = _RPC + "WatchSession"

    def request(self) -> pb.WatchSessionRequest:
        if self.until is not None:
            self.wanted.wait.FromTimedelta(timedelta(seconds=max(self.until - time.monotonic(), 0.0)))
        return self.wanted

    def take(self, message: pb.WatchSessionResponse) -> Iterable[pb.WatchSessionResponse]:
        return (message,)
