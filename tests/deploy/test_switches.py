"""The switches of make run are checked before anything starts."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest

from deploy.local.switches import Switches, UsageError


def test_without_switches_there_is_a_worker_a_core_and_the_replay_from_the_beginning():
    switches = Switches.from_environment({})
    assert switches.workers == os.cpu_count()
    assert switches.start is None
    assert not switches.once
    assert switches.addresses == {
        "auth": "127.0.0.1:15051",
        "symbols": "127.0.0.1:15052",
        "ingest": "127.0.0.1:15053",
    }


def test_with_a_key_two_years_are_asked():
    switches = Switches.from_environment({"POLYGON_API_KEY": "x", "ONCE": "1", "MDW_PORT": "17000"})
    assert switches.start == datetime.now(UTC).date() - timedelta(days=730)
    assert switches.once
    assert switches.ports["ingest"] == 17002


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("INGEST_WORKERS", "many", "INGEST_WORKERS: 'many' is not a number between 1 and 64"),
        ("INGEST_WORKERS", "0", "INGEST_WORKERS: '0' is not a number between 1 and 64"),
        ("MDW_PORT", "80", "MDW_PORT: '80' is not a number between 1024 and 65533"),
        ("REPLAY_FAULTS", "rain", "REPLAY_FAULTS: unknown fault rain"),
    ],
)
def test_a_bad_switch_is_named(name, value, message):
    with pytest.raises(UsageError, match=message):
        Switches.from_environment({name: value})
