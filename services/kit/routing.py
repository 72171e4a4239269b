"""Finds the method of a call, and notices calls that end before any handler runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.kit.answering import Answering
    from services.kit.methods import Method

    Context = grpc.aio.ServicerContext[Any, Any]

_MAX_PATH = 200


class Router(grpc.GenericRpcHandler):
    """Hands every path to the kit: known methods to their servicer, unknown ones to a refusal that is audited."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._methods: dict[str, Method] = {}
        self._others: tuple[str, ...] = ()

    def add(self, methods: list[Method]) -> None:
        self._methods.update((method.path, method) for method in methods)

    def leave(self, service: str) -> None:
        """Leaves a service's methods to the handlers that are asked after this one."""
        self._others += (f"/{service}/",)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        method = self._methods.get(handler_call_details.method)
        if method is None:
            if handler_call_details.method.startswith(self._others):
                return None
            return _Unknown(self._answering, handler_call_details.method[:_MAX_PATH])
        return (_Stream if method.streaming else _Unary)(self._answering, method.path, method)


class _Handler(grpc.RpcMethodHandler):  # type: ignore[type-arg]
    """The handler of one call. It dies with the call: unused, gRPC has ended the call itself (a big body, a reset).

    The methods are given out by properties, since a bound method kept in the handler would keep it alive.
    """

    request_streaming = False
    response_streaming = False
    # No deserializer: a body that is no message must reach the handler, to be answered and recorded.
    request_deserializer = None
    response_serializer = None
    unary_unary: Callable[..., Any] | None = None
    unary_stream: Callable[..., Any] | None = None
    stream_unary: Callable[..., Any] | None = None
    stream_stream: Callable[..., Any] | None = None

    def __init__(self, answering: Answering, path: str, method: Any = None) -> None:
        self._answering = answering
        self._path = path
        self._method = method
        self._used = False

    def __del__(self) -> None:
        if not self._used:
            self._answering.unread_soon(self._path)


class _Unary(_Handler):
    @property
    def unary_unary(self) -> Callable[..., Any]:  # type: ignore[override]
        return self._handle

    async def _handle(self, body: bytes, context: Context) -> bytes:
        self._used = True
        return await self._answering.unary(self._method, body, context)


class _Stream(_Handler):
    response_streaming = True

    @property
    def unary_stream(self) -> Callable[..., Any]:  # type: ignore[override]
        return self._handle

    async def _handle(self, body: bytes, context: Context) -> None:
        self._used = True
        await self._answering.stream(self._method, body, context)


class _Unknown(_Handler):
    request_streaming = True
    response_streaming = True

    @property
    def stream_stream(self) -> Callable[..., Any]:  # type: ignore[override]
        return self._handle

    async def _handle(self, _requests: Any, context: Context) -> None:
        self._used = True
        await self._answering.unknown(self._path, context)
