"""Reads, from the services' logs, what became of keys and how far the audit had come."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Iterable

STATES = frozenset({"ACTIVE", "REVOKED", "DELETED", "EXPIRED"})


@dataclass(frozen=True, slots=True)
class KeyLine:
    """The newest that a log says of a key."""

    version: int
    state: str


@dataclass(frozen=True, slots=True)
class HeadLine:
    """The newest head of a recorder's chain that a log holds."""

    seq: int
    head_hash: bytes


@dataclass(slots=True)
class Log:
    """What all lines together say; `others` counts the lines that say nothing of keys or heads."""

    keys: dict[UUID, KeyLine] = field(default_factory=dict)
    heads: dict[tuple[UUID, str], HeadLine] = field(default_factory=dict)
    others: int = 0

    @property
    def used(self) -> int:
        """How many keys and recorders the log speaks of."""
        return len(self.keys) + len(self.heads)


def read_log(lines: Iterable[str]) -> Log:
    """Reads lines in any order, from any number of processes; what stands before a line's JSON is skipped."""
    log = Log()
    for line in lines:
        fields = _fields(line)
        try:
            understood = _key(log, fields) or _head(log, fields)
        except (KeyError, TypeError, ValueError):
            understood = False
        log.others += not understood
    return log


def _fields(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line[line.index("{") :])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _key(log: Log, fields: dict[str, Any]) -> bool:
    if fields.get("event") != "key_changed" or fields["state"] not in STATES:
        return False
    key_id, line = UUID(str(fields["key_id"])), KeyLine(int(fields["version"]), fields["state"])
    known = log.keys.get(key_id)
    # Of two lines of one version the stricter counts: an expiry comes without a version of its own.
    if known is None or (line.version, line.state != "ACTIVE") > (known.version, known.state != "ACTIVE"):
        log.keys[key_id] = line
    return True


def _head(log: Log, fields: dict[str, Any]) -> bool:
    if fields.get("event") != "audit_head":
        return False
    key = (UUID(str(fields["writer"])), str(fields["kind"]))
    line = HeadLine(int(fields["seq"]), bytes.fromhex(fields["head_hash"]))
    if key not in log.heads or line.seq > log.heads[key].seq:
        log.heads[key] = line
    return True
