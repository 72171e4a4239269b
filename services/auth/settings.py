"""Settings of the auth service."""

from __future__ import annotations

from dataclasses import dataclass

from services.kit.settings import ServiceSettings, SettingsError

MIN_RETENTION_DAYS = 2


@dataclass(frozen=True, kw_only=True)
class AuthSettings(ServiceSettings):
    """What `python -m services.auth` reads."""

    listen_address: str = "127.0.0.1:15051"
    audit_retention_days: int = 400

    def check(self) -> None:
        super().check()
        if self.audit_retention_days < MIN_RETENTION_DAYS:
            raise SettingsError(f"AUDIT_RETENTION_DAYS: {self.audit_retention_days} is less than {MIN_RETENTION_DAYS}")
