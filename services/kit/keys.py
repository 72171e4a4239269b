"""The format of an API key: `mdw_`, 64 hex digits (256 random bits), 8 hex digits of CRC32 over what stands before."""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib

PREFIX = "mdw_"
PREVIEW_LENGTH = 12

_FORM = re.compile(r"mdw_[0-9a-f]{72}")
_CHECKSUM_LENGTH = 8


def new_secret() -> str:
    """Makes the text of a new key. It is shown once and never stored."""
    body = PREFIX + secrets.token_hex(32)
    return body + _checksum(body)


def is_well_formed(text: str) -> bool:
    """Says whether a text has the form of a key and its checksum fits; it says nothing about whether the key exists."""
    if _FORM.fullmatch(text) is None:
        return False
    return _checksum(text[:-_CHECKSUM_LENGTH]) == text[-_CHECKSUM_LENGTH:]


def digest(secret: str) -> bytes:
    """Returns what is stored instead of the key: SHA-256, enough for 256 random bits."""
    return hashlib.sha256(secret.encode()).digest()


def preview(secret: str) -> str:
    """Returns the first 12 characters, which are safe to show and to store."""
    return secret[:PREVIEW_LENGTH]


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
