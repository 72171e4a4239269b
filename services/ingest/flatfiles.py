"""Reads Polygon's flat files: gzipped CSV, one day of all tickers of a market each."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from isal import igzip, isal_zlib

from services.ingest.columns import NO_TIME, Columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.ingest.columns import BoolArray

FIELDS = {
    "ticker": pl.String,
    "volume": pl.Float64,
    "open": pl.Float64,
    "close": pl.Float64,
    "high": pl.Float64,
    "low": pl.Float64,
    "window_start": pl.Int64,
    "transactions": pl.Int64,
}
"""As the header names them; window_start is in nanoseconds since 1970. There is no vwap."""

_NS = 1_000_000
_MOST_TRADES = 2**31 - 1


class BadFileError(Exception):
    """A file that cannot be read as what it should be; the text says why."""


def unpack(data: bytes) -> bytes:
    """Returns the text of a file; raises BadFileError for one that is cut or no gzip."""
    try:
        return bytes(igzip.decompress(data))  # type: ignore[no-untyped-call]
    except (EOFError, OSError, isal_zlib.error) as error:  # type: ignore[misc]  # its stub takes the class for an instance
        raise BadFileError(f"cut, or no gzip: {error}") from error


def read_lines(text: bytes) -> pl.DataFrame:
    """Returns the lines of a file, numbered from 0 in `line`; a value that is no number is null."""
    names = text.partition(b"\n")[0].decode("utf-8", "replace").strip().split(",")
    if sorted(names) != sorted(FIELDS):
        raise BadFileError(f"the header is {','.join(names)[:200]!r}, must be {','.join(FIELDS)}")
    try:
        return pl.read_csv(
            io.BytesIO(text),
            schema={name: FIELDS[name] for name in names},
            ignore_errors=True,
            truncate_ragged_lines=True,
            encoding="utf8-lossy",
            row_index_name="line",
        )
    except pl.exceptions.PolarsError as error:
        raise BadFileError(f"no CSV: {str(error)[:200]}") from error


def raw_lines(text: bytes, lines: Sequence[int]) -> list[str]:
    """Returns lines of a file by their numbers, as they stand there but for quotes and fields too many."""
    names = text.partition(b"\n")[0].decode("utf-8", "replace").strip().split(",")
    rows = pl.read_csv(
        io.BytesIO(text),
        schema=dict.fromkeys(names, pl.String),
        truncate_ragged_lines=True,
        encoding="utf8-lossy",
    )
    return [",".join(value or "" for value in row) for row in rows[list(lines)].iter_rows()]


def to_columns(lines: pl.DataFrame) -> tuple[Columns, BoolArray]:
    """Returns lines as bars, and which times are no whole milliseconds; what is missing is as Columns has it."""
    start = lines["window_start"]
    missing = start.is_null().to_numpy()
    ns = start.fill_null(0).to_numpy()
    ts = np.where(missing, NO_TIME, ns // _NS)
    count = lines["transactions"].fill_null(-1).to_numpy()
    prices = {name: lines[name].to_numpy().astype(np.float64) for name in ("open", "high", "low", "close", "volume")}
    countable = (count >= 0) & (count <= _MOST_TRADES)
    bars = Columns(ts=ts, **prices, vwap=np.full(len(ts), np.nan), trade_count=np.where(countable, count, -1))
    return bars, ns % _NS != 0
