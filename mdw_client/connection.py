"""The channels of a client: one an address, made when it is first used."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pool, message_factory

from mdw_client.columns import decode
from mdw_client.reader import STREAM

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from mdw_client.settings import Settings

PATIENCE = 60.0
"""Seconds for which a broken stream is taken up again before its error is raised."""


class Connection:
    """The channels of a client, made when they are first used."""

    def __init__(self, settings: Settings, make: Any) -> None:
        self._settings = settings
        self._make = make
        self._lock = threading.RLock()
        self._channels: dict[str, Any] = {}
        self._callables: dict[str, Any] = {}
        self.timeout = settings.timeout
        self.patience = PATIENCE

    def callable(self, method: str) -> Any:
        found = self._callables.get(method)
        if found is None:
            with self._lock:
                found = self._callables.setdefault(method, self._new_callable(method))
        return found

    def target(self, method: str) -> str:
        return self._settings.targets[_service(method)]

    def channel(self, service: str) -> Any:
        """Returns the service's channel; services at one address share one."""
        target, settings = self._settings.targets[service], self._settings
        with self._lock:
            if target not in self._channels:
                self._channels[target] = self._make(
                    target,
                    key=settings.key_source(),
                    tls=settings.tls,
                    allow_plaintext=settings.allow_plaintext,
                    timeout=settings.timeout,
                )
            return self._channels[target]

    def take_channels(self) -> list[Any]:
        """Hands over the channels to be closed; the next call makes new ones."""
        with self._lock:
            taken = list(self._channels.values())
            self._channels.clear()
            self._callables.clear()
        return taken

    def _new_callable(self, method: str) -> Any:
        channel = self.channel(_service(method))
        rpc = descriptor_pool.Default().FindMethodByName(method.strip("/").replace("/", "."))
        read = decode if method == STREAM else message_factory.GetMessageClass(rpc.output_type).FromString
        make = channel.unary_stream if rpc.server_streaming else channel.unary_unary
        return make(method, request_serializer=_serialize, response_deserializer=read)


def _serialize(request: Message) -> bytes:
    return request.SerializeToString()


def _service(method: str) -> str:
    """Returns the service that serves an RPC: `/mdw.ingest.v1.BarService/ListBars` is ingest's."""
    return method.split(".")[1]
