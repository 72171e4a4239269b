"""The command `mdw`: what it prints, where, and the status it ends with."""

from __future__ import annotations

import io
import stat
import sys
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from mdw.auth.v1 import auth_pb2
from mdw.ingest.v1 import ingest_pb2
from mdw.symbols.v1 import symbols_pb2
from mdw.type.v1 import type_pb2
from mdw_client.cli.app import mdw
from mdw_client.cli.base import Command

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mdw_client.warehouse import Warehouse

THEN = Timestamp(seconds=1_577_923_200)
STOCK, DAY = type_pb2.ASSET_CLASS_STOCK, type_pb2.TIMEFRAME_1D
PROGRESS = ingest_pb2.Progress(
    slices_done=1, slices_total=2, slices_failed=0, done_share=0.5, bars_inserted=1000, bars_updated=2, bars_unchanged=3
)
JOB = ingest_pb2.Backfill(
    backfill_id="b-1", kind="BARS", state="RUNNING", progress=PROGRESS, start_time=THEN, end_time=THEN
)
APPLE = symbols_pb2.Symbol(symbol_id=7, ticker="AAPL", asset_class=STOCK, name="Apple [Inc.]", active=True)
APPLE.series.add(timeframe=DAY, state="BACKFILL_STATE_SUCCEEDED")
APPLE.tickers.add(ticker="AAPL", provider_ticker="AAPL", from_date="1980-12-12")
HELD = symbols_pb2.SymbolStatistics(symbol_id=7, ticker="AAPL", asset_class=STOCK)
HELD.series.add(timeframe=DAY, bars=1234, first_time=THEN, last_time=THEN, sessions_missing=2, validated_share=0.995)
KEY_7 = auth_pb2.Key(key_id="k-7", display_name="reader", preview="mdw_12345678", scopes=["bars.read"], state="ACTIVE")


