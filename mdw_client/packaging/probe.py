"""Runs in an environment that has the wheel alone: reads bars, over a real connection, from a server of its own."""

from __future__ import annotations

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import grpc

from mdw.ingest.v1 import bars_pb2, bars_pb2_grpc
from mdw_client import Client, NotFound

ROWS = 1000


class Bars(bars_pb2_grpc.BarServiceServicer):
    """Serves a thousand made-up bars."""

    def ListBars(self, request: Any, context: Any) -> Any:  # noqa: N802 # the contract's name
        context.abort(grpc.StatusCode.NOT_FOUND, f"no symbol {request.ticker}")

    def GetLatestBars(self, request: Any, context: Any) -> Any:  # noqa: N802 # as above
        context.abort(grpc.StatusCode.UNIMPLEMENTED, f"not here: {request.tickers}")

    def StreamBars(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802 # as above
        prices: Any = dict.fromkeys(("open", "high", "low", "close", "volume", "vwap"), range(ROWS))
        times = [row * 86_400_000 for row in range(ROWS)]
        counts = [-1] * ROWS
        yield bars_pb2.StreamBarsResponse(
            symbol_id=1, ticker=request.tickers[0], start_time_ms=times, trade_count=counts, flags=[0] * ROWS, **prices
        )
        yield bars_pb2.StreamBarsResponse(receipt=bars_pb2.Receipt(bars=ROWS))


def main() -> None:
    for name in ("services", "migrator", "deploy", "tests"):
        if importlib.util.find_spec(name) is not None:
            sys.exit(f"the wheel brought {name}")
    server = grpc.server(ThreadPoolExecutor(2))
    bars_pb2_grpc.add_BarServiceServicer_to_server(Bars(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with Client(f"127.0.0.1:{port}") as client:
        frame = client.bars("AAPL", "1d").to_pandas()
        if len(frame) != ROWS or frame["close"].iloc[-1] != ROWS - 1:
            sys.exit(f"read {len(frame)} bars")
        try:
            list(client.bars.list("GONE"))
        except NotFound as error:
            sys.stdout.write(
                f"protobuf {version('protobuf')}, grpcio {version('grpcio')}: {len(frame)} bars; {error}\n"
            )
    server.stop(0)


if __name__ == "__main__":
    main()
