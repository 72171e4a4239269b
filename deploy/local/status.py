"""make status: what make run has started, whether it is healthy, and what `mdw status` says of it."""

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
        state = State.from_environment(os.environ)
        code = asyncio.run(status(state))
        if code == 0:
            show(state)
    except StateError as error:
        print(error, file=sys.stderr)
        return 1
    return code


def show(state: State) -> None:
    """Prints the operator's screen, read over gRPC with the admin key."""
    from mdw_client.cli.app import run  # noqa: PLC0415 - most of its time is spent on imports

    addresses = state.running().get("addresses", {})
    os.environ |= {f"MDW_{service.upper()}_TARGET": address for service, address in addresses.items()}
    os.environ["MDW_KEY_FILE"] = str(state.admin_key)
    sys.stdout.flush()
    run(["status"])


if __name__ == "__main__":
    sys.exit(main())
