from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from services.kit.settings import ClientSettings, ServiceSettings, SettingsError, is_loopback

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Example(ServiceSettings, ClientSettings):
    """All that a service may read."""

    listen_address: str = "127.0.0.1:1"
    names: tuple[str, ...] = ()
    ratio: float = 0.5


GOOD = {"DATABASE_URL": "postgres://u:secret@h/d", "SERVICE_KEY": "mdw_secret"}


def test_fields_are_read_from_variables_of_their_name():
    settings = Example.from_environment({
        **GOOD, "POOL_SIZE": "9", "REFLECTION": "off", "NAMES": "a, b", "RATIO": "0.25", "DATABASE_POOLER": "1",
    })  # fmt: skip
    assert (settings.pool_size, settings.reflection, settings.names, settings.ratio, settings.database_pooler) == (
        9, False, ("a", "b"), 0.25, True,
    )  # fmt: skip


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@h:5432/d?sslmode=require",
        "postgresql://u:p@a:1,b:2,c/d",
        "postgres://u:p@[::1]:5432/d",
        "postgresql:///d?host=/run/postgresql",
    ],
)
def test_every_spelling_of_a_database_url_that_postgres_knows_is_taken(url):
    assert Example.from_environment({**GOOD, "DATABASE_URL": url}).database_url == url


def test_a_bad_database_url_is_not_repeated():
    with pytest.raises(SettingsError) as caught:
        Example.from_environment({**GOOD, "DATABASE_URL": "postgres://u:se@cret:1x@h:p/d"})
    assert "cret" not in str(caught.value)


def test_secrets_are_not_in_the_repr():
    assert "secret" not in repr(Example.from_environment(GOOD))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("POOL_SIZE", "many"),
        ("POOL_SIZE", "1"),
        ("REFLECTION", "maybe"),
        ("LISTEN_ADDRESS", "nowhere"),
        ("LISTEN_ADDRESS", "127.0.0.1:99999"),
        ("LISTEN_ADDRESS", "0.0.0.0:15052"),
        ("METRICS_ADDRESS", "9000"),
        ("SCHEMA_WAIT_SECONDS", "-1"),
        ("LOG_LEVEL", "ERROR"),
        ("LOG_FORMAT", "xml"),
        ("TLS_CERT_FILE", "/nowhere/cert.pem"),
        ("TLS_CLIENT_CA_FILE", "/nowhere/ca.pem"),
        ("KEY_MAX_STREAMS", "0"),
        ("DATABASE_URL", ""),
        ("DATABASE_URL", "mysql://u:p@h/d"),
        ("DATABASE_URL", "postgres://u:p@h:99999/d"),
        ("DATABASE_URL", "postgres://u:p@h:1,g:x/d"),
        ("DATABASE_URL", "postgres://u:p@[::1]:0/d"),
        ("SERVICE_KEY", ""),
    ],
)
def test_a_bad_or_missing_value_is_named(variable, value):
    with pytest.raises(SettingsError, match=rf"^{variable}:"):
        Example.from_environment({**GOOD, variable: value})


def test_plaintext_off_loopback_must_be_allowed():
    assert Example.from_environment({**GOOD, "LISTEN_ADDRESS": "0.0.0.0:1", "ALLOW_PLAINTEXT": "1"}).allow_plaintext


def test_a_certificate_needs_its_key(tmp_path: Path):
    cert = tmp_path / "cert.pem"
    cert.write_text("x")
    with pytest.raises(SettingsError, match=r"^TLS_CERT_FILE: needs TLS_KEY_FILE"):
        Example.from_environment({**GOOD, "TLS_CERT_FILE": str(cert)})
    with pytest.raises(SettingsError, match=r"^TLS_KEY_FILE: .* is not a file"):
        Example.from_environment({**GOOD, "TLS_CERT_FILE": str(cert), "TLS_KEY_FILE": str(tmp_path / "none")})


def test_a_service_key_file_is_read_each_time(tmp_path: Path):
    file = tmp_path / "key"
    file.write_text("mdw_one\n")
    settings = Example.from_environment({**GOOD, "SERVICE_KEY": "", "SERVICE_KEY_FILE": str(file)})
    assert settings.read_service_key() == "mdw_one"
    file.write_text("mdw_two\n")
    assert settings.read_service_key() == "mdw_two"
    file.unlink()
    with pytest.raises(SettingsError, match=r"^SERVICE_KEY_FILE:"):
        settings.read_service_key()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.9.9.9:1", "localhost:1", "[::1]:1", "unix:/tmp/x"])
def test_loopback_is_known(address):
    assert is_loopback(address)
