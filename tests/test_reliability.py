"""docs/reliability.md names tests that there are, and every long run."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "reliability.md").read_text()


def test_every_test_that_is_named_is_there():
    named = re.findall(r"`(tests/[a-z0-9_/]+\.py)", TEXT)
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_every_long_run_is_named():
    runs = {path.name for path in (ROOT / "tests" / "faults").glob("*.py")}
    assert runs - set(re.findall(r"`([a-z_]+\.py)", TEXT)) == set()
