"""Compares the live catalog with what the files produce, and names each difference."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from migrator import connect, history
from migrator.catalog import CatalogObject, read_catalog
from migrator.errors import Drift, Pending, Problem
from migrator.files import load
from migrator.layout import layout_problems, read_layout
from migrator.options import silent
from migrator.plan import make_plan
from migrator.runner import ahead
from migrator.schema_file import Expected, read

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import asyncpg

    from migrator.plan import Plan

GRANTEE = re.compile(r" to (\S+)$")
COLUMN = re.compile(r'^  ("(?:[^"]|"")+"|\S+) (.*?),?$', re.MULTILINE)
# Newer servers print fewer brackets and qualifiers in what they read back as an expression.
PRINTED_DIFFERENTLY = re.compile(r'\s+|[()]|\b[a-z_][a-z0-9_]*\.|"[^"]+"\.')


async def verify(dsn: str, folder: Path, *, wait: float, allow_ahead: bool, schema_file: Path | None = None) -> int:
    """Returns how many objects agree; raises Pending, Ahead, or Drift with every difference."""
    files = load(folder)
    expected = read(schema_file or folder.parent / "schema.sql", files)
    conn = await connect.connect(dsn, wait, silent)
    try:
        plan = make_plan(files, await history.read_if_any(conn))
        if plan.future and allow_ahead:
            return 0
        require_newest(plan)
        found = await read_live(conn, expected)
        layout = await read_layout(conn)
        server_major = conn.get_server_version().major
    finally:
        await connect.close(conn)
    problems = list(differences(expected.objects, found, same_server=server_major == expected.server_major))
    problems += layout_problems(layout)
    if problems:
        raise Drift(problems)
    return len(found)


def require_newest(plan: Plan) -> None:
    """Raises Pending or Ahead unless the database is at the files' version: else all differences would be false."""
    if plan.future:
        raise ahead(plan)
    if plan.pending:
        names = ", ".join(migration.name for migration in plan.pending)
        raise Pending.of("", f"not applied yet: {names}", "run: python -m migrator up")


async def read_live(conn: asyncpg.Connection, expected: Expected) -> list[CatalogObject]:
    """Reads what of the live catalog is to be compared."""
    return ours(await read_catalog(conn, schemas_of(expected) | {"public"}), expected)


def schemas_of(expected: Expected) -> set[str]:
    """Returns the schemas that the files make."""
    return {item.name for item in expected.objects if item.kind == "schema"}


def ours(found: Sequence[CatalogObject], expected: Expected) -> list[CatalogObject]:
    """Leaves out other people's schemas and extensions, and the grants of roles that the files do not name."""
    roles = {role for item in expected.objects if (role := _grantee(item))} | {"PUBLIC"}
    return [item for item in found if _is_ours(item, schemas_of(expected), roles, expected)]


def differences(
    expected: Sequence[CatalogObject], found: Sequence[CatalogObject], *, same_server: bool = True
) -> Iterator[Problem]:
    """Yields a problem for each object that is missing, extra or different; for tables, column by column."""
    there = {item.key: item for item in found}
    for item in expected:
        live = there.pop(item.key, None)
        if live is None:
            yield Problem(_title(item), "is missing" if item.kind != "grant" else _missing_grant(item))
        elif item.kind == "table":
            yield from _table_differences(item, live)
        elif not _same(item, live, same_server=same_server):
            yield Problem(_title(item), f"is\n    {_indent(live.sql)}\n  and should be\n    {_indent(item.sql)}")
    for live in there.values():
        yield Problem(_title(live), "is not from the migrations" if live.kind != "grant" else f"is extra: {live.sql}")


def _table_differences(expected: CatalogObject, live: CatalogObject) -> Iterator[Problem]:
    want, have = _columns(expected), _columns(live)
    for name, definition in want.items():
        where = f"column {expected.name}.{name}"
        if name not in have:
            yield Problem(where, "is missing")
        elif have[name] != definition:
            yield Problem(where, f"is {have[name]}, and should be {definition}")
    for name in have.keys() - want.keys():
        yield Problem(f"column {expected.name}.{name}", "is not from the migrations")
    frame_of_expected, frame_of_live = COLUMN.sub("", expected.sql).split(), COLUMN.sub("", live.sql).split()
    if frame_of_expected != frame_of_live:
        yield Problem(_title(expected), f"is {' '.join(frame_of_live)}, and should be {' '.join(frame_of_expected)}")


def _columns(table: CatalogObject) -> dict[str, str]:
    return {match.group(1): match.group(2) for match in COLUMN.finditer(table.sql)}


def _same(expected: CatalogObject, live: CatalogObject, *, same_server: bool) -> bool:
    if expected.sql.rstrip() == live.sql.rstrip():
        return True
    if same_server or expected.kind in {"grant", "comment", "schema", "extension"}:
        return False
    return PRINTED_DIFFERENTLY.sub("", expected.sql) == PRINTED_DIFFERENTLY.sub("", live.sql)


def _is_ours(item: CatalogObject, schemas: set[str], roles: set[str], expected: Expected) -> bool:
    if item.kind == "grant":
        return _grantee(item) in roles
    if item.kind == "schema":
        return item.name in schemas
    if item.kind == "extension":
        return any(item.key == other.key for other in expected.objects)
    return True


def _grantee(item: CatalogObject) -> str:
    match = GRANTEE.search(item.name) if item.kind == "grant" else None
    return match.group(1) if match else ""


def _missing_grant(item: CatalogObject) -> str:
    return f"is missing: {item.sql}"


def _title(item: CatalogObject) -> str:
    return f"{item.kind} {item.name}"


def _indent(sql: str) -> str:
    return sql.strip().replace("\n", "\n    ")
