"""Runs a service as a process: settings, logging, event loop, exit code."""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import TYPE_CHECKING, TypeVar

from services.kit import log
from services.kit.settings import ServiceSettings, SettingsError

try:
    import uvloop
except ImportError:  # no wheel for this platform; slower, otherwise the same
    uvloop = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from services.kit.server import Server

EXIT_USAGE = 2
COLLECT_AFTER = 20_000

Kind = TypeVar("Kind", bound=ServiceSettings)


def serve(kind: type[Kind], build: Callable[[Kind], Awaitable[Server]]) -> int:
    """Reads the settings, builds the server and serves until stopped; returns the exit code."""
    try:
        settings = kind.from_environment()
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - one line for a person; logging is not set up yet
        return EXIT_USAGE
    log.configure(level=settings.log_level, form=settings.log_format)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop if uvloop else None) as runner:
            return runner.run(_serve(settings, build))
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - one line for a person, as above
        return EXIT_USAGE


async def _serve(settings: Kind, build: Callable[[Kind], Awaitable[Server]]) -> int:
    server = await build(settings)
    # What is loaded by now stays: the collector need not walk it again for every few hundred calls (3 % of their CPU).
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 50)
    return await server.run()
