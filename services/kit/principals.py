"""Who a key stands for, as far as answering a call needs it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.kit.errors import Unauthenticated

if TYPE_CHECKING:
    from uuid import UUID

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A key that counted when it was looked up. Whether it still does is for `auth.record_calls` to say."""

    key_id: UUID
    preview: str
    scopes: frozenset[str]
    allowed_peers: tuple[Network, ...] = ()
    """Empty: from anywhere."""
    max_calls_per_second: int | None = None
    """None: the process's default."""
    max_streams: int | None = None

    def require_peer(self, peer: str) -> None:
        """Raises Unauthenticated if the key may not be used from an address."""
        if self.allowed_peers and not self.admits(peer):
            raise Unauthenticated("PEER_NOT_ALLOWED")

    def admits(self, peer: str) -> bool:
        """Says whether the key may be used from an address."""
        if not self.allowed_peers:
            return True
        if not peer:
            return False
        parsed = ipaddress.ip_address(peer)
        return any(parsed in network for network in self.allowed_peers)
