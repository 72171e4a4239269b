"""A rival of StreamBars: a stream of Bar messages, one a bar, filled from a cursor.

`python -m tests.bench.per_bar DATABASE_URL` prints its port and runs until standard input ends.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import grpc
import uvloop

from mdw.ingest.v1 import bars_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

METHOD = "/bench.Bars/Stream"
ROWS = """
SELECT (extract(epoch FROM ts) * 1000)::bigint AS ts, open, high, low, close, vwap, volume, trade_count, flags
FROM ingest.bars
WHERE symbol_id = $1 AND timeframe = 1
ORDER BY ts
LIMIT $2
"""


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, url: str) -> None:
        self._url = url

    def service(self, _details: Any) -> Any:
        return grpc.unary_stream_rpc_method_handler(
            self._stream, request_deserializer=bars_pb2.ListBarsRequest.FromString
        )

    async def _stream(self, request: bars_pb2.ListBarsRequest, context: Any) -> None:
        conn = await asyncpg.connect(self._url)
        async with conn.transaction():
            async for row in conn.cursor(ROWS, request.symbol_id, request.page_size, prefetch=1_000):
                bar = bars_pb2.Bar(
                    open=row["open"],
                    high=row["high"],
                    low=row["low"],
                    close=row["close"],
                    volume=row["volume"],
                    vwap=row["vwap"],
                    trade_count=row["trade_count"],
                    flags=row["flags"],
                )
                bar.start_time.FromMilliseconds(row["ts"])
                await context.write(bar.SerializeToString())
        await conn.close()


async def _serve(url: str) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Handler(url),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)  # noqa: T201
    await server.start()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


@asynccontextmanager
async def serving(url: str) -> AsyncIterator[Any]:
    """Runs it in a process of its own; yields what calls it with a ListBarsRequest: symbol_id, and page_size bars."""
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.bench.per_bar", url, stdin=-1, stdout=-1)
    assert child.stdin is not None
    assert child.stdout is not None
    port = int(await child.stdout.readline())
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel.unary_stream(
                METHOD,
                request_serializer=bars_pb2.ListBarsRequest.SerializeToString,
                response_deserializer=bars_pb2.Bar.FromString,
            )
    finally:
        child.stdin.write_eof()
        await child.wait()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
