"""Decides what a restored database's keys need, from what the logs say of them; it touches nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from migrator.errors import BadFiles

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from migrator.restore_log import KeyLine, Log

NOTHING, KEEP, REVOKE, RESTORE, DELETE, EXPIRE, NOTE = (
    "nothing",
    "keep",
    "revoke",
    "restore",
    "delete",
    "expire",
    "note",
)
CHECK_SCOPES = "its scopes, peers and limits may be those of the older version: look at it with KeyService/GetKey"


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as the restored database has it."""

    key_id: UUID
    display_name: str
    preview: str
    version: int
    state: str
    permanent_admin: bool


@dataclass(frozen=True, slots=True)
class Repair:
    """What is to be done with one key, and why; `version` is the one that the log knows of."""

    key: StoredKey
    action: str
    why: str
    version: int


def decide(keys: Sequence[StoredKey], log: Log, keep: Collection[UUID]) -> list[Repair]:
    """Returns one decision a key; raises BadFiles where no admin key would be left."""
    unknown = set(keep) - {key.key_id for key in keys}
    if unknown:
        raise BadFiles.of("--keep", f"no such key in the database: {', '.join(map(str, sorted(unknown)))}")
    repairs = [_decide(key, log.keys.get(key.key_id), keep) for key in keys]
    _require_admin(repairs)
    return repairs


def _decide(key: StoredKey, line: KeyLine | None, keep: Collection[UUID]) -> Repair:
    if line is None:
        return _of_unlogged(key, keep)
    if key.state == "DELETED" or (line.version, line.state) == (key.version, key.state) or line.version < key.version:
        return Repair(key, NOTHING, "as the log says", line.version)
    older = f"the log has version {line.version}, {line.state}; the database has version {key.version}, {key.state}"
    if line.version == key.version and line.state == "ACTIVE":
        return Repair(key, NOTHING, "stricter than the log, at the same version", line.version)
    return Repair(key, _action(key.state, line.state), older, line.version)


def _of_unlogged(key: StoredKey, keep: Collection[UUID]) -> Repair:
    if key.state in {"DELETED", "REVOKED"}:
        return Repair(key, NOTHING, f"the log says nothing of it; {key.state} already", key.version)
    if key.key_id in keep:
        return Repair(key, KEEP, "the log says nothing of it; kept, as asked", key.version)
    return Repair(key, REVOKE, "the log says nothing of it, so it may have been revoked since", key.version)


def _action(stored: str, logged: str) -> str:
    if logged == "DELETED":
        return DELETE
    if logged == "REVOKED":
        return REVOKE if stored != "REVOKED" else NOTE
    if logged == "EXPIRED":
        return EXPIRE if stored != "EXPIRED" else NOTE
    return RESTORE if stored == "REVOKED" else NOTE


def _require_admin(repairs: Sequence[Repair]) -> None:
    """The warehouse would be locked to everybody: nothing is done then."""
    left = [
        repair for repair in repairs if repair.key.permanent_admin and repair.action not in {REVOKE, DELETE, EXPIRE}
    ]
    if any(repair.key.state == "ACTIVE" or repair.action == RESTORE for repair in left):
        return
    lost = [repair.key for repair in repairs if repair.key.permanent_admin and repair.action == REVOKE]
    names = ", ".join(f"{key.key_id} ({key.display_name}, {key.preview}..)" for key in lost) or "none"
    hint = f"name one that is known to be good with --keep: {names}; or run bootstrap --new-admin-key, and --keep that"
    raise BadFiles.of("", "no active admin key without expiry would be left; nothing was changed", hint)
