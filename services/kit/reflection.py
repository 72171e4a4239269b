"""Server reflection, v1 and v1alpha: grpcio-reflection serves only the latter, newer tools ask for the former first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer  # no public name for the asyncio one

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.descriptor import FileDescriptor

V1 = "grpc.reflection.v1.ServerReflection"
V1ALPHA = reflection.SERVICE_NAME
_METHOD = "ServerReflectionInfo"


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> tuple[str, ...]:
    """Serves both versions and returns their names; their messages are the same on the wire."""
    _register_v1()
    servicer = ReflectionServicer([*services, V1, V1ALPHA], pool=_Pool())
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(name, {_METHOD: handler}) for name in (V1, V1ALPHA))
    )
    return V1, V1ALPHA


class _Pool:
    """The default pool, which finds the file of a method, too: `grpcurl describe` asks for it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(descriptor_pool.Default(), name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802 - as protobuf names it
        pool = descriptor_pool.Default()
        try:
            return pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            return pool.FindServiceByName(service).methods_by_name[method].containing_service.file


def _register_v1() -> None:
    """Makes the descriptor of v1 from that of v1alpha: to list the name alone breaks `buf curl --list-methods`."""
    pool = descriptor_pool.Default()
    try:
        pool.FindServiceByName(V1)
    except KeyError:
        proto = FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(proto)
        _rename(proto)
        pool.AddSerializedFile(proto.SerializeToString())


def _rename(proto: FileDescriptorProto) -> None:
    proto.package = "grpc.reflection.v1"
    proto.name = "grpc/reflection/v1/reflection.proto"
    for message in proto.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = _v1(field.type_name)
    for method in proto.service[0].method:
        method.input_type = _v1(method.input_type)
        method.output_type = _v1(method.output_type)


def _v1(name: str) -> str:
    return name.replace(".grpc.reflection.v1alpha.", ".grpc.reflection.v1.")
