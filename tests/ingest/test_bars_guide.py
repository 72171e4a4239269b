"""docs/bars.md and docs/quality.md say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from services.ingest import bar_servicer, resolving
from services.ingest.quality import ABSENT, GAP, MOVE, VOLUME_HIGH, VOLUME_LOW, Reason, quality
from services.ingest.reading import wire
from services.ingest.reading.rollup import PARTIAL
from tests.ingest.bars_support import bars_serving
from tests.ingest.history import CRYPTO, History, days
from tests.pasted import paste
from tests.support import make_key

DOCS = Path(__file__).parents[2] / "docs"


async def test_every_line_of_the_guide_does_what_it_says(database, tmp_path):
    history = History(database.ingest_url, database.admin_url)
    for ticker, asset_class in (("AAPL", 1), ("MSFT", 1), ("BTC-USD", CRYPTO)):
        await history.write(await history.symbol(ticker, asset_class), days("2005-02-24", [1, 2, 3]))
    (tmp_path / ".mdw").mkdir()
    (tmp_path / ".mdw" / "admin.key").write_text(await make_key(database, "admin") + "\n")
    async with bars_serving(database) as bars:
        assert await paste(DOCS / "bars.md", tmp_path, {"127.0.0.1:15053": bars.target}) == 6


def test_the_limits_are_the_codes():
    text = (DOCS / "bars.md").read_text()
    assert f"{bar_servicer.MAX_PAGE:,} bars a page" in text
    assert f"{resolving.MAX_SYMBOLS:,} symbols" in text
    assert f"{bar_servicer.MAX_LATEST:,} symbols" in text
    assert f"at most {wire.CHUNK:,} bars" in text
    assert f"flag {PARTIAL} says" in text


def test_the_table_of_reasons_is_the_codes():
    text = (DOCS / "quality.md").read_text()
    assert re.findall(r"^\| `([A-Z_]+)` \| [a-z]", text, re.MULTILINE) == list(Reason)


def test_the_table_of_flags_is_the_codes():
    rows = re.findall(r"^\| `([A-Z_]+)` \| (\d+) \| ([\d.]+|none) \|", (DOCS / "quality.md").read_text(), re.MULTILINE)
    bits = {"MOVE": MOVE, "GAP": GAP, "VOLUME_HIGH": VOLUME_HIGH, "VOLUME_LOW": VOLUME_LOW, "ABSENT": ABSENT}
    assert {name: int(bit) for name, bit, _ in rows} == bits
    for _, bit, less in rows:
        assert round(1 - quality(int(bit)), 2) == (0 if less == "none" else float(less))
