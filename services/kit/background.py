"""What runs beside the calls: parts that run until cancelled, and verbs that run every so often."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from services.kit.errors import MdwError
from services.kit.log import get

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

log = get(__name__)


class Background:
    """Starts parts together and stops them together; one that ends by itself is told to `failed`."""

    def __init__(self) -> None:
        self._parts: list[tuple[str, Callable[[], Coroutine[Any, Any, None]]]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._failed = asyncio.Event()

    def add(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Adds a part whose `run` ends only when it is cancelled."""
        self._parts.append((name, run))

    def every(self, seconds: float, name: str, verb: Callable[[], Awaitable[Any]]) -> None:
        """Adds a verb that runs at once and then every so many seconds, give or take a tenth."""

        async def run() -> None:
            while True:
                await attempt(name, verb)
                # Not all replicas at the same moment.
                await asyncio.sleep(seconds * random.uniform(0.9, 1.1))  # noqa: S311 - no secret hangs on it

        self.add(name, run)

    def start(self) -> None:
        for name, run in self._parts:
            self.watch(asyncio.create_task(run(), name=name))

    def watch(self, task: asyncio.Task[None]) -> None:
        """Looks after a task that was started elsewhere, too."""
        self._tasks.append(task)
        task.add_done_callback(self._ended)

    async def failed(self) -> None:
        """Waits until a part has ended by itself, which only a bug makes it do."""
        await self._failed.wait()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError, Exception):
                await task
        self._tasks.clear()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        log.error("part_ended", part=task.get_name(), exc_info=task.exception())
        self._failed.set()


async def attempt(name: str, verb: Callable[[], Awaitable[Any]]) -> None:
    """Runs a verb; what fails is logged and tried again the next time."""
    try:
        await verb()
    except MdwError as error:
        log.warning("verb_failed", verb=name, reason=error.reason, detail=error.message)
    except Exception:
        log.exception("verb_failed", verb=name)
