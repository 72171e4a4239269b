"""HTTP/2 written by hand: calls that no gRPC client would send."""

from __future__ import annotations

import asyncio
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DATA, HEADERS, RST_STREAM, SETTINGS = 0, 1, 3, 4
END_STREAM, END_HEADERS = 1, 4
EMPTY_MESSAGE = b"\0\0\0\0\0"


class Connection:
    """One connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._stream = -1

    def call(self, path: str, *headers: tuple[bytes, bytes]) -> int:
        """Begins a call and returns its stream; its body is still to be sent."""
        self._stream += 2
        common = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b":authority", b"x"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        ]
        block = b"".join(literal(name, value) for name, value in [*common, *headers])
        self.writer.write(frame(HEADERS, END_HEADERS, self._stream, block))
        return self._stream

    def end(self, stream: int) -> None:
        """Sends an empty message and the end of a call."""
        self.writer.write(frame(DATA, END_STREAM, stream, EMPTY_MESSAGE))

    def reset(self, stream: int) -> None:
        """Takes a call back."""
        self.writer.write(frame(RST_STREAM, 0, stream, b"\0\0\0\x08"))


@asynccontextmanager
async def connected(target: str) -> AsyncIterator[Connection]:
    """Opens a connection to host:port."""
    host, _, port = target.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b""))
    yield Connection(reader, writer)
    writer.transport.abort()


def literal(name: bytes, value: bytes) -> bytes:
    """Encodes a header for HPACK: literal, never indexed, no Huffman; both shorter than 127 bytes."""
    return b"\x10" + bytes([len(name)]) + name + bytes([len(value)]) + value


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body
