"""The guides' command lines work when they are pasted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pasted import paste
from tests.symbols.making import CRYPTO, create, facebook

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
async def folder(symbols, admin, tmp_path) -> Path:
    """The folder of a reader, and the symbols that the guides take for granted."""
    await facebook(symbols)
    await create(symbols, "BTC", CRYPTO)
    (tmp_path / ".mdw").mkdir()
    (tmp_path / ".mdw" / "admin.key").write_text(admin + "\n")
    return tmp_path


@pytest.mark.parametrize(("guide", "least"), [("symbols.md", 25), ("crypto.md", 10)])
async def test_every_line_of_a_guide_does_what_it_says(target, folder, guide, least):
    """Refusals are refused for the reason that is said, answers hold what is shown."""
    assert await paste(DOCS / guide, folder, {"127.0.0.1:15052": target}) >= least
