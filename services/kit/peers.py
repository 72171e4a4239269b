"""Channels to the other services, as the settings say: TLS that is read again when its files change, or plaintext."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdw_client.channel import aio_channel
from mdw_client.credentials import Tls
from mdw_client.errors import ConfigurationError
from services.kit.settings import SettingsError

if TYPE_CHECKING:
    import grpc

    from services.kit.settings import ClientSettings


def channel_to(target: str, settings: ClientSettings) -> grpc.aio.Channel:
    """Makes a channel without a key; raises SettingsError where one would travel in the clear."""
    tls = None
    if settings.mdw_tls_ca_file is not None:
        tls = Tls(settings.mdw_tls_ca_file, settings.mdw_tls_cert_file, settings.mdw_tls_key_file)
    try:
        return aio_channel(target, tls=tls, allow_plaintext=settings.mdw_allow_plaintext)
    except ConfigurationError as error:
        raise SettingsError(str(error)) from error
