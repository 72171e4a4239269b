"""Says whether a key's text is valid now: for other services over ValidateKey, for this one without a call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.auth.convert import to_principal
from services.kit import keys
from services.kit.authn import KeyCache

if TYPE_CHECKING:
    from services.auth.store.keys import KeyRow, KeyStore
    from services.kit.principals import Principal


class Validation:
    """Looks keys up by their digest. Unknown, revoked, expired and deleted ones are all None."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store

    async def find(self, secret: str) -> KeyRow | None:
        """Asks the database, so that a key works as soon as it is created."""
        if not keys.is_well_formed(secret):
            return None
        return await self._store.valid(keys.digest(secret))

    def authenticator(self) -> KeyCache:
        """Returns the cache that this service's own calls go through."""
        return KeyCache(self._principal)

    async def _principal(self, secret: str) -> Principal | None:
        row = await self.find(secret)
        return None if row is None else to_principal(row)
