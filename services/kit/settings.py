"""Settings: one frozen dataclass a process, read from the environment once, at the start."""

from __future__ import annotations

import os
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_PORT = 65_535
DATABASE_SCHEMES = ("postgres://", "postgresql://")
TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"0", "false", "no", "off"})


class SettingsError(Exception):
    """A setting is missing or has a value that cannot be used; the message begins with the variable's name."""


def secret(**options: Any) -> Any:
    """Declares a field that no repr shows."""
    return field(repr=False, **options)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Reads each field from the variable of the same name in upper case."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Reads and checks all fields; raises SettingsError. An empty variable counts as unset."""
        source = os.environ if environ is None else environ
        hints = get_type_hints(cls)
        values = {}
        for item in fields(cls):
            name = item.name.upper()
            text = source.get(name, "").strip()
            if text:
                values[item.name] = _parse(name, text, hints[item.name])
            elif item.default is MISSING and item.default_factory is MISSING:
                raise SettingsError(f"{name}: is not set")
        made = cls(**values)
        made.check()
        return made

    def check(self) -> None:
        """Raises SettingsError where fields do not fit together; subclasses add their own and call super."""


@dataclass(frozen=True, kw_only=True)
class ServiceSettings(Settings):
    """What every service reads."""

    database_url: str = secret()
    database_pooler: bool = False
    listen_address: str
    pool_size: int = 8
    schema_wait_seconds: float = 60.0
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_client_ca_file: Path | None = None
    allow_plaintext: bool = False
    health_address: str = ""
    metrics_address: str = ""
    reflection: bool = True
    key_max_calls_per_second: int = 500
    key_max_streams: int = 50
    peer_failures_per_second: int = 10
    """Refused calls that one address may make; five times as many at once."""

    max_open_calls: int = 4_096
    """More at once are refused before anything is done for them."""

    drain_seconds: float = 1.0
    """How long a stopping server still answers, so that clients see NOT_SERVING first."""
    log_level: str = "INFO"
    log_format: str = ""
    """`json` or `console`; empty: console on a terminal, else json."""
    otel_exporter_otlp_endpoint: str = ""
    """Where spans go, OTLP over HTTP: http://collector:4318."""

    def check(self) -> None:
        super().check()
        check_database_url("DATABASE_URL", self.database_url)
        check_address("LISTEN_ADDRESS", self.listen_address)
        for name in ("health_address", "metrics_address"):
            if getattr(self, name):
                check_address(name.upper(), getattr(self, name))
        _check_range("POOL_SIZE", self.pool_size, 2, 100)
        _check_range("SCHEMA_WAIT_SECONDS", self.schema_wait_seconds, 0, 86_400)
        _check_range("DRAIN_SECONDS", self.drain_seconds, 0, 600)
        _check_range("KEY_MAX_CALLS_PER_SECOND", self.key_max_calls_per_second, 1, 1_000_000)
        _check_range("PEER_FAILURES_PER_SECOND", self.peer_failures_per_second, 1, 1_000_000)
        _check_range("MAX_OPEN_CALLS", self.max_open_calls, 1, 100_000)
        _check_range("KEY_MAX_STREAMS", self.key_max_streams, 1, 10_000)
        # No ERROR: changes of keys and the heads of the audit log are logged as warnings, and must be.
        if self.log_level.upper() not in ("DEBUG", "INFO", "WARNING"):
            raise SettingsError(f"LOG_LEVEL: {self.log_level!r} is none of DEBUG, INFO, WARNING")
        if self.log_format not in ("", "json", "console"):
            raise SettingsError(f"LOG_FORMAT: {self.log_format!r} is neither json nor console")
        self._check_tls()

    def _check_tls(self) -> None:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise SettingsError("TLS_CERT_FILE: needs TLS_KEY_FILE, and the other way round")
        if self.tls_client_ca_file and self.tls_cert_file is None:
            raise SettingsError("TLS_CLIENT_CA_FILE: needs TLS_CERT_FILE and TLS_KEY_FILE")
        check_files(self, "tls_cert_file", "tls_key_file", "tls_client_ca_file")
        if self.tls_cert_file is None and not self.allow_plaintext and not is_loopback(self.listen_address):
            raise SettingsError(
                f"LISTEN_ADDRESS: {self.listen_address} is not loopback: set TLS_CERT_FILE and TLS_KEY_FILE, "
                "or ALLOW_PLAINTEXT=1 if something in front of it does TLS"
            )


