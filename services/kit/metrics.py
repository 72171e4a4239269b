"""The metrics of calls, with the names of go-grpc, so that common dashboards fit.

Calls are counted in plain integers and only turned into metrics when somebody scrapes: prometheus-client's own
counters would cost a call a tenth of its CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

from services.kit.exporter import Buckets, Exporter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from services.kit.exporter import Labels
    from services.kit.methods import Method

METHOD: Final = ("grpc_type", "grpc_service", "grpc_method")
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class _Counts:
    """What is known of one method."""

    __slots__ = ("codes", "labels", "messages", "seconds", "started")

    def __init__(self, method: Method | None) -> None:
        # Calls of unknown methods share one name, since theirs are the caller's choice.
        self.labels = (
            ["unary", "unknown", "unknown"]
            if method is None
            else ["server_stream" if method.streaming else "unary", method.service, method.name]
        )
        self.codes: dict[str, int] = {}
        self.seconds = Buckets(BOUNDS)
        self.started = 0
        self.messages = 0


class Metrics(Exporter):
    """The metrics of one server: those of its calls, and what its parts add."""

    def __init__(self) -> None:
        super().__init__()
        self.registry.register(self)
        self._counts: dict[str, _Counts] = {}
        self._refused: dict[Labels, float] = {}
        self.counters("mdw_calls_refused", "Calls that got no answer, by reason.", ("reason",), self._refused.copy)

    def know(self, method: Method) -> None:
        """Shows a method before its first call: what Prometheus first sees as 1 is no growth to it, and no alert."""
        self._of(method).codes |= dict.fromkeys(("OK", "INTERNAL", "UNAVAILABLE"), 0)

    def started(self, method: Method | None) -> None:
        """Counts a call that has arrived."""
        self._of(method).started += 1

    def ended(self, method: Method | None, code: str, seconds: float, messages: int, reason: str = "") -> None:
        """Counts a call that has ended; `reason` says why it got no answer."""
        counts = self._of(method)
        counts.codes[code] = counts.codes.get(code, 0) + 1
        counts.seconds.observe(seconds)
        counts.messages += messages
        if reason:
            self._refused[(reason,)] = self._refused.get((reason,), 0) + 1

    def describe(self) -> Iterator[Metric]:
        yield from _families()

    def collect(self) -> Iterator[Metric]:
        """Yields what Prometheus reads."""
        started, handled, sent, handling = _families()
        for counts in list(self._counts.values()):
            started.add_metric(counts.labels, counts.started)
            for code, number in counts.codes.copy().items():
                handled.add_metric([*counts.labels, code], number)
            sent.add_metric(counts.labels, counts.messages)
            handling.add_metric(counts.labels, counts.seconds.cumulative(), counts.seconds.total)
        yield from (started, handled, sent, handling)

    def _of(self, method: Method | None) -> _Counts:
        path = "" if method is None else method.path
        counts = self._counts.get(path)
        if counts is None:
            counts = self._counts[path] = _Counts(method)
        return counts


def _families() -> tuple[CounterMetricFamily, CounterMetricFamily, CounterMetricFamily, HistogramMetricFamily]:
    return (
        CounterMetricFamily("grpc_server_started", "Calls that have arrived.", labels=METHOD),
        CounterMetricFamily("grpc_server_handled", "Calls ended.", labels=[*METHOD, "grpc_code"]),
        CounterMetricFamily("grpc_server_msg_sent", "Messages sent by streams.", labels=METHOD),
        HistogramMetricFamily("grpc_server_handling_seconds", "From arrival to answer.", labels=METHOD),
    )
