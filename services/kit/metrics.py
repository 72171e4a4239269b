"""Prometheus metrics with the names of go-grpc, so that common dashboards fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.kit.methods import Method

_METHOD = ("grpc_type", "grpc_service", "grpc_method")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The call metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._started = self._counter("grpc_server_started", "Calls begun.", _METHOD)
        self._handled = self._counter("grpc_server_handled", "Calls ended.", (*_METHOD, "grpc_code"))
        self._sent = self._counter("grpc_server_msg_sent", "Messages sent by streams.", _METHOD)
        self._seconds = Histogram(
            "grpc_server_handling_seconds", "From arrival to answer.", _METHOD, buckets=_SECONDS, registry=self.registry
        )
        self._children: dict[tuple[str, ...], Any] = {}

    def ended(self, method: Method | None, code: str, seconds: float, messages: int) -> None:
        """Counts a call; calls of unknown methods share one name, since theirs are the caller's choice."""
        labels = _labels(method)
        self._child(self._started, labels).inc()
        self._child(self._handled, (*labels, code)).inc()
        self._child(self._seconds, labels).observe(seconds)
        if method is not None and method.streaming and messages:
            self._child(self._sent, labels).inc(messages)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Adds a gauge that is read when it is scraped."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def serve(self, address: str) -> Callable[[], None]:
        """Serves /metrics; returns what stops it."""
        host, _, port = address.rpartition(":")
        server, thread = start_http_server(int(port), host.strip("[]"), registry=self.registry)

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _child(self, metric: Any, labels: tuple[str, ...]) -> Any:
        """Keeps each labelled child: looking one up costs more than counting."""
        key = (str(id(metric)), *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child


def _labels(method: Method | None) -> tuple[str, str, str]:
    if method is None:
        return ("unary", "unknown", "unknown")
    return ("server_stream" if method.streaming else "unary", method.service, method.name)
