"""Server credentials that are read again when their files change."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import grpc

from services.kit.log import get

if TYPE_CHECKING:
    from pathlib import Path

    from services.kit.settings import ServiceSettings

log = get(__name__)

_Files = tuple[bytes, bytes, bytes | None]


class Certificates:
    """The certificate, its key and the clients' CA of one server."""

    def __init__(self, settings: ServiceSettings) -> None:
        if settings.tls_cert_file is None or settings.tls_key_file is None:
            raise ValueError("no certificate")
        self._cert: Path = settings.tls_cert_file
        self._key: Path = settings.tls_key_file
        self._ca: Path | None = settings.tls_client_ca_file
        self._read: _Files = self._files()
        self._refused: _Files | None = None
        self._check()

    def credentials(self) -> grpc.ServerCredentials:
        """Returns credentials that every new connection checks for newer files."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            self._renewed,  # type: ignore[arg-type]  # None: no change
            require_client_authentication=self._ca is not None,
        )

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns the new files, None if they are the old ones or do not belong together yet."""
        files = None
        try:
            files = self._files()
            if files in (self._read, self._refused):
                return None
            self._check()
            if files != self._files():
                return None
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            self._refused = files
            log.error("certificate_unreadable", error=str(error))  # noqa: TRY400 - the old one goes on
            return None
        self._read = files
        log.info("certificate_renewed")
        return self._configuration()

    def _check(self) -> None:
        """Raises OSError or ValueError where certificate, key and CA cannot be used together."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._cert, self._key)
        if self._ca is not None:
            context.load_verify_locations(self._ca)

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        cert, key, ca = self._read
        return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=ca)

    def _files(self) -> _Files:
        return self._cert.read_bytes(), self._key.read_bytes(), self._ca.read_bytes() if self._ca else None
