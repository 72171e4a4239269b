"""A TCP proxy on loopback that can hold, cut or swallow what passes: faults between a service and its database."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class Proxy:
    """Forwards to one address.

    `hole`: bytes are swallowed both ways, until `heal()`; `refuse`: no new connections; `latency`: seconds that each
    chunk waits, either way. `cut()` ends all connections, `reset()` does so without a goodbye, `half_close()` ends only
    what comes back from the server.

    `cut_after(text)`: once the client has sent a chunk with the text, it is forwarded and the connection is cut before
    any answer comes back: the statement runs, and nobody is told.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._trigger: bytes | None = None
        self.hole = False
        self.refuse = False
        self.latency = 0.0
        self.triggered = 0

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def lead_to(self, port: int) -> None:
        """Leads new connections to another port; those that there are stay where they are."""
        self._port = port

    def cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    def reset(self) -> None:
        for writer in list(self._writers):
            sock = writer.transport.get_extra_info("socket")
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def half_close(self) -> None:
        for writer in list(self._clients):
            with suppress(OSError):
                writer.write_eof()

    def heal(self) -> None:
        """Ends all faults; what went through a hole has lost bytes, so it is cut."""
        holed, self.hole, self.refuse, self.latency = self.hole, False, False, 0.0
        if holed:
            self.cut()

    def cut_after(self, text: str) -> None:
        self._trigger = text.encode()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, up_writer}
        self._clients.add(writer)
        silent = asyncio.Event()

        def spotted(data: bytes) -> None:
            if self._trigger is not None and self._trigger in data:
                self._trigger = None
                self.triggered += 1
                silent.set()

        there = self._pump(reader, up_writer, spotted)
        back = self._pump(up_reader, writer, lambda _: None, silent)
        tasks = {asyncio.create_task(there), asyncio.create_task(back)}
        self._tasks |= tasks
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for one in (writer, up_writer):
            self._writers.discard(one)
            one.transport.abort()
        self._clients.discard(writer)
        self._tasks -= tasks

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        spotted: Callable[[bytes], None],
        silent: asyncio.Event | None = None,
    ) -> None:
        with suppress(ConnectionError, RuntimeError):  # the latter: written to after a half-close
            while data := await reader.read(65_536):
                if self.hole:
                    continue
                if self.latency:
                    await asyncio.sleep(self.latency)
                if silent is not None and silent.is_set():
                    return
                spotted(data)
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """Yields a proxy before the server of a database URL, and the URL that goes through it."""
    parts = urlsplit(url)
    proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 5432)
    port = await proxy.start()
    yield proxy, through(url, port)
    await proxy.stop()


def through(url: str, port: int) -> str:
    """Returns a database URL with the address of a proxy."""
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{port}"))
