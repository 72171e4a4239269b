"""What a person asks of make run in the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from deploy.local.faults import parse_faults
from deploy.local.stack import SERVICES

if TYPE_CHECKING:
    from collections.abc import Mapping

FIRST_PORT = 15051
PLAN_YEARS = 2  # what Polygon's free plan covers


class UsageError(Exception):
    """A switch cannot be used; the text names it."""


@dataclass(frozen=True, kw_only=True)
class Switches:
    """ONCE, INGEST_WORKERS, MDW_PORT, DATABASE_URL, POLYGON_API_KEY, REPLAY_FAULTS."""

    once: bool = False
    workers: int = 1
    first_port: int = FIRST_PORT
    database_url: str = ""
    polygon_key: str = ""
    replay_faults: str = ""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Switches:
        """Reads them; raises UsageError."""
        faults = environ.get("REPLAY_FAULTS", "")
        try:
            parse_faults(faults)
        except ValueError as error:
            raise UsageError(f"REPLAY_FAULTS: {error}") from error
        return cls(
            once=environ.get("ONCE", "") not in ("", "0"),
            workers=_number(environ, "INGEST_WORKERS", os.cpu_count() or 1, (1, 64)),
            first_port=_number(environ, "MDW_PORT", FIRST_PORT, (1024, 65_533)),
            database_url=environ.get("DATABASE_URL", ""),
            polygon_key=environ.get("POLYGON_API_KEY", ""),
            replay_faults=faults,
        )

    @property
    def ports(self) -> dict[str, int]:
        """The port of each service."""
        return {service: self.first_port + index for index, service in enumerate(SERVICES)}

    @property
    def addresses(self) -> dict[str, str]:
        """The address of each service."""
        return {service: f"127.0.0.1:{port}" for service, port in self.ports.items()}

    @property
    def start(self) -> date | None:
        """The first day to ask for: what the free plan covers, or all there is of recorded bars."""
        return datetime.now(UTC).date() - timedelta(days=365 * PLAN_YEARS) if self.polygon_key else None


def _number(environ: Mapping[str, str], name: str, default: int, span: tuple[int, int]) -> int:
    text = environ.get(name, "")
    if not text:
        return default
    if not text.isdigit() or not span[0] <= int(text) <= span[1]:
        raise UsageError(f"{name}: {text!r} is not a number between {span[0]} and {span[1]}")
    return int(text)
