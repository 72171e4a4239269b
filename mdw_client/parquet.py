"""Parquet files of bars, written chunk by chunk and there once they are whole."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdw_client.columns import BAR_COLUMNS, Chunk
from mdw_client.frames import arrow_batch, arrow_schema, library

if TYPE_CHECKING:
    from mdw.ingest.v1 import bars_pb2 as pb
    from mdw.type.v1 import type_pb2

PART = ".part"
"""What the name of a file ends with until it is whole."""
_ROWS_A_GROUP = 131_072


def read_chunk(path: Path) -> Chunk:
    """Reads a file that holds one symbol."""
    import numpy as np  # noqa: PLC0415 # services use the channels alone and start without it

    table = library("pyarrow.parquet", "arrow").read_table(path)
    time = table.column(2).cast("timestamp[ms]").to_numpy()
    columns = {"start_time": time}
    for name in BAR_COLUMNS[1:-2]:
        columns[name] = table[name].fill_null(float("nan")).to_numpy()
    columns["trade_count"] = table["trade_count"].fill_null(-1).to_numpy()
    columns["flags"] = table["flags"].to_numpy()
    symbol_id = table["symbol_id"][0].as_py() if len(time) else 0
    return Chunk(symbol_id, str(table["ticker"][0]) if len(time) else "", columns, np.zeros(0, "M8[ms]"))


@dataclass(frozen=True)
class Saved:
    """A file that was written."""

    path: Path
    bars: int
    receipt: pb.Receipt
    unresolved: list[pb.UnresolvedSymbol]


class ParquetFile:
    """A Parquet file under way, beside the place where it will be once it is whole."""

    def __init__(self, path: str | Path, timeframe: type_pb2.Timeframe.ValueType) -> None:
        self._path = Path(path)
        self._part = self._path.with_name(f".{self._path.name}.{os.getpid()}{PART}")
        self._schema = arrow_schema(timeframe)
        self._writer = library("pyarrow.parquet", "arrow").ParquetWriter(self._part, self._schema, compression="zstd")
        self._waiting: list[Any] = []
        self._rows_waiting = 0
        self._rows = 0

    def write(self, chunk: Chunk) -> None:
        if not len(chunk):
            return
        self._waiting.append(arrow_batch(chunk, self._schema))
        self._rows_waiting += len(chunk)
        self._rows += len(chunk)
        if self._rows_waiting >= _ROWS_A_GROUP:
            self._write_group()

    def finish(self, receipt: pb.Receipt, unresolved: list[pb.UnresolvedSymbol]) -> Saved:
        """Puts the file in its place, with the receipt in its metadata (`mdw.receipt`)."""
        self.place({"mdw.receipt": receipt.SerializeToString().hex()})
        return Saved(self._path, self._rows, receipt, unresolved)

    def place(self, metadata: dict[str, str]) -> None:
        """Puts the file in its place: it is on the disk before it has its name."""
        if self._waiting:
            self._write_group()
        self._writer.add_key_value_metadata(metadata)
        self._writer.close()
        with self._part.open("rb") as written:
            os.fsync(written.fileno())
        self._part.replace(self._path)

    def abandon(self) -> None:
        """Removes what was written."""
        self._writer.close()
        self._part.unlink(missing_ok=True)

    def _write_group(self) -> None:
        table = library("pyarrow", "arrow").Table.from_batches(self._waiting, self._schema)
        self._writer.write_table(table.unify_dictionaries())
        self._waiting = []
        self._rows_waiting = 0
