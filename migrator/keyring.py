"""Registers the keys that a warehouse needs before anybody can ask it for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from migrator.changes import Changes, retried
from migrator.errors import BadFiles
from services.kit import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FIND = """
SELECT key_id, preview, scopes, version, revoke_time IS NOT NULL AS revoked,
       expire_time IS NOT NULL AND expire_time <= clock_timestamp() AS expired
FROM auth.keys
WHERE digest = $1
"""
PERMANENT_ADMIN = """
SELECT key_id, preview
FROM auth.keys
WHERE 'admin' = ANY (scopes) AND expire_time IS NULL AND revoke_time IS NULL AND delete_time IS NULL
ORDER BY create_time DESC, key_id
LIMIT 1
"""
NAMED = """
SELECT key_id, preview
FROM auth.keys
WHERE display_name = $1
  AND revoke_time IS NULL AND delete_time IS NULL AND (expire_time IS NULL OR expire_time > clock_timestamp())
ORDER BY create_time DESC, key_id
LIMIT 1
"""
INSERT = """
INSERT INTO auth.keys (key_id, display_name, preview, digest, scopes)
VALUES ($1, $2, $3, $4, $5)
"""

ADMIN_SCOPES = ("admin",)


@dataclass(frozen=True, slots=True)
class Registered:
    """A key that is in the database: made now, or found there."""

    key_id: UUID
    preview: str
    made: bool
    missing_scopes: tuple[str, ...] = ()


async def permanent_admin(changes: Changes) -> Registered | None:
    """Returns an ACTIVE admin key that never expires, the newest; None where there is none."""
    row = await changes.conn.fetchrow(PERMANENT_ADMIN)
    return Registered(row["key_id"], row["preview"], made=False) if row else None


async def named(changes: Changes, display_name: str) -> Registered | None:
    """Returns the newest ACTIVE key of a name; None where there is none."""
    row = await changes.conn.fetchrow(NAMED, display_name)
    return Registered(row["key_id"], row["preview"], made=False) if row else None


async def register(changes: Changes, secret: str, display_name: str, scopes: Sequence[str], source: str) -> Registered:
    """Makes sure that a secret is a key with these scopes; raises BadFiles, naming its source, where it cannot be."""
    _require_form(secret, source)

    async def change() -> Registered:
        async with changes.transaction() as started:
            await changes.lock_keys()
            there = await _found(changes, secret, scopes, source)
            if there is not None:
                return there
            return await _insert(changes, secret, display_name, scopes, started)

    found = await _found(changes, secret, scopes, source)
    return found if found is not None else await retried(change)


async def new_admin(changes: Changes, provide: Callable[[], str], *, even_if_one: bool) -> Registered:
    """Makes an admin key unless one is there; `provide` gives its secret, kept safe before the key is committed."""

    async def change() -> Registered:
        async with changes.transaction() as started:
            await changes.lock_keys()
            present = None if even_if_one else await permanent_admin(changes)
            if present is not None:
                return present
            return await _insert(changes, provide(), "admin", ADMIN_SCOPES, started)

    return await retried(change)


async def _insert(
    changes: Changes, secret: str, display_name: str, scopes: Sequence[str], started: float
) -> Registered:
    key_id = uuid4()
    await changes.record("CreateKey", str(key_id), started)
    arguments = (key_id, display_name, keys.preview(secret), keys.digest(secret), list(scopes))
    await changes.conn.execute(INSERT, *arguments)
    return Registered(key_id, keys.preview(secret), made=True)


async def _found(changes: Changes, secret: str, scopes: Sequence[str], source: str) -> Registered | None:
    row = await changes.conn.fetchrow(FIND, keys.digest(secret))
    if row is None:
        return None
    if row["revoked"] or row["expired"]:
        state = "revoked" if row["revoked"] else "expired"
        hint = "make another with: python -m migrator new-key"
        raise BadFiles.of(source, f"key {row['preview']}.. is {state}", hint)
    missing = tuple(scope for scope in scopes if scope not in row["scopes"])
    return Registered(row["key_id"], row["preview"], made=False, missing_scopes=missing)


def _require_form(secret: str, source: str) -> None:
    if not keys.is_well_formed(secret):
        raise BadFiles.of(source, "does not hold a key", "make one with: python -m migrator new-key")
