"""The methods of a servicer, as the server needs them: declared scopes, message types, kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from services.kit.errors import InvalidArgument
from services.kit.scopes import declaration

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor


class UndeclaredError(Exception):
    """A method has no scopes, or is of a kind the kit does not serve: the server must not start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One RPC."""

    path: str
    """As on the wire: `/mdw.auth.v1.KeyService/CreateKey`."""

    service: str
    """Full name: `mdw.auth.v1.KeyService`."""

    name: str
    scopes: tuple[str, ...]
    recorded: bool
    streaming: bool
    has_request_id: bool
    request_type: type[Message]
    function: Callable[[Any, Any], Any]

    def parse(self, body: bytes) -> Message:
        """Returns the request; raises InvalidArgument REQUEST_MALFORMED."""
        request = self.request_type()
        try:
            request.ParseFromString(body)
        except DecodeError:
            raise InvalidArgument("request", "is no message of its type", reason="REQUEST_MALFORMED") from None
        return request


def methods_of(servicer: object, service: ServiceDescriptor) -> list[Method]:
    """Returns all methods of a service; raises UndeclaredError if one has no scopes."""
    return [_method(servicer, service, one) for one in service.methods]


def _method(servicer: object, service: ServiceDescriptor, descriptor: MethodDescriptor) -> Method:
    function = getattr(servicer, descriptor.name)
    declared = declaration(function)
    if declared is None:
        raise UndeclaredError(f"{descriptor.full_name} declares no scopes")
    if descriptor.client_streaming:
        raise UndeclaredError(f"{descriptor.full_name}: streams of requests are not served")
    return Method(
        path=f"/{service.full_name}/{descriptor.name}",
        service=service.full_name,
        name=descriptor.name,
        scopes=declared.scopes,
        recorded=declared.recorded,
        streaming=descriptor.server_streaming,
        has_request_id="request_id" in descriptor.input_type.fields_by_name,
        request_type=GetMessageClass(descriptor.input_type),
        function=function,
    )
