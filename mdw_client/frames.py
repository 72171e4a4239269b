"""The bars of an answer as numpy columns and as tables of pandas, polars and Arrow."""

from __future__ import annotations

import importlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mdw.type.v1 import type_pb2
from mdw_client.columns import concatenate
from mdw_client.errors import MdwError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    import pandas as pd
    import polars as pl
    import pyarrow as pa
    from numpy.typing import NDArray

    from mdw.ingest.v1 import bars_pb2 as pb
    from mdw_client.columns import Chunk, Columns

BY_DATE = frozenset({type_pb2.TIMEFRAME_1D, type_pb2.TIMEFRAME_1W})
"""The timeframes whose bars are keyed by a date."""
PENALTIES = {1: 0.3, 2: 0.2, 4: 0.1, 8: 0.15}
"""What each bit of a bar's flags takes from its quality of 1."""


class MissingExtraError(MdwError, ImportError):
    """A library that only some users want is not installed."""


class Bars:
    """All bars of an answer, symbol after symbol, oldest first; `receipt` says what they are and what they lack."""

    def __init__(
        self,
        chunks: list[Chunk],
        timeframe: type_pb2.Timeframe.ValueType,
        receipt: pb.Receipt,
        unresolved: list[pb.UnresolvedSymbol],
        *,
        several: bool,
    ) -> None:
        self._chunks = chunks
        self.timeframe = timeframe
        self.receipt = receipt
        self.unresolved = unresolved
        """Tickers that are not registered, or fit several symbols."""
        self.several = several
        """Whether a list of symbols was asked for: then tables carry the ticker in their index."""

    def __len__(self) -> int:
        return sum(len(chunk) for chunk in self._chunks)

    def __repr__(self) -> str:
        symbols = len(self.tickers)
        return f"<Bars: {len(self):,} of {symbols} symbol{'s' * (symbols != 1)}, as of {self.as_of.isoformat()}>"

    def __iter__(self) -> Iterator[Chunk]:
        return iter(self._chunks)

    @property
    def as_of(self) -> datetime:
        """The instant that gives this answer again."""
        return self.receipt.as_of.ToDatetime(tzinfo=UTC)

    @property
    def tickers(self) -> dict[int, str]:
        """The present ticker of each symbol_id that has bars."""
        return {chunk.symbol_id: chunk.ticker for chunk in self._chunks}

    @property
    def deleted(self) -> dict[int, NDArray[np.datetime64]]:
        """With `changed_since`: the times of bars that went, by symbol_id."""
        import numpy as np  # noqa: PLC0415 # services use the channels alone and start without it

        found: dict[int, list[Any]] = {}
        for chunk in self._chunks:
            if len(chunk.deleted):
                found.setdefault(chunk.symbol_id, []).append(chunk.deleted)
        return {symbol_id: np.unique(np.concatenate(times)) for symbol_id, times in found.items()}

    @property
    def replaced(self) -> frozenset[int]:
        """With `changed_since`: symbols that are sent anew as a whole; all that was held of them is to be dropped."""
        return frozenset(chunk.symbol_id for chunk in self._chunks if chunk.replaces_all)

    def columns(self) -> Columns:
        """Returns numpy arrays of one length, named as in the contract, and symbol_id.

        `start_time` is datetime64[ms] in UTC; `vwap` is NaN and `trade_count` -1 where the source has none.
        """
        return concatenate(_with_symbol(chunk) for chunk in self._chunks) if self._chunks else _no_bars()

    def quality(self) -> NDArray[np.float64]:
        """Returns each bar's quality, 0 to 1; 0.85 and more counts as validated."""
        flags: Any = self.columns()["flags"]
        quality: NDArray[np.float64] = 1.0 - sum(penalty * ((flags & bit) > 0) for bit, penalty in PENALTIES.items())
        return quality.round(2)

    def to_pandas(self) -> pd.DataFrame:
        """Returns a frame indexed by `time` (UTC) or, for days and weeks, by `date`.

        Where a list of symbols was asked for, the index is (ticker, time), and `symbol_id` is a column.
        """
        pandas = library("pandas", "pandas")
        columns = self.columns()
        times = pandas.DatetimeIndex(columns.pop("start_time"), name=self._time_name())
        symbol_ids = columns.pop("symbol_id")
        counts: Any = columns["trade_count"]
        frame: pd.DataFrame = pandas.DataFrame(
            {**columns, "trade_count": pandas.arrays.IntegerArray(counts, counts < 0)},
            index=times if self.timeframe in BY_DATE else times.tz_localize("UTC"),
            copy=False,
        )
        if not self.several:
            return frame
        tickers = self.tickers
        codes = _codes(symbol_ids, list(tickers))
        frame.insert(0, "symbol_id", symbol_ids)
        names = list(dict.fromkeys(tickers.values()))
        by_name = [names.index(ticker) for ticker in tickers.values()]
        frame.insert(0, "ticker", pandas.Categorical.from_codes(_take(by_name, codes), names))
        indexed: pd.DataFrame = frame.set_index("ticker", append=True).swaplevel()
        return indexed

    def to_arrow(self) -> pa.Table:
        """Returns a table with ticker, symbol_id, date or time, and the bar's columns; absent values are null."""
        arrow = library("pyarrow", "arrow")
        schema = arrow_schema(self.timeframe)
        return arrow.Table.from_batches([arrow_batch(chunk, schema) for chunk in self._chunks if len(chunk)], schema)

    def to_polars(self) -> pl.DataFrame:
        """Returns a frame with ticker, symbol_id, date or time, and the bar's columns; absent values are null."""
        polars = library("polars", "polars")
        columns = self.columns()
        name = self._time_name()
        time = polars.col(name)
        tickers = self.tickers
        names = polars.DataFrame(
            {"symbol_id": list(tickers), "ticker": list(tickers.values())},
            schema={"symbol_id": polars.Int64, "ticker": polars.Categorical},
        )
        frame = polars.DataFrame({"symbol_id": columns.pop("symbol_id"), name: columns.pop("start_time"), **columns})
        named: pl.DataFrame = frame.join(names, on="symbol_id", how="left", maintain_order="left").select(
            "ticker",
            "symbol_id",
            time.cast(polars.Date) if self.timeframe in BY_DATE else time.dt.replace_time_zone("UTC"),
            *("open", "high", "low", "close", "volume"),
            polars.col("vwap").fill_nan(None),
            polars.when(polars.col("trade_count") >= 0).then(polars.col("trade_count")).alias("trade_count"),
            "flags",
        )
        return named

    def to_parquet(self, path: str | Path) -> None:
        """Writes a Parquet file; `client.bars.save` does so without holding all bars in memory."""
        from mdw_client.parquet import ParquetFile  # noqa: PLC0415 # which needs this module

        file = ParquetFile(path, self.timeframe)
        try:
            for chunk in self._chunks:
                file.write(chunk)
            file.finish(self.receipt, self.unresolved)
        except BaseException:
            file.abandon()
            raise

    def _time_name(self) -> str:
        return "date" if self.timeframe in BY_DATE else "time"