@dataclass(frozen=True, kw_only=True)
class ClientSettings(Settings):
    """What a service that asks others about keys reads, beside ServiceSettings."""

    auth_target: str = "127.0.0.1:15051"
    service_key: str = secret(default="")
    service_key_file: Path | None = None
    mdw_tls_ca_file: Path | None = None
    """Roots that the other services' certificates are trusted by; unset: plaintext. As `mdw_client` reads it."""
    mdw_tls_cert_file: Path | None = None
    """What this service shows the others, where they ask for it."""
    mdw_tls_key_file: Path | None = None
    mdw_allow_plaintext: bool = False

    def check(self) -> None:
        super().check()
        check_files(self, "mdw_tls_ca_file", "mdw_tls_cert_file", "mdw_tls_key_file")
        if (self.mdw_tls_cert_file is None) != (self.mdw_tls_key_file is None):
            raise SettingsError("MDW_TLS_CERT_FILE: needs MDW_TLS_KEY_FILE, and the other way round")
        if self.mdw_tls_cert_file and self.mdw_tls_ca_file is None:
            raise SettingsError("MDW_TLS_CERT_FILE: needs MDW_TLS_CA_FILE")
        self._check_service_key()

    def _check_service_key(self) -> None:
        if not self.has_service_key:
            raise SettingsError("SERVICE_KEY: is not set, nor is SERVICE_KEY_FILE")

    @property
    def has_service_key(self) -> bool:
        return bool(self.service_key) or self.service_key_file is not None

    def read_service_key(self) -> str:
        """Returns the key, read from its file each time, since the file may be renewed; raises SettingsError."""
        if self.service_key_file is None:
            return self.service_key
        try:
            return self.service_key_file.read_text().strip()
        except OSError as error:
            raise SettingsError(f"SERVICE_KEY_FILE: {self.service_key_file}: {error.strerror}") from error


def is_loopback(address: str) -> bool:
    """Says whether an address to listen on can be reached from this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.") or address.startswith("unix:")


def check_address(name: str, address: str) -> None:
    """Raises SettingsError unless an address is host:port or unix:path."""
    if address.startswith("unix:"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > MAX_PORT:
        raise SettingsError(f"{name}: {address!r} is not host:port")


def check_database_url(name: str, url: str) -> None:
    """Raises SettingsError unless a URL is one of PostgreSQL's; its text, which holds a password, is not repeated."""
    if not url.startswith(DATABASE_SCHEMES):
        raise SettingsError(f"{name}: does not begin with postgresql://")
    hosts = url.partition("://")[2].partition("/")[0].partition("?")[0].rpartition("@")[2]
    for host in hosts.split(","):
        port = host.rpartition("]")[2].partition(":")[2]  # an IPv6 address stands in brackets
        if port and not (port.isdigit() and 0 < int(port) <= MAX_PORT):
            raise SettingsError(f"{name}: has no port between 1 and {MAX_PORT}; a password's @ : / are %40 %3A %2F")


def check_files(settings: Settings, *names: str) -> None:
    """Raises SettingsError if one of these fields names a file that is not there."""
    for name in names:
        path = getattr(settings, name)
        if path is not None and not path.is_file():
            raise SettingsError(f"{name.upper()}: {path} is not a file")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise SettingsError(f"{name}: {value} is not between {low} and {high}")


def _parse(name: str, text: str, kind: Any) -> Any:
    """Turns a variable's text into the field's type; secrets are never quoted in the message."""
    kinds = getattr(kind, "__args__", (kind,))
    if bool in kinds:
        if text.lower() not in TRUE | FALSE:
            raise SettingsError(f"{name}: {text!r} is neither 1 nor 0")
        return text.lower() in TRUE
    for number in (int, float):
        if number in kinds:
            try:
                return number(text)
            except ValueError:
                raise SettingsError(f"{name}: {text!r} is not a number") from None
    if Path in kinds:
        return Path(text)
    if tuple in (getattr(kind, "__origin__", None), kind):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text
