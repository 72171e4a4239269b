"""A child ends with its parent, however the parent ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.local.children import Child

SLEEPER = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, lambda *_: exit(3)); print('up', flush=True); time.sleep(60)",
]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]
PARENT = """
import pathlib, sys, time
from deploy.local.children import Child
child = Child("sleeper", ["sleep", "60"], log=pathlib.Path(sys.argv[1]), use_prctl=sys.argv[2] == "prctl")
print(child.process.pid, flush=True)
time.sleep(60)
"""


def until(condition, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("way", ["prctl", "watcher"])
def test_a_child_dies_when_its_parent_is_killed(tmp_path, way):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path / "log", way], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    pid = int(parent.stdout.readline())
    assert not gone(pid)
    parent.kill()
    parent.communicate()
    assert until(lambda: gone(pid))


@pytest.mark.parametrize("use_prctl", [True, False])
def test_a_child_is_asked_first_and_killed_only_if_it_does_not_listen(tmp_path, use_prctl):
    log = tmp_path / "log"
    polite = Child("polite", SLEEPER, log=log, use_prctl=use_prctl)
    assert until(lambda: polite.last_lines() == ["up"])
    assert polite.running
    assert polite.stop((signal.SIGTERM, 60.0)) == 3
    assert not polite.running
    polite.signal(signal.SIGTERM)
    stubborn = Child("stubborn", STUBBORN, log=log, use_prctl=use_prctl)
    assert until(lambda: stubborn.last_lines() == ["up", "up"])
    assert stubborn.stop((signal.SIGTERM, 0.1)) == -signal.SIGKILL


def test_a_log_that_is_gone_has_no_last_lines(tmp_path):
    child = Child("true", ["true"], log=tmp_path / "log")
    assert child.wait(10) == 0
    (tmp_path / "log").unlink()
    assert child.last_lines() == []
