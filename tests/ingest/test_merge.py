"""Newest answer wins: any order in which answers are stored ends in the same bars, flags and tail."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest.columns import Columns
from services.ingest.merge import Answer, Held, Neighbourhood, append, merge
from services.ingest.quality import ABSENT, NO_CONTEXT, WINDOW, Context, decode_tail, encode_tail, judge, validated

MINUTE = 60_000
SLOTS = 40


@dataclass(frozen=True)
class Said:
    """An answer: fetched when, about which slots (end exclusive), and the value of each slot that has a bar."""

    fetched: int
    first: int
    end: int
    values: dict[int, int]


@dataclass
class Store:
    """A series in memory, by slot: value and whether it is absent; origins as the database keeps them."""

    held: dict[int, tuple[int, int]] = field(default_factory=dict)
    origins: dict[int, int] = field(default_factory=dict)
    answers: list[Said] = field(default_factory=list)
    validated: int = 0
    tail: bytes = b""

    def rows(self, first, end):
        slots = [slot for slot in sorted(self.held) if first <= slot < end]
        return Held(
            bars_of({slot: self.held[slot][0] for slot in slots}),
            np.array([self.held[slot][1] for slot in slots], np.int16),
        )

    def take(self, said):
        """Stores an answer as a part does."""
        newer = [(a.first * MINUTE, a.end * MINUTE) for a in self.answers if a.fetched > said.fetched]
        answer = Answer(bars_of(said.values), said.fetched, newer)
        own = self.rows(said.first, said.end)
        before = self.rows(0, said.first)
        before = before.take(slice(max(0, len(before) - WINDOW), len(before)))
        after = self.rows(said.end, SLOTS).take(slice(0, WINDOW))
        origins = np.array([self.origins.get(int(ts) // MINUTE, 0) for ts in own.bars.ts], np.int64)
        outcome = merge(answer, Neighbourhood(before, own, after, origins))
        for part in (outcome.inserted, outcome.changed):
            for ts, close, flags in zip(
                part.bars.ts.tolist(), part.bars.close.tolist(), part.flags.tolist(), strict=True
            ):
                self.held[ts // MINUTE] = (int(close), flags)
        self._note(said, outcome)
        self.validated += outcome.validated
        self.tail = self.tail if outcome.tail is None else outcome.tail
        self.answers.append(said)
        return outcome

    def _note(self, said, outcome):
        for ts in outcome.returned.tolist():
            del self.origins[ts // MINUTE]
        for ts in outcome.vanished.tolist():
            slot = ts // MINUTE
            self.origins[slot] = max(
                a.fetched for a in self.answers if a.first <= slot < a.end and a.fetched < said.fetched
            )
        for ts in outcome.originated.tolist():
            self.origins[ts // MINUTE] = said.fetched


def bars_of(values):
    slots = sorted(values)
    close = np.array([float(values[slot]) for slot in slots])
    return Columns(
        np.array(slots, np.int64) * MINUTE,
        close,
        close + 1,
        close - 0.5,
        close,
        close * 3,
        close,
        np.full(len(slots), 1, np.int64),
    )


def expected(said):
    """Says what must be stored: of each slot the newest answer that had it; absent if a newer one covered it."""
    held = {}
    for slot in range(SLOTS):
        covering = sorted((one for one in said if one.first <= slot < one.end), key=lambda one: one.fetched)
        having = [one for one in covering if slot in one.values]
        if having:
            held[slot] = (having[-1].values[slot], having[-1] is not covering[-1])
    bars = bars_of({slot: value for slot, (value, _) in held.items()})
    absent = np.array([absent for _, absent in held.values()], np.int16) * np.int16(ABSENT)
    flags = judge(bars, NO_CONTEXT) | absent
    return {slot: (value, int(flag)) for (slot, (value, _)), flag in zip(held.items(), flags, strict=True)}, bars, flags


@st.composite
def histories(draw):
    """Draws what a provider that changes its mind said of overlapping spans, and an order in which it is stored."""
    said = []
    for fetched in range(1, draw(st.integers(2, 7)) + 1):
        first = draw(st.integers(0, SLOTS - 1))
        end = draw(st.integers(first + 1, SLOTS))
        values = draw(
            st.dictionaries(
                st.integers(first, end - 1), st.integers(1, 4).map(lambda n: n * n * 3), max_size=end - first
            )
        )
        said.append(Said(fetched, first, end, values))
    return said, draw(st.permutations(said))


@given(histories())
@settings(max_examples=80)
def test_any_order_of_answers_ends_in_the_newest_ones(history):
    said, order = history
    store = Store()
    for one in order:
        store.take(one)
    held, bars, flags = expected(said)
    assert store.held == held
    assert store.validated == validated(flags).sum()
    assert set(store.origins) == {slot for slot, (_, flag) in held.items() if flag & ABSENT}
    if held:
        last = Context(bars.ts[-WINDOW:], bars.close[-WINDOW:], bars.volume[-WINDOW:])
        assert store.tail == encode_tail(last)


@given(histories())
def test_what_an_answer_changes_is_counted_truthfully(history):
    store = Store()
    for one in history[1]:
        before = dict(store.held)
        outcome = store.take(one)
        known = [slot for slot in one.values if slot in before]
        assert len(outcome.inserted) == len(one.values) - len(known)
        assert outcome.updated == sum(store.held[slot][0] != before[slot][0] for slot in known)
        assert outcome.unchanged == len(known) - outcome.updated
        changed = {int(ts) // MINUTE for ts in outcome.changed.bars.ts}
        assert changed == {slot for slot in before if store.held[slot] != before[slot]}
        touched = sorted({int(ts) // MINUTE for ts in outcome.inserted.bars.ts} | changed)
        assert outcome.touched == ((touched[0] * MINUTE, touched[-1] * MINUTE) if touched else None)


@given(st.dictionaries(st.integers(0, SLOTS - 1), st.integers(1, 90)), st.integers(0, SLOTS))
def test_appending_is_merging_behind_all_that_is_stored(values, border):
    """Judged beforehand, without what is stored, and put right for the first bars only."""
    store = Store()
    store.take(
        Said(1, 0, border, {slot: value for slot, value in values.items() if slot < border})
        if border
        else Said(1, 0, 1, {})
    )
    bars = bars_of({slot: value for slot, value in values.items() if slot >= border})
    appended = append(bars, decode_tail(store.tail), judge(bars, NO_CONTEXT))
    merged = (
        store.take(Said(2, border, SLOTS, {slot: value for slot, value in values.items() if slot >= border}))
        if border < SLOTS
        else appended
    )
    assert appended.inserted.flags.tolist() == merged.inserted.flags.tolist()
    assert appended.validated == merged.validated
    if len(bars):
        assert appended.tail == merged.tail
    assert appended.touched == merged.touched
