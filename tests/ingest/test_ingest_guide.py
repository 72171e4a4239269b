"""docs/ingest.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from deploy.local.faults import KINDS, parse_faults
from mdw.ingest.v1 import ingest_pb2
from services.ingest import scheduled_plans
from services.ingest.action_inquiry import FEW
from services.ingest.calendar import EVERY_DAY, XNYS
from services.ingest.scheduling import RUN_DAYS
from services.ingest.store.schedule import DELAYS
from services.ingest.store.syncs import BACK
from services.ingest.symbol_lists import PAGE_ROWS
from services.ingest.sync_plans import MOST_TICKERS
from tests.ingest.backfilling import STOCK
from tests.pasted import paste

GUIDE = Path(__file__).parents[2] / "docs" / "ingest.md"


async def test_every_line_of_the_guide_does_what_it_says(ingest, tmp_path):
    for ticker, asset_class in (("AAPL", STOCK), ("META", STOCK), ("BTC-USD", 3)):
        await ingest.symbol(ticker, asset_class)
    await ingest.sql.execute(
        "INSERT INTO ingest.series (symbol_id, timeframe, asked, bars, first_ts, last_ts, sessions_present) "
        "SELECT symbol_id, 7, '{[2005-02-28,2005-03-01)}', 1, '2005-02-28Z', '2005-02-28Z', 1 FROM symbols.symbols"
    )
    await ingest.sql.execute(
        "INSERT INTO ingest.bars SELECT '2005-02-28Z', 1, 1, 1, 1, 1, 1, symbol_id, 1, 0, 7, 0 FROM symbols.symbols"
    )
    (tmp_path / ".mdw").mkdir()
    (tmp_path / ".mdw" / "admin.key").write_text(ingest.key + "\n")
    assert await paste(GUIDE, tmp_path, {"127.0.0.1:15053": ingest.target}) >= 8


def test_the_table_of_reasons_is_the_contracts():
    rows = re.findall(
        r"^\| (`[A-Z_]+`(?:, `[A-Z_]+`)*) \| (?:was|belongs|failed|is|lies)", GUIDE.read_text(), re.MULTILINE
    )
    told = {name for row in rows for name in re.findall(r"[A-Z_]+", row)}
    assert told == set(ingest_pb2.Hole.Reason.keys()) - {"REASON_UNSPECIFIED", "NOT_CLOSED"}


def test_all_troubles_that_can_be_rehearsed_are_told():
    section = GUIDE.read_text().partition("## Rehearsing trouble")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[a-z_0-9]+`(?:, `[a-z_0-9]+`)*) \|", section, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"[a-z_0-9]+", row)} == set(KINDS)
    (line,) = re.findall(r'REPLAY_FAULTS="([^"]+)"', section)
    assert [fault.kind for fault in parse_faults(line)] == ["429", "500", "late"]


def test_every_call_of_the_service_has_a_line():
    told = set(re.findall(r"mdw\.ingest\.v1\.IngestService/(\w+)", GUIDE.read_text()))
    assert told == set(ingest_pb2.DESCRIPTOR.services_by_name["IngestService"].methods_by_name)


def test_the_figures_are_the_codes():
    text = re.sub(r"\s+", " ", GUIDE.read_text())
    assert DELAYS[XNYS].total_seconds() == 4.25 * 3600
    assert "4 hours and 15 minutes later" in text
    assert DELAYS[EVERY_DAY].total_seconds() == 900
    assert "crypto at 00:15Z" in text
    assert scheduled_plans.OVERLAP_SESSIONS == 3
    assert "the last three sessions again" in text
    assert f"kept {RUN_DAYS} days" in text
    assert f"{PAGE_ROWS:,} symbols a request" in text
    assert f"{MOST_TICKERS} tickers a request" in text
    assert f"lacks more than {FEW} known" in text
    assert f"those of the last {BACK.days} days" in text


async def test_the_waits_for_sessions_in_doubt_are_the_databases(ingest):
    async def hours(asks, fresh):
        wait = await ingest.sql.fetchval("SELECT ingest.suspect_wait($1, $2)", asks, fresh)
        return wait and wait.total_seconds() / 3600

    assert [await hours(asks, True) for asks in range(1, 7)] == [0.25, 1, 4, 16, 64, None]
    assert [await hours(asks, False) for asks in range(1, 5)] == [24, 96, 384, None]
