"""What the names of Polygon's flat files say: the day, the market, and whether they hold days or minutes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import PurePosixPath
from zoneinfo import ZoneInfo

from services.ingest.timeframes import DAY, MINUTE
from services.kit.tickers import CRYPTO, STOCK

_NAME = re.compile(r"(\d{4}-\d{2}-\d{2})\.csv\.gz")
_MARKETS = {"us_stocks_sip": STOCK, "global_crypto": CRYPTO}
_KINDS = {"day_aggs_v1": DAY, "minute_aggs_v1": MINUTE}
_NEW_YORK = ZoneInfo("America/New_York")
_PUBLISHED = time(11)


@dataclass(frozen=True, slots=True)
class FileKind:
    """What a file holds: stocks (ETFs included) or crypto, and minutes or days; 0 where nobody says."""

    asset_class: int
    timeframe: int

    def narrowed(self, wanted: FileKind) -> FileKind | None:
        """Returns the kind that a file has, given what is asked for; None if it is another, or nobody says."""
        asset_class, timeframe = self.asset_class or wanted.asset_class, self.timeframe or wanted.timeframe
        differs = wanted.asset_class not in (0, asset_class) or wanted.timeframe not in (0, timeframe)
        return FileKind(asset_class, timeframe) if asset_class and timeframe and not differs else None


@dataclass(frozen=True, slots=True)
class Name:
    """What the path of a file says: its day, and its kind as far as the provider's folders name it."""

    path: str
    day: date
    kind: FileKind


def kind_of(path: str) -> FileKind:
    """Returns what the provider's names in a path say."""
    names = PurePosixPath(path).parts
    markets = [_MARKETS[name] for name in names if name in _MARKETS]
    kinds = [_KINDS[name] for name in names if name in _KINDS]
    return FileKind(markets[0] if markets else 0, kinds[0] if kinds else 0)


def read_name(path: str) -> Name | None:
    """Reads a path, relative to the import folder; None if it is none of a day's file."""
    found = _NAME.fullmatch(PurePosixPath(path).name)
    try:
        return Name(path, date.fromisoformat(found[1]), kind_of(path)) if found else None
    except ValueError:
        return None


def published(day: date) -> datetime:
    """Returns when a day's file counts as published: 11:00 in New York on the next day."""
    return datetime.combine(day + timedelta(days=1), _PUBLISHED, _NEW_YORK).astimezone(UTC)
