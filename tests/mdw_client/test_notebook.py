"""docs/bars.ipynb: it was run to its end, its code runs against the services, and the README shows its picture."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import pytest

from mdw_client import AsyncClient
from tests import notebook
from tests.ingest.working import CRYPTO, desk, replaying
from tests.whole import whole

if TYPE_CHECKING:
    from tests.conftest import MigratedDatabase

NOTEBOOK = json.loads(notebook.NOTEBOOK.read_text())


def test_each_cell_was_run_in_order_and_none_failed() -> None:
    cells = notebook.code(NOTEBOOK)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell["outputs"] for cell in cells)
    assert "error" not in [output["output_type"] for cell in cells for output in cell["outputs"]]


def test_its_picture_is_that_of_the_readme() -> None:
    assert notebook.pictures(NOTEBOOK) == [notebook.PICTURE.read_bytes()]
    assert notebook.PICTURE.stat().st_size < 200_000
    assert "](docs/bars.png)" in (notebook.ROOT / "README.md").read_text()
    assert "bars.ipynb" in (notebook.ROOT / "docs/README.md").read_text()


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
async def test_its_code_runs(
    database: MigratedDatabase, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mpl.use("Agg")
    async with desk(database) as work, replaying() as replay, whole(database) as services:
        await work.backfill("AAPL", "2005-01-03", "2005-06-30")
        for ticker, asset_class in (("MSFT", 1), ("GOOGL", 1), ("BTC-USD", CRYPTO)):
            await work.symbol(ticker, asset_class)
        async with AsyncClient(targets=services.targets, key=services.admin) as client:
            await client.actions.sync("AAPL")
        await work.drain(await work.worker(replay.url))
        for service, target in services.targets.items():
            monkeypatch.setenv(f"MDW_{service.upper()}_TARGET", target)
        monkeypatch.setenv("MDW_KEY", services.admin)
        found: dict[str, Any] = {}
        code = "\n".join("".join(cell["source"]) for cell in notebook.code(NOTEBOOK))
        await asyncio.to_thread(exec, code, found)
    assert found["adjusted"].receipt.actions_applied > 0
    assert len(found["axes"].get_lines()) == 2
    assert "125 bars as of" in capsys.readouterr().out
