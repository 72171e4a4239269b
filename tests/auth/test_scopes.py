"""Every scope against every method, from the descriptors: a method lets in exactly the keys it says."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass

from mdw.auth.v1 import auth_pb2
from services.auth.key_servicer import KeyServicer
from services.auth.servicer import AuthServicer
from services.kit.scopes import KNOWN, declaration
from tests.support import make_key, with_key

SERVICERS = {"AuthService": AuthServicer, "KeyService": KeyServicer}
METHODS = [
    (service.name, method.name, GetMessageClass(method.input_type))
    for service in auth_pb2.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


@pytest.fixture(scope="module")
async def own_channel(target):
    async with grpc.aio.insecure_channel(target) as channel:
        yield channel


@pytest.mark.parametrize("scope", KNOWN)
async def test_a_scope_opens_its_methods_and_no_others(database, own_channel, scope):
    secret = await make_key(database, scope)
    for service, name, request in METHODS:
        call = own_channel.unary_unary(f"/mdw.auth.v1.{service}/{name}", request_serializer=request.SerializeToString)
        needed = declaration(getattr(SERVICERS[service], name)).scopes
        code = grpc.StatusCode.OK
        try:
            await call(request(), metadata=with_key(secret))
        except grpc.aio.AioRpcError as error:
            code = error.code()
        allowed = scope in needed or (scope == "admin" and needed != ("service",))
        assert (code != grpc.StatusCode.PERMISSION_DENIED) == allowed, (scope, service, name, code)
        assert code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED)
