"""Settings of a worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.ingest.polygon import PAGE_BARS
from services.kit.settings import ClientSettings, SettingsError, check_address, check_database_url, secret


@dataclass(frozen=True, kw_only=True)
class WorkerSettings(ClientSettings):
    """What `python -m services.ingest.worker` reads."""

    database_url: str = secret()
    database_pooler: bool = False
    schema_wait_seconds: float = 60.0
    polygon_api_key: str = secret()
    polygon_base_url: str = "https://api.polygon.io"
    polygon_requests_per_minute: int = 5
    """0: no limit."""
    polygon_page_bars: int = PAGE_BARS
    """Bars a request, at most Polygon's 50,000; a page is a part, so fewer make smaller transactions."""
    lease_seconds: float = 60.0
    """A slice whose worker is silent for so long goes to another; longer than an answer and its part take."""
    request_seconds: float = 30.0
    symbols_target: str = "127.0.0.1:15052"
    """Where symbols are registered, with the service key; without one SyncSymbols is refused, and all else works."""
    metrics_address: str = ""
    import_folder: str = ""
    """Where ImportFiles finds its files; nothing outside is read."""
    log_level: str = "INFO"
    log_format: str = ""
    otel_exporter_otlp_endpoint: str = ""

    def _check_service_key(self) -> None:
        """Is content without one."""

    def check(self) -> None:
        super().check()
        check_database_url("DATABASE_URL", self.database_url)
        if not self.polygon_base_url.startswith(("http://", "https://")):
            raise SettingsError("POLYGON_BASE_URL: is no http:// or https:// URL")
        if self.polygon_requests_per_minute < 0:
            raise SettingsError("POLYGON_REQUESTS_PER_MINUTE: is negative; 0 means no limit")
        if not 1 <= self.polygon_page_bars <= PAGE_BARS:
            raise SettingsError(f"POLYGON_PAGE_BARS: {self.polygon_page_bars} is not between 1 and {PAGE_BARS}")
        if not 0 < self.request_seconds < self.lease_seconds:
            raise SettingsError("REQUEST_SECONDS: must be above 0 and below LEASE_SECONDS")
        if self.metrics_address:
            check_address("METRICS_ADDRESS", self.metrics_address)
        if self.import_folder and not Path(self.import_folder).is_dir():
            raise SettingsError(f"IMPORT_FOLDER: {self.import_folder} is no folder")
        if self.log_level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise SettingsError(f"LOG_LEVEL: {self.log_level!r} is none of DEBUG, INFO, WARNING, ERROR")
        if self.log_format not in ("", "json", "console"):
            raise SettingsError(f"LOG_FORMAT: {self.log_format!r} is neither json nor console")
