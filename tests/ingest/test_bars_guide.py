"""docs/bars.md and docs/quality.md say what the code does."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from mdw.ingest.v1 import bars_pb2
from services.ingest import bar_servicer, resolving
from services.ingest.quality import ABSENT, GAP, MOVE, VOLUME_HIGH, VOLUME_LOW, Reason, quality
from services.ingest.reading import wire
from services.ingest.reading.rollup import PARTIAL
from tests.ingest.bars_support import bars_serving
from tests.ingest.history import CRYPTO, History, days
from tests.pasted import paste
from tests.support import make_key

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


async def test_every_line_of_the_guide_does_what_it_says(database, tmp_path):
    history = History(database.ingest_url, database.admin_url)
    for ticker, asset_class in (("AAPL", 1), ("MSFT", 1), ("BTC-USD", CRYPTO)):
        await history.write(await history.symbol(ticker, asset_class), days("2005-02-24", [1, 2, 3]))
    (tmp_path / ".mdw").mkdir()
    (tmp_path / ".mdw" / "admin.key").write_text(await make_key(database, "admin") + "\n")
    async with bars_serving(database) as bars:
        assert await paste(DOCS / "bars.md", tmp_path, {"127.0.0.1:15053": bars.target}) == 6


async def test_the_lines_of_python_do_what_they_say(database):
    history = History(database.ingest_url, database.admin_url)
    for ticker in ("AAPL", "MSFT"):
        await history.write(await history.symbol(ticker), days("2005-02-24", [1, 2, 3]))
    code = re.search(r"```python\n(.*?)```", (DOCS / "bars.md").read_text(), re.DOTALL)[1]
    async with bars_serving(database) as bars:
        settings = {"MDW_INGEST_TARGET": bars.target, "MDW_KEY": bars.metadata[0][1]}
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=-1, stderr=-1, env={**os.environ, **settings, **paths()}
        )
        told, wrong = await child.communicate()
    assert child.returncode == 0, wrong
    lines = told.decode().splitlines()
    assert lines[0] == "AAPL 2005-02-24 1.0"
    assert lines[-1].startswith("6 bars as of ")


def paths():
    """Returns how another process finds the client and the generated code."""
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "protos" / "gen")])}


@pytest.mark.parametrize("language", ["python", "go", "ts"])
def test_the_code_in_each_language_is_about_twenty_lines_and_calls_what_there_is(language):
    code = re.search(rf"```{language}\n(.*?)```", (DOCS / "bars.md").read_text(), re.DOTALL)[1]
    assert len(code.splitlines()) <= 22
    fields = {field.lower() for field in bars_pb2.StreamBarsResponse.DESCRIPTOR.fields_by_name}
    fields |= {field.replace("_", "") for field in fields}
    used = {name.lower() for name in re.findall(r"chunk\.(?:Get)?(\w+)", code)} - {"columns"}
    assert used <= fields


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
