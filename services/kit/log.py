"""Logging: events with typed keys, one JSON object a line (or colours on a terminal), and never a secret."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from typing import TYPE_CHECKING, Any, TextIO

import msgspec
import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

FLUSH_SECONDS = 0.05
_ADDED = ("level", "timestamp")  # structlog has its own

_encoder = msgspec.json.Encoder(enc_hook=repr)
_SECRETS = re.compile(r"mdw_[0-9a-f]{8}[0-9a-f]+")
_PASSWORDS = re.compile(r"(\b[a-z][a-z0-9+]*://[^\s:/@]*):[^\s@]*@")


def redact(text: str) -> str:
    """Shortens every key in a text to its preview and blanks the password of every URL."""
    if "mdw_" in text:
        text = _SECRETS.sub(lambda found: found[0][:12] + "...", text)
    if "://" in text:
        text = _PASSWORDS.sub(r"\1:***@", text)
    return text


def configure(*, level: str = "INFO", form: str = "", stream: TextIO | None = None) -> None:
    """Sets up structlog and the standard library's loggers, grpcio's own included. Called once, by `__main__`."""
    target = stream or sys.stderr
    console = form == "console" or (form == "" and target.isatty())
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer: Any = structlog.dev.ConsoleRenderer() if console else _render_json
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
            _redact_line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=target),
        cache_logger_on_first_use=stream is None,
    )
    _lines.enabled = number <= logging.INFO
    _lines.target = None if console else target
    _configure_standard_library(number)


class CallLines:
    """Writes the line of each call: as JSON past structlog, which would cost as much as the rest of the call."""

    def __init__(self) -> None:
        self._lines: list[dict[str, Any]] = []
        self._loop = asyncio.get_running_loop()

    def write(self, line: dict[str, Any]) -> None:
        """Takes a whole line, `event`, `level` and `timestamp` included; writes it within a twentieth of a second."""
        if not _lines.enabled:
            return
        if _lines.target is None:
            structlog.get_logger(part="call").info(**{name: line[name] for name in line if name not in _ADDED})
            return
        if not self._lines:
            self._loop.call_later(FLUSH_SECONDS, self.flush)
        self._lines.append(line)

    def flush(self) -> None:
        """Writes what waits."""
        if self._lines and _lines.target is not None:
            _lines.target.write(redact(_encoder.encode_lines(self._lines).decode()))
            _lines.target.flush()
        self._lines.clear()


class _Lines:
    """How call lines are written: by structlog until `configure` says otherwise."""

    def __init__(self) -> None:
        self.enabled = True
        self.target: TextIO | None = None


_lines = _Lines()


def get(name: str) -> FilteringBoundLogger:
    """Returns a logger whose lines carry the name of the part that writes them."""
    logger: FilteringBoundLogger = structlog.get_logger(part=name)
    return logger


def _render_json(_logger: WrappedLogger, _name: str, event: EventDict) -> str:
    return _encoder.encode(event).decode()


def _redact_line(_logger: WrappedLogger, _name: str, line: Any) -> str:
    return redact(line)


class _Forward(logging.Handler):
    """Hands foreign records to structlog, so that one form and one redaction hold for all."""

    def emit(self, record: logging.LogRecord) -> None:
        exc_info = record.exc_info if record.exc_info and record.exc_info[0] else None
        structlog.get_logger(part=record.name).log(record.levelno, record.getMessage(), exc_info=exc_info)


class RedactingFilter(logging.Filter):
    """Redacts a record where it is made: whatever handler somebody adds sees only the clean text.

    grpcio logs metadata that is no UTF-8 as it came, with an API key in it (logger `grpc._cython.cygrpc`).
    """

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = redact(record.getMessage())
        record.args = None
        return True


def protect_foreign_loggers() -> None:
    """Puts the redacting filter on grpcio's loggers; calling it twice changes nothing."""
    for name in ("grpc._cython.cygrpc", "grpc", "grpc.aio", "asyncio"):
        logger = logging.getLogger(name)
        if not any(isinstance(one, RedactingFilter) for one in logger.filters):
            logger.addFilter(RedactingFilter())


def _configure_standard_library(level: int) -> None:
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _Forward):
            root.removeHandler(handler)
    root.addHandler(_Forward())
    root.setLevel(level)
    # At DEBUG these print headers, the provider's key among them.
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    protect_foreign_loggers()
