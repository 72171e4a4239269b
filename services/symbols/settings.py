"""Settings of the symbols service."""

from __future__ import annotations

from dataclasses import dataclass

from services.kit.settings import ClientSettings, ServiceSettings


@dataclass(frozen=True, kw_only=True)
class SymbolsSettings(ServiceSettings, ClientSettings):
    """What `python -m services.symbols` reads."""

    listen_address: str = "127.0.0.1:15052"
