"""What requests must look like: messages to what the store knows; whatever breaks a rule is named with its field."""

from __future__ import annotations

import re
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Any

from services.kit import checks
from services.kit.errors import InvalidArgument
from services.kit.tickers import CLASSES, TickerError, readings, spell
from services.symbols.spans import EVER, Span
from services.symbols.store.rows import Details, Filter, Key, NewSymbol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mdw.symbols.v1 import symbols_pb2
    from services.kit.tickers import Spelling

MAX_ROWS = 5_000
MAX_STALEST = 100
MAX_NAME = 200
MAX_SEARCH = 100
STORED = (1, 7)

UPDATABLE = ("name", "timeframes", "exchange", "type", "figi", "list_date", "delist_date")

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_LAST_YEAR = 2199
_CODES = {
    "exchange": (re.compile(r"[A-Z0-9]{4}", re.ASCII), "must be a MIC of four capitals or digits, such as XNAS"),
    "type": (re.compile(r"[A-Z0-9_]{1,16}", re.ASCII), "must be a type code of capitals, such as CS or ETF"),
    "figi": (re.compile(r"[A-Z0-9]{12}", re.ASCII), "must be a FIGI of twelve capitals or digits"),
}
_STATES = range(1, 6)


class Problems:
    """Gathers what is wrong with a request, so that one answer names all of it."""

    def __init__(self) -> None:
        self._found: list[tuple[str, str]] = []

    @contextmanager
    def gather(self) -> Iterator[None]:
        """Notes what breaks a rule in its block, and goes on after it."""
        try:
            yield
        except InvalidArgument as error:
            self._found.extend(error.violations)

    def raise_any(self) -> None:
        """Raises InvalidArgument if anything was wrong."""
        if self._found:
            raise InvalidArgument.many(self._found)


def new_symbol(message: symbols_pb2.NewSymbol, prefix: str = "") -> NewSymbol:
    """Returns the symbol to be registered; raises one InvalidArgument that names all that is wrong."""
    problems = Problems()
    given: dict[str, Any] = {}
    with problems.gather():
        of_class = asset_class(message.asset_class, prefix + "asset_class")
        given["spelling"] = spell_one(message.ticker, of_class, prefix + "ticker")
    for name in UPDATABLE:
        with problems.gather():
            given[name] = detail(name, getattr(message, name), prefix)
    for name in ("from_date", "to_date"):
        with problems.gather():
            given[name] = day(getattr(message, name), prefix + name)
    problems.raise_any()
    details = Details(**{name: given[name] for name in UPDATABLE if name != "timeframes" or given[name]})
    details.check(prefix)
    return NewSymbol(
        asset_class=given["spelling"].asset_class,
        span=_span(given["spelling"], given["from_date"], given["to_date"], details.delist_date, prefix),
        details=details,
        active=not message.inactive,
    )


def _span(spelling: Spelling, begin: date | None, end: date | None, delisted: date | None, prefix: str) -> Span:
    """Returns the first span; a ticker is held no longer than the symbol is listed."""
    begin, end = begin or EVER, end or delisted
    if end and end < begin:
        raise InvalidArgument(prefix + "from_date", f"is after {end}, the last date under the ticker")
    if end and delisted and end > delisted:
        raise InvalidArgument(prefix + "to_date", f"is after {delisted}, the delist_date")
    return Span(ticker=spelling.ticker, provider_ticker=spelling.provider_ticker, from_date=begin, to_date=end)


def detail(name: str, value: Any, prefix: str = "symbol.") -> Any:
    """Returns one of the updatable fields as the registry keeps it."""
    field = prefix + name
    if name == "timeframes":
        return timeframes(value, field)
    if name in ("list_date", "delist_date"):
        return day(value, field)
    if name == "name":
        return checks.text(field, value.strip(), minimum=0, maximum=MAX_NAME)
    return code(name, value, field)


def code(name: str, value: str, field: str) -> str:
    """Returns an exchange, a type or a FIGI; '' where unknown."""
    pattern, rule = _CODES[name]
    if value and not pattern.fullmatch(value):
        raise InvalidArgument(field, rule)
    return value


def timeframes(values: Iterable[int], field: str) -> tuple[int, ...]:
    """Returns stored timeframes, each once, in order."""
    for position, value in enumerate(values):
        if value not in STORED:
            raise InvalidArgument(
                f"{field}[{position}]", "must be TIMEFRAME_1M or TIMEFRAME_1D: the others are derived from them"
            )
    return tuple(sorted(set(values)))


def day(text: str, field: str) -> date | None:
    """Returns a date, None for ''."""
    if not text:
        return None
    rule = f"must be a date YYYY-MM-DD from {EVER} on"
    if not _DATE.fullmatch(text):
        raise InvalidArgument(field, rule)
    try:
        found = date.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(field, f"{rule}; there is no {text}") from None
    if not EVER.year <= found.year <= _LAST_YEAR:
        raise InvalidArgument(field, rule)
    return found


