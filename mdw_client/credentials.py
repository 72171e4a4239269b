"""What a channel proves itself with: the API key in every call's metadata, and the files of TLS."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

KEY_HEADER = "x-api-key"
Key = str | Path | Callable[[], str]
"""A key's text, a file that holds it, or a function that returns it for each call."""

_LOOK_AGAIN_SECONDS = 1.0


class KeyFile:
    """Returns the key in a file, read again within a second of its change, so that a key can be rotated under way."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._stat()
        self._key = path.read_text().strip()
        self._next_look = time.monotonic() + _LOOK_AGAIN_SECONDS

    def __call__(self) -> str:
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _LOOK_AGAIN_SECONDS
            self._look()
        return self._key

    def _look(self) -> None:
        try:
            stamp = self._stat()
            if stamp != self._stamp:
                self._key = self._path.read_text().strip() or self._key
                self._stamp = stamp
        except OSError:
            return  # Between two versions of the file the last key read goes on being used.

    def _stat(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino


def key_source(key: Key | None) -> Callable[[], str] | None:
    """Returns what gives the key for each call, or None without a key. An unreadable key file raises OSError."""
    if key is None or key == "":
        return None
    if isinstance(key, Path):
        return KeyFile(key)
    if isinstance(key, str):
        text = key
        return lambda: text
    return key


@dataclass(frozen=True)
class Tls:
    """The files of a TLS connection, PEM; read again within a second of their change."""

    ca_file: Path | None = None
    """Roots to trust; None trusts the public ones that come with gRPC."""
    cert_file: Path | None = None
    """The client's own certificate, where the server asks for one."""
    key_file: Path | None = None
    server_name: str = ""
    """The name the server's certificate must have, where it is not the target's."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that are named."""
        return tuple(path for path in (self.ca_file, self.cert_file, self.key_file) if path)

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files; raises OSError where one cannot be read."""
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("a client certificate needs its key, and the other way round")
        ca, key, cert = (path.read_bytes() if path else None for path in (self.ca_file, self.key_file, self.cert_file))
        return grpc.ssl_channel_credentials(ca, key, cert)
