"""Methods that both clients have, written once.

A method of a part (`client.keys.get`) only says what to send and what of the answer to hand on. `operation`, `listing`,
`subscription` and their like make of it a method that returns the result on Client's parts, and an awaitable or an
asynchronous iterator on AsyncClient's, with the same arguments and types.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from mdw_client.calls import Asynchronous, Blocking, Call, Collection, Pages, Part, Procedure, Stream

P = ParamSpec("P")
T = TypeVar("T")
V = TypeVar("V")


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


class procedure(Method, Generic[P, V]):  # noqa: N801 # used as a decorator
    """A method that goes through several streams."""

    def run(self, runner: Any, described: Any) -> Any:
        return runner.proceed(described)

    def __init__(self, describe: Callable[Concatenate[Any, P], Procedure[V]]) -> None:
        super().__init__(describe)

    @overload
    def __get__(self, part: None, owner: type) -> Self: ...
    @overload
    def __get__(self, part: Part[Blocking], owner: type) -> Callable[P, V]: ...
    @overload
    def __get__(self, part: Part[Asynchronous], owner: type) -> Callable[P, Coroutine[Any, Any, V]]: ...
    def __get__(self, part: Any, owner: type) -> Any:
        return self.bind(part)
