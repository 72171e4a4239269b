"""Helpers for the tests of every service: keys, settings, a running auth service, servers in this process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg
import grpc
from google.rpc import error_details_pb2, status_pb2

from services.auth.__main__ import build as build_auth
from services.auth.settings import AuthSettings
from services.kit import keys
from services.kit.status import DETAILS_KEY
from tests import pooler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.kit.server import Server

INSERT_KEY = """
INSERT INTO auth.keys (key_id, display_name, preview, digest, scopes, allowed_peers, max_calls_per_second, max_streams)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""


async def make_key(
    database: Any,
    *scopes: str,
    name: str = "test",
    key_id: UUID | None = None,
    allowed_peers: tuple[str, ...] = (),
    max_calls_per_second: int | None = None,
    max_streams: int | None = None,
) -> str:
    """Puts a key into the database, past the service, and returns its secret. Default scope: admin."""
    secret = keys.new_secret()
    row = (keys.preview(secret), keys.digest(secret), list(scopes or ("admin",)), list(allowed_peers))
    conn = await asyncpg.connect(database.admin_url)
    await conn.execute(INSERT_KEY, key_id or uuid4(), name, *row, max_calls_per_second, max_streams)
    await conn.close()
    return secret


def environment(url: str, **more: str) -> dict[str, str]:
    """Returns variables for a service's settings: loopback, a port of the system's choice, no drain."""
    variables = {
        "DATABASE_URL": url,
        "LISTEN_ADDRESS": "127.0.0.1:0",
        "SCHEMA_WAIT_SECONDS": "5",
        "DRAIN_SECONDS": "0",
        "KEY_MAX_CALLS_PER_SECOND": "100000",
        "PEER_FAILURES_PER_SECOND": "100000",
        "POOL_SIZE": "4",
        "DATABASE_POOLER": "1" if pooler.WANTED else "0",
    }
    return {**variables, **{name.upper(): value for name, value in more.items()}}


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[str]:
    """Starts a server and yields its address; stops it without a grace."""
    try:
        port = await server.start()
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=0)


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    """Starts a server and yields a plain channel to it, without a key."""
    async with serving(server) as target, grpc.aio.insecure_channel(target) as channel:
        yield channel


@asynccontextmanager
async def auth_serving(database: Any, **variables: str) -> AsyncIterator[str]:
    """Runs the auth service in this process and yields its address: the AUTH_TARGET of other services."""
    settings = AuthSettings.from_environment(environment(database.auth_url, **variables))
    async with serving(await build_auth(settings)) as target:
        yield target


def with_key(secret: str) -> tuple[tuple[str, str], ...]:
    """Returns the metadata of a call with a key."""
    return (("x-api-key", secret),)


def reason(error: grpc.aio.AioRpcError) -> str:
    """Returns the ErrorReason of a failed call."""
    return info(error).reason


def info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """Returns the ErrorInfo of a failed call."""
    found = detail(error, error_details_pb2.ErrorInfo())
    assert found is not None, error
    return found


def detail(error: grpc.aio.AioRpcError, message: Any) -> Any:
    """Returns the status detail of a message's type, or None."""
    for name, value in error.trailing_metadata() or ():
        if name == DETAILS_KEY:
            for packed in status_pb2.Status.FromString(value).details:
                if packed.Unpack(message):
                    return message
    return None


def violations(error: grpc.aio.AioRpcError) -> list[str]:
    """Returns the names of the fields that a failed call's BadRequest names."""
    found = detail(error, error_details_pb2.BadRequest())
    return [one.field for one in found.field_violations] if found else []


class Process:
    """A service as a process of its own; its log is read line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.events: list[dict[str, Any]] = []
        self.text: list[str] = []
        self._reader = asyncio.create_task(self._read())
        self._changed = asyncio.Condition()

    @classmethod
    async def start(cls, module: str, variables: dict[str, str], *, event: str = "serving") -> Process:
        """Starts `python -m module` and waits until its log says that it serves."""
        path = os.pathsep.join(entry for entry in sys.path if entry)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            env={**os.environ, "PYTHONPATH": path, "LOG_FORMAT": "json", **variables},
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        started = cls(process)
        await started.event(event)
        return started

    @property
    def target(self) -> str:
        """Its address."""
        port = next(event["port"] for event in self.events if event["event"] == "listening")
        return f"127.0.0.1:{port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def event(self, name: str, seconds: float = 60.0) -> dict[str, Any]:
        """Waits for a line of the log."""
        async with asyncio.timeout(seconds), self._changed:
            while True:
                for event in self.events:
                    if event["event"] == name:
                        return event
                assert not self._reader.done(), "".join(self.text)
                await self._changed.wait()

    def kill(self, number: int = signal.SIGKILL) -> None:
        self._process.send_signal(number)

    async def end(self) -> int:
        """Waits for its end and returns the exit code."""
        code = await self._process.wait()
        await self._reader
        return code

    async def stop(self) -> None:
        """Kills it if it is still there."""
        if self._process.returncode is None:
            self._process.kill()
        await self.end()

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.text.append(line.decode())
            if os.environ.get("TESTS_ECHO"):
                sys.stdout.write(line.decode())
            if line.startswith(b"{"):
                self.events.append(json.loads(line))
            async with self._changed:
                self._changed.notify_all()
        async with self._changed:
            self._changed.notify_all()


@asynccontextmanager
async def auth_process(database: Any, **variables: str) -> AsyncIterator[Process]:
    """Runs the auth service as a process."""
    process = await Process.start("services.auth", environment(database.auth_url, **variables))
    try:
        yield process
    finally:
        await process.stop()
