"""A folder of Parquet files that mirrors bars, a file a symbol, brought up to date by what changed.

Each file says in its metadata as of which instant it is exact (`mdw.as_of`), and takes its place whole, so a run that
is killed anywhere leaves files of two instants, and the next one brings each up to date from its own. `mdw-sync.json`
holds the same instants for a run to begin with, and those of symbols without bars; while it says that a run is under
way, the files' own word counts.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from mdw.ingest.v1 import bars_pb2 as pb
from mdw.type.v1 import type_pb2
from mdw_client.columns import Chunk, concatenate
from mdw_client.errors import ConfigurationError, FailedPrecondition
from mdw_client.frames import library
from mdw_client.parquet import PART, ParquetFile, read_chunk
from mdw_client.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from pathlib import Path

STATE = "mdw-sync.json"
Report = Callable[[int, int, str], None]
"""Is told of each file that was written: the how many-th symbol of how many of this read, and its ticker."""
_LOCK = ".mdw-sync.lock"


@dataclass
class Synced:
    """What a run did."""

    folder: Path
    as_of: Timestamp = field(default_factory=Timestamp)
    symbols: int = 0
    files: int = 0
    """Files that were written."""
    unresolved: Sequence[pb.UnresolvedSymbol] = ()


@dataclass
class Held:
    """What the folder has of a symbol: the file's name, empty without bars, and as of when it is exact."""

    name: str
    as_of: str


