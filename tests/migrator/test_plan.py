"""A plan is a pure function of files and history, and never touches what is applied."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrator.errors import BadFiles
from migrator.files import Migration
from migrator.history import APPLIED, BASELINE, STARTED, Row
from migrator.plan import Plan, make_plan
from tests.migrator.support import where

if TYPE_CHECKING:
    import random


def file(version: int, checksum: str = "a", name: str = "") -> Migration:
    return Migration(version, name or f"{version:04}_x", "SELECT 1", checksum)


def row(version: int, state: str = APPLIED, checksum: str = "a") -> Row:
    return Row(version, f"{version:04}_x", checksum, state, datetime(2026, 1, 1, tzinfo=UTC), "me", 1, "1")


def test_what_is_not_applied_is_pending_in_order() -> None:
    plan = make_plan([file(1), file(2), file(3)], [row(1)])
    assert [migration.version for migration in plan.pending] == [2, 3]
    assert plan.version == 1


def test_an_edited_file_is_refused_with_both_checksums() -> None:
    with pytest.raises(BadFiles, match="old then, new now"):
        make_plan([file(1, "new")], [row(1, checksum="old")])


def test_an_applied_file_that_is_missing_is_refused() -> None:
    with pytest.raises(BadFiles, match="was applied and is missing now"):
        make_plan([file(1), file(3)], [row(1), row(2), row(3)])


def test_a_file_that_comes_late_is_refused() -> None:
    with pytest.raises(BadFiles, match="is older than version 3") as caught:
        make_plan([file(1), file(2), file(3)], [row(1), row(3)])
    assert where(caught.value) == ["0002_x.sql"]


def test_a_renamed_file_of_the_same_text_is_accepted_with_a_note() -> None:
    plan = make_plan([file(1, name="0001_better")], [row(1)])
    assert plan.notes == ("0001_better.sql was applied as 0001_x.sql: same text, taken as the same",)


def test_a_database_ahead_is_said_so() -> None:
    plan = make_plan([file(1)], [row(1), row(2)])
    assert ([r.version for r in plan.future], plan.pending, plan.version) == ([2], (), 2)


def test_a_baseline_counts_as_applied() -> None:
    assert make_plan([file(1)], [row(1, BASELINE)]).pending == ()


def test_an_interrupted_file_is_pending_again_and_may_be_mended() -> None:
    plan = make_plan([file(1), file(2, "mended")], [row(1), row(2, STARTED)])
    assert [migration.version for migration in plan.pending] == [2]
    assert [r.version for r in plan.unfinished] == [2]


def test_all_disagreements_are_said_at_once() -> None:
    with pytest.raises(BadFiles) as caught:
        make_plan([file(1, "b"), file(3), file(4)], [row(1), row(2), row(4)])
    assert where(caught.value) == ["0001_x.sql", "0002_x.sql", "0003_x.sql"]


def planned(files: list[Migration], history: list[Row]) -> tuple[Plan | None, list[str]]:
    """Returns the plan, or where it is refused."""
    try:
        return make_plan(files, history), []
    except BadFiles as error:
        return None, sorted(where(error))


STATES = st.sampled_from([None, APPLIED, BASELINE, STARTED])


@given(st.lists(st.tuples(STATES, st.booleans(), st.booleans()), min_size=1, max_size=9), st.randoms())
def test_a_plan_is_deterministic_and_never_touches_an_applied_version(
    cases: list[tuple[str | None, bool, bool]], shuffle: random.Random
) -> None:
    files = [file(v, "edited" if edited else "a") for v, (_, edited, here) in enumerate(cases, 1) if here]
    history = [row(v, state) for v, (state, _, _) in enumerate(cases, 1) if state]
    again = shuffle.sample(history, len(history))
    plan, refusals = planned(files, history)
    assert planned(files, again)[1] == refusals
    if plan is None:
        return
    versions = [migration.version for migration in plan.pending]
    done = {r.version for r in history if r.state != STARTED}
    assert make_plan(files, again) == plan
    assert versions == sorted(versions)
    assert done.isdisjoint(versions)
    assert {f.version for f in files} - done == set(versions)
