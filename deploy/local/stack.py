"""The processes of make run: which there are, what each is told, when all are ready, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.local.children import Child

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploy.local.postgres import EmbeddedPostgres
    from deploy.local.state import State

SERVICES = ("auth", "symbols", "ingest")
STOP_SECONDS = 4.0
READY_SECONDS = 120.0
# What a process gets from us alone: a setting of the person's shell, meant for something else, must not leak in.
OWN_VARIABLES = (
    "DATABASE_URL",
    "MIGRATION_DATABASE_URL",
    "READ_DATABASE_URLS",
    "DATABASE_POOLER",
    "LISTEN_ADDRESS",
    "HEALTH_ADDRESS",
    "METRICS_ADDRESS",
    "AUTH_TARGET",
    "SYMBOLS_TARGET",
    "SERVICE_KEY",
    "SERVICE_KEY_FILE",
    "MDW_ADMIN_KEY",
    "POLYGON_API_KEY",
    "POLYGON_BASE_URL",
    "POLYGON_REQUESTS_PER_MINUTE",
)


class StackError(Exception):
    """Something of the stack cannot start or has ended; the text is for the person at the terminal."""


@dataclass
class Stack:
    """Everything that was started, to be stopped in the opposite order."""

    state: State
    children: list[Child] = field(default_factory=list)
    postgres: EmbeddedPostgres | None = None

    def start(self, name: str, command: list[str], environ: Mapping[str, str]) -> None:
        """Starts a Python module, its output in a log of its own."""
        base = {key: value for key, value in os.environ.items() if key not in OWN_VARIABLES}
        log = self.state.log(name)
        if log.exists():
            log.replace(log.with_suffix(".log.old"))
        self.children.append(
            Child(name, [sys.executable, "-m", *command], log=log, environ={**base, "DRAIN_SECONDS": "0", **environ})
        )

    def check(self) -> None:
        """Raises StackError, with the last lines of its log, if a process has ended."""
        children = [*self.children, *([self.postgres.child] if self.postgres else [])]
        for child in children:
            if not child.running:
                lines = "".join(f"\n  {line}" for line in child.last_lines())
                ending = _ending(child.process.returncode)
                raise StackError(f"{child.name} has ended ({ending}); the last lines of {child.log}:{lines}")

    async def ready(self, addresses: Mapping[str, str]) -> None:
        """Returns when every service says SERVING; raises StackError."""
        deadline = time.monotonic() + READY_SECONDS
        waiting = dict(addresses)
        while waiting:
            self.check()
            for service, address in list(waiting.items()):
                if await serving(address):
                    del waiting[service]
            if time.monotonic() > deadline:
                logs = ", ".join(str(self.state.log(service)) for service in waiting)
                raise StackError(f"{' and '.join(waiting)} do not get ready within {READY_SECONDS:.0f} s: see {logs}")
            await asyncio.sleep(0.05)

    def stop(self) -> None:
        """Asks every process to end, kills what has not after a few seconds, and shuts Postgres down last."""
        for child in self.children:
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for child in self.children:
            if child.wait(max(0.0, deadline - time.monotonic())) is None:
                child.stop((signal.SIGKILL, 1.0))
        self.children.clear()
        if self.postgres is not None:
            self.postgres.stop()
            self.postgres = None


async def serving(address: str) -> bool:
    """Says whether the server at an address is ready."""
    async with grpc.aio.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        with contextlib.suppress(grpc.aio.AioRpcError):
            check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
            answer = await check(health_pb2.HealthCheckRequest(), timeout=2)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    return False


def check_ports(ports: Mapping[str, int], seconds: float = 5.0) -> None:
    """Raises StackError naming a port that stays in use; what a killed run left needs a moment to end."""
    deadline = time.monotonic() + seconds
    for service, port in ports.items():
        while not _is_free(port):
            if time.monotonic() > deadline:
                raise StackError(
                    f"port {port}, for the {service} service, is in use: stop what listens there (ss -ltnp), "
                    f"or choose others, as in: MDW_PORT=16051 make run"
                )
            time.sleep(0.1)


def free_port() -> int:
    """Returns a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
