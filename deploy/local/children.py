"""Child processes that end with their parent, however it ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

PR_SET_PDEATHSIG = 1
WATCHER = 'read -r _; kill "-$1" "$2"'


class Child:
    """One started process; `stop_signal` asks it to end, and is sent to it when this process dies."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        stop_signal: signal.Signals = signal.SIGTERM,
        environ: Mapping[str, str] | None = None,
        folder: Path | None = None,
        user: tuple[int, int] | None = None,
        use_prctl: bool = sys.platform == "linux",
    ) -> None:
        """Starts the command, its output appended to `log`; to be called from the main thread, whose end counts."""
        self.name = name
        self.log = log
        self.stop_signal = stop_signal
        with log.open("ab") as output:
            self.process = _spawn(
                command,
                output,
                environ=environ,
                folder=folder,
                user=user,
                before_exec=_die_with(stop_signal) if use_prctl else None,
            )
        self._watcher = None if use_prctl else _watch(self.process.pid, stop_signal)

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet."""
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        """Sends a signal, unless the process is gone."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def wait(self, seconds: float) -> int | None:
        """Waits for the end and returns the exit code, or None if the process is still there."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()
            self._watcher = None
        return code

    def stop(self, *signals: tuple[int, float]) -> int:
        """Tries each (signal, seconds to wait) in turn, at last SIGKILL, and returns the exit code."""
        for number, seconds in signals or ((self.stop_signal, 5.0),):
            self.signal(number)
            code = self.wait(seconds)
            if code is not None:
                return code
        self.process.kill()
        return self.wait(10.0) or 0

    def last_lines(self, count: int = 8) -> list[str]:
        """Returns the end of its log."""
        with contextlib.suppress(OSError):
            return self.log.read_text(errors="replace").splitlines()[-count:]
        return []


def end_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Asks for a signal when this process' own parent dies; does nothing where the kernel cannot."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def _spawn(
    command: Sequence[str],
    output: IO[bytes],
    *,
    environ: Mapping[str, str] | None,
    folder: Path | None,
    user: tuple[int, int] | None,
    before_exec: Callable[[], None] | None,
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environ,
        cwd=folder,
        start_new_session=True,  # Ctrl-C reaches the parent alone, which then stops all in order
        user=user[0] if user else None,
        group=user[1] if user else None,
        extra_groups=[] if user else None,
        preexec_fn=before_exec,  # noqa: PLW1509 - two system calls, no lock
    )


def _die_with(number: signal.Signals) -> Callable[[], None]:
    """Returns what a child runs before exec (after its change of user, which would clear the request)."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # it died between fork and here
            os._exit(1)

    return ask


def _watch(pid: int, number: signal.Signals) -> subprocess.Popen[bytes]:
    """Starts a shell that reads a pipe nobody writes to: it ends when this process does, then the shell kills."""
    return subprocess.Popen(
        ["/bin/sh", "-c", WATCHER, "watcher", str(int(number)), str(pid)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
