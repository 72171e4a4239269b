"""All services behind one bad line to Postgres, and calls of every RPC whose ends are timed."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import grpc
from google.protobuf import message_factory
from google.rpc.error_details_pb2 import RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.fuzzing import GOOD
from tests.proxy import Proxy, through
from tests.support import detail, with_key
from tests.waiting import LONG, until
from tests.whole import Whole, methods, whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.descriptor import MethodDescriptor

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@asynccontextmanager
async def behind_a_proxy(database: Any, **variables: str) -> AsyncIterator[tuple[Proxy, Whole]]:
    """Runs all services with a proxy between them and their database."""
    address = urlsplit(database.auth_url)
    proxy = Proxy(address.hostname or "127.0.0.1", address.port or 5432)
    port = await proxy.start()
    names = ("auth", "symbols", "ingest")
    urls = {name: through(getattr(database, f"{name}_url"), port) for name in names}
    async with whole(database, urls, **variables) as services:
        yield proxy, services
        proxy.heal()
    await proxy.stop()


@dataclass(frozen=True)
class Ended:
    """How and after how many seconds a call ended."""

    method: str
    code: grpc.StatusCode
    seconds: float
    error: grpc.aio.AioRpcError | None = None

    @property
    def retry_info(self) -> Any:
        return detail(self.error, RetryInfo()) if self.error else None


async def timed(services: Whole, method: MethodDescriptor, seconds: float) -> Ended:
    """Calls an RPC with a request that would be answered, if it is one that asks for much, else with an empty one."""
    request = message_factory.GetMessageClass(method.input_type)(**GOOD.get(method.input_type.name, {}))
    path = f"/{method.containing_service.full_name}/{method.name}"
    channel, metadata = services.channel(method), with_key(services.key(method))
    began = time.monotonic()
    code, failed = grpc.StatusCode.OK, None
    try:
        async with asyncio.timeout(seconds + LONG):
            if method.server_streaming:
                call = channel.unary_stream(path)(request.SerializeToString(), metadata=metadata, timeout=seconds)
                async for _ in call:
                    pass
            else:
                await channel.unary_unary(path)(request.SerializeToString(), metadata=metadata, timeout=seconds)
    except grpc.aio.AioRpcError as error:
        code, failed = error.code(), error
    return Ended(method.name, code, time.monotonic() - began, failed)


async def call_everything(services: Whole, seconds: float) -> list[Ended]:
    """Calls every RPC of every service at once."""
    return await asyncio.gather(*(timed(services, method, seconds) for method in methods()))


async def readiness(services: Whole, name: str) -> int:
    stub = health_pb2_grpc.HealthStub(services.channels[name])
    return (await stub.Check(health_pb2.HealthCheckRequest(service="readiness"), timeout=LONG)).status


async def until_readiness(services: Whole, wanted: int, seconds: float = LONG) -> None:
    """Waits until all services say so."""

    async def all_say() -> bool:
        return {await readiness(services, name) for name in services.channels} == {wanted}

    await until(all_say, seconds)


async def until_quiet(tasks: int, seconds: float = LONG) -> None:
    """Waits until there are no more tasks than there were."""
    await until(lambda: len(asyncio.all_tasks()) <= tasks, seconds)
