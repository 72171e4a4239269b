"""Imports flat files from a folder that the workers can read: lists it, reads file by file, writes their bars."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import date
from hashlib import sha256
from typing import TYPE_CHECKING

from services.ingest import filenames, flatfiles, imports
from services.ingest.batches import cut
from services.ingest.calendar import EVERY_DAY, XNYS, day_of
from services.ingest.errands import HopelessError
from services.ingest.planner import REFETCH
from services.ingest.store import files, many, slices
from services.ingest.tally import Tally
from services.kit.log import get
from services.kit.tickers import CRYPTO

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import polars as pl

    from services.ingest.calendar import Sessions
    from services.ingest.filenames import FileKind, Name
    from services.ingest.imports import DayFile, FileCounts, Imported
    from services.ingest.store.files import Found
    from services.ingest.store.slices import Claim
    from services.kit.db import Connection, Database

log = get(__name__)

MOST_BYTES = 64 * 2**20
"""Packed bytes that are imported at once, symbol by symbol: a year of days, or some days of minutes."""

_NAMED = 3


@dataclass(frozen=True, slots=True)
class _Lines:
    """A file that is unpacked, and its lines."""

    file: DayFile
    frame: pl.DataFrame


@dataclass(slots=True)
class _Read:
    """Files that a slice imports, by day, with their ids and lines; and those that it does not."""

    files: list[DayFile] = field(default_factory=list)
    frames: list[pl.DataFrame] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    """Imported before, with the same content."""
    bad: dict[str, str] = field(default_factory=dict)
    """Why they cannot be read."""

    def add(self, file_id: int, name: str, lines: _Lines | str) -> None:
        """Takes a file's lines, or why it has none."""
        if isinstance(lines, str):
            self.bad[name] = lines
        else:
            self.files.append(lines.file)
            self.frames.append(lines.frame)
            self.ids.append(file_id)

    def drop(self, at: int, reason: str) -> None:
        """Counts a file among the bad ones."""
        self.bad[self.files[at].name] = reason
        for kept in (self.files, self.frames, self.ids):
            del kept[at]


