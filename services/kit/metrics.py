"""Prometheus metrics with the names of go-grpc, so that common dashboards fit.

Calls are counted in plain integers and only turned into metrics when somebody scrapes: prometheus-client's own
counters would cost a call a tenth of its CPU.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Gauge, start_http_server
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.metrics_core import Metric

    from services.kit.methods import Method

METHOD: Final = ("grpc_type", "grpc_service", "grpc_method")
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LABELS = [f"{bound:g}" for bound in BOUNDS] + ["+Inf"]


class _Counts:
    """What is known of one method."""

    __slots__ = ("buckets", "codes", "labels", "messages", "seconds")

    def __init__(self, method: Method | None) -> None:
        # Calls of unknown methods share one name, since theirs are the caller's choice.
        self.labels = (
            ["unary", "unknown", "unknown"]
            if method is None
            else ["server_stream" if method.streaming else "unary", method.service, method.name]
        )
        self.codes: dict[str, int] = {}
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0
        self.messages = 0


class Metrics:
    """The call metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._counts: dict[str, _Counts] = {}

    def ended(self, method: Method | None, code: str, seconds: float, messages: int) -> None:
        """Counts a call that has ended."""
        path = "" if method is None else method.path
        counts = self._counts.get(path)
        if counts is None:
            counts = self._counts[path] = _Counts(method)
        counts.codes[code] = counts.codes.get(code, 0) + 1
        counts.buckets[bisect_left(BOUNDS, seconds)] += 1
        counts.seconds += seconds
        counts.messages += messages

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Adds a gauge that is read when it is scraped."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def collect(self) -> Iterator[Metric]:
        """Yields what Prometheus reads."""
        handled = CounterMetricFamily("grpc_server_handled", "Calls ended.", labels=[*METHOD, "grpc_code"])
        sent = CounterMetricFamily("grpc_server_msg_sent", "Messages sent by streams.", labels=METHOD)
        handling = HistogramMetricFamily("grpc_server_handling_seconds", "From arrival to answer.", labels=METHOD)
        for counts in self._counts.values():
            for code, number in counts.codes.items():
                handled.add_metric([*counts.labels, code], number)
            sent.add_metric(counts.labels, counts.messages)
            handling.add_metric(counts.labels, _cumulative(counts.buckets), counts.seconds)
        yield from (handled, sent, handling)

    def serve(self, address: str) -> Callable[[], None]:
        """Serves /metrics; returns what stops it."""
        host, _, port = address.rpartition(":")
        server, thread = start_http_server(int(port), host.strip("[]"), registry=self.registry)

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    total = 0
    found: list[tuple[str, float]] = []
    for label, number in zip(_LABELS, buckets, strict=True):
        total += number
        found.append((label, total))
    return found
