"""Whether the process can do its work: checks that run every second and are logged when they change."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.kit.errors import MdwError
from services.kit.log import get

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from services.kit.health import Health

log = get(__name__)

CHECK_SECONDS = 1.0


@dataclass(slots=True)
class _Check:
    verb: Callable[[], Awaitable[str]]
    keep_while_away: bool
    seconds: float
    problem: str = "not checked yet"
    next_time: float = 0.0


class Readiness:
    """Ready while every check returns ''; each returns what is wrong otherwise."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._checks: dict[str, _Check] = {}

    def add(
        self,
        name: str,
        verb: Callable[[], Awaitable[str]],
        *,
        seconds: float = CHECK_SECONDS,
        keep_while_away: bool = False,
    ) -> None:
        """Adds a check, run every so many seconds. `keep_while_away`: what it asks may be away without a change."""
        self._checks[name] = _Check(verb, keep_while_away, seconds)

    @property
    def ready(self) -> bool:
        return self._health.ready

    @property
    def found(self) -> dict[str, str]:
        """What each check has found, '' where all is well; may be read from any thread."""
        return {name: check.problem for name, check in list(self._checks.items())}

    @property
    def problems(self) -> dict[str, str]:
        return {name: problem for name, problem in self.found.items() if problem}

    async def check(self) -> None:
        """Runs the checks that are due, and tells the health service."""
        now = asyncio.get_running_loop().time()
        for name, check in self._checks.items():
            if check.problem or check.next_time <= now:
                check.next_time = now + check.seconds
                self._note(name, check, await _run(check))
                if check.problem:  # at once: the next check may take its time
                    self._health.set_ready(ready=False)
        self._health.set_ready(ready=not self.problems)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await self.check()

    def _note(self, name: str, check: _Check, problem: str) -> None:
        if problem == check.problem:
            return
        check.problem = problem
        if problem:
            log.warning("not_ready", check=name, problem=problem)
        else:
            log.info("ready", check=name)


async def _run(check: _Check) -> str:
    try:
        return await check.verb()
    except MdwError as error:
        return check.problem if check.keep_while_away else error.message
    except Exception as error:  # noqa: BLE001 - a check that fails is a problem, whatever it is
        return type(error).__name__
