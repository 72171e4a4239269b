"""Serves HTTP/1.1 with keep-alive and gzip, and breaks it on demand."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import h11

if TYPE_CHECKING:
    from collections.abc import Callable

GZIP_ABOVE = 500
READ_SIZE = 65_536


@dataclass(frozen=True)
class Request:
    """One request: its target as sent, and what it says."""

    method: str
    target: str
    headers: dict[str, str]

    @property
    def path(self) -> list[str]:
        """The parts of the path, unquoted."""
        return [unquote(part) for part in urlsplit(self.target).path.strip("/").split("/")]

    @property
    def params(self) -> dict[str, str]:
        """The query."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))


@dataclass
class Answer:
    """One answer, and the ways in which the wire may fail it."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    gzipped: bytes | None = None
    content_type: str = "application/json"
    wait: float = 0
    reset: bool = False
    cut: bool = False


class _Connection:
    """One connection's protocol state."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._state = h11.Connection(h11.SERVER)

    async def request(self) -> Request | None:
        """Returns the next request, or None when the client has gone."""
        head: h11.Request | None = None
        while True:
            event = self._state.next_event()
            if event is h11.NEED_DATA:
                self._state.receive_data(await self._reader.read(READ_SIZE))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
                return Request(head.method.decode(), head.target.decode(), headers)
            elif isinstance(event, h11.ConnectionClosed):
                return None

    async def send(self, request: Request, answer: Answer) -> bool:
        """Sends an answer; False means that the connection is over."""
        body = answer.body
        headers = {"Content-Type": answer.content_type, "Vary": "Accept-Encoding", **answer.headers}
        if "gzip" in request.headers.get("accept-encoding", "") and len(body) > GZIP_ABOVE and not answer.cut:
            body = answer.gzipped or gzip.compress(body, compresslevel=1)
            headers["Content-Encoding"] = "gzip"
        self._write(
            h11.Response(status_code=answer.status, headers=[*headers.items(), ("Content-Length", str(len(body)))])
        )
        if answer.cut:
            self._writer.write(body[: len(body) // 2])
            return False
        self._write(h11.Data(data=body))
        self._write(h11.EndOfMessage())
        await self._writer.drain()
        if self._state.our_state is h11.MUST_CLOSE:
            return False
        self._state.start_next_cycle()
        return True

    def _write(self, event: Any) -> None:
        self._writer.write(self._state.send(event) or b"")


async def serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, respond: Callable[[Request], Answer]
) -> None:
    """Answers requests until the client goes or a broken answer ends the connection."""
    connection = _Connection(reader, writer)
    with contextlib.suppress(ConnectionError, h11.RemoteProtocolError):
        while (request := await connection.request()) is not None:
            answer = respond(request)
            if answer.wait:
                await asyncio.sleep(answer.wait)
            if answer.reset or not await connection.send(request, answer):
                return
