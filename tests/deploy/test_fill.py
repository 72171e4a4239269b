"""What make run says of its backfill."""

from __future__ import annotations

import io

from rich.console import Console

from deploy.local.fill import Lines, outcome
from mdw.ingest.v1 import ingest_pb2

DONE = ingest_pb2.Progress(
    slices_done=15,
    slices_total=15,
    bars_inserted=14_404,
    bars_updated=0,
    bars_unchanged=2,
    bars_rejected=1,
    requests=20,
)


def test_the_outcome_is_one_line():
    assert outcome(None) == "Nothing is missing: every session that has closed was asked for."
    done = ingest_pb2.Backfill(state=ingest_pb2.Backfill.SUCCEEDED, progress=DONE)
    assert outcome(done) == ("Backfill done: 14,404 bars new, 0 corrected, 2 as held, 1 rejected, in 20 requests.")


def test_when_only_empty_sessions_were_asked_for_again_nothing_is_missing():
    again = ingest_pb2.Backfill(state=ingest_pb2.Backfill.SUCCEEDED, progress=ingest_pb2.Progress(requests=3))
    assert outcome(again).startswith("Nothing is missing: ")
    assert outcome(again).endswith("(3 requests).")


def test_what_the_subscription_does_not_cover_is_not_called_complete():
    progress = ingest_pb2.Progress(slices_total=16, slices_outside_plan=16, requests=16)
    refused = ingest_pb2.Backfill(backfill_id="b1", state=ingest_pb2.Backfill.SUCCEEDED, progress=progress)
    assert outcome(refused) == (
        "Backfill done: 0 bars new, 0 corrected, 0 as held, 0 rejected, in 16 requests; 16 of 16 slices lie outside "
        "the subscription: mdw backfill slices b1 --state outside_plan."
    )


def test_a_backfill_that_failed_or_waits_says_why():
    waits = ingest_pb2.Backfill(state=ingest_pb2.Backfill.PAUSED, pause_reason="Unknown API Key", progress=DONE)
    assert outcome(waits).startswith("Backfill PAUSED (Unknown API Key): 14,404 bars new")
    failed = ingest_pb2.Backfill(state=ingest_pb2.Backfill.FAILED, error="AAPL: 500", progress=DONE)
    assert outcome(failed).startswith("Backfill FAILED (AAPL: 500): ")


def test_without_a_terminal_progress_is_a_line_now_and_then_and_one_at_the_end():
    output = io.StringIO()
    lines = Lines(Console(file=output))
    for count in (1, 2, 3, 15):
        lines.show(ingest_pb2.Progress(slices_done=count, slices_total=15, bars_inserted=count))
    assert output.getvalue().splitlines() == ["backfill: 1 of 15 slices, 1 bars", "backfill: 15 of 15 slices, 15 bars"]
