"""Works on slices of days: asks for all bars of a session's market, and has those of registered symbols written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.ingest.batches import cut
from services.ingest.calendar import EVERY_DAY, XNYS, day_of
from services.ingest.market_days import CLASSES, target, to_batch
from services.ingest.pages import PageError, decode_grouped
from services.ingest.polygon_errors import PassingError
from services.ingest.store import learning, many, market_days, slices
from services.ingest.tally import Tally
from services.kit.log import get
from services.kit.tickers import CRYPTO

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.ingest.calendar import Sessions
    from services.ingest.inquiries import Ask
    from services.ingest.pages import Grouped
    from services.ingest.store.slices import Claim
    from services.kit.db import Connection, Database

log = get(__name__)


class DaysInquiry:
    """Brings slices of days on: one answer, written in parts under one claim."""

    def __init__(self, db: Database, calendars: Mapping[str, Sessions], tally: Tally | None = None) -> None:
        self._db = db
        self._calendars = calendars
        self._tally = tally or Tally()

    async def advance(self, claim: Claim, ask: Ask) -> int | None:
        market, date = claim.asset_class, claim.first_date
        claim, body = await ask(target(market, day_of(date)))
        page = _read(body)
        days = [date] * len(page.tickers)
        owners = await learning.resolve(self._db, page.tickers, days, CLASSES[market])
        asked = await market_days.asked_symbols(self._db, CLASSES[market], date)
        if not page.tickers and await market_days.has_bars(self._db, asked, date):
            raise PassingError("the answer has no bar, on a session that has some")
        calendar = self._calendars[EVERY_DAY if market == CRYPTO else XNYS]
        # Parts that were written under an earlier claim are compared again: the answer may be another one now.
        batch = to_batch(page, owners, asked, calendar, (day_of(date), claim.fetch_time))
        unknown = len(page.tickers) - len(owners)
        parts = list(cut(batch))
        state: int | None = slices.PENDING
        for part in parts:
            last = part is parts[-1]

            async def also(conn: Connection, _: dict[int, int], *, last: bool = last, held: Claim = claim) -> None:
                if last:
                    await market_days.note_unknown(conn, held.slice_id, unknown)

            with self._tally.writing():
                written = await many.write(self._db, claim, part, done=last, also=also)
            self._tally.many(part.timeframe, written, len(part.rejects))
            if written is None or written.state != slices.RUNNING:
                state = None if written is None else written.state
                break
            claim = written.claim
        log.info("day_written", slice=claim.slice_id, date=str(date), rows=len(page.tickers), unknown=unknown)
        return state


def _read(body: bytes) -> Grouped:
    try:
        page = decode_grouped(body)
    except PageError as error:
        raise PassingError(f"the answer is {error}") from error
    if page.tickers and page.page.head.adjusted is not False:
        raise PassingError("the answer has adjusted prices, raw ones were asked for")
    return page
