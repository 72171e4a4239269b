"""Recomputes the audit log's chains, a piece of at most a second at a time, while the log goes on being written."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from services.auth.chains import Chain, Chains, Finding, Kind, Link
from services.auth.reading import too_slow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

    from services.auth.store.audit import AuditStore, Head
    from services.auth.store.chains import ChainStore, Piece

BATCHES_A_PIECE = 400
PIECE_SECONDS = 1.0
_EVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class NotedHead:
    """A head that was logged outside of the database."""

    chain: Chain
    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found and how much it read."""

    findings: Sequence[Finding]
    batches: int
    rows: int


class Verifier:
    """Checks the log, or a span of it."""

    def __init__(self, *, audit: AuditStore, chains: ChainStore, batches_a_piece: int = BATCHES_A_PIECE) -> None:
        self._audit = audit
        self._store = chains
        self._batches_a_piece = batches_a_piece

    async def verify(self, *, start: datetime | None, end: datetime | None, heads: Sequence[NotedHead] = ()) -> Report:
        """Reads [start, end) and returns what is not as it was written."""
        days = await self._audit.days()
        report = await self._verify(days, start, end, heads)
        if report.findings and days[:1] != (days := await self._audit.days())[:1]:
            # Retention has dropped a day meanwhile: what is missing may be that.
            report = await self._verify(days, start, end, heads)
        return report

    async def _verify(
        self, days: Sequence[date], start: datetime | None, end: datetime | None, heads: Sequence[NotedHead]
    ) -> Report:
        known = {_chain(head): head for head in await self._audit.heads(_EVER)}
        now = await self._audit.now()
        low = _low(days, start)
        # Up to now and no further: what commits from now on is later, so no gap can be one that is only not there yet.
        high = min(now, end) if end else now
        whole = start is None or (bool(days) and start <= _midnight(days[0]))
        chains = Chains(
            bases={chain: Link(head.base_seq, head.base_hash) for chain, head in known.items()},
            whole=whole,
            wanted=_wanted(known, heads),
        )
        await self._read(chains, low, high)
        self._compare_ends(chains, known, low, high)
        await self._compare_noted(chains, heads, within=end is None and whole)
        return Report(chains.findings, chains.batches, chains.rows)

    async def _read(self, chains: Chains, low: datetime, high: datetime) -> None:
        limit = self._batches_a_piece
        while low < high:
            try:
                piece = await self._store.piece(low, high, limit=limit, seconds=PIECE_SECONDS)
            except TimeoutError:
                if limit == 1:
                    raise too_slow() from None
                limit = max(1, limit // 4)
                continue
            if piece.end == low:  # more than `limit` batches of one instant
                limit *= 2
                continue
            _follow(chains, piece)
            low = piece.end
            await asyncio.sleep(0)  # hashing is our own CPU; other calls go on in between

    def _compare_ends(self, chains: Chains, known: Mapping[Chain, Head], low: datetime, high: datetime) -> None:
        """Each recorder's row says how far its chain goes."""
        for chain, head in known.items():
            inside = low <= head.last_time < high
            reached = chains.last.get(chain, Link(head.base_seq, head.base_hash))
            if inside and reached.seq < head.last_seq:
                detail = f"the recorder wrote up to batch {head.last_seq}, the last one there is {reached.seq}"
                chains.note(Kind.BATCH_MISSING, chain, reached.seq + 1, head.last_time, detail)

    async def _compare_noted(self, chains: Chains, heads: Sequence[NotedHead], *, within: bool) -> None:
        """Recorders whose row is gone, and heads that were noted elsewhere and not met."""
        living = {_chain(head): head for head in await self._audit.heads(_EVER)}
        for chain in chains.last.keys() - living.keys():
            detail = "batches are there, the recorder's row is gone"
            chains.note(Kind.WRITER_MISSING, chain, chains.last[chain].seq, None, detail)
        for head in heads:
            if head.chain not in living and head.chain not in chains.last:
                chains.note(
                    Kind.WRITER_MISSING, head.chain, head.seq, None, "the recorder and all its batches are gone"
                )
            elif within and head.seq in chains.wanted.get(head.chain, {}) and head.seq > _base(living, head.chain):
                chains.note(Kind.HEAD_MISMATCH, head.chain, head.seq, None, "the noted batch is not there")


def _follow(chains: Chains, piece: Piece) -> None:
    entries = piece.entries
    for batch in piece.batches:
        chains.follow(batch, entries.pop(batch.key, []))
    for (time, writer, kind, seq), rows in entries.items():
        chains.unaccounted((writer, kind), seq, time, len(rows))


def _wanted(known: Mapping[Chain, Head], heads: Sequence[NotedHead]) -> dict[Chain, dict[int, bytes]]:
    wanted: dict[Chain, dict[int, bytes]] = {}
    for chain, head in known.items():
        wanted.setdefault(chain, {})[head.last_seq] = head.head_hash
    for noted in heads:
        wanted.setdefault(noted.chain, {})[noted.seq] = noted.hash
    return wanted


def _base(living: Mapping[Chain, Head], chain: Chain) -> int:
    return living[chain].base_seq if chain in living else 0


def _chain(head: Head) -> Chain:
    return (str(head.writer), head.kind)


def _low(days: Sequence[date], start: datetime | None) -> datetime:
    first = _midnight(days[0]) if days else _EVER
    return max(first, start) if start else first


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
