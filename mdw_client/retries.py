"""Which refused calls are worth another try, and after how long; the channel has retried UNAVAILABLE already."""

from __future__ import annotations

import random
import time

import grpc

from mdw_client.errors import Aborted, CallError, Cancelled, ResourceExhausted

_FIRST_WAIT = 0.1
_LONGEST_WAIT = 3.0
_FACTOR = 3
_TRIES = 5
_NOBODY_THERE_SECONDS = 5.0
"""How long a stream is asked for where no server was reached yet; the channel has tried as long by itself."""
# How a connection that breaks in mid-stream can end a call; a server of ours would give a reason.
_BROKEN = frozenset({grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})


class Unaries:
    """The tries of one call within its timeout, in seconds."""

    def __init__(self, timeout: float) -> None:
        self._deadline = time.monotonic() + timeout
        self._tries = 0

    @property
    def time_left(self) -> float:
        return max(self._deadline - time.monotonic(), 0.001)

    def wait(self, error: CallError) -> float | None:
        """Returns the seconds to wait before the next try, or None to give up.

        ABORTED means that two changes met, RESOURCE_EXHAUSTED with a time that the key's rate is used up, CANCELLED
        that the server ended under the call: reads, and changes with their request_id, may be sent again.
        """
        self._tries += 1
        if self._tries >= _TRIES:
            return None
        seconds = None
        if isinstance(error, Aborted) or (isinstance(error, Cancelled) and not error.reason):
            seconds = backoff(self._tries)
        elif isinstance(error, ResourceExhausted) and error.retry_after is not None:
            seconds = error.retry_after + backoff(self._tries)
        return seconds if seconds is not None and seconds < self.time_left else None


class Streams:
    """The tries of one stream, which may break at any point and goes on from there."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._tries = 0
        self._broken_since: float | None = None
        self._answered = False

    def answered(self) -> None:
        """Notes that there is a server: from now on one that is away is waited for."""
        self._answered = True

    def progress(self) -> None:
        """Notes that something new came: the next break starts from new."""
        self._tries = 0
        self._broken_since = None

    def wait(self, error: CallError) -> float | None:
        """Returns the seconds to wait before the stream is taken up again, or None to give up."""
        broken = error.code is grpc.StatusCode.UNAVAILABLE or (error.code in _BROKEN and not error.reason)
        limited = isinstance(error, ResourceExhausted) and error.retry_after is not None
        if not broken and not limited:
            return None
        now = time.monotonic()
        self._tries += 1
        self._broken_since = self._broken_since or now
        seconds = max(backoff(self._tries), error.retry_after or 0.0)
        reached = self._answered or bool(error.reason)
        patience = self._patience if reached else min(self._patience, _NOBODY_THERE_SECONDS)
        return seconds if now + seconds - self._broken_since < patience else None


def backoff(tries: int) -> float:
    """Returns the seconds before the next try, spread so that clients do not come back all at once."""
    longest: float = min(_FIRST_WAIT * _FACTOR ** (tries - 1), _LONGEST_WAIT)
    return longest * random.uniform(0.8, 1.2)  # noqa: S311 # no secret