class Importer:
    """Works on slices of files; the first of a job lists what the others import."""

    def __init__(
        self,
        db: Database,
        calendars: Mapping[str, Sessions],
        folder: Path | None,
        most_bytes: int = MOST_BYTES,
        tally: Tally | None = None,
    ) -> None:
        self._db = db
        self._calendars = calendars
        self._folder = folder.resolve() if folder is not None else None
        self._most_bytes = most_bytes
        self._tally = tally or Tally()
        self._stopping = False

    def interrupt(self) -> None:
        """Ends after the part under way."""
        self._stopping = True

    async def advance(self, claim: Claim) -> int | None:
        if self._folder is None:
            raise HopelessError("IMPORT_FOLDER is not set where the workers run")
        path = self._inside(self._folder, claim.provider_ticker)
        if claim.first_date == date.min:
            return await self._list(claim, self._folder, path)
        return await self._import(claim, self._folder, path)

    @staticmethod
    def _inside(folder: Path, name: str) -> Path:
        """Returns a path in the folder; raises HopelessError for one that leads out of it, or to nothing."""
        path = (folder / name).resolve()
        if not path.is_relative_to(folder):
            raise HopelessError(f"{name}: leads out of IMPORT_FOLDER")
        if not path.exists():
            raise HopelessError(f"{name}: no such file or folder in IMPORT_FOLDER")
        return path

    async def _list(self, claim: Claim, folder: Path, path: Path) -> int | None:
        """Writes a slice for each run of files."""
        names, others = await asyncio.to_thread(_names, folder, path, _kind(claim))
        if not names:
            raise HopelessError(f"{claim.provider_ticker}: no file named YYYY-MM-DD.csv.gz{_listed(others)}")
        pieces = list(self._pieces(claim.provider_ticker, names))
        note = f"{len(names)} files{_listed(others)}"
        done = await files.list_done(self._db, claim, pieces, note)
        log.info("files_listed", slice=claim.slice_id, path=claim.provider_ticker, files=len(names), slices=len(pieces))
        return slices.SUCCEEDED if done else None

    def _pieces(self, base: str, names: Sequence[tuple[Name, int]]) -> Iterable[files.Piece]:
        """Yields runs of files without a session between them, of so many bytes at most."""
        run: list[Name] = []
        size = 0
        for name, length in names:
            if run and not (self._follows(run[-1], name) and size + length <= self._most_bytes):
                if run[-1].kind == name.kind and run[-1].day == name.day:
                    yield _piece(base, [name])
                    continue
                yield _piece(base, run)
                run, size = [], 0
            run.append(name)
            size += length
        yield _piece(base, run)

    def _follows(self, before: Name, name: Name) -> bool:
        sessions = self._sessions(name.kind.asset_class)
        between = sessions.count(day_of(before.day) + 1, day_of(name.day))
        return before.kind == name.kind and before.day < name.day and between == 0

    def _sessions(self, asset_class: int) -> Sessions:
        return self._calendars[EVERY_DAY if asset_class == CRYPTO else XNYS]

    async def _import(self, claim: Claim, folder: Path, path: Path) -> int | None:
        """Imports the files of a slice, part by part, until it is done or must stop."""
        read, holdings = await asyncio.gather(self._read(claim, folder, path), self._holdings(claim.asset_class))
        sessions = self._sessions(claim.asset_class)
        imported = await asyncio.to_thread(_batch, read, holdings, claim.key.timeframe, sessions)
        if read.bad and not await self._set_apart(claim, path, read.bad):
            return None
        if imported is None:
            return await slices.close(self._db, claim, slices.SUCCEEDED, _note(read, None))
        return await self._write(claim, read, imported)

    async def _read(self, claim: Claim, root: Path, path: Path) -> _Read:
        """Reads the files of a slice, the first of each day."""
        read, names = _Read(), await asyncio.to_thread(_names, root, path, _kind(claim))
        first = {name.day: (name, size) for name, size in reversed(names[0])}
        wanted = [first[day] for day in sorted(first) if claim.first_date <= day <= claim.last_date]
        found, packed = await asyncio.to_thread(_found, root, wanted)
        ids = await files.take(self._db, claim, found, again=claim.mode == REFETCH)
        new = [one for one in found if one.name in ids]
        read.known = [one.name for one in found if one.name not in ids]
        lines = await asyncio.gather(*(asyncio.to_thread(_lines_of, one, packed[one.name]) for one in new))
        for one, its in zip(new, lines, strict=True):
            read.add(ids[one.name], one.name, its)
        return read

    async def _set_apart(self, claim: Claim, path: Path, bad: Mapping[str, str]) -> bool:
        """Gives bad files slices of their own; raises HopelessError for one that has its own already."""
        if _is_file(path):
            raise HopelessError("; ".join(f"{name}: {reason}" for name, reason in bad.items()))
        named = [name for name in map(filenames.read_name, bad) if name is not None]
        kind = _kind(claim)
        pieces = [files.Piece(one.path, kind.timeframe, kind.asset_class, one.day, one.day) for one in named]
        return await files.set_apart(self._db, claim, pieces)

    async def _holdings(self, asset_class: int) -> pl.DataFrame:
        """Returns who held which ticker, in all spellings of the files."""
        found = set()
        for symbol_id, ticker, provider_ticker, from_date, to_date in await files.holdings(self._db, asset_class):
            held = (symbol_id, day_of(from_date), day_of(to_date or date.max) + 1)
            found.add(imports.Holding(provider_ticker, *held))
            if asset_class == CRYPTO:
                found |= {imports.Holding(ticker, *held), imports.Holding(f"X:{ticker}", *held)}
        return imports.to_frame(list(found))

    async def _write(self, claim: Claim, read: _Read, imported: Imported) -> int | None:
        of_day = {day_of(file.day): file_id for file, file_id in zip(read.files, read.ids, strict=True)}
        counts = dict(zip(read.ids, imported.counts, strict=True))
        pieces = list(cut(imported.batch, claim.position))
        for part in pieces:
            last = part is pieces[-1]

            async def also(conn: Connection, superseded: dict[int, int], *, last: bool = last) -> None:
                await files.note(conn, {of_day[day]: count for day, count in superseded.items()})
                if last:
                    await files.finish(conn, {file_id: _numbers(one) for file_id, one in counts.items()})

            with self._tally.writing():
                written = await many.write(self._db, claim, part, done=last, also=also, note=_note(read, imported))
            self._tally.many(part.timeframe, written, len(part.rejects))
            if written is None or written.state != slices.RUNNING:
                return None if written is None else written.state
            claim = written.claim
            if self._stopping:
                break
        await slices.release(self._db, claim, reason="", sent=False)
        return slices.PENDING


