"""Spans of calls, SQL statements and requests, where OTEL_EXPORTER_OTLP_ENDPOINT says that they are wanted.

A span holds names, ids, codes and statements with their $1: never values, keys, or the text of an exception. Without
the setting nothing here is loaded, and a call costs nothing more.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from services.kit import calls
from services.kit.settings import SettingsError
from services.kit.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import asyncpg
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

Pairs = tuple[tuple[str, str], ...]

SERVER, CLIENT, INTERNAL = "SERVER", "CLIENT", "INTERNAL"
_MOST_STATEMENT = 2_000
_HANDED_ON = ("traceparent", "tracestate")


class _State:
    """The process's tracer, once there is one."""

    def __init__(self) -> None:
        self.tracer: Tracer | None = None
        self.provider: TracerProvider | None = None


_state = _State()


def on() -> bool:
    return _state.tracer is not None


def begin(process: str, endpoint: str) -> None:
    """Starts to send spans to a collector (OTLP over HTTP); raises SettingsError if the libraries are not there."""
    if not endpoint or on():
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise SettingsError("OTEL_EXPORTER_OTLP_ENDPOINT: needs the extra otel: pip install 'mdw[otel]'") from error
    provider = TracerProvider(
        resource=Resource.create({"service.name": f"mdw-{process}", "service.version": VERSION}),
        shutdown_on_exit=False,
    )
    url = f"{endpoint.rstrip('/')}/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url), schedule_delay_millis=1_000))
    _state.provider, _state.tracer = provider, provider.get_tracer("mdw", VERSION)


def end() -> None:
    """Sends what is left, for some seconds at most; blocks."""
    if _state.provider is not None:
        _state.provider.force_flush(3_000)
        _state.provider.shutdown()
    _state.provider = _state.tracer = None


@contextmanager
def span(name: str, kind: str = INTERNAL, metadata: Sequence[tuple[str, Any]] = (), **about: Any) -> Iterator[Noted]:
    """Opens a span under the present one, or under what a caller's metadata names."""
    if _state.tracer is None:
        yield Noted(None)
        return
    from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415

    parent = _parent(metadata) if metadata else None
    with _state.tracer.start_as_current_span(
        name, context=parent, kind=SpanKind[kind], record_exception=False, set_status_on_exception=False
    ) as opened:
        noted = Noted(opened)
        noted.add(**about)
        try:
            yield noted
        except BaseException as error:
            # Its type alone: the text may hold anything.
            opened.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


class Noted:
    """Takes attributes, for a span or for nothing."""

    def __init__(self, opened: Span | None) -> None:
        self._span = opened

    def add(self, **about: Any) -> None:
        """Adds attributes; a double underscore stands for the dot of their names."""
        if self._span is not None:
            for name, value in about.items():
                self._span.set_attribute(name.replace("__", "."), value)


def outgoing() -> Pairs:
    """Returns the metadata by which a service that is called joins this trace, and finds the request's id."""
    pairs: Pairs = ()
    call = calls.present()
    if call is not None and call.request_id:
        pairs = (("x-request-id", call.request_id),)
    if _state.tracer is None:
        return pairs
    from opentelemetry.propagate import inject  # noqa: PLC0415

    carrier: dict[str, str] = {}
    inject(carrier)
    return (*pairs, *carrier.items())


async def watch(connection: asyncpg.Connection) -> None:
    """Makes a span of each statement of a connection."""
    if on():
        connection.add_query_logger(_statement)


def _statement(done: Any) -> None:
    from opentelemetry.trace import SpanKind, Status, StatusCode, get_current_span  # noqa: PLC0415

    if _state.tracer is None or not get_current_span().get_span_context().is_valid:
        return
    now = time.time_ns()
    words = done.query.split(None, 1)
    opened = _state.tracer.start_span(
        f"SQL {words[0].upper() if words else ''}", kind=SpanKind.CLIENT, start_time=now - int(done.elapsed * 1e9)
    )
    opened.set_attribute("db.system", "postgresql")
    opened.set_attribute("db.statement", done.query.strip()[:_MOST_STATEMENT])
    if done.exception is not None:
        opened.set_status(Status(StatusCode.ERROR, type(done.exception).__name__))
    opened.end(end_time=now)


def _parent(metadata: Sequence[tuple[str, Any]]) -> Any:
    from opentelemetry.propagate import extract  # noqa: PLC0415

    return extract({name: value for name, value in metadata if name in _HANDED_ON and isinstance(value, str)})
