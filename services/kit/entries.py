"""The rows that `auth.record_calls` takes, cleaned so that no row can fail its neighbours."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from services.kit.log import redact

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from services.kit.calls import Call

RECORD = """
SELECT auth.record_calls($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
"""

READS = "reads"
CHANGES = "changes"

_LONGEST = 4_096

CHECK_ONLY = -1
"""The code of a call whose key is checked and of which no row is stored: a running stream."""


class Entry(NamedTuple):
    """One call of a batch, in the order of the function's arrays."""

    call_id: UUID
    key_id: UUID | None
    preview: str
    method: str
    scopes: str
    code: int
    reason: str
    peer: str
    request_id: str
    duration_us: int
    messages: int
    call_count: int


def entry(call: Call, code: int, reason: str = "", *, messages: int = 0, count: int = 1) -> Entry:
    """Makes the row of a call that ends, or goes on, with a code."""
    return Entry(
        call.call_id,
        call.key_id,
        call.key_preview,
        call.method if call.begun else clean(call.method, 200),
        _joined(call.scopes),
        code,
        clean(reason, 200) if reason else "",
        call.peer,
        clean(call.request_id, 100) if call.request_id else "",
        call.duration_us,
        messages,
        count,
    )


@lru_cache(maxsize=1_024)
def _joined(scopes: tuple[str, ...]) -> str:
    return " ".join(scopes)


def placeholder(bad: Entry) -> Entry:
    """Returns what is recorded instead of a row that the database refuses: who and when, without the texts."""
    return bad._replace(
        preview="", method="?", scopes="", reason="ROW_UNREADABLE", peer="", request_id="", duration_us=0, messages=0
    )


def columns(batch: Iterable[Entry]) -> Sequence[tuple[Any, ...]]:
    """Turns rows into the function's arrays."""
    return list(zip(*batch, strict=True))


def clean(text: str, length: int) -> str:
    """Cuts a text and replaces what must not be stored: keys, NUL, control signs, surrogates."""
    if "mdw_" in text:
        text = redact(text[:_LONGEST])
    text = text[:length]
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else "?" for sign in text)
