"""Refused calls in floods: the first of a kind in a second get a row each, the rest one row with their exact count."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.kit.entries import Entry

ROWS_A_SECOND = 10
FLUSH_SECONDS = 0.2
MAX_KINDS = 1_000
"""Methods and peers are the attacker's choice; beyond so many kinds in a second they are counted together."""

_Kind = tuple[str, str, int, str, UUID | None]


@dataclass(slots=True)
class _Merged:
    entry: Entry
    future: asyncio.Future[bool]
    count: int = 0


class Floods:
    """Merges equal refusals. All that are merged wait for the same commit, so none is answered without its row."""

    def __init__(self, submit: Callable[[Entry], asyncio.Future[bool]]) -> None:
        self._submit = submit
        self._second = -1
        self._seen: dict[_Kind, int] = {}
        self._merged: dict[_Kind, _Merged] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.merged = 0
        """Calls that share a row, since the start."""

    def record(self, entry: Entry) -> asyncio.Future[bool]:
        """Records a refused call, alone or merged; the future says whether its key was refused."""
        kind = self._kind(entry)
        seen = self._seen[kind] = self._seen.get(kind, 0) + 1
        if seen <= ROWS_A_SECOND and kind not in self._merged:
            return self._submit(entry)
        # Shielded: one caller that goes away must not take the others' future with it.
        return asyncio.shield(self._merge(kind, entry))

    def count(self, entry: Entry) -> None:
        """Counts a call of which nobody waits for the row: written with the next merged row of its kind."""
        self._merge(self._kind(entry), entry)

    def flush(self) -> None:
        """Submits all merged rows now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        merged, self._merged = self._merged, {}
        for one in merged.values():
            _chain(self._submit(one.entry._replace(call_count=one.count)), one.future)

    def _kind(self, entry: Entry) -> _Kind:
        second = int(asyncio.get_running_loop().time())
        if second != self._second:
            self._second = second
            self._seen.clear()
        kind = (entry.peer, entry.method, entry.code, entry.reason, entry.key_id)
        if kind not in self._seen and len(self._seen) >= MAX_KINDS:
            return ("", "*", entry.code, entry.reason, None)
        return kind

    def _merge(self, kind: _Kind, entry: Entry) -> asyncio.Future[bool]:
        one = self._merged.get(kind)
        if one is None:
            peer, method, _, _, key_id = kind
            one = _Merged(entry._replace(peer=peer, method=method, key_id=key_id), asyncio.Future())
            self._merged[kind] = one
        one.count += entry.call_count
        self.merged += entry.call_count
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
        return one.future


def _chain(source: asyncio.Future[bool], target: asyncio.Future[bool]) -> None:
    """Hands the outcome on; nobody may be waiting, so an exception is marked as seen."""

    def done(finished: asyncio.Future[bool]) -> None:
        if target.done():
            return
        error = finished.exception()
        if error is None:
            target.set_result(finished.result())
        else:
            target.set_exception(error)
            target.exception()

    source.add_done_callback(done)
