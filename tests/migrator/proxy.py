"""A loopback proxy before PostgreSQL that can play a pooler, or cut the line at a chosen message."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit


@dataclass
class Proxy:
    """Passes bytes both ways; counts the times it cut."""

    url: str
    cut_at: bytes = b""
    let_through: bool = False
    shared_sessions: bool = False
    port: int = 0
    cuts: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> str:
        """Listens, and returns the URL of the database behind the proxy."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        port = self._server.sockets[0].getsockname()[1]
        parts = urlsplit(self.url)
        netloc = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}"
        return urlunsplit(parts._replace(netloc=netloc))

    async def stop(self) -> None:
        """Stops listening and closes what is open."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        parts = urlsplit(self.url)
        server_reader, server_writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            await asyncio.gather(self._up(reader, server_writer, writer), self._down(server_reader, writer))
        finally:
            for stream in (writer, server_writer):
                stream.close()
            self._tasks.discard(task)

    async def _up(
        self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                cut = self.cut_at and self.cut_at in data and not self.cuts
                if cut:
                    self.cuts += 1
                    client.transport.abort()
                if not cut or self.let_through:
                    server.write(data)
                    await server.drain()
                if cut:
                    break
        server.close()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(self._disguise(data) if self.shared_sessions else data)
                await writer.drain()
        writer.close()

    @staticmethod
    def _disguise(data: bytes) -> bytes:
        """Gives the session another pid, as a pooler does, which keeps the server's for itself."""
        at = data.find(b"K\x00\x00\x00")
        if at < 0 or b"server_version" not in data:
            return data
        return data[: at + 5] + struct.pack("!i", 979319483) + data[at + 9 :]
