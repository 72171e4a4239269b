"""What a process exports to Prometheus: plain numbers that are turned into metrics when somebody scrapes.

Scraping happens in a thread of its own, so what is read there must be one look at a number or at a copy of a table.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from services.kit.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

Labels = tuple[str, ...]


class Exporter:
    """The metrics of one process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry()
        ProcessCollector(registry=self.registry)

    def about(self, service: str) -> None:
        """Says which process this is."""
        labels: dict[Labels, float] = {(service, VERSION): 1.0}
        self.gauges("mdw_build_info", "Always 1; which process this is.", ("process", "version"), lambda: labels)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Adds a number that goes up and down."""
        self.gauges(name, text, (), lambda: {(): read()})

    def gauges(self, name: str, text: str, labels: Sequence[str], read: Callable[[], Mapping[Labels, float]]) -> None:
        """Adds a number for each combination of labels."""
        self.registry.register(_Family(GaugeMetricFamily, name, text, labels, read))

    def counter(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Adds a number that only grows; Prometheus sees it with `_total` at the end."""
        self.counters(name, text, (), lambda: {(): read()})

    def counters(self, name: str, text: str, labels: Sequence[str], read: Callable[[], Mapping[Labels, float]]) -> None:
        """Adds a growing number for each combination of labels."""
        self.registry.register(_Family(CounterMetricFamily, name, text, labels, read))

    def histogram(self, name: str, text: str, bounds: Sequence[float]) -> Histogram:
        """Adds a distribution and returns what observes it."""
        made = Histogram(name, text, bounds)
        self.registry.register(made)
        return made

    def serve(self, address: str) -> Scraped:
        """Serves /metrics; raises OSError if it cannot listen."""
        return Scraped(self.registry, address)


class Scraped:
    """The HTTP server of the metrics."""

    def __init__(self, registry: CollectorRegistry, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._server, self._thread = start_http_server(int(port), host.strip("[]"), registry=registry)
        self.port: int = self._server.server_port

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Family:
    """One metric whose values are read when it is scraped."""

    def __init__(
        self,
        kind: type[CounterMetricFamily | GaugeMetricFamily],
        name: str,
        text: str,
        labels: Sequence[str],
        read: Callable[[], Mapping[Labels, float]],
    ) -> None:
        self._read = read
        self._kind, self._name, self._text, self._labels = kind, name, text, labels

    def describe(self) -> Iterator[Metric]:
        yield self._kind(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterator[Metric]:
        family = self._kind(self._name, self._text, labels=self._labels)
        for labels, value in list(self._read().items()):
            family.add_metric(labels, value)
        yield family


class Buckets:
    """Counts values by size."""

    __slots__ = ("_bounds", "_labels", "_numbers", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._labels = [f"{bound:g}" for bound in bounds] + ["+Inf"]
        self._numbers = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self._numbers[bisect_left(self._bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Returns for each bound how many values were not above it."""
        sum_so_far = 0
        found: list[tuple[str, float]] = []
        for label, number in zip(self._labels, self._numbers, strict=True):
            sum_so_far += number
            found.append((label, sum_so_far))
        return found


class Histogram:
    """A distribution without labels."""

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._text = text
        self._buckets = Buckets(bounds)
        self.observe = self._buckets.observe

    def describe(self) -> Iterator[Metric]:
        yield HistogramMetricFamily(self._name, self._text)

    def collect(self) -> Iterator[Metric]:
        yield HistogramMetricFamily(
            self._name, self._text, buckets=self._buckets.cumulative(), sum_value=self._buckets.total
        )
