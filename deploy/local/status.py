"""make status: what make run has started, and whether it is healthy."""

from __future__ import annotations

import asyncio
import os
import sys

from deploy.local.stack import serving
from deploy.local.state import State, StateError


async def status(state: State) -> int:
    """Prints a line a process; returns 0 if all serve, else 1."""
    if not state.in_use:
        print(f"make run is not running (state in {state.folder})")
        return 1
    facts = state.running()
    addresses = facts.get("addresses", {})
    healthy = await asyncio.gather(*(serving(address) for address in addresses.values()))
    ready = dict(zip(addresses, healthy, strict=True))
    print(f"make run is running as process {facts.get('pid', '?')} (state in {state.folder})")
    for name, pid in facts.get("processes", {}).items():
        words = {None: "running", True: "ready", False: "NOT READY"}[ready.get(name)]
        print(f"  {name:<10} {pid:>8}  {addresses.get(name, ''):<16}  {words}")
    if facts.get("postgres"):
        password = state.postgres / "password"
        print(f"  PostgreSQL at {facts['postgres']}: database mdw, user postgres, password in {password}")
    return 0 if all(healthy) else 1


def main() -> int:
    """Prints the state of the stack."""
    try:
        return asyncio.run(status(State.from_environment(os.environ)))
    except StateError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
