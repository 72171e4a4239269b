"""Finds the method of a call, and notices calls that end before any handler runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from services.kit.answering import Answering
    from services.kit.methods import Method

_MAX_PATH = 200


class Router(grpc.GenericRpcHandler):
    """Hands every path to the kit: known methods to their servicer, unknown ones to a refusal that is audited."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._methods: dict[str, Method] = {}

    def add(self, methods: list[Method]) -> None:
        self._methods.update((method.path, method) for method in methods)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        path = handler_call_details.method
        method = self._methods.get(path)
        ticket = _Ticket(self._answering, path[:_MAX_PATH])
        if method is None:
            return self._unknown(path, ticket)
        # No deserializer: a body that is no message must reach the handler, to be answered and recorded.
        if method.streaming:
            return self._stream(method, ticket)
        return self._unary(method, ticket)

    def _unary(self, method: Method, ticket: _Ticket) -> grpc.RpcMethodHandler[Any, Any]:
        async def handle(body: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            ticket.used = True
            return await self._answering.unary(method, body, context)

        return grpc.unary_unary_rpc_method_handler(handle)

    def _stream(self, method: Method, ticket: _Ticket) -> grpc.RpcMethodHandler[Any, Any]:
        async def handle(body: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            ticket.used = True
            await self._answering.stream(method, body, context)

        return grpc.unary_stream_rpc_method_handler(handle)

    def _unknown(self, path: str, ticket: _Ticket) -> grpc.RpcMethodHandler[Any, Any]:
        async def handle(_requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            ticket.used = True
            await self._answering.unknown(path[:_MAX_PATH], context)

        return grpc.stream_stream_rpc_method_handler(handle)


class _Ticket:
    """Dies with the handler; unused, it says that gRPC ended the call itself (an oversized body, a reset)."""

    __slots__ = ("_answering", "_path", "used")

    def __init__(self, answering: Answering, path: str) -> None:
        self._answering = answering
        self._path = path
        self.used = False

    def __del__(self) -> None:
        if not self.used:
            self._answering.unread_soon(self._path)
