"""Polygon's page cursors: base64url, without padding, of a sorted query string."""

from __future__ import annotations

from base64 import b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

if TYPE_CHECKING:
    from collections.abc import Mapping


def make_cursor(asked: Mapping[str, str]) -> str:
    """Returns the cursor that holds what was asked."""
    return urlsafe_b64encode(urlencode(sorted(asked.items())).encode()).decode().rstrip("=")


def read_cursor(text: str) -> dict[str, str]:
    """Returns what a cursor holds; raises ValueError."""
    return dict(parse_qsl(b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()))


def asked_in(params: Mapping[str, str]) -> dict[str, str]:
    """Returns a request's parameters, the cursor's among them; raises ValueError."""
    own = {name: value for name, value in params.items() if name not in ("cursor", "apiKey")}
    return {**read_cursor(params.get("cursor", "")), **own}
