"""What a run is asked, and what it did."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Options:
    """How long a run waits, in seconds, except where the name says otherwise.

    `lock_timeout_ms` is how long a table's lock is asked for at a time, `retry_for` how long in all.
    """

    wait: float = 60.0
    lock_wait: float = 300.0
    lock_timeout_ms: int = 100
    retry_for: float = 120.0
    allow_ahead: bool = False


@dataclass(frozen=True)
class Applied:
    """A file that this run applied."""

    version: int
    name: str
    duration_ms: int


@dataclass
class Outcome:
    """What a run did."""

    version: int = 0
    applied: list[Applied] = field(default_factory=list)
    notes: tuple[str, ...] = ()


def silent(_: str) -> None:
    """Says nothing."""
