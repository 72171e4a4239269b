"""One description of a call for both clients: the blocking one runs it, the asyncio one awaits it.

A method of a part (`client.keys.get`) only says what to send and what of the answer to hand on. `operation`, `listing`
and `subscription` make of it a method that returns the result on Client's parts, and an awaitable or an asynchronous
iterator on AsyncClient's, with the same arguments and types.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, overload

import grpc

from mdw_client.errors import CallError, from_rpc_error
from mdw_client.retries import Streams, Unaries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator

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

    def _error(self, raised: grpc.aio.AioRpcError, method: str) -> CallError:
        return from_rpc_error(raised, self._connection.target(method))


class Part(Generic[R]):
    """A group of methods of a client: `Keys[Blocking]` belongs to Client, `Keys[Asynchronous]` to AsyncClient."""

    def __init__(self, runner: R) -> None:
        self.runner = runner


class Method:
    """A method of a part in two forms; the descriptor picks the one of the part it is read from."""

    def __init__(self, describe: Callable[..., Any]) -> None:
        self._describe = describe
        self.__doc__ = describe.__doc__
        signature = inspect.signature(describe)
        parameters = list(signature.parameters.values())[1:]
        self._signature = signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)

    def run(self, runner: Any, described: Any) -> Any:
        """Returns what the method returns, for what its body said."""
        raise NotImplementedError

    def bind(self, part: Any) -> Any:
        if part is None:
            return self

        @functools.wraps(self._describe)
        def method(*args: Any, **kwargs: Any) -> Any:
            return self.run(part.runner, self._describe(part, *args, **kwargs))

        method.__signature__ = self._signature  # type: ignore[attr-defined] # what help() shows
        return method


class operation(Method, Generic[P, T]):  # noqa: N801 # used as a decorator
    """A method that is one call."""

    def run(self, runner: Any, described: Any) -> Any:
        return runner.call(described)

    def __init__(self, describe: Callable[Concatenate[Any, P], Call[T]]) -> None:
        super().__init__(describe)

    @overload
    def __get__(self, part: None, owner: type) -> Self: ...
    @overload
    def __get__(self, part: Part[Blocking], owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, part: Part[Asynchronous], owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, part: Any, owner: type) -> Any:
        return self.bind(part)


class listing(Method, Generic[P, T]):  # noqa: N801 # used as a decorator
    """A method that iterates over a list, page after page as they are needed."""

    def run(self, runner: Any, described: Any) -> Any:
        return runner.pages(described)

    def __init__(self, describe: Callable[Concatenate[Any, P], Pages[T]]) -> None:
        super().__init__(describe)

    @overload
    def __get__(self, part: None, owner: type) -> Self: ...
    @overload
    def __get__(self, part: Part[Blocking], owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, part: Part[Asynchronous], owner: type) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, part: Any, owner: type) -> Any:
        return self.bind(part)


class subscription(Method, Generic[P, T]):  # noqa: N801 # used as a decorator
    """A method that iterates over a stream, taken up again where it breaks."""

    def run(self, runner: Any, described: Any) -> Any:
        return runner.stream(described)

    def __init__(self, describe: Callable[Concatenate[Any, P], Stream[T]]) -> None:
        super().__init__(describe)

    @overload
    def __get__(self, part: None, owner: type) -> Self: ...
    @overload
    def __get__(self, part: Part[Blocking], owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, part: Part[Asynchronous], owner: type) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, part: Any, owner: type) -> Any:
        return self.bind(part)


class collection(Method, Generic[P, V]):  # noqa: N801 # used as a decorator
    """A method that returns what is made of a whole stream, taken up again where it breaks."""

    def run(self, runner: Any, described: Any) -> Any:
        return runner.collect(described)

    def __init__(self, describe: Callable[Concatenate[Any, P], Collection[Any, V]]) -> None:
        super().__init__(describe)

    @overload
    def __get__(self, part: None, owner: type) -> Self: ...
    @overload
    def __get__(self, part: Part[Blocking], owner: type) -> Callable[P, V]: ...
    @overload
    def __get__(self, part: Part[Asynchronous], owner: type) -> Callable[P, Coroutine[Any, Any, V]]: ...
    def __get__(self, part: Any, owner: type) -> Any:
        return self.bind(part)
