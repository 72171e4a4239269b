"""`after-restore`: a restored backup brings revoked keys back; the logs say which, and this puts them right."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from itertools import chain
from typing import TYPE_CHECKING, Any
from uuid import UUID

from migrator import connect, history
from migrator.changes import Changes
from migrator.errors import BadFiles, Exit
from migrator.files import load
from migrator.plan import make_plan
from migrator.repairs import CHECK_SCOPES, NOTE, NOTHING, RESTORE, Repair, decide
from migrator.restore import DIFFERS, LOST, Changed, Head, compare_heads, put_right, read_keys
from migrator.restore_log import Log, read_log
from migrator.verify import require_newest

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    import asyncpg

    from migrator.output import Output


async def run(options: argparse.Namespace, output: Output, dsn: str) -> Exit:
    """Runs the command; exit 4 where the audit differs from a logged head."""
    log = _read_logs(options.log)
    keep = [_key_id(text) for text in options.keep]
    files = load(options.folder)
    conn = await connect.connect(dsn, options.wait, output.note)
    try:
        connect.require_writable(await connect.look(conn), first_run=False)
        require_newest(make_plan(files, await history.read_if_any(conn)))
        heads = await compare_heads(conn, log)
        repairs, changed = await _put_right(conn, log, keep, dry_run=options.dry_run)
    finally:
        await connect.close(conn)
    for done in changed:
        output.event({"event": "key_changed", "key_id": str(done.key_id), "version": done.version, "state": done.state})
    missing = _missing_keys(log, repairs)
    output.result(_fields(log, repairs, missing, heads), _text(repairs, missing, heads, dry_run=options.dry_run))
    return Exit.DRIFT if any(head.verdict == DIFFERS for head in heads) else Exit.OK


async def _put_right(
    conn: asyncpg.Connection, log: Log, keep: Sequence[UUID], *, dry_run: bool
) -> tuple[list[Repair], list[Changed]]:
    if dry_run:
        return decide(await read_keys(conn), log, keep), []
    changes = Changes(conn)
    await changes.make_partitions()
    return await put_right(changes, log, keep)


def _read_logs(paths: Sequence[Path]) -> Log:
    with ExitStack() as stack:
        try:
            files = [sys.stdin if str(path) == "-" else stack.enter_context(path.open()) for path in paths]
            log = read_log(chain.from_iterable(files))
        except (OSError, UnicodeDecodeError) as error:
            raise BadFiles.of("--log", f"cannot be read: {error}") from None
    if not log.used:
        hint = "give the auth service's JSON log, from before the backup was taken until now; nothing was changed"
        raise BadFiles.of("--log", f"{log.others} lines, and none is a key_changed or audit_head event", hint)
    return log


def _key_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise BadFiles.of("--keep", f"{text!r} is not a key id") from None


def _missing_keys(log: Log, repairs: Sequence[Repair]) -> list[UUID]:
    """Returns the keys made after the backup: the database has no row of them, so they are refused."""
    there = {repair.key.key_id for repair in repairs}
    return sorted(key_id for key_id, line in log.keys.items() if key_id not in there and line.state != "DELETED")


def _fields(log: Log, repairs: Sequence[Repair], missing: Sequence[UUID], heads: Sequence[Head]) -> dict[str, Any]:
    return {
        "log": {"keys": len(log.keys), "heads": len(log.heads), "other_lines": log.others},
        "keys": [
            {
                "key_id": repair.key.key_id,
                "display_name": repair.key.display_name,
                "preview": repair.key.preview,
                "was": repair.key.state,
                "action": repair.action,
                "why": repair.why,
            }
            for repair in repairs
        ],
        "made_after_the_backup": missing,
        "heads": [
            {"writer": h.writer, "kind": h.kind, "seq": h.seq, "found_seq": h.found_seq, "verdict": h.verdict}
            for h in heads
        ],
    }


def _text(repairs: Sequence[Repair], missing: Sequence[UUID], heads: Sequence[Head], *, dry_run: bool) -> str:
    lines = [_line(repair) for repair in repairs if repair.action != NOTHING]
    lines += [f"{key_id}  made after the backup: it is gone, make another" for key_id in missing]
    lines += [
        f"audit of {head.writer} ({head.kind}): logged up to {head.seq}, found up to {head.found_seq}: {head.verdict}"
        for head in heads
        if head.verdict in {LOST, DIFFERS}
    ]
    acted = sum(repair.action != NOTHING for repair in repairs)
    sums = f"{len(repairs)} keys, {acted} not as the log says; {len(missing)} lost; {len(heads)} audit heads compared"
    return "\n".join([*lines, sums + ("; nothing was changed (--dry-run)" if dry_run else "")])


def _line(repair: Repair) -> str:
    key = repair.key
    note = f"; {CHECK_SCOPES}" if repair.action in {NOTE, RESTORE} else ""
    return f"{key.key_id}  {key.display_name} ({key.preview}..)  {repair.action}: {repair.why}{note}"