def library(name: str, extra: str) -> Any:
    """Imports a library that is an extra of this package; raises MissingExtraError with what to install."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"{name} is not installed: pip install 'mdw-client[{extra}]'") from error


def arrow_schema(timeframe: type_pb2.Timeframe.ValueType) -> Any:
    """Returns the schema of Arrow tables and Parquet files."""
    arrow = library("pyarrow", "arrow")
    time = ("date", arrow.date32()) if timeframe in BY_DATE else ("time", arrow.timestamp("ms", tz="UTC"))
    prices = [(name, arrow.float64()) for name in ("open", "high", "low", "close", "volume", "vwap")]
    ticker = ("ticker", arrow.dictionary(arrow.int32(), arrow.string()))
    counts = [("trade_count", arrow.int64()), ("flags", arrow.uint32())]
    return arrow.schema([ticker, ("symbol_id", arrow.int64()), time, *prices, *counts])


def arrow_batch(chunk: Chunk, schema: Any) -> Any:
    """Returns a chunk as a record batch; columns without absent values are not copied."""
    import numpy as np  # noqa: PLC0415 # services use the channels alone and start without it

    arrow = library("pyarrow", "arrow")
    rows, columns = len(chunk), chunk.columns
    ticker = arrow.DictionaryArray.from_arrays(arrow.array(np.zeros(rows, np.int32)), arrow.array([chunk.ticker]))
    times = arrow.array(columns["start_time"]).cast(schema.field(2).type)
    prices = [arrow.array(columns[name]) for name in ("open", "high", "low", "close", "volume")]
    vwap = arrow.array(columns["vwap"], from_pandas=True)
    counts = arrow.array(columns["trade_count"], mask=columns["trade_count"] < 0)  # type: ignore[operator]
    arrays = [ticker, arrow.array(np.full(rows, chunk.symbol_id)), times, *prices, vwap, counts]
    return arrow.record_batch([*arrays, arrow.array(columns["flags"])], schema=schema)


def _with_symbol(chunk: Chunk) -> Columns:
    import numpy as np  # noqa: PLC0415 # as above

    return {"symbol_id": np.full(len(chunk), chunk.symbol_id, np.int64), **chunk.columns}


def _no_bars() -> Columns:
    import numpy as np  # noqa: PLC0415 # as above

    return {"symbol_id": np.zeros(0, np.int64), **concatenate(())}


def _codes(symbol_ids: Any, known: list[int]) -> NDArray[np.int64]:
    """Returns the position of each symbol_id in `known`."""
    import numpy as np  # noqa: PLC0415 # as above

    order = np.argsort(known)
    return order[np.searchsorted(np.asarray(known)[order], symbol_ids)] if len(symbol_ids) else np.zeros(0, np.int64)


def _take(positions: list[int], codes: NDArray[np.int64]) -> NDArray[np.int64]:
    import numpy as np  # noqa: PLC0415 # as above

    return np.asarray(positions, np.int64)[codes] if len(codes) else codes
