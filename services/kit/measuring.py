"""What every server says of itself, beside its calls: ready or not, audit log, pools, streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from services.kit.answering import Answering
    from services.kit.db import Database
    from services.kit.exporter import Exporter, Labels
    from services.kit.readiness import Readiness
    from services.kit.recorder import Recorder


def measure_calls(exporter: Exporter, answering: Answering) -> None:
    """Adds what is open now."""
    exporter.gauge("mdw_calls_open", "Calls that are being answered.", lambda: answering.open_calls)
    exporter.gauge("mdw_streams_open", "Streams that are being sent.", lambda: answering.open_streams)


def measure_readiness(exporter: Exporter, readiness: Readiness) -> None:
    """Adds whether the process is ready, and which check keeps it from that."""
    exporter.gauge("mdw_ready", "1 while the process says SERVING.", lambda: float(readiness.ready))
    exporter.gauges(
        "mdw_check_failing",
        "1 for a check that keeps the process from being ready.",
        ("check",),
        lambda: {(name,): float(bool(problem)) for name, problem in readiness.found.items()},
    )


def measure_audit(exporter: Exporter, recorder: Recorder) -> None:
    """Adds how far the audit log is behind the calls, and in which pieces it is written."""
    exporter.gauge("mdw_audit_waiting_rows", "Rows that wait for their commit.", lambda: recorder.waiting)
    exporter.gauge("mdw_audit_lag_seconds", "How long the oldest of them has waited.", recorder.lag)
    exporter.gauge("mdw_audit_down", "1 while calls are refused because rows cannot be written.", lambda: recorder.down)
    exporter.counter(
        "mdw_audit_merged_calls", "Refused calls that share a row with others.", lambda: recorder.floods.merged
    )
    for histogram in recorder.histograms:
        exporter.registry.register(histogram)


def measure_pools(exporter: Exporter, pools: Callable[[], Mapping[str, Database]]) -> None:
    """Adds the use of the process's pools of database connections."""
    exporter.gauges(
        "mdw_pool_connections",
        "Connections of each pool: in use, idle, and the limit.",
        ("pool", "state"),
        lambda: _connections(pools()),
    )


def _connections(pools: Mapping[str, Database]) -> dict[Labels, float]:
    found: dict[Labels, float] = {}
    for name, database in list(pools.items()):
        use = database.use()
        found |= {(name, "used"): use.used, (name, "idle"): use.idle, (name, "limit"): use.limit}
    return found