def commands(group: Any = mdw, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found = []
    for name, command in group.commands.items():
        here = (*path, name)
        found += commands(command, here) if hasattr(command, "commands") else [(here, command)]
    return found


@pytest.mark.parametrize(
    ("path", "command"), commands(), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_says_what_it_does_and_takes_json(ran, path: tuple[str, ...], command) -> None:
    found = ran(*path, "--help")
    assert (found.status, isinstance(command, Command)) == (0, True)
    assert "--json" in found.out
    assert command.help


def test_keys_are_listed(warehouse: Warehouse, ran) -> None:
    warehouse.answers["ListKeys"] = auth_pb2.ListKeysResponse(keys=[KEY_7])
    found = ran("keys", "list", "--active")
    assert found.status == 0
    assert [word in found.out for word in ("k-7", "reader", "mdw_12345678", "ACTIVE", "bars.read")] == [True] * 5
    assert ran("keys", "list", "--json").objects == [
        {
            "key_id": "k-7",
            "display_name": "reader",
            "preview": "mdw_12345678",
            "scopes": ["bars.read"],
            "state": "ACTIVE",
        }
    ]


def test_a_new_keys_text_is_alone_on_stdout(warehouse: Warehouse, ran) -> None:
    warehouse.answers["CreateKey"] = auth_pb2.CreateKeyResponse(key=KEY_7, secret="mdw_secret")
    found = ran("keys", "create", "reader", "--scope", "bars.read", "--expire", "2030-01-01", "--peer", "10.0.0.0/8")
    assert found.out == "mdw_secret\n"
    assert "shown once" in found.err
    assert warehouse.requests("CreateKey")[0].expire_time.ToJsonString() == "2030-01-01T00:00:00Z"
    assert ran("keys", "create", "reader", "--scope", "bars.read", "--json").objects[0]["secret"] == "mdw_secret"


def test_a_new_keys_text_may_go_to_a_file_of_ones_own(warehouse: Warehouse, ran, tmp_path: Path) -> None:
    warehouse.answers["RotateKey"] = auth_pb2.RotateKeyResponse(
        key=KEY_7, secret="mdw_secret", old_key=auth_pb2.Key(expire_time=THEN)
    )
    found = ran("keys", "rotate", "k-7", "--overlap", "60", "--out", str(tmp_path / "new.key"))
    assert (found.status, found.out) == (0, "")
    assert "2020-01-02 00:00:00Z" in found.err
    assert (tmp_path / "new.key").read_text() == "mdw_secret\n"
    assert stat.S_IMODE((tmp_path / "new.key").stat().st_mode) == 0o600
    again = ran("keys", "rotate", "k-7", "--out", str(tmp_path / "new.key"))
    assert (again.status, len(warehouse.received)) == (2, 1)
    assert ran("keys", "create", "x", "--scope", "a", "--out", str(tmp_path / "no/where")).status == 2


@pytest.mark.parametrize(
    ("line", "rpc"),
    [
        ("keys show k-7", "GetKey"),
        ("keys revoke k-7", "RevokeKey"),
        ("keys restore k-7", "RestoreKey"),
        ("keys delete k-7 --yes", "DeleteKey"),
        ("backfill show b-1", "GetBackfill"),
        ("backfill pause b-1 --reason lunch", "PauseBackfill"),
        ("backfill resume b-1", "ResumeBackfill"),
        ("backfill cancel b-1", "CancelBackfill"),
        ("backfill retry b-1", "RetryBackfill"),
        ("backfill priority b-1 high", "UpdateBackfill"),
        ("symbols activate AAPL MSFT", "ActivateSymbols"),
        ("symbols deactivate --exchange XNAS --class stock --check", "DeactivateSymbols"),
    ],
)
def test_a_change_says_what_came_of_it(warehouse: Warehouse, ran, line: str, rpc: str) -> None:
    found = ran(*line.split())
    assert (found.status, warehouse.received[-1].method) == (0, rpc)
    assert found.out
    assert ran(*line.split(), "--json").status == 0


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_deleting_a_key_asks_first(warehouse: Warehouse, ran, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    assert ran("keys", "delete", "k-7").status == 1
    assert warehouse.received == []


def test_symbols_are_listed_and_shown(warehouse: Warehouse, ran) -> None:
    warehouse.answers |= {
        "ListSymbols": symbols_pb2.ListSymbolsResponse(symbols=[APPLE]),
        "GetSymbol": symbols_pb2.GetSymbolResponse(symbol=APPLE, found_under=APPLE.tickers[0]),
        "GetSymbolStatistics": symbols_pb2.GetSymbolStatisticsResponse(statistics=HELD),
        "ListSymbolStatistics": symbols_pb2.ListSymbolStatisticsResponse(statistics=[HELD]),
    }
    assert "Apple [Inc.]" in ran("symbols", "list", "--class", "stock", "--active").out
    shown = ran("symbols", "show", "AAPL").out
    assert "from 1980-12-12 to now" in shown
    assert "1,234" in shown
    assert "99.5%" in ran("symbols", "stats").out
    assert ran("symbols", "stats", "--json").objects[0]["series"][0]["bars"] == "1234"
    assert [each["ticker"] for each in ran("symbols", "show", "AAPL", "--json").objects] == ["AAPL", "AAPL"]


def test_symbols_are_imported_from_csv(warehouse: Warehouse, ran, tmp_path: Path) -> None:
    file = tmp_path / "new.csv"
    file.write_text(
        "\ufeffticker,asset_class,name,timeframes,inactive,list_date\n"
        "AAPL,stock,Apple,1d 1m,no,1980-12-12\n"
        "BTC-USD,crypto,,,yes,\n"
    )
    results = [
        symbols_pb2.ImportResult(row=0, ticker="AAPL", outcome="CREATED"),
        symbols_pb2.ImportResult(row=1, ticker="BTC-USD", outcome="REFUSED", error="no such pair"),
    ]
    warehouse.answers["ImportSymbols"] = symbols_pb2.ImportSymbolsResponse(results=results, created=1, refused=1)
    found = ran("symbols", "import", str(file))
    assert found.status == 1
    assert found.out == f"{file}:3: BTC-USD: no such pair\n1 registered, 0 were there, 1 refused\n"
    apple, bitcoin = warehouse.requests("ImportSymbols")[0].symbols
    assert (apple.name, list(apple.timeframes), apple.list_date) == (
        "Apple",
        [DAY, type_pb2.TIMEFRAME_1M],
        "1980-12-12",
    )
    assert (bitcoin.asset_class, bitcoin.inactive) == (type_pb2.ASSET_CLASS_CRYPTO, True)
    assert len(ran("symbols", "import", str(file), "--json", "--check").objects) == 2
    assert warehouse.requests("ImportSymbols")[1].validate_only


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ticker,colour\nAAPL,red\n", ":1: unknown column colour"),
        ("asset_class\nstock\n", ":1: no column ticker"),
        ("", ":1: no column ticker"),
        ("ticker,asset_class\nAAPL,bond\n", ":2: AAPL: asset_class: 'bond' is none of stock"),
        ("ticker,asset_class\nAAPL,stock\n,stock\n", ":3: ticker is empty"),
        ("ticker,asset_class\nAAPL,stock,Apple\n", ":2: more cells than columns"),
    ],
)
def test_a_csv_that_cannot_be_read_is_refused_with_its_line(
    warehouse: Warehouse, ran, tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "new.csv"
    file.write_text(text)
    found = ran("symbols", "import", str(file))
    assert found.status == 2
    assert f"{file}{message}" in found.err
    assert warehouse.received == []


@pytest.mark.parametrize(
    "line",
    [
        "symbols activate",
        "symbols activate AAPL --exchange XNAS",
        "backfill start",
        "bars",
        "bars AAPL --out x.txt",
        "bars AAPL 1d --start 2024-05-01T09:30",
        "backfill watch",
        "nonsense",
    ],
)
def test_a_line_that_cannot_be_meant_is_refused(ran, line: str) -> None:
    found = ran(*line.split())
    assert (found.status, found.out) == (2, "")
    assert found.err


def test_all_symbols_are_chosen_by_saying_so(warehouse: Warehouse, ran) -> None:
    warehouse.answers["ActivateSymbols"] = symbols_pb2.ActivateSymbolsResponse(matched=9, changed=3)
    assert "9 chosen, 3 would become active" in ran("symbols", "activate", "--all", "--check").out
    assert warehouse.requests("ActivateSymbols")[0].HasField("filter")


def test_a_backfill_is_planned_and_started(warehouse: Warehouse, ran) -> None:
    plan = ingest_pb2.BackfillPlan(
        slices=2, shared_slices=1, requests=3, estimated_bars=5000, estimated_bytes=2_000_000, sessions_held=4
    )
    plan.estimated_time.CopyFrom(Duration(seconds=90))
    plan.skipped.add(ticker="GONE", timeframe=DAY, reason="held")
    warehouse.answers["StartBackfill"] = ingest_pb2.StartBackfillResponse(backfill=JOB, plan=plan)
    planned = ran("backfill", "plan", "AAPL", "GONE", "--timeframe", "1d", "--start", "2020-01-01")
    assert [text in planned.out for text in ("2, and 1 shared", "about 5,000", "2.0 MB", "0:01:30", "GONE")] == [
        True
    ] * 5
    assert "mdw backfill watch b-1" in ran("backfill", "start", "--all-active", "--refetch").out
    assert warehouse.requests("StartBackfill")[1].mode == ingest_pb2.BACKFILL_MODE_REFETCH
    assert ran("backfill", "plan", "AAPL", "--json").objects[0]["slices"] == "2"


def test_the_schedule_is_shown_and_steered(warehouse: Warehouse, ran) -> None:
    schedule = ingest_pb2.Schedule(paused=True, note="holiday", changed_by_preview="mdw_1234", change_time=THEN)
    schedule.requests_needed, schedule.requests_available, schedule.requests_needed_a_day = 300, 120, 15
    calendar = schedule.calendars.add(asset_classes=[STOCK], series=13, next_session_date="2020-01-03")
    calendar.last_run.result = "nothing to do"
    warehouse.answers |= {
        "GetSchedule": ingest_pb2.GetScheduleResponse(schedule=schedule),
        "PauseSchedule": ingest_pb2.PauseScheduleResponse(schedule=schedule),
        "ResumeSchedule": ingest_pb2.ResumeScheduleResponse(),
        "RunSchedule": ingest_pb2.RunScheduleResponse(backfill=JOB),
        "WatchBackfill": _ends("SUCCEEDED"),
    }
    shown = ran("schedule", "show").out
    expected = ("paused by mdw_1234", "300 needed, 120 to be had", "15 needed, no limit", "2020-01-03", "nothing to do")
    assert [text in shown for text in expected] == [True] * 5
    assert ran("schedule", "show", "--json").objects[0]["requests_needed"] == "300"
    assert ran("schedule", "pause", "--note", "holiday").out == shown
    assert "goes on" in ran("schedule", "resume").out
    assert "b-1" in ran("schedule", "run").out
    assert ran("schedule", "run", "--watch").status == 0


def test_actions_are_listed_and_fetched(warehouse: Warehouse, ran) -> None:
    found = ingest_pb2.ListCorporateActionsResponse()
    found.actions.add(ticker="AAPL", kind=1, ex_date="2020-08-31", split_from=1, split_to=4, repeats_another=True)
    found.actions.add(ticker="AAPL", kind=2, ex_date="2020-08-07", cash_amount=0.82, currency="USD", absurd_ratio=True)
    warehouse.answers |= {
        "ListCorporateActions": found,
        "SyncActions": ingest_pb2.SyncActionsResponse(backfill=JOB),
        "SyncSymbols": ingest_pb2.SyncSymbolsResponse(backfill=JOB),
        "WatchBackfill": _ends("SUCCEEDED"),
    }
    shown = ran("actions", "list", "AAPL", "--kind", "split").out
    assert [text in shown for text in ("4 for 1", "repeats another", "0.82 USD", "absurd ratio", "2020-08-31")] == [
        True
    ] * 5
    assert ran("actions", "list", "--json").objects[0]["split_to"] == 4
    assert "b-1" in ran("actions", "sync", "AAPL").out
    assert ran("actions", "sync-symbols", "--class", "crypto", "--watch").status == 0


def _ends(state: str) -> list[Any]:
    latest = ingest_pb2.Backfill()
    latest.CopyFrom(JOB)
    latest.state = ingest_pb2.Backfill.State.Value(state)
    latest.error = "" if state == "SUCCEEDED" else "no luck"
    latest.progress.current_ticker = "AAPL"
    latest.progress.estimated_time_left.CopyFrom(Duration(seconds=5))
    return [ingest_pb2.WatchBackfillResponse(backfill=each) for each in (JOB, latest)]


@pytest.mark.parametrize(("state", "status"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELLED", 1)])
def test_watching_ends_with_the_backfill(warehouse: Warehouse, ran, state: str, status: int) -> None:
    warehouse.answers["WatchBackfill"] = _ends(state)
    found = ran("backfill", "watch", "b-1")
    assert found.status == status
    assert "1 of 2 slices, 1,005 bars" in found.out
    assert state in found.out
    assert [each["state"] for each in ran("backfill", "watch", "b-1", "--json").objects] == ["RUNNING", state]


@pytest.mark.usefixtures("terminal")
def test_a_terminal_shows_a_bar(warehouse: Warehouse, ran) -> None:
    warehouse.answers |= {
        "StartBackfill": ingest_pb2.StartBackfillResponse(backfill=JOB),
        "WatchBackfill": _ends("SUCCEEDED"),
    }
    found = ran("backfill", "start", "AAPL", "--watch")
    assert found.status == 0
    assert "SUCCEEDED" in found.out


def test_the_newest_backfill_is_meant_where_none_is_named(warehouse: Warehouse, ran) -> None:
    warehouse.answers |= {
        "ListBackfills": ingest_pb2.ListBackfillsResponse(backfills=[JOB]),
        "ListSlices": ingest_pb2.ListSlicesResponse(
            slices=[ingest_pb2.Slice(slice_id=1, kind="DAY", state="FAILED", reason="HTTP 500 [sic]")]
        ),
    }
    assert "HTTP 500 [sic]" in ran("backfill", "slices", "--state", "failed").out
    assert warehouse.requests("ListSlices")[0].backfill_id == "b-1"
    assert "b-1" in ran("backfill", "list", "--state", "running").out


def test_refused_bars_and_audited_calls_are_listed(warehouse: Warehouse, ran) -> None:
    raw = ingest_pb2.RejectedBar(
        provider_ticker="AAPL", timeframe=DAY, reason="HIGH_LOW", raw='{"h":[1]}', start_time=THEN
    )
    entry = auth_pb2.AuditEntry(
        time=THEN, service="ingest", method="ListBars", code="OK", duration=Duration(nanos=1_500_000)
    )
    warehouse.answers |= {
        "ListRejectedBars": ingest_pb2.ListRejectedBarsResponse(bars=[raw]),
        "ListAuditEntries": auth_pb2.ListAuditEntriesResponse(entries=[entry]),
    }
    assert '{"h":[1]}' in ran("rejects", "AAPL", "--timeframe", "1d").out
    assert "1.5" in ran("audit", "list", "--code", "OK", "--start", "2020-01-01").out


@pytest.mark.parametrize(("findings", "status"), [((), 0), (("BATCH_EDITED",), 1)])
def test_an_edited_audit_log_is_a_failure(warehouse: Warehouse, ran, findings, status: int) -> None:
    answer = auth_pb2.VerifyAuditLogResponse(rows=10, batches=2)
    for kind in findings:
        answer.findings.add(kind=kind, writer="w", chain="reads", seq=3, detail="row 7")
    warehouse.answers["VerifyAuditLog"] = answer
    found = ran("audit", "verify")
    assert found.status == status
    assert f"10 rows in 2 batches, {len(findings)} findings" in found.out
    assert ran("audit", "verify", "--json").status == status