def required_day(text: str, field: str) -> date:
    """Returns a date that must be given."""
    found = day(text, field)
    if found is None:
        raise InvalidArgument(field, "is required, as YYYY-MM-DD")
    return found


def asset_class(value: int, field: str = "asset_class") -> int:
    """Returns an asset class that must be given."""
    if value not in CLASSES:
        raise InvalidArgument(field, "must be ASSET_CLASS_STOCK, ASSET_CLASS_ETF or ASSET_CLASS_CRYPTO")
    return value


def optional_class(value: int, field: str = "asset_class") -> int | None:
    """Returns an asset class, None where unset."""
    return asset_class(value, field) if value else None


def spell_one(text: str, of_class: int, field: str) -> Spelling:
    """Returns the spelling of a ticker that is kept."""
    try:
        return spell(text, of_class)
    except TickerError as error:
        raise InvalidArgument(field, str(error)) from None


def spell_each(text: str, field: str) -> dict[int, Spelling]:
    """Returns the spelling of a ticker in each class in which it has just one."""
    found: dict[int, Spelling] = {}
    refused = ""
    for of_class in CLASSES:
        try:
            found[of_class] = spell(text, of_class)
        except TickerError as error:
            refused = refused or str(error)
    if not found:
        raise InvalidArgument(field, refused)
    return found


def key(ticker: str, of_class: int, symbol_id: int, prefix: str = "") -> Key:
    """Returns what names a symbol: a ticker, with or without a class, or an id."""
    if bool(ticker) == bool(symbol_id):
        raise InvalidArgument(prefix + "ticker", "needs either a ticker or a symbol_id")
    if symbol_id:
        return Key(symbol_id=symbol_id)
    optional_class(of_class, prefix + "asset_class")
    try:
        return Key(text=ticker, readings=readings(ticker, of_class))
    except TickerError as error:
        raise InvalidArgument(prefix + "ticker", str(error)) from None


def symbol_key(message: symbols_pb2.SymbolKey, prefix: str = "symbol.") -> Key:
    """Returns what a SymbolKey names."""
    return key(message.ticker, message.asset_class, message.symbol_id, prefix)


def chosen(
    request: symbols_pb2.ActivateSymbolsRequest | symbols_pb2.DeactivateSymbolsRequest,
) -> Sequence[Key] | Filter:
    """Returns the symbols that are named, or the filter that chooses them."""
    if request.HasField("filter") == bool(request.symbols):
        raise InvalidArgument("symbols", "needs either symbols or a filter; an empty filter means all")
    if not request.HasField("filter"):
        limit_rows(request.symbols, "symbols")
        return [symbol_key(message, f"symbols[{n}].") for n, message in enumerate(request.symbols)]
    wanted = request.filter
    return Filter(
        asset_class=optional_class(wanted.asset_class, "filter.asset_class"),
        exchange=code("exchange", wanted.exchange, "filter.exchange"),
        type=code("type", wanted.type, "filter.type"),
        search=search(wanted.search, "filter.search"),
    )


def listing(request: symbols_pb2.ListSymbolsRequest) -> Filter:
    """Returns the filter of a list."""
    if request.backfill_state and request.backfill_state not in _STATES:
        raise InvalidArgument("backfill_state", f"is {request.backfill_state}, which is no state")
    return Filter(
        asset_class=optional_class(request.asset_class),
        active_only=request.active_only,
        state=request.backfill_state or None,
        search=search(request.search, "search"),
        listed_on=day(request.listed_on, "listed_on"),
    )


def search(text: str, field: str) -> str:
    """Returns a text to search for; '' finds all."""
    return checks.text(field, text.strip(), minimum=0, maximum=MAX_SEARCH)


def limit_rows(rows: Sequence[Any], field: str) -> None:
    """Raises InvalidArgument unless there are 1 to 5,000 rows."""
    if not 1 <= len(rows) <= MAX_ROWS:
        raise InvalidArgument(field, f"has {len(rows)} rows, must have 1 to {MAX_ROWS:,}")


def changed(request: symbols_pb2.UpdateSymbolRequest) -> dict[str, Any]:
    """Returns the new values of the fields that the mask names; without a mask, of those that are set."""
    problems = Problems()
    values: dict[str, Any] = {}
    for name in _paths(request):
        with problems.gather():
            values[name] = detail(name, getattr(request.symbol, name))
    problems.raise_any()
    return values


def _paths(request: symbols_pb2.UpdateSymbolRequest) -> tuple[str, ...]:
    named = tuple(request.update_mask.paths)
    if "*" in named:
        return UPDATABLE
    for path in named:
        if path not in UPDATABLE:
            raise InvalidArgument("update_mask", f"{path[:40]!r} is none of {', '.join(UPDATABLE)}")
    present = {field.name for field, _ in request.symbol.ListFields()} if not named else set(named)
    paths = tuple(name for name in UPDATABLE if name in present)
    if not paths:
        raise InvalidArgument("update_mask", f"names nothing and none is set of {', '.join(UPDATABLE)}")
    return paths
