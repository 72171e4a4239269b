"""The nodes of the cluster under test, to be killed and started again: by two commands that the environment gives.

CITUS_NODE_PID prints the process id of a node's Postgres, CITUS_NODE_START starts it again; `{node}` in them is the
node's number, 0 the coordinator, and the processes run on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import asyncpg

from tests.waiting import until

PID, START = os.environ.get("CITUS_NODE_PID", ""), os.environ.get("CITUS_NODE_START", "")
CAN_KILL = bool(PID and START)

PREPARED = "SELECT count(*) FROM pg_prepared_xacts WHERE database = $1 AND gid LIKE 'citus%'"


class Node:
    """One server of the cluster."""

    def __init__(self, number: int, url: str) -> None:
        """Takes an administrator's URL of any database on it."""
        self.number = number
        self.url = url

    async def pid(self) -> int:
        """Returns the process id of its Postgres."""
        return int(await _run(PID, self.number))

    async def kill(self, pid: int = 0) -> None:
        """Ends all its processes at once, as a power cut does; with its process id without a moment's delay."""
        pid = pid or await self.pid()
        children = _children(pid)
        for one in (pid, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        await until(lambda: not any(_runs(one) for one in (pid, *children)))

    async def start(self) -> None:
        """Starts it, and returns when it answers."""
        await _run(START, self.number)
        await until(self.answers)

    async def answers(self) -> bool:
        try:
            conn = await asyncpg.connect(self.url, timeout=10)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return False
        await conn.close()
        return True

    async def prepared(self, database: str) -> int:
        """Returns how many transactions of a database are prepared on it."""
        conn = await asyncpg.connect(self.url)
        found = await conn.fetchval(PREPARED, database)
        await conn.close()
        return int(found)


async def settled(nodes: list[Node], database: str) -> None:
    """Waits until no transaction is in doubt."""
    for node in nodes:

        async def nothing(node: Node = node) -> bool:
            return not await node.prepared(database)

        await until(nothing)


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def _run(command: str, number: int) -> str:
    process = await asyncio.create_subprocess_shell(
        command.replace("{node}", str(number)), stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, command
    return out.decode()
