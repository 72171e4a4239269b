"""docs/authentication.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from services.kit.scopes import KNOWN
from services.kit.server import MAX_CALLS_PER_CONNECTION, MAX_METADATA
from services.kit.settings import ServiceSettings
from tests.pasted import paste

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "authentication.md"


async def test_every_line_of_the_guide_does_what_it_says(target, admin, tmp_path):
    (tmp_path / ".mdw").mkdir()
    (tmp_path / ".mdw" / "admin.key").write_text(admin + "\n")
    assert await paste(GUIDE, tmp_path, {"127.0.0.1:15051": target}) >= 10


def test_the_table_of_scopes_is_the_codes():
    section = GUIDE.read_text().partition("## Scopes")[2].partition("##")[0]
    assert dict(re.findall(r"^\| `([a-z.]+)` \| (.+) \|$", section, re.MULTILINE)) == KNOWN


def test_every_test_that_the_threats_name_is_there():
    section = GUIDE.read_text().partition("## Threats")[2]
    named = re.findall(r"`(tests/[a-z_/]+\.py)`", section)
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_limits_are_the_codes():
    text = GUIDE.read_text()
    defaults = {name: field.default for name, field in ServiceSettings.__dataclass_fields__.items()}
    for name in ("key_max_calls_per_second", "key_max_streams", "peer_failures_per_second"):
        assert f"`{name.upper()}` ({defaults[name]})" in text
    assert f"`MAX_OPEN_CALLS` ({defaults['max_open_calls']:,})" in text
    assert f"| {MAX_CALLS_PER_CONNECTION} |" in text
    assert f"| {MAX_METADATA // 1024} KB |" in text
