"""Lets hypothesis, which is not asynchronous, drive what runs on the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class Bridge:
    """Runs coroutines on the loop it was made on, for callers in another thread; each has a bound."""

    def __init__(self, seconds: float = 120.0) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds

    def __call__(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(self._seconds)


async def in_thread(check: Callable[[], Any]) -> None:
    """Runs a property or a state machine beside the loop."""
    await asyncio.to_thread(check)
