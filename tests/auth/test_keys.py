"""KeyService: keys are made, changed and ended."""

from __future__ import annotations

import grpc
import pytest
from mdw.auth.v1 import auth_pb2, auth_pb2_grpc

from tests.support import reason, with_key


async def test_a_created_key_works_at_once(channel, admin):
    stub = auth_pb2_grpc.KeyServiceStub(channel)
    created = await stub.CreateKey(
        auth_pb2.CreateKeyRequest(display_name="reader", scopes=["keys.read"]), metadata=with_key(admin)
    )
    got = await stub.GetKey(auth_pb2.GetKeyRequest(key_id=created.key.key_id), metadata=with_key(created.secret))
    assert got.key.display_name == "reader"
    assert got.key.state == auth_pb2.Key.ACTIVE


async def test_a_revoked_key_is_refused_at_once(channel, admin):
    stub = auth_pb2_grpc.KeyServiceStub(channel)
    created = await stub.CreateKey(
        auth_pb2.CreateKeyRequest(display_name="reader", scopes=["keys.read"]), metadata=with_key(admin)
    )
    await stub.ListKeys(auth_pb2.ListKeysRequest(), metadata=with_key(created.secret))
    await stub.RevokeKey(auth_pb2.RevokeKeyRequest(key_id=created.key.key_id), metadata=with_key(admin))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ListKeys(auth_pb2.ListKeysRequest(), metadata=with_key(created.secret))
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert reason(caught.value) == "KEY_INVALID"
