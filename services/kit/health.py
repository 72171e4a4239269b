"""grpc.health.v1 with the names `liveness`, `readiness` and those of the services.

Our own and not grpcio-health-checking's servicer: that one starts as SERVING,
and its Watch never ends, so that every stop would last the whole grace.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.kit.version import VERSION_METADATA

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

LIVENESS = "liveness"
READINESS = "readiness"


class Health(health_pb2_grpc.HealthServicer):
    """Serves grpc.health.v1.Health. Alive from the start; ready when `set_ready` says so."""

    def __init__(self) -> None:
        self._names = {"", READINESS}
        self._ready = False
        self._stopping = False
        self._changed = asyncio.Event()

    def add(self, service: str) -> None:
        """Makes a service's full name known; it is as ready as the server."""
        self._names.add(service)

    @property
    def ready(self) -> bool:
        return self._ready

    def set_ready(self, *, ready: bool) -> None:
        """Tells all who watch, if it is a change."""
        if ready != self._ready:
            self._ready = ready
            self._wake()

    def stop(self) -> None:
        """Says NOT_SERVING from now on and ends every watch."""
        self._ready = False
        self._stopping = True
        self._wake()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:  # noqa: N802
        context.set_trailing_metadata((VERSION_METADATA,))
        found = self._status(request.service)
        if found is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=found)

    async def Watch(  # noqa: N802
        self,
        request: health_pb2.HealthCheckRequest,
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        last: int | None = None
        while True:
            changed = self._changed
            found = self._status(request.service)
            now = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN if found is None else found
            if now != last:
                last = now
                yield health_pb2.HealthCheckResponse(status=now)
            if self._stopping:
                return
            await changed.wait()

    def _status(self, name: str) -> Any:
        if name == LIVENESS:
            return SERVING
        if name not in self._names:
            return None
        return SERVING if self._ready else NOT_SERVING

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
