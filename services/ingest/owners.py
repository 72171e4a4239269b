"""Names a process, so that others on the same machine can see that it is gone before its leases end."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_START_TIME = 18  # of the fields of /proc/<pid>/stat that follow the state


def my_name() -> str:
    """Returns where this process runs, which it is, and when it started, since process ids come again."""
    return f"{_machine()} {os.getpid()} {_started(os.getpid())}"


def is_gone(name: str) -> bool:
    """Says whether a process of this machine has ended; of another machine's nobody here knows."""
    machine, _, rest = name.partition(" ")
    pid, _, started = rest.partition(" ")
    return machine == _machine() != "" and pid.isdigit() and _started(int(pid)) != started


def _machine() -> str:
    """Returns the host and its space of process ids (containers have their own); empty where there is no /proc."""
    try:
        return f"{socket.gethostname()}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Returns when a process started, in ticks since boot; empty when it is gone, or dead and not yet collected."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in ("Z", "X") else fields[_START_TIME]