def _found(root: Path, wanted: Sequence[tuple[Name, int]]) -> tuple[list[Found], dict[str, bytes]]:
    """Returns files as they are found, and what they hold."""
    packed = {name.path: (root / name.path).read_bytes() for name, _ in wanted}
    found = [
        files.Found(
            name=name.path,
            sha256=sha256(packed[name.path]).digest(),
            size=size,
            published=filenames.published(name.day),
            day=name.day,
        )
        for name, size in wanted
    ]
    return found, packed


def _lines_of(found: Found, packed: bytes) -> _Lines | str:
    """Unpacks and reads a file; returns its lines, or why it cannot be read."""
    try:
        file = imports.DayFile(found.name, found.day, flatfiles.unpack(packed))
        return _Lines(file, imports.read_file(file))
    except flatfiles.BadFileError as error:
        return str(error)


def _note(read: _Read, imported: Imported | None) -> str:
    """Says which files were imported before, and how much belongs to nobody."""
    notes = []
    if read.known:
        more = f" and {len(read.known) - _NAMED} more" if len(read.known) > _NAMED else ""
        notes.append(f"imported before: {', '.join(read.known[:_NAMED])}{more}")
    lines = sum(one.unknown for one in imported.counts) if imported else 0
    if imported and lines:
        notes.append(f"{lines} lines of {imported.unknown_tickers} unknown tickers")
    return "; ".join(notes)


def _is_file(path: Path) -> bool:
    return path.is_file()


def _numbers(counts: FileCounts) -> tuple[int, int, int]:
    return counts.rows, counts.rejected, counts.unknown


def _kind(claim: Claim) -> FileKind:
    return filenames.FileKind(claim.asset_class, claim.key.timeframe)


def _piece(base: str, run: Sequence[Name]) -> files.Piece:
    first, last = run[0], run[-1]
    path = first.path if len(run) == 1 else base
    return files.Piece(path, first.kind.timeframe, first.kind.asset_class, first.day, last.day)


def _names(root: Path, path: Path, wanted: FileKind) -> tuple[list[tuple[Name, int]], list[str]]:
    """Returns the files at a path with their sizes, by kind and day, and the paths of those that are not imported."""
    found, others = [], []
    for file in [path] if path.is_file() else path.rglob("*.csv.gz"):
        relative = file.relative_to(root).as_posix()
        name = filenames.read_name(relative)
        kind = None if name is None else name.kind.narrowed(wanted)
        if name is None or kind is None or not file.resolve().is_relative_to(root):
            others.append(relative)
        else:
            found.append((filenames.Name(relative, name.day, kind), file.stat().st_size))
    found.sort(key=lambda one: (one[0].kind.asset_class, one[0].kind.timeframe, one[0].day, one[0].path))
    return found, sorted(others)


def _listed(others: Sequence[str]) -> str:
    """Says which files are left out."""
    if not others:
        return ""
    more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    return f"; left out, by their names: {', '.join(others[:_NAMED])}{more}"


def _batch(read: _Read, holdings: pl.DataFrame, timeframe: int, sessions: Sessions) -> Imported | None:
    """Makes the batch of files, without those of which too much is impossible; None if none is left."""
    while read.files:
        imported = imports.to_batch(read.files, read.frames, holdings, timeframe, sessions)
        bad = [at for at, counts in enumerate(imported.counts) if imports.too_bad(counts)]
        if not bad:
            return imported
        for at in reversed(bad):
            counts = imported.counts[at]
            read.drop(at, f"{counts.rejected} of {counts.rows} lines are impossible: is it another kind of file?")
    return None
