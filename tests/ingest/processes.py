"""Workers as real processes, to be killed, stopped and continued."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.local.children import Child
from tests import pooler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ROOT = Path(__file__).parents[2]


class Crew:
    """Worker processes against one database and one provider."""

    def __init__(self, folder: Path, database_url: str, base_url: str, **variables: str) -> None:
        self.log = folder / "workers.log"
        self._variables = {
            "DATABASE_URL": database_url,
            "POLYGON_API_KEY": "replay",
            "POLYGON_BASE_URL": base_url,
            "POLYGON_REQUESTS_PER_MINUTE": "0",
            "LOG_FORMAT": "json",
            "DATABASE_POOLER": "1" if pooler.WANTED else "0",
            **variables,
        }
        self.children: list[Child] = []
        self._count = 0

    def start(self) -> Child:
        self._count += 1
        environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'protos' / 'gen'}", **self._variables}
        command = [sys.executable, "-m", "services.ingest.worker"]
        child = Child(f"worker-{self._count}", command, log=self.log, environ=environ, folder=ROOT)
        self.children.append(child)
        return child

    def kill(self, child: Child) -> None:
        """Ends a worker as a crash does."""
        child.signal(signal.SIGKILL)
        child.wait(60)
        self.children.remove(child)

    def stop(self) -> None:
        for child in self.children:
            child.signal(signal.SIGCONT)
            child.stop()

    async def ready(self) -> None:
        """Waits until all that were started have begun to work."""

        async def all_started() -> bool:
            return self.said("worker_started") >= self._count

        await self.until(all_started)

    def said(self, event: str) -> int:
        """Returns how often they have logged an event, all together."""
        return self.log.read_text().count(f'"{event}"') if self.log.exists() else 0

    async def until(self, condition: Callable[[], Any], seconds: float = 120) -> Any:
        """Waits for something to become true; fails early when a worker ends by itself."""
        async with asyncio.timeout(seconds):
            while not (found := await condition()):
                ended = [child.name for child in self.children if not child.running]
                assert not ended, (ended, self.log.read_text()[-2000:])
                await asyncio.sleep(0.005)
        return found


@asynccontextmanager
async def crew(folder: Path, database_url: str, base_url: str, **variables: str) -> AsyncIterator[Crew]:
    made = Crew(folder, database_url, base_url, **variables)
    try:
        yield made
    finally:
        made.stop()
