"""`schema.sql`: the catalog that the files produce, as SQL to review, and to make an empty database the same."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from migrator.catalog import CatalogObject
from migrator.errors import BadFiles

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from migrator.files import Migration

HEADER = """\
-- What the migrations produce, read back from PostgreSQL {server}. Generated, never edited: see CONTRIBUTING.
-- files: {digest}
"""
FILES = re.compile(r"^-- files: ([0-9a-f]{64})$", re.MULTILINE)
SERVER = re.compile(r"read back from PostgreSQL (\d+)\.")
# A marker that no function's body holds, so that the file is cut without reading SQL.
OBJECT = re.compile(r"^--: (materialized view|\w+) (.+)\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Expected:
    """A schema file as read: which migrations and which server it was made with, and its objects."""

    digest: str
    server_major: int
    objects: tuple[CatalogObject, ...]


def digest_of(files: Sequence[Migration]) -> str:
    """Returns one checksum for a folder of migrations."""
    lines = "".join(f"{migration.version} {migration.checksum}\n" for migration in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def render(objects: Iterable[CatalogObject], files: Sequence[Migration], server_major: int) -> str:
    """Returns the text of a schema file."""
    blocks = [f"--: {item.kind} {item.name}\n{item.sql.rstrip()}\n" for item in objects]
    return "\n".join([HEADER.format(server=server_major, digest=digest_of(files)), *blocks])


def parse(text: str) -> Expected:
    """Reads what `render` wrote."""
    files, server = FILES.search(text), SERVER.search(text)
    if files is None or server is None:
        raise BadFiles.of("", "the schema file has no header", "it is written by: python -m migrator schema")
    found = list(OBJECT.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    objects = tuple(
        CatalogObject(match.group(1), match.group(2), text[match.end() : end].rstrip())
        for match, end in zip(found, ends, strict=True)
    )
    return Expected(files.group(1), int(server.group(1)), objects)


def read(path: Path, files: Sequence[Migration]) -> Expected:
    """Reads a schema file; raises BadFiles where it was made from other migrations than these."""
    try:
        expected = parse(path.read_text())
    except OSError as error:
        raise BadFiles.of(str(path), f"cannot be read: {error.strerror}") from None
    if expected.digest != digest_of(files):
        hint = "write it anew from a database at the newest version: python -m migrator schema"
        raise BadFiles.of(str(path), "was made from other migrations than these", hint)
    return expected
