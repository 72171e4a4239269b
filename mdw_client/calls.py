"""What a call is, described once, and the two ways to run it: while the caller waits, and on asyncio's loop."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar

import grpc

from mdw_client.errors import CallError, from_rpc_error
from mdw_client.retries import Streams, Unaries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator

    from google.protobuf.message import Message

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)


@dataclass(frozen=True)
class Call(Generic[T]):
    """One call: the RPC's path, its request, and what of the answer the caller gets."""

    method: str
    request: Message
    read: Callable[[Any], T]
    timeout: float | None = None


@dataclass(frozen=True)
class Pages(Generic[T]):
    """A list that comes in pages; the request is sent again with each page token."""

    method: str
    request: Any
    read: Callable[[Any], Iterable[T]]


class Stream(Protocol[T_co]):
    """A stream that can be taken up again where it broke."""

    @property
    def method(self) -> str: ...

    def request(self) -> Message:
        """Returns what to send now: what was received already is not asked for again."""

    def take(self, message: Any) -> Iterable[T_co]:
        """Hands on what of a message the caller gets."""


class Collection(Stream[T], Protocol[T, V_co]):
    """A stream of which something is made as it comes."""

    def keep(self, item: T) -> None: ...

    def result(self) -> V_co:
        """Returns what was made, once the stream has ended."""

    def abandon(self) -> None:
        """Lets go of what was kept: the stream failed."""


class Procedure(Protocol[V_co]):
    """Several streams one after the other, where each depends on what came of those before."""

    def steps(self) -> Generator[Collection[Any, Any]]:
        """Yields the streams; the error of one is raised where it was yielded."""

    def result(self) -> V_co:
        """Returns what was done, after the last step."""


class Connection(Protocol):
    """The channels of a client."""

    timeout: float
    patience: float

    def callable(self, method: str) -> Any:
        """Returns what calls the RPC of this path."""

    def target(self, method: str) -> str:
        """Returns the address that serves the RPC of this path."""


class Blocking:
    """Runs calls while the caller waits, without any event loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def call(self, call: Call[T]) -> T:
        tries = Unaries(call.timeout or self._connection.timeout)
        method = self._connection.callable(call.method)
        while True:
            try:
                return call.read(method(call.request, timeout=tries.time_left))
            except grpc.RpcError as raised:
                error = self._error(raised, call.method)
            wait = tries.wait(error)
            if wait is None:
                raise error
            time.sleep(wait)

    def pages(self, pages: Pages[T]) -> Iterator[T]:
        while True:
            answer = self.call(Call(pages.method, pages.request, lambda answer: answer))
            yield from pages.read(answer)
            pages.request.page_token = answer.next_page_token
            if not answer.next_page_token:
                return

    def stream(self, stream: Stream[T]) -> Iterator[T]:
        tries = Streams(self._connection.patience)
        while True:
            messages = self._connection.callable(stream.method)(stream.request())
            try:
                for message in messages:
                    tries.answered()
                    for each in stream.take(message):
                        tries.progress()
                        yield each
                return  # noqa: TRY300 # an else block would part it from the loop it ends
            except grpc.RpcError as raised:
                error = self._error(raised, stream.method)
            finally:
                messages.cancel()
            wait = tries.wait(error)
            if wait is None:
                raise error
            time.sleep(wait)

    def collect(self, collection: Collection[T, V_co]) -> V_co:
        try:
            for item in self.stream(collection):
                collection.keep(item)
        except BaseException:
            collection.abandon()
            raise
        return collection.result()

    def proceed(self, procedure: Procedure[V_co]) -> V_co:
        with closing(procedure.steps()) as steps:
            step = next(steps, None)
            while step is not None:
                try:
                    self.collect(step)
                except CallError as error:
                    step = steps.throw(error)
                else:
                    step = next(steps, None)
        return procedure.result()

    def _error(self, raised: grpc.RpcError, method: str) -> CallError:
        return from_rpc_error(raised, self._connection.target(method))


class Asynchronous:
    """Runs calls on asyncio's loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def call(self, call: Call[T]) -> T:
        tries = Unaries(call.timeout or self._connection.timeout)
        method = self._connection.callable(call.method)
        while True:
            try:
                return call.read(await method(call.request, timeout=tries.time_left))
            except grpc.aio.AioRpcError as raised:
                error = self._error(raised, call.method)
            wait = tries.wait(error)
            if wait is None:
                raise error
            await asyncio.sleep(wait)

    async def pages(self, pages: Pages[T]) -> AsyncIterator[T]:
        while True:
            answer = await self.call(Call(pages.method, pages.request, lambda answer: answer))
            for each in pages.read(answer):
                yield each
            pages.request.page_token = answer.next_page_token
            if not answer.next_page_token:
                return

    async def stream(self, stream: Stream[T]) -> AsyncIterator[T]:
        tries = Streams(self._connection.patience)
        while True:
            messages = self._connection.callable(stream.method)(stream.request())
            try:
                async for message in messages:
                    tries.answered()
                    for each in stream.take(message):
                        tries.progress()
                        yield each
                return  # noqa: TRY300 # an else block would part it from the loop it ends
            except grpc.aio.AioRpcError as raised:
                error = self._error(raised, stream.method)
            finally:
                messages.cancel()
            wait = tries.wait(error)
            if wait is None:
                raise error
            await asyncio.sleep(wait)

    async def collect(self, collection: Collection[T, V_co]) -> V_co:
        try:
            async for item in self.stream(collection):
                collection.keep(item)
        except BaseException:
            collection.abandon()
            raise
        return collection.result()

    async def proceed(self, procedure: Procedure[V_co]) -> V_co:
        with closing(procedure.steps()) as steps:
            step = next(steps, None)
            while step is not None:
                try:
                    await self.collect(step)
                except CallError as error:
                    step = steps.throw(error)
                else:
                    step = next(steps, None)
        return procedure.result()

    def _error(self, raised: grpc.aio.AioRpcError, method: str) -> CallError:
        return from_rpc_error(raised, self._connection.target(method))


class Part(Generic[R]):
    """A group of methods of a client: `Keys[Blocking]` belongs to Client, `Keys[Asynchronous]` to AsyncClient."""

    def __init__(self, runner: R) -> None:
        self.runner = runner
