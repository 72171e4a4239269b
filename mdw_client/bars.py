"""Bars: BarService as methods, `client.bars("AAPL", "1d")` first of all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Self, TypedDict, Unpack, overload

from mdw.ingest.v1 import bars_pb2 as pb
from mdw.ingest.v1 import ingest_pb2
from mdw.type.v1 import type_pb2
from mdw_client import words
from mdw_client.calls import Asynchronous, Blocking, Call, Pages, Part, R
from mdw_client.frames import Bars
from mdw_client.methods import Method, P, collection, listing, operation, procedure
from mdw_client.mirror import Mirror, Report
from mdw_client.parquet import ParquetFile, Saved
from mdw_client.reader import Reader
from mdw_client.symbols import Ticker, Tickers, chosen, named

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from mdw_client.columns import Chunk
    from mdw_client.words import Time, Word

_RPC = "/mdw.ingest.v1.BarService/"


class Choices(TypedDict, total=False):
    """What else a read may say; the comments of StreamBarsRequest explain each."""

    asset_class: Word | None
    all_active: bool
    adjustment: Word | None
    hours: Word | None
    min_quality: float
    last: int
    as_of: Time | pb.Receipt | None
    changed_since: Time | pb.Receipt | None
    strict: bool


class Mirrored(TypedDict, total=False):
    """What else a mirror may be of."""

    asset_class: Word | None
    all_active: bool
    adjustment: Word | None
    hours: Word | None
    min_quality: float


class _Gathering(Reader):
    """Keeps all bars of an answer in memory."""

    def __init__(self, request: pb.StreamBarsRequest, *, several: bool) -> None:
        super().__init__(request)
        self._several = several
        self._chunks: list[Chunk] = []

    def keep(self, item: Chunk) -> None:
        self._chunks.append(item)

    def result(self) -> Bars:
        return Bars(self._chunks, self._request.timeframe, self.receipt, self.unresolved, several=self._several)

    def abandon(self) -> None:
        self._chunks.clear()


class _Saving(Reader):
    """Writes the bars of an answer to a Parquet file as they come."""

    def __init__(self, request: pb.StreamBarsRequest, path: Path) -> None:
        super().__init__(request)
        self._file = ParquetFile(path, request.timeframe)

    def keep(self, item: Chunk) -> None:
        self._file.write(item)

    def result(self) -> Saved:
        return self._file.finish(self.receipt, self.unresolved)

    def abandon(self) -> None:
        self._file.abandon()


class Chunks:
    """The chunks of an answer; `receipt`, `as_of` and `unresolved` are there when they are through."""

    def __init__(self, reader: Reader, chunks: Iterator[Chunk]) -> None:
        self._reader = reader
        self._chunks = chunks

    def __iter__(self) -> Iterator[Chunk]:
        return self._chunks

    @property
    def receipt(self) -> pb.Receipt:
        return self._reader.receipt

    @property
    def unresolved(self) -> Sequence[pb.UnresolvedSymbol]:
        return self._reader.unresolved


class AsyncChunks:
    """Chunks, for `async for`."""

    def __init__(self, reader: Reader, chunks: AsyncIterator[Chunk]) -> None:
        self._reader = reader
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self._chunks

    @property
    def receipt(self) -> pb.Receipt:
        return self._reader.receipt

    @property
    def unresolved(self) -> Sequence[pb.UnresolvedSymbol]:
        return self._reader.unresolved


class _chunks(Method, Generic[P]):  # noqa: N801 # used as a decorator
    """A method that iterates over chunks."""

    def run(self, runner: Any, reader: Reader) -> Any:
        made = AsyncChunks if isinstance(runner, Asynchronous) else Chunks
        return made(reader, runner.stream(reader))

    def __init__(self, describe: Callable[Concatenate[Any, P], Reader]) -> None:
        super().__init__(describe)

    @overload
    def __get__(self, part: None, owner: type) -> Self: ...
    @overload
    def __get__(self, part: Part[Blocking], owner: type) -> Callable[P, Chunks]: ...
    @overload
    def __get__(self, part: Part[Asynchronous], owner: type) -> Callable[P, AsyncChunks]: ...
    def __get__(self, part: Any, owner: type) -> Any:
        return self.bind(part)


class BarReads(Part[R]):
    """Bars. Every read has an `as_of`, and its receipt says which: with it the same bars come again, years later."""

    @collection
    def __call__(
        self,
        tickers: Tickers | None = None,
        timeframe: Word = "1d",
        start: Time | None = None,
        end: Time | None = None,
        **choices: Unpack[Choices],
    ) -> _Gathering:
        """Returns the bars of a ticker or of many, oldest first; `.to_pandas()` and its like make a table of them.

        `start` is inclusive and `end` exclusive; without them all bars. Tickers may be symbol_ids; without any,
        `asset_class` or `all_active` choose. `adjustment` is none, split or split_and_dividend, `hours` all or
        regular, `min_quality` 0 to 1. `last` keeps the newest so many of each symbol. `as_of` takes an earlier
        answer's receipt and gives its bars again, `changed_since` what is different now. Unknown tickers among
        several are in `.unresolved`, or with `strict` an error.
        """
        request = stream_request(tickers, timeframe, start, end, **choices)
        return _Gathering(request, several=not isinstance(tickers, str | int))

    @_chunks
    def chunks(
        self,
        tickers: Tickers | None = None,
        timeframe: Word = "1d",
        start: Time | None = None,
        end: Time | None = None,
        **choices: Unpack[Choices],
    ) -> Reader:
        """Iterates over the bars in chunks of one symbol each, in bounded memory; takes what `bars()` takes."""
        return Reader(stream_request(tickers, timeframe, start, end, **choices))

    @collection
    def save(
        self,
        path: str | Path,
        tickers: Tickers | None = None,
        timeframe: Word = "1d",
        start: Time | None = None,
        end: Time | None = None,
        **choices: Unpack[Choices],
    ) -> _Saving:
        """Writes the bars to a Parquet file in bounded memory; takes what `bars()` takes.

        The file is there once it is whole.
        """
        return _Saving(stream_request(tickers, timeframe, start, end, **choices), Path(path))

    @operation
    def delete(
        self,
        ticker: Ticker,
        timeframe: Word,
        start: Time,
        end: Time,
        *,
        reason: str,
        asset_class: Word | None = None,
        purge: bool = False,
        validate_only: bool = False,
        request_id: str | None = None,
    ) -> Call[ingest_pb2.DeleteBarsResponse]:
        """Starts the deletion of a span of stored bars, which are not fetched again; `reason` is for people.

        An earlier `as_of` still shows them, unless `purge` removes their history, too. `validate_only` counts them.
        """
        request = ingest_pb2.DeleteBarsRequest(
            **named(ticker, asset_class),
            timeframe=words.timeframe(timeframe),
            start_time=words.instant(start, "start"),
            end_time=words.instant(end, "end"),
            reason=reason,
            purge=purge,
            validate_only=validate_only,
            request_id=words.request_id(request_id),
        )
        return Call("/mdw.ingest.v1.IngestService/DeleteBars", request, lambda answer: answer)

    @procedure
    def sync(
        self,
        folder: str | Path,
        tickers: Tickers | None = None,
        timeframe: Word = "1d",
        start: Time | None = None,
        *,
        report: Report | None = None,
        **choices: Unpack[Mirrored],
    ) -> Mirror:
        """Keeps a folder of Parquet files equal to the bars, a file a symbol, by asking for what changed.

        The files are in `folder/1d` or the like. Without any choice of symbols those that are there are brought up to
        date. `report(done, of, ticker)` is called for each file that was written, with how many symbols are done and of
        how many. A run may be killed anywhere and begun again.
        """
        request = stream_request(tickers, timeframe, start, None, **choices)
        name = words.spoken(type_pb2.Timeframe, request.timeframe, "TIMEFRAME_")
        return Mirror(Path(folder).expanduser() / name, request, report)

    @listing
    def list(
        self,
        tickers: Tickers | None = None,
        timeframe: Word = "1d",
        start: Time | None = None,
        end: Time | None = None,
        *,
        order: Word | None = None,
        asset_class: Word | None = None,
        all_active: bool = False,
        adjustment: Word | None = None,
        hours: Word | None = None,
        min_quality: float = 0.0,
        as_of: Time | pb.Receipt | None = None,
        strict: bool = False,
        page_size: int = 0,
    ) -> Pages[pb.Bar]:
        """Iterates over bars as messages, page after page, one symbol after the other; `order` time_asc or time_desc.

        For more than some thousands of bars `bars()` and `chunks()` are many times as fast.
        """
        if isinstance(tickers, str | int):
            chosen_ones = named(tickers, asset_class)
        else:
            chosen_ones = {**chosen(tickers), "asset_class": words.asset_class(asset_class)}
        request = pb.ListBarsRequest(
            **chosen_ones,
            all_active=all_active,
            timeframe=words.timeframe(timeframe),
            start_time=words.instant(start, "start"),
            end_time=words.instant(end, "end"),
            order=words.word(pb.Order, order, "order", "ORDER_"),
            adjustment=words.word(pb.Adjustment, adjustment, "adjustment", "ADJUSTMENT_"),
            hours=words.word(pb.Hours, hours, "hours", "HOURS_"),
            min_quality=min_quality,
            as_of=_as_of(as_of, "as_of"),
            strict=strict,
            page_size=page_size,
        )
        return Pages(_RPC + "ListBars", request, lambda answer: answer.bars)

    @operation
    def latest(
        self,
        tickers: Tickers,
        timeframe: Word = "1d",
        *,
        asset_class: Word | None = None,
        as_of: Time | pb.Receipt | None = None,
        strict: bool = False,
    ) -> Call[pb.GetLatestBarsResponse]:
        """Returns the newest bar of each of up to 1,000 symbols."""
        request = pb.GetLatestBarsRequest(
            **chosen(tickers),
            asset_class=words.asset_class(asset_class),
            timeframe=words.timeframe(timeframe),
            as_of=_as_of(as_of, "as_of"),
            strict=strict,
        )
        return Call(_RPC + "GetLatestBars", request, lambda answer: answer)


def stream_request(
    tickers: Tickers | None, timeframe: Word, start: Time | None, end: Time | None, **choices: Unpack[Choices]
) -> pb.StreamBarsRequest:
    """Makes the request of a read."""
    adjustment, hours = choices.get("adjustment"), choices.get("hours")
    return pb.StreamBarsRequest(
        **chosen(tickers),
        asset_class=words.asset_class(choices.get("asset_class")),
        all_active=choices.get("all_active", False),
        timeframe=words.timeframe(timeframe),
        start_time=words.instant(start, "start"),
        end_time=words.instant(end, "end"),
        min_quality=choices.get("min_quality", 0.0),
        adjustment=words.word(pb.Adjustment, adjustment, "adjustment", "ADJUSTMENT_"),
        hours=words.word(pb.Hours, hours, "hours", "HOURS_"),
        as_of=_as_of(choices.get("as_of"), "as_of"),
        last=choices.get("last", 0),
        changed_since=_as_of(choices.get("changed_since"), "changed_since"),
        strict=choices.get("strict", False),
    )


def _as_of(value: Time | pb.Receipt | None, name: str) -> Any:
    return value.as_of if isinstance(value, pb.Receipt) else words.instant(value, name)
