"""What a worker says of itself: pages asked for, parts written, slices ended or lost."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from services.ingest.polygon_errors import (
    GrantExpiredError,
    KeyRefusedError,
    NotOutYetError,
    OutsidePlanError,
    PassingError,
    RefusedError,
)
from services.ingest.timeframes import DAY, MINUTE
from services.kit.exporter import Exporter, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.kit.exporter import Labels

_PART_BARS = (1, 10, 100, 500, 1_000, 5_000, 10_000, 50_000)
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_STATES = {3: "succeeded", 4: "failed", 5: "outside_plan", 6: "cancelled"}
_TIMEFRAMES = {MINUTE: "1m", DAY: "1d"}
_CHANGES = ("inserted", "updated", "unchanged", "rejected")
_OUTCOMES = (
    "page",
    "throttled",
    "failed",
    "refused",
    "not_out",
    "outside_plan",
    "key_refused",
    "not_sent",
    "interrupted",
    "error",
)

_OUTCOME_OF = {
    KeyRefusedError: "key_refused",
    NotOutYetError: "not_out",
    OutsidePlanError: "outside_plan",
    RefusedError: "refused",
    GrantExpiredError: "not_sent",
}


class Merged(Protocol):
    """What became of the possible bars of a part."""

    @property
    def inserted(self) -> int: ...
    @property
    def updated(self) -> int: ...
    @property
    def unchanged(self) -> int: ...


class Counts(Merged, Protocol):
    """What became of all bars of a part, and of its slice."""

    @property
    def state(self) -> int: ...
    @property
    def rejected(self) -> int: ...


class Tally:
    """Counts what one worker does, since its start."""

    def __init__(self) -> None:
        self.lease_losses = 0
        self.slices_freed = 0
        self.limiter_waits = 0
        self.steps_failed = 0
        # Zeros from the start: what Prometheus first sees as 1 is no growth to it, and no alert.
        self._bars: Counter[Labels] = Counter(
            {(frame, change): 0 for frame in _TIMEFRAMES.values() for change in _CHANGES}
        )
        self._ended: Counter[Labels] = Counter({(state,): 0 for state in _STATES.values()})
        self._answers: Counter[Labels] = Counter({(outcome,): 0 for outcome in _OUTCOMES})
        self._stepped = time.monotonic()
        self._sizes = Histogram("mdw_part_bars", "Bars of a part, whatever became of them.", _PART_BARS)
        self._part_seconds = Histogram("mdw_part_seconds", "How long a part takes to be written.", _SECONDS)
        self._provider_seconds = Histogram("mdw_provider_seconds", "How long the provider takes to answer.", _SECONDS)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Measures a request to the provider, and counts how it ended."""
        began = time.monotonic()
        outcome = "interrupted"
        try:
            yield
            outcome = "page"
        except Exception as error:
            outcome = _outcome(error)
            raise
        finally:
            self._answers[(outcome,)] += 1
            self._provider_seconds.observe(time.monotonic() - began)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Measures a part's transaction."""
        began = time.monotonic()
        yield
        self._part_seconds.observe(time.monotonic() - began)

    def part(self, timeframe: int, written: Counts) -> None:
        """Counts a part that was committed."""
        self.bars(timeframe, written.inserted, written.updated, written.unchanged, written.rejected)

    def many(self, timeframe: int, written: Merged | None, rejected: int) -> None:
        """Counts a part of many series; None was not written."""
        if written is not None:
            self.bars(timeframe, written.inserted, written.updated, written.unchanged, rejected)

    def bars(self, timeframe: int, inserted: int, updated: int, unchanged: int, rejected: int = 0) -> None:
        """Counts the bars of a part, whatever becomes of its slice."""
        counts = (inserted, updated, unchanged, rejected)
        name = _TIMEFRAMES.get(timeframe, str(timeframe))
        self._bars.update({(name, change): count for change, count in zip(_CHANGES, counts, strict=True)})
        self._sizes.observe(sum(counts))

    def ended(self, state: int) -> None:
        """Counts a slice that has ended; one that goes on is not counted."""
        if state in _STATES:
            self._ended[(_STATES[state],)] += 1

    def step(self) -> None:
        """Notes that the worker is not stuck."""
        self._stepped = time.monotonic()

    def export(self, exporter: Exporter) -> None:
        """Adds all of it to what the process exports."""
        count = exporter.counters
        count("mdw_bars_written", "Bars by what became of them.", ("timeframe", "change"), self._bars.copy)
        count("mdw_slices_ended", "Slices that this worker ended, by state.", ("state",), self._ended.copy)
        count("mdw_provider_answers", "Answers of the provider, by outcome.", ("outcome",), self._answers.copy)
        exporter.counter("mdw_lease_losses", "Answers dropped, since the slice was lost.", lambda: self.lease_losses)
        exporter.counter("mdw_slices_freed", "Slices taken back from lost workers.", lambda: self.slices_freed)
        exporter.counter("mdw_limiter_waits", "Times that work waited for a grant.", lambda: self.limiter_waits)
        exporter.counter(
            "mdw_steps_failed", "Steps that failed, the database away included.", lambda: self.steps_failed
        )
        exporter.gauge("mdw_worker_step_age_seconds", "Since the worker last looked for work.", self._age)
        for histogram in (self._sizes, self._part_seconds, self._provider_seconds):
            exporter.registry.register(histogram)

    def _age(self) -> float:
        return time.monotonic() - self._stepped


def _outcome(error: Exception) -> str:
    if isinstance(error, PassingError):
        return "throttled" if error.throttled else "failed"
    return next((name for kind, name in _OUTCOME_OF.items() if isinstance(error, kind)), "error")
