"""make run: from an empty folder to a warehouse that serves real bars, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console

from deploy.local.bring_up import bring_up
from deploy.local.children import end_with_parent
from deploy.local.fill import fetch_actions, fill, outcome, table
from deploy.local.hints import command_lines
from deploy.local.postgres import FolderError, PostgresError
from deploy.local.stack import Stack, StackError
from deploy.local.state import State, StateError
from deploy.local.switches import Switches, UsageError
from mdw_client import AsyncClient, MdwError, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Coroutine

CHECK_SECONDS = 0.5
INTERRUPTED = 130

Result = TypeVar("Result")


class Run:
    """One make run."""

    def __init__(self, state: State, switches: Switches) -> None:
        self._state = state
        self._switches = switches
        self._console = Console(highlight=False, soft_wrap=True)
        self._stack = Stack(state)
        self.serving = False
        self.filled = False

    async def run(self) -> None:
        """Starts everything, fills and shows it, and serves until cancelled, or not at all with ONCE."""
        with self._state.locked():
            try:
                await bring_up(self._stack, self._switches, self._say)
                await self._guarded(self._fill())
                if not self._switches.once:
                    self._show_how_to_go_on()
                    self.serving = True
                    await self._guarded(asyncio.Event().wait())
            finally:
                self._stack.stop()
                self._state.note_running(None)

    async def _fill(self) -> None:
        source = "Polygon gave none" if self._switches.polygon_key else "the replay gave none"
        async with AsyncClient(targets=self._switches.addresses, key_file=self._state.admin_key) as client:
            if problem := await fetch_actions(client):
                self._say(problem)
            filled = await fill(client, self._console, self._switches.start)
            self.filled = filled is None or filled.state == filled.SUCCEEDED
            self._say(outcome(filled))
            stored, empty = await table(client)
        self._console.print(stored)
        if empty and self.filled:
            self._say(f"No bars of {', '.join(empty)}: {source}.")

    def _show_how_to_go_on(self) -> None:
        self._say("\nIn another terminal, in this folder:\n")
        for line in command_lines(self._switches.addresses, self._state.admin_key):
            print(f"  {line}\n")
        self._say(f"Serving until Ctrl-C; the logs are in {self._state.folder / 'logs'}.")

    async def _guarded(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Awaits the work, unless a process ends meanwhile."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=CHECK_SECONDS)
                self._stack.check()  # first, since a call that failed may have failed for that
            return task.result()
        finally:
            task.cancel()

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False)


async def _until_signalled(run: Run) -> None:
    """Runs as a task that the first SIGINT or SIGTERM cancels; the next one ends the process at once."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(run.run())

    def cancel() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        print("\nStopping ...", flush=True)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, cancel)
    await task


def main() -> int:
    """Runs and returns the exit code; what goes wrong is one message for the person at the terminal."""
    if "MAKELEVEL" in os.environ:
        end_with_parent()  # make does not hand on a kill -9
    state = State.from_environment(os.environ)
    run = None
    try:
        switches = Switches.from_environment(os.environ)
        state.prepare()
        run = Run(state, switches)
        asyncio.run(_until_signalled(run))
    except asyncio.CancelledError:
        return 0 if run is not None and run.serving else INTERRUPTED
    except Unauthenticated:
        return _fail(
            f"the key in {state.admin_key} is unknown to this database: remove it, and the next make run makes another"
        )
    except FolderError as error:
        return _fail(
            f"{error}\nmake clean-run removes {state.folder} with all bars in it, and the next run begins anew."
        )
    except (UsageError, StateError, StackError, PostgresError, MdwError) as error:
        return _fail(str(error))
    return 0 if run.filled else 1


def _fail(text: str) -> int:
    print(f"make run: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
