"""Page sizes, and page tokens that refuse tampering and other filters."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import TYPE_CHECKING

import msgspec

from services.kit.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.kit.db import Database

Position = str | int | None

_VERSION = 1
_MAC_LENGTH = 16
_encode = msgspec.msgpack.encode


# One a schema, made by its migration, so that all replicas sign alike.
SECRETS = {
    "auth": "SELECT secret FROM auth.token_key",
    "symbols": "SELECT secret FROM symbols.token_key",
    "ingest": "SELECT secret FROM ingest.token_key",
}


class PageTokens:
    """Makes and reads tokens: the last row's key, the method and a hash of the filters, under an HMAC."""

    def __init__(self, secret: bytes = b"") -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "PageTokens(...)"

    async def load(self, db: Database, schema: str) -> None:
        """Reads the schema's secret; before that, no token can be made or read."""
        self._secret = bytes(await db.fetchval(SECRETS[schema]))

    def make(self, method: str, filters: bytes, last: Sequence[Position]) -> str:
        """Returns the token that goes on after the row whose key is `last`."""
        body = _encode((_VERSION, _filter_hash(method, filters), list(last)))
        return base64.urlsafe_b64encode(self._mac(body) + body).rstrip(b"=").decode()

    def read(self, token: str, method: str, filters: bytes, field: str = "page_token") -> list[Position] | None:
        """Returns the key that the token holds, None for an empty token; raises InvalidArgument PAGE_TOKEN_INVALID.

        `field` is what the request calls the token.
        """
        if not token:
            return None
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise _invalid(field) from None
        mac, body = raw[:_MAC_LENGTH], raw[_MAC_LENGTH:]
        # The text, too: base64 has spare bits that decode to the same bytes.
        canonical = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        if canonical != token or not hmac.compare_digest(mac, self._mac(body)):
            raise _invalid(field)
        version, found, last = msgspec.msgpack.decode(body, type=tuple[int, bytes, list[Position]])
        if version != _VERSION or found != _filter_hash(method, filters):
            raise _invalid(field)
        return last

    def _mac(self, body: bytes) -> bytes:
        if not self._secret:
            raise RuntimeError("page tokens before their secret was loaded")
        return hmac.digest(self._secret, body, "sha256")[:_MAC_LENGTH]


def page_size(value: int, *, default: int = 50, maximum: int = 1000) -> int:
    """Returns the size to use: 0 means the default, too many is lowered, negative is InvalidArgument."""
    if value < 0:
        raise InvalidArgument("page_size", f"is {value}, must not be negative")
    return min(value, maximum) or default


def _filter_hash(method: str, filters: bytes) -> bytes:
    return hashlib.sha256(method.encode() + b"\0" + filters).digest()[:16]


def _invalid(field: str) -> InvalidArgument:
    return InvalidArgument(field, "is not one of ours for these filters", reason="PAGE_TOKEN_INVALID")
