"""Where the services are and what a client shows them, from arguments and the environment."""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mdw_client.channel import DEFAULT_TIMEOUT, is_loopback
from mdw_client.credentials import Key, Tls
from mdw_client.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

PORTS = {"auth": 15051, "symbols": 15052, "ingest": 15053}
RUN_FOLDER = ".mdw"
"""Where `make run` leaves admin.key, unless MDW_STATE names another folder."""

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off"})
_KEY = re.compile(r"mdw_[0-9a-f]{72}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that a client is made of; it pickles as this."""

    targets: Mapping[str, str]
    """The addresses of auth, symbols and ingest."""
    key: str | None = field(default=None, repr=False)
    key_file: Path | None = None
    tls: Tls | None = None
    allow_plaintext: bool = False
    timeout: float = DEFAULT_TIMEOUT

    def key_source(self) -> Key | None:
        """Returns what a channel takes as its key: the file, so that a renewed key is read again, or the text."""
        return self.key_file or self.key


def load(
    target: str | None = None,
    *,
    targets: Mapping[str, str] | None = None,
    key: str | None = None,
    key_file: str | Path | None = None,
    tls: Tls | bool | None = None,
    allow_plaintext: bool | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Fills what is not given from the environment; raises ConfigurationError, which names the variable."""
    source = os.environ if environ is None else environ
    addresses = _targets(target, targets or {}, source)
    text, path = _key(key, Path(key_file).expanduser() if key_file else None, addresses, source)
    return Settings(
        targets=addresses,
        key=text,
        key_file=path,
        tls=_tls(source) if tls is None else (tls or None) if isinstance(tls, Tls) or not tls else Tls(),
        allow_plaintext=_switch(source, "MDW_ALLOW_PLAINTEXT") if allow_plaintext is None else allow_plaintext,
        timeout=timeout,
    )


def address(target: str, service: str) -> str:
    """Returns a service's address: `{service}` stands for its name, and a target without a port means its own port."""
    text = target.replace("{service}", service)
    if text.startswith("unix") or re.search(r":\d+$", text):
        return text
    return f"{text}:{PORTS[service]}"


def check_key(text: str, origin: str) -> str:
    """Returns the key without white space around it; raises ConfigurationError where it was cut or mistyped."""
    stripped = text.strip()
    if not _KEY.fullmatch(stripped) or f"{zlib.crc32(stripped[:-8].encode()):08x}" != stripped[-8:]:
        raise ConfigurationError(
            f"{origin}: not a whole key: it is mdw_ and 72 hexadecimal digits, shown once when made"
        )
    return stripped


def _targets(target: str | None, targets: Mapping[str, str], source: Mapping[str, str]) -> dict[str, str]:
    unknown = set(targets) - set(PORTS)
    if unknown:
        raise ConfigurationError(f"targets: {', '.join(sorted(unknown))}: the services are {', '.join(PORTS)}")
    found = {}
    for service in PORTS:
        own = targets.get(service) or (None if target else source.get(f"MDW_{service.upper()}_TARGET"))
        found[service] = address(own or target or source.get("MDW_TARGET") or "127.0.0.1", service)
    return found


def _key(
    key: str | None, path: Path | None, addresses: Mapping[str, str], source: Mapping[str, str]
) -> tuple[str | None, Path | None]:
    """An argument wins over the environment, and there the text over the file."""
    if key and path:
        raise ConfigurationError("key: give the key or its file, not both")
    if key:
        return check_key(key, "key"), None
    if path is None and source.get("MDW_KEY"):
        return check_key(source["MDW_KEY"], "MDW_KEY"), None
    origin = "key_file"
    if path is None and source.get("MDW_KEY_FILE"):
        path, origin = Path(source["MDW_KEY_FILE"]).expanduser(), "MDW_KEY_FILE"
    left = Path(source.get("MDW_STATE") or RUN_FOLDER) / "admin.key"
    if path is None and left.is_file() and all(is_loopback(each) for each in addresses.values()):
        path, origin = left.absolute(), "the key of make run"
    if path is None:
        return None, None
    try:
        check_key(path.read_text(), f"{origin}: {path}")
    except OSError as error:
        raise ConfigurationError(f"{origin}: {path}: {error.strerror}") from error
    return None, path


def _tls(source: Mapping[str, str]) -> Tls | None:
    names = {"ca_file": "MDW_TLS_CA_FILE", "cert_file": "MDW_TLS_CERT_FILE", "key_file": "MDW_TLS_KEY_FILE"}
    files = {name: Path(source[variable]).expanduser() for name, variable in names.items() if source.get(variable)}
    for name, path in files.items():
        if not path.is_file():
            raise ConfigurationError(f"{names[name]}: {path} is not a file")
    if ("cert_file" in files) != ("key_file" in files):
        raise ConfigurationError("MDW_TLS_CERT_FILE: needs MDW_TLS_KEY_FILE, and the other way round")
    if not files and not _switch(source, "MDW_TLS"):
        return None
    return Tls(**files, server_name=source.get("MDW_TLS_SERVER_NAME", ""))


def _switch(source: Mapping[str, str], name: str) -> bool:
    text = source.get(name, "").strip().lower()
    if text not in _TRUE | _FALSE:
        raise ConfigurationError(f"{name}: {text!r} is neither 1 nor 0")
    return text in _TRUE
