"""Asks the auth service about keys: what symbols, ingest and every later service authenticate with."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc

from mdw.auth.v1 import auth_pb2, auth_pb2_grpc
from services.kit import tracing
from services.kit.authn import LOOKUP_SECONDS, KeyCache
from services.kit.errors import Unavailable
from services.kit.log import get
from services.kit.principals import Principal
from services.kit.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

log = get(__name__)

_REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


class RemoteAuthenticator(KeyCache):
    """Validates keys over mdw.auth.v1.AuthService, with the service's own key."""

    def __init__(self, channel: grpc.aio.Channel, service_key: Callable[[], str], **options: Any) -> None:
        super().__init__(self._validate, **options)
        self._stub = auth_pb2_grpc.AuthServiceStub(channel)
        self._service_key = service_key
        self._last_key = ""
        self._refused = False

    async def check_own_key(self) -> str:
        """Returns what is wrong with the service's own key, or ''; raises Unavailable if the auth service is away."""
        await self._ask_auth(self._own_key())
        return "the auth service refuses this service's own key" if self._refused else ""

    async def _validate(self, secret: str) -> Principal | None:
        answer = await self._ask_auth(secret)
        if answer is None:
            raise Unavailable("AUTH_UNAVAILABLE", "this service's own key is refused", retry_after=5.0)
        return to_principal(answer.key) if answer.HasField("key") else None

    async def _ask_auth(self, secret: str) -> auth_pb2.ValidateKeyResponse | None:
        """Returns the answer, None if our own key is refused."""
        request = auth_pb2.ValidateKeyRequest(secret=secret)
        try:
            with tracing.span("mdw.auth.v1.AuthService/ValidateKey", tracing.CLIENT, rpc__system="grpc"):
                metadata = (("x-api-key", self._own_key()), *tracing.outgoing())
                answer = await self._stub.ValidateKey(request, metadata=metadata, timeout=LOOKUP_SECONDS)
        except grpc.aio.AioRpcError as error:
            self._note(refused=error.code() in _REFUSED)
            if error.code() in _REFUSED:
                return None
            raise Unavailable("AUTH_UNAVAILABLE", "the auth service is away", retry_after=1.0) from None
        except SettingsError as error:  # the file is being replaced, or is gone
            raise Unavailable("AUTH_UNAVAILABLE", "this service's own key cannot be read", retry_after=1.0) from error
        self._note(refused=False)
        return answer

    def _own_key(self) -> str:
        """Returns our key; while its file is being replaced, the one read last. Raises SettingsError before that."""
        try:
            key = self._service_key()
        except SettingsError:
            if not self._last_key:
                raise
            key = ""
        self._last_key = key or self._last_key
        return self._last_key

    def _note(self, *, refused: bool) -> None:
        if refused and not self._refused:
            log.error("service_key_refused")
        self._refused = refused


def to_principal(key: auth_pb2.Key) -> Principal:
    """Returns what a key of the contract stands for."""
    return Principal(
        key_id=UUID(key.key_id),
        preview=key.preview,
        scopes=frozenset(key.scopes),
        allowed_peers=tuple(ipaddress.ip_network(network) for network in key.allowed_peers),
        max_calls_per_second=key.max_calls_per_second if key.HasField("max_calls_per_second") else None,
        max_streams=key.max_streams if key.HasField("max_streams") else None,
    )
