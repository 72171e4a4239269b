"""The hash chains of the audit log, recomputed apart from the database that wrote them.

Canonical form 1: sha256 of the byte 01, the hash before (32 zero bytes before seq 1), and the UTF-8 of a JSON array
[writer, kind, seq, time, rows] and of one JSON array a row, by ord, each after a line feed; times are whole
microseconds since 1970. migrator/sql/0001_auth.sql writes the same.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from services.kit import checks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from services.auth.store.chains import BatchRow

FORM = 1
MAX_FINDINGS = 1_000

Chain = tuple[str, str]
"""Writer and kind."""


class Kind(Enum):
    """What can be wrong; the names are those of mdw.auth.v1.AuditFinding.Kind."""

    BATCH_EDITED = 1
    BATCH_MISSING = 2
    HEAD_MISMATCH = 3
    ROWS_UNACCOUNTED = 4
    WRITER_MISSING = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was written."""

    kind: Kind
    chain: Chain
    seq: int
    time: datetime | None
    detail: str


@dataclass(frozen=True, slots=True)
class Link:
    """A place in a chain."""

    seq: int
    hash: bytes


@dataclass(slots=True)
class Chains:
    """Follows chains batch by batch, in the order of time, and notes what does not fit."""

    bases: Mapping[Chain, Link]
    """Where each chain begins: what retention has dropped ends there."""

    whole: bool
    """True if the log is read from its beginning; else a chain's first batch is believed."""

    wanted: dict[Chain, dict[int, bytes]]
    """Heads that must be met on the way, by seq."""

    last: dict[Chain, Link] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    batches: int = 0
    rows: int = 0

    def follow(self, batch: BatchRow, rows: Sequence[Sequence[Any]]) -> None:
        """Checks a batch against its rows and against the batch before."""
        self.batches += 1
        self.rows += len(rows)
        chain = (batch.writer, batch.kind)
        before = self.last.get(chain) or self._first(chain, batch)
        if batch.seq != before.seq + 1:
            missing = batch.seq > before.seq
            kind = Kind.BATCH_MISSING if missing else Kind.BATCH_EDITED
            detail = f"batch {before.seq + 1} was expected, batch {batch.seq} is there"
            self.note(kind, chain, before.seq + 1 if missing else batch.seq, batch.time, detail)
        elif batch.prev_hash != before.hash:
            self.note(Kind.BATCH_EDITED, chain, batch.seq, batch.time, "does not follow from the batch before")
        if batch.rows != len(rows):
            detail = f"{batch.rows} rows were written, {len(rows)} are there"
            self.note(Kind.BATCH_EDITED, chain, batch.seq, batch.time, detail)
        elif batch.form != FORM or batch_hash(batch, rows) != batch.hash:
            self.note(Kind.BATCH_EDITED, chain, batch.seq, batch.time, "a row or the batch is not as it was written")
        wanted = self.wanted.get(chain, {}).pop(batch.seq, batch.hash)
        if wanted != batch.hash:
            self.note(Kind.HEAD_MISMATCH, chain, batch.seq, batch.time, "the hash is not the one noted elsewhere")
        self.last[chain] = Link(batch.seq, batch.hash)

    def unaccounted(self, chain: Chain, seq: int, time: datetime, count: int) -> None:
        self.note(Kind.ROWS_UNACCOUNTED, chain, seq, time, f"{count} rows belong to no batch")

    def note(self, kind: Kind, chain: Chain, seq: int, time: datetime | None, detail: str) -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(kind, chain, seq, time, detail))

    def _first(self, chain: Chain, batch: BatchRow) -> Link:
        if self.whole and chain in self.bases:
            return self.bases[chain]
        if batch.seq == 1:
            return Link(0, bytes(32))
        return Link(batch.seq - 1, batch.prev_hash)


def batch_hash(batch: BatchRow, rows: Iterable[Sequence[Any]]) -> bytes:
    """Returns the hash of a batch in canonical form 1; `rows` by ord."""
    head = [batch.writer, batch.kind, batch.seq, checks.micros(batch.time), batch.rows]
    lines = "\n".join(json.dumps(line, ensure_ascii=False) for line in (head, *rows))
    if not batch.rows:
        lines += "\n"
    return hashlib.sha256(b"\x01" + batch.prev_hash + lines.encode()).digest()
