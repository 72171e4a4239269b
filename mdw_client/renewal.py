"""Channels that are made anew when the files of their certificates change: gRPC itself reads them once."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from mdw_client.credentials import Tls

LOOK_AGAIN_SECONDS = 1.0
RETIRED_SECONDS = 600.0
"""So long calls under way may still run over the connections that they began on."""

_Stamp = tuple[tuple[int, int, int], ...]


class Renewed:
    """Hands out the present channel: a new one within a second of a change of its certificates' files."""

    def __init__(self, make: Callable[[], Any], tls: Tls) -> None:
        self._make = make
        self._files = tls.files
        self._stamp = self._look()
        self._channel = make()
        self._next_look = time.monotonic() + LOOK_AGAIN_SECONDS
        self._retired: list[tuple[float, Any]] = []
        self._closing: set[asyncio.Task[None]] = set()

    def current(self) -> Any:
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_AGAIN_SECONDS
            self._renew(now)
        return self._channel

    def take(self) -> list[Any]:
        """Hands over all channels, to be closed."""
        channels = [self._channel, *(channel for _, channel in self._retired)]
        self._retired.clear()
        return channels

    def _renew(self, now: float) -> None:
        self._close_retired(now)
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return
            made = self._make()
        except (OSError, ValueError):
            return  # Between two versions of the files the last ones read go on being used.
        self._retired.append((now, self._channel))
        self._channel, self._stamp = made, stamp

    def _close_retired(self, now: float) -> None:
        old = [channel for since, channel in self._retired if now - since > RETIRED_SECONDS]
        self._retired = [(since, channel) for since, channel in self._retired if now - since <= RETIRED_SECONDS]
        for channel in old:
            closed: Coroutine[Any, Any, None] | None = channel.close()
            if closed is not None:
                task = asyncio.ensure_future(closed)
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    def _look(self) -> _Stamp:
        found = [path.stat() for path in self._files]
        return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in found)


class RenewedMethod:
    """A method of whatever channel is the present one, blocking or not."""

    def __init__(self, source: Renewed, kind: str, args: Any, kwargs: Any) -> None:
        self._source = source
        self._kind = kind
        self._args = args
        self._kwargs = kwargs
        self._made: tuple[Any, Any] = (None, None)

    def __call__(self, request: Any, **options: Any) -> Any:
        return self._bare()(request, **options)

    def with_call(self, request: Any, **options: Any) -> Any:
        return self._bare().with_call(request, **options)

    def future(self, request: Any, **options: Any) -> Any:
        return self._bare().future(request, **options)

    def _bare(self) -> Any:
        channel = self._source.current()
        made_of, method = self._made
        if made_of is not channel:
            method = getattr(channel, self._kind)(*self._args, **self._kwargs)
            self._made = (channel, method)
        return method


class _Methods:
    """The part of a channel that stubs use."""

    def __init__(self, source: Renewed) -> None:
        self._source = source

    def unary_unary(self, *args: Any, **kwargs: Any) -> RenewedMethod:
        return RenewedMethod(self._source, "unary_unary", args, kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> RenewedMethod:
        return RenewedMethod(self._source, "unary_stream", args, kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> RenewedMethod:
        return RenewedMethod(self._source, "stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> RenewedMethod:
        return RenewedMethod(self._source, "stream_stream", args, kwargs)


class RenewedChannel(_Methods):
    """A blocking channel; what waits for a state of the connection sees that of the present one."""

    def subscribe(self, *args: Any) -> None:
        self._source.current().subscribe(*args)

    def unsubscribe(self, callback: Any) -> None:
        self._source.current().unsubscribe(callback)

    def close(self) -> None:
        for channel in self._source.take():
            channel.close()


class RenewedAioChannel(_Methods):
    """An asyncio channel; what waits for a state of the connection sees that of the present one."""

    async def close(self, grace: float | None = None) -> None:
        await asyncio.gather(*(channel.close(grace) for channel in self._source.take()))

    def get_state(self, try_to_connect: bool = False) -> Any:  # noqa: FBT001, FBT002 # gRPC's
        return self._source.current().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: Any) -> None:
        await self._source.current().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._source.current().channel_ready()
