"""Turns the lines of flat files into a batch: whose they are at their day, which are impossible, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from services.ingest.batches import Batch
from services.ingest.calendar import day_of
from services.ingest.columns import NO_TIME
from services.ingest.filenames import published
from services.ingest.flatfiles import raw_lines, read_lines, to_columns
from services.ingest.quality import sift_many
from services.ingest.slices import SliceSpan
from services.ingest.store.refused import Reject

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from services.ingest.calendar import Sessions
    from services.ingest.columns import BoolArray, Columns, IntArray
    from services.ingest.quality import Sifted

UNKNOWN_TICKER = "UNKNOWN_TICKER"
"""The reason of a refused line whose ticker nobody registered; one line a ticker is kept."""

MOST_UNKNOWN = 1_000
"""Unknown tickers that are listed of a batch, those with the most lines."""

_MOST_REJECTED = 1_000
_LARGEST_SHARE = 0.1


class Holding(NamedTuple):
    """Says that a symbol holds a ticker, as the files spell it, on the days from first to end (exclusive)."""

    ticker: str
    symbol_id: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class DayFile:
    """A file's day and its text."""

    name: str
    day: date
    text: bytes


@dataclass(frozen=True, slots=True)
class FileCounts:
    """What a file held: lines in all, refused ones, and those of tickers that nobody registered."""

    rows: int
    rejected: int
    unknown: int


@dataclass(frozen=True, slots=True)
class Imported:
    """The batch of some files, and what each of them held, in their order."""

    batch: Batch
    counts: list[FileCounts]
    unknown_tickers: int


def too_bad(counts: FileCounts) -> bool:
    """Says that so many lines of a file are impossible that it is another file than it should be."""
    return counts.rejected > max(_MOST_REJECTED, _LARGEST_SHARE * counts.rows)


def read_file(file: DayFile) -> pl.DataFrame:
    """Returns the lines of a file with its day; raises BadFileError."""
    return read_lines(file.text).with_columns(pl.lit(day_of(file.day), pl.Int64).alias("day"))


def to_batch(
    files: Sequence[DayFile], frames: Sequence[pl.DataFrame], holdings: pl.DataFrame, timeframe: int, sessions: Sessions
) -> Imported:
    """Makes the batch of files of different days, ascending, with their lines; holdings are as made by `to_frame`."""
    together = pl.concat(
        [frame.with_columns(pl.lit(at, pl.Int64).alias("file")) for at, frame in enumerate(frames)], how="vertical"
    ).with_row_index("row")
    known = _resolve(together, holdings)
    owners = known["symbol_id"].to_numpy()
    bars, off_grid = to_columns(known)
    span = SliceSpan.of(timeframe, sessions, day_of(files[0].day), day_of(files[-1].day))
    bars, sifted = _sift(bars, off_grid, known["day"].to_numpy(), owners, span)
    rejects = _refused(files, known, bars, sifted)
    nobodys = np.ones(len(together), np.bool_)
    nobodys[known["row"].to_numpy()] = False
    unknown = together.filter(nobodys)
    counts = _counts(len(files), together, known[sifted.rejected.tolist()], unknown)
    whose = owners[sifted.kept]
    ids = np.union1d(whose[np.flatnonzero(np.diff(whose, prepend=-1))], owners[sifted.rejected])
    starts = np.searchsorted(whose, np.append(ids, np.iinfo(np.int64).max))
    batch = Batch(
        timeframe=timeframe,
        sessions=sessions,
        first_day=day_of(files[0].day),
        end_day=day_of(files[-1].day) + 1,
        fetch_time=published(files[-1].day),
        symbol_ids=ids,
        starts=starts,
        bars=bars.take(sifted.kept),
        rejects=[*rejects, *_unknown(unknown)],
        partial=True,
    )
    return Imported(batch, counts, unknown["ticker"].n_unique())


def to_frame(holdings: Sequence[Holding]) -> pl.DataFrame:
    """Returns holdings as a table to be joined with lines."""
    schema = {"ticker": pl.String, "symbol_id": pl.Int64, "first": pl.Int64, "end": pl.Int64}
    return pl.DataFrame(list(zip(*holdings, strict=True)), schema=schema, orient="col")


def _resolve(lines: pl.DataFrame, holdings: pl.DataFrame) -> pl.DataFrame:
    """Returns the lines of tickers that somebody held at their day, with symbol_id, in the files' order."""
    held = lines.join(holdings, on="ticker", how="inner")
    return held.filter((pl.col("first") <= pl.col("day")) & (pl.col("day") < pl.col("end"))).sort("row")


def _sift(
    bars: Columns, off_grid: BoolArray, days: IntArray, owners: IntArray, span: SliceSpan
) -> tuple[Columns, Sifted]:
    """Returns the bars with the times under which they are stored, and which of them are possible."""
    keyed, unaligned = span.keyed(bars)
    known, at = np.unique(days, return_inverse=True)
    starts = np.array([span.start_of(day) for day in known.tolist()], np.int64)[at.reshape(-1)]
    ends = np.array([span.start_of(day + 1) for day in known.tolist()], np.int64)[at.reshape(-1)]
    return keyed, sift_many(keyed, owners, start_ms=starts, end_ms=ends, off_grid=off_grid | unaligned)


def _refused(
    files: Sequence[DayFile], known: pl.DataFrame, bars: Columns, sifted: Sifted
) -> list[tuple[int | None, str, Reject]]:
    """Returns impossible lines as they stand in their files."""
    lines = known[sifted.rejected.tolist()].select("symbol_id", "ticker", "file", "line")
    text: dict[tuple[int, int], str] = {}
    for at in lines["file"].unique().to_list():
        numbers = lines.filter(pl.col("file") == at)["line"].to_list()
        text.update(zip([(at, number) for number in numbers], raw_lines(files[at].text, numbers), strict=True))
    return [
        (symbol_id, ticker, Reject(int(bars.ts[position]), str(reason), text[file, line]))
        for (symbol_id, ticker, file, line), position, reason in zip(
            lines.iter_rows(), sifted.rejected.tolist(), sifted.reasons, strict=True
        )
    ]


def _unknown(lines: pl.DataFrame) -> list[tuple[int | None, str, Reject]]:
    """Returns the tickers that nobody registered, once each."""
    counted = lines.group_by("ticker").len().sort("len", "ticker", descending=[True, False]).head(MOST_UNKNOWN)
    return [
        (None, ticker or "", Reject(NO_TIME, UNKNOWN_TICKER, ticker or "")) for ticker in counted["ticker"].to_list()
    ]


def _counts(files: int, lines: pl.DataFrame, rejected: pl.DataFrame, unknown: pl.DataFrame) -> list[FileCounts]:
    """Counts by file."""
    by_file = [np.bincount(frame["file"].to_numpy(), minlength=files).tolist() for frame in (lines, rejected, unknown)]
    return [FileCounts(*numbers) for numbers in zip(*by_file, strict=True)]
