"""Waiting for what must happen. A slow machine is no failure: bounds are far beyond what anything takes."""

from __future__ import annotations

import asyncio
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

LONG = 60.0
"""Seconds."""


async def until(ask: Callable[[], Any], seconds: float = LONG, pause: float = 0.01) -> Any:
    """Asks until the answer is true, and returns it; `ask` may be asynchronous."""
    async with asyncio.timeout(seconds):
        while True:
            answer = ask()
            if isawaitable(answer):
                answer = await answer
            if answer:
                return answer
            await asyncio.sleep(pause)
