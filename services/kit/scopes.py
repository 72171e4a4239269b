"""Scopes: what a key may do. Declared once, next to the method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])

ADMIN: Final = "admin"
SERVICE: Final = "service"

KNOWN: Final[dict[str, str]] = {
    "admin": "everything but what needs `service`",
    "service": "what services do among themselves: validating keys, recording calls",
    "keys.read": "see keys, never their secrets",
    "keys.write": "create, change, revoke, restore, rotate and delete keys",
    "audit.read": "read and verify the audit log",
    "symbols.read": "see symbols and their statistics",
    "symbols.write": "create, import and change symbols",
    "bars.read": "read bars, coverage and corporate actions",
    "ingest.read": "see backfills, slices, rejected bars and the schedule",
    "ingest.write": "start and steer backfills and the schedule",
    "ingest.delete": "delete bars",
}


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a method needs: any one of its scopes. `recorded` False: a success is checked but leaves no audit row."""

    scopes: tuple[str, ...]
    recorded: bool = True


def scopes(*names: str, recorded: bool = True) -> Callable[[Method], Method]:
    """Declares the scopes of a servicer's method, of which any one suffices."""
    unknown = set(names) - set(KNOWN)
    if not names or unknown:
        raise ValueError(f"unknown or no scopes: {sorted(unknown)}")

    def declare(method: Method) -> Method:
        method.__dict__["mdw_scopes"] = Declaration(names, recorded)
        return method

    return declare


def declaration(method: Callable[..., Any]) -> Declaration | None:
    """Returns what a method declared, or None."""
    found = getattr(method, "mdw_scopes", None)
    return found if isinstance(found, Declaration) else None


def allows(held: frozenset[str], needed: tuple[str, ...]) -> bool:
    """Says whether a key that holds some scopes may call a method that needs any one of others."""
    if not held.isdisjoint(needed):
        return True
    return ADMIN in held and needed != (SERVICE,)


def grantable(held: frozenset[str]) -> frozenset[str]:
    """Returns what the holder may grant to another key: `admin` grants all, `service` too, though it cannot use it."""
    return frozenset(KNOWN) if ADMIN in held else held
