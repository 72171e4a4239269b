"""Reads the folder of migrations and refuses what could not be applied twice with the same result."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from migrator.errors import BadFiles, Problem

SQL_FOLDER = Path(__file__).with_name("sql")
MAX_BYTES = 16 * 1024 * 1024
MAX_VERSION = 2**31 - 1

FILE_NAME = re.compile(r"(\d+)_[a-z0-9_]+\.sql")
DIRECTIVE = re.compile(r"^--[ \t]*migrator:[ \t]*(.*?)[ \t]*$", re.MULTILINE)
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its text as it is sent, and the checksum of that text (so line ends and BOM do not count)."""

    version: int
    name: str
    sql: str
    checksum: str
    no_transaction: bool = False

    @property
    def file(self) -> str:
        """The file's name."""
        return f"{self.name}.sql"


def load(folder: Path) -> tuple[Migration, ...]:
    """Reads all files in numeric order; raises BadFiles with every problem found, before any connection is made."""
    problems: list[Problem] = []
    found = [migration for path in _paths(folder, problems) if (migration := _read(path, problems))]
    found.sort(key=lambda migration: (migration.version, migration.name))
    problems += _numbering(found)
    if not found and not problems:
        problems.append(Problem(str(folder), "no migration files", "a file is named like 0001_name.sql"))
    if problems:
        raise BadFiles(problems)
    return tuple(found)


def _paths(folder: Path, problems: list[Problem]) -> list[Path]:
    if not folder.is_dir():
        raise BadFiles.of(str(folder), "no such folder")
    paths: list[Path] = []
    for path in sorted(folder.iterdir()):
        # Editors' leftovers and readme files are no migrations; a misspelt .sql would be skipped in silence.
        if path.name.startswith(".") or path.suffix.lower() != ".sql":
            continue
        wrong = _wrong_path(path, folder)
        if wrong:
            problems.append(Problem(path.name, wrong, "a file is named like 0001_name.sql, in lower case"))
        else:
            paths.append(path)
    return paths


def _wrong_path(path: Path, folder: Path) -> str:
    if not FILE_NAME.fullmatch(path.name):
        return "the name is not a number, an underscore, a name and .sql"
    if not path.resolve().is_relative_to(folder.resolve()):
        return "a link that leads out of the folder"
    return "" if path.is_file() else "not a file"


def _read(path: Path, problems: list[Problem]) -> Migration | None:
    data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
    if data is None:
        megabytes = path.stat().st_size / 1024 / 1024
        problems.append(Problem(path.name, f"{megabytes:.0f} MB; the limit is 16 MB", "split it"))
        return None
    sql = _decode(path.name, data, problems)
    if sql is None:
        return None
    version = int(path.name.partition("_")[0])
    if not 1 <= version <= MAX_VERSION:
        problems.append(Problem(path.name, f"version {version} is not between 1 and {MAX_VERSION}"))
        return None
    digest = hashlib.sha256(sql.encode()).hexdigest()
    return Migration(version, path.stem, sql, digest, _directive(path.name, sql, problems))


def _decode(name: str, data: bytes, problems: list[Problem]) -> str | None:
    data = data.removeprefix(BOM)
    nul = data.find(b"\0")
    if nul >= 0:
        line = data.count(b"\n", 0, nul) + 1
        problems.append(Problem(f"{name}:{line}", f"a NUL byte at byte {nul}", "save it as UTF-8, not UTF-16"))
        return None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.append(Problem(f"{name}:{line}", f"not UTF-8 at byte {error.start}", "save it as UTF-8"))
        return None
    if not text.strip():
        problems.append(Problem(f"{name}:1", "the file is empty"))
        return None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _directive(name: str, sql: str, problems: list[Problem]) -> bool:
    marked = False
    for match in DIRECTIVE.finditer(sql):
        line = sql.count("\n", 0, match.start()) + 1
        if match.group(1) != "no-transaction":
            hint = "the only one is: -- migrator: no-transaction"
            problems.append(Problem(f"{name}:{line}", f"unknown directive {match.group(1)!r}", hint))
        marked = True
    return marked


def _numbering(found: list[Migration]) -> list[Problem]:
    problems: list[Problem] = []
    last = 0
    for before, migration in zip([None, *found], found, strict=False):
        if before and before.version == migration.version:
            hint = "give one of them the next free number"
            problems.append(Problem(migration.file, f"has the same version as {before.file}", hint))
        elif migration.version != last + 1:
            hint = "versions run from 1 without a gap, so that a file that is lost is noticed"
            problems.append(Problem(migration.file, f"version {last + 1} is missing before it", hint))
        last = migration.version
    return problems
