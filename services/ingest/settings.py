"""Settings of the ingest service's server."""

from __future__ import annotations

import os
from dataclasses import dataclass

from services.kit.settings import ClientSettings, ServiceSettings, SettingsError, check_database_url, secret

MIN_RETENTION_DAYS = 1
MAX_WORKERS = 256


@dataclass(frozen=True, kw_only=True)
class IngestSettings(ClientSettings, ServiceSettings):
    """What `python -m services.ingest` reads."""

    listen_address: str = "127.0.0.1:15053"
    read_database_urls: tuple[str, ...] = secret(default=())
    stream_pool_size: int = 8
    polygon_requests_per_minute: int = 5
    """0: no limit. Here for estimates; the workers keep to it."""
    ingest_workers: int = 0
    """Workers beside this process, for estimates; 0: one a core."""
    slice_retention_days: int = 30
    reject_retention_days: int = 400

    @property
    def workers(self) -> int:
        return self.ingest_workers or os.cpu_count() or 1

    def check(self) -> None:
        super().check()
        for url in self.read_database_urls:
            check_database_url("READ_DATABASE_URLS", url)
        for name in ("slice_retention_days", "reject_retention_days"):
            if getattr(self, name) < MIN_RETENTION_DAYS:
                raise SettingsError(f"{name.upper()}: {getattr(self, name)} is less than {MIN_RETENTION_DAYS}")
        if self.polygon_requests_per_minute < 0:
            raise SettingsError(
                f"POLYGON_REQUESTS_PER_MINUTE: {self.polygon_requests_per_minute} is negative; 0 means no limit"
            )
        if not 0 <= self.ingest_workers <= MAX_WORKERS:
            raise SettingsError(f"INGEST_WORKERS: {self.ingest_workers} is not between 0 and {MAX_WORKERS}")
        if not 1 <= self.stream_pool_size <= 100:  # noqa: PLR2004 - as POOL_SIZE
            raise SettingsError(f"STREAM_POOL_SIZE: {self.stream_pool_size} is not between 1 and 100")