class Mirror:
    """One run of `client.bars.sync`."""

    def __init__(self, folder: Path, request: pb.StreamBarsRequest, report: Report | None) -> None:
        self.folder = folder
        self.held: dict[int, Held] = {}
        self._request = request
        self.report = report or (lambda _done, _all, _ticker: None)
        self._synced = Synced(folder)

    def steps(self) -> Generator[Update]:
        """Yields the reads: what changed for most, and whatever others need to get to the same instant."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder):
            self._open()
            basis = Counter(held.as_of for held in self.held.values()).most_common(1)
            first = yield from self._bring(self._chosen(), basis[0][0] if basis else "")
            as_of, symbol_ids = first.receipt.as_of, {*first.receipt.symbol_ids, *self._purged(first)}
            for since, behind in self._behind(symbol_ids, as_of).items():
                update = yield from self._bring(behind, since, as_of)
                if purged := self._purged(update):
                    yield from self._bring(purged, "", as_of)
            self._synced.as_of = as_of
            self._synced.symbols = len(symbol_ids)
            self._synced.unresolved = [each for each in first.unresolved if not each.symbol_id]
            self._save(under_way=False)

    def _bring(
        self, symbol_ids: Sequence[int], since: str, as_of: Timestamp | None = None
    ) -> Generator[Update, None, Update]:
        """Yields the read that brings symbols up to date, and where that history was purged, the read of all."""
        update = Update(self, self._copy(symbol_ids, as_of), since)
        try:
            yield update
        except FailedPrecondition as error:
            if error.reason != "AS_OF_PURGED" or not since:
                raise
            self._forget(symbol_id for symbol_id, held in self.held.items() if held.as_of == since)
            update = Update(self, self._copy(symbol_ids, as_of), "")
            yield update
        return update

    def result(self) -> Synced:
        return self._synced

    def write(self, symbol_id: int, chunks: Iterable[Chunk], ticker: str, as_of: Timestamp) -> None:
        """Puts a symbol's file in its place."""
        name = f"{symbol_id}_{_safe(ticker)}.parquet"
        file = ParquetFile(self.folder / name, self._request.timeframe)
        try:
            for chunk in chunks:
                file.write(chunk)
            file.place({"mdw.symbol_id": str(symbol_id), "mdw.as_of": as_of.ToJsonString()})
        except BaseException:
            file.abandon()
            raise
        before = self.held.get(symbol_id)
        if before and before.name not in ("", name):
            (self.folder / before.name).unlink(missing_ok=True)
        self.held[symbol_id] = Held(name, as_of.ToJsonString())
        self._synced.files += 1

    def read(self, symbol_id: int) -> Chunk | None:
        """Returns all that the folder has of a symbol."""
        held = self.held.get(symbol_id)
        return read_chunk(self.folder / held.name) if held and held.name else None

    def settle(self, symbol_ids: Iterable[int], since: str, as_of: Timestamp) -> None:
        """Notes that symbols of which nothing came are exact as they are, or where all was asked for, have no bars."""
        for symbol_id in symbol_ids:
            held = self.held.setdefault(symbol_id, Held("", ""))
            if held.as_of != since:
                continue
            if not since and held.name:
                (self.folder / held.name).unlink()
                held.name = ""
            held.as_of = as_of.ToJsonString()

    def _copy(self, symbol_ids: Sequence[int] = (), as_of: Timestamp | None = None) -> pb.StreamBarsRequest:
        made = pb.StreamBarsRequest()
        made.CopyFrom(self._request)
        if symbol_ids:
            for name in ("tickers", "symbol_ids", "asset_class", "all_active"):
                made.ClearField(name)
            made.symbol_ids.extend(symbol_ids)
        if as_of is not None:
            made.as_of.CopyFrom(as_of)
        return made

    def _chosen(self) -> list[int]:
        """Returns the symbols of the folder where the request names none."""
        request = self._request
        if request.tickers or request.symbol_ids or request.asset_class or request.all_active:
            return []
        if not self.held:
            raise ConfigurationError(f"{self.folder} is empty: name tickers, a class, or all active symbols")
        return list(self.held)

    def _purged(self, update: Update) -> list[int]:
        """Returns the symbols that were left out because their history was purged; they are to be read anew."""
        purged = [each.symbol_id for each in update.unresolved if each.reason == type_pb2.AS_OF_PURGED]
        self._forget(purged)
        return purged

    def _forget(self, symbol_ids: Iterable[int]) -> None:
        for symbol_id in symbol_ids:
            self.held.setdefault(symbol_id, Held("", "")).as_of = ""

    def _behind(self, symbol_ids: Iterable[int], as_of: Timestamp) -> dict[str, list[int]]:
        """Returns the symbols that are not there yet, by the instant from which they have to be brought up to date."""
        found: dict[str, list[int]] = {}
        for symbol_id in symbol_ids:
            held = self.held.get(symbol_id)
            if held is None or held.as_of != as_of.ToJsonString():
                found.setdefault(held.as_of if held else "", []).append(symbol_id)
        return found

    def _open(self) -> None:
        """Reads what the folder holds, and notes that a run is under way."""
        for left in self.folder.glob(f".*{PART}"):
            left.unlink()
        state = self._load()
        if state.get("question", self._question()) != self._question():
            raise ConfigurationError(
                f"{self.folder} mirrors another question, {state['question']}: take another folder"
            )
        self.held = {int(key): Held(*value) for key, value in state.get("symbols", {}).items()}
        if state.get("under_way", True):
            self._believe_files()
        self._save(under_way=True)

    def _load(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads((self.folder / STATE).read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise ConfigurationError(f"{self.folder / STATE} cannot be read ({error}): remove it") from error
        return state

    def _believe_files(self) -> None:
        """Takes each file's own word; of two files of a symbol, which a new ticker can leave, the later."""
        parquet = library("pyarrow.parquet", "arrow")
        self.held = {symbol_id: held for symbol_id, held in self.held.items() if not held.name}
        for path in sorted(self.folder.glob("*.parquet")):
            metadata = parquet.read_metadata(path).metadata or {}
            if b"mdw.symbol_id" not in metadata:
                continue
            symbol_id, as_of = int(metadata[b"mdw.symbol_id"]), metadata[b"mdw.as_of"].decode()
            other = self.held.get(symbol_id)
            if other and other.name and _instant(other.as_of).ToNanoseconds() >= _instant(as_of).ToNanoseconds():
                path.unlink()
                continue
            if other and other.name:
                (self.folder / other.name).unlink()
            self.held[symbol_id] = Held(path.name, as_of)

    def _save(self, *, under_way: bool) -> None:
        symbols = {str(symbol_id): [held.name, held.as_of] for symbol_id, held in self.held.items()}
        text = json.dumps({"question": self._question(), "under_way": under_way, "symbols": symbols})
        part = self.folder / f".{STATE}{PART}"
        with part.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.folder / STATE)

    def _question(self) -> str:
        """Returns what is asked of each symbol, as text; which symbols may differ from run to run."""
        request = self._request
        asked = pb.StreamBarsRequest(
            timeframe=request.timeframe,
            start_time=request.start_time if request.HasField("start_time") else None,
            min_quality=request.min_quality,
            adjustment=request.adjustment or pb.ADJUSTMENT_NONE,
            hours=request.hours or pb.HOURS_ALL,
        )
        return json.dumps(MessageToDict(asked), sort_keys=True)


class Update(Reader):
    """One read of a run: everything where `since` is empty, else what changed since then of what is held as of then."""

    def __init__(self, mirror: Mirror, request: pb.StreamBarsRequest, since: str) -> None:
        if since:
            request.changed_since.CopyFrom(_instant(since))
        super().__init__(request)
        self._mirror = mirror
        self.since = since
        self._chunks: list[Chunk] = []
        self._places: dict[int, int] = {}

    def keep(self, item: Chunk) -> None:
        held = self._mirror.held.get(item.symbol_id)
        if (held.as_of if held else "") != self.since:
            return  # It is brought up to date from another instant, or was so before the stream broke.
        if self._chunks and self._chunks[0].symbol_id != item.symbol_id:
            self._write()
        self._chunks.append(item)

    def result(self) -> None:
        if self._chunks:
            self._write()
        self._mirror.settle(self.receipt.symbol_ids, self.since, self.receipt.as_of)

    def abandon(self) -> None:
        self._chunks.clear()

    def _write(self) -> None:
        chunks, self._chunks = self._chunks, []
        symbol_id, ticker = chunks[0].symbol_id, chunks[0].ticker
        before = None
        if self.since and not any(chunk.replaces_all for chunk in chunks):
            before = self._mirror.read(symbol_id)
        self._mirror.write(symbol_id, [merge(before, chunks)] if before else chunks, ticker, self._request.as_of)
        self._mirror.report(self._place(symbol_id), len(self.symbol_ids), ticker)

    def _place(self, symbol_id: int) -> int:
        """Returns the how many-th symbol of the answer this is."""
        self._places = self._places or {each: number for number, each in enumerate(self.symbol_ids, 1)}
        return self._places.get(symbol_id, 0)


def merge(before: Chunk, changes: Sequence[Chunk]) -> Chunk:
    """Returns the bars after the changes: those of the same time replaced, those deleted gone, all in order."""
    import numpy as np  # noqa: PLC0415 # services use the channels alone and start without it

    new = concatenate(chunk.columns for chunk in changes)
    gone = np.concatenate([new["start_time"], *(chunk.deleted for chunk in changes)])
    stays = ~np.isin(before.columns["start_time"], gone)
    joined = concatenate([{name: column[stays] for name, column in before.columns.items()}, new])
    order = np.argsort(joined["start_time"], kind="stable")
    columns = {name: column[order] for name, column in joined.items()}
    return Chunk(changes[0].symbol_id, changes[0].ticker, columns, gone[:0])


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other runs out of the folder; the lock goes with the process, however it ends."""
    with (folder / _LOCK).open("w") as file:
        with suppress(ModuleNotFoundError):
            import fcntl  # noqa: PLC0415 # where there is one

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigurationError(f"{folder}: another sync is at work there") from error
        yield


def _safe(ticker: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in ticker)


def _instant(text: str) -> Timestamp:
    made = Timestamp()
    made.FromJsonString(text)
    return made
