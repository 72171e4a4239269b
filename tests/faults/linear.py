"""The long run of tests/auth/test_linear.py: processes of their own, stopped for a moment now and then.

Not collected by `make test`: `python -m pytest tests/faults/linear.py`.
"""

from __future__ import annotations

import asyncio
import random
import signal
from contextlib import AsyncExitStack

import grpc

from tests.auth.linear import record
from tests.support import auth_process, make_key

KEYS = 25


async def test_every_history_over_three_processes_is_explained_by_one_order(database):
    admin = await make_key(database)
    uses = 0
    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(auth_process(database)) for _ in range(3)]
        channels = [await stack.enter_async_context(grpc.aio.insecure_channel(one.target)) for one in processes]
        disturbing = asyncio.create_task(_stop_now_and_then(processes))
        for _ in range(KEYS):
            history = await record(channels, admin, changes=20, users=2, pause=0.03)
            assert history.explained() == ""
            uses += len(history.uses)
        disturbing.cancel()
        await asyncio.gather(disturbing, return_exceptions=True)
        for one in processes:
            one.kill(signal.SIGCONT)
    print(f"\n{uses} uses of {KEYS} keys")  # noqa: T201


async def _stop_now_and_then(processes) -> None:
    while True:
        await asyncio.sleep(random.uniform(0.1, 0.5))
        one = random.choice(processes)
        one.kill(signal.SIGSTOP)
        await asyncio.sleep(random.uniform(0.02, 0.4))
        one.kill(signal.SIGCONT)
