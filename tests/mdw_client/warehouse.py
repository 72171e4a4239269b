"""A server with all the warehouse's RPCs, whose answers a test sets; refusals are written by the services' own kit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import message_factory

from mdw.auth.v1 import auth_pb2
from mdw.ingest.v1 import bars_pb2, ingest_pb2
from mdw.symbols.v1 import symbols_pb2
from services.kit import status
from services.kit.errors import MdwError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.message import Message

FILES = (auth_pb2, symbols_pb2, ingest_pb2, bars_pb2)
SERVICES = [service for file in FILES for service in file.DESCRIPTOR.services_by_name.values()]
ALONE = [("grpc.so_reuseport", 0)]


@dataclass
class Received:
    method: str
    request: Any
    metadata: dict[str, str]
    time_left: float | None


@dataclass
class Warehouse:
    """`answers[method]` is a message, an error to refuse with, or a function of the request; else an empty answer."""

    answers: dict[str, Any] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)

    def start(self, address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None) -> int:
        self._server = grpc.server(ThreadPoolExecutor(8), options=ALONE)
        self._server.add_generic_rpc_handlers([self._handler(service) for service in SERVICES])
        add = self._server.add_insecure_port
        self.port = self._server.add_secure_port(address, credentials) if credentials else add(address)
        self._server.start()
        return self.port

    def stop(self) -> None:
        self._server.stop(0).wait()

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def requests(self, method: str) -> list[Any]:
        return [each.request for each in self.received if each.method == method]

    def _handler(self, service: Any) -> grpc.GenericRpcHandler:
        methods = {method.name: self._method(method) for method in service.methods}
        return grpc.method_handlers_generic_handler(service.full_name, methods)

    def _method(self, method: Any) -> grpc.RpcMethodHandler:
        make = grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
        return make(
            self._stream(method) if method.server_streaming else self._unary(method),
            request_deserializer=message_factory.GetMessageClass(method.input_type).FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def _unary(self, method: Any) -> Callable[[Any, grpc.ServicerContext], Message]:
        empty = message_factory.GetMessageClass(method.output_type)

        def answer(request: Any, context: grpc.ServicerContext) -> Message:
            return self._answer(method.name, request, context, empty())

        return answer

    def _stream(self, method: Any) -> Callable[[Any, grpc.ServicerContext], Iterator[Message]]:
        def answer(request: Any, context: grpc.ServicerContext) -> Iterator[Message]:
            for each in self._answer(method.name, request, context, ()):
                if isinstance(each, MdwError):
                    refuse(context, each)
                yield each

        return answer

    def _answer(self, name: str, request: Any, context: grpc.ServicerContext, default: Any) -> Any:
        metadata = dict(context.invocation_metadata())
        self.received.append(Received(name, request, metadata, context.time_remaining()))
        found = self.answers.get(name, default)
        if callable(found):
            found = found(request)
        if isinstance(found, MdwError):
            refuse(context, found)
        return found


def refuse(context: grpc.ServicerContext, error: MdwError) -> None:
    """Ends a call as the services do."""
    context.set_trailing_metadata(((status.DETAILS_KEY, status.details(error)),))
    context.abort(status.CODES[error.code], error.message)


def in_turn(*answers: Any) -> Callable[[Any], Any]:
    """Answers with one after the other, the last for ever."""
    left = list(answers)

    def answer(_: Any) -> Any:
        return left.pop(0) if len(left) > 1 else left[0]

    return answer
