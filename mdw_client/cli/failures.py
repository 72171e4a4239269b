"""Errors in one line with what to do, and the exit status of each."""

from __future__ import annotations

import json

import click
import grpc

from mdw_client.errors import CallError, MdwError

REFUSED = 1
USAGE = 2
KEY = 3
NOT_FOUND = 4
TRY_AGAIN = 75

_CODES = {
    grpc.StatusCode.UNAUTHENTICATED: KEY,
    grpc.StatusCode.PERMISSION_DENIED: KEY,
    grpc.StatusCode.NOT_FOUND: NOT_FOUND,
    grpc.StatusCode.UNAVAILABLE: TRY_AGAIN,
    grpc.StatusCode.DEADLINE_EXCEEDED: TRY_AGAIN,
    grpc.StatusCode.RESOURCE_EXHAUSTED: TRY_AGAIN,
    grpc.StatusCode.ABORTED: TRY_AGAIN,
}
_HINTS = {
    "KEY_INVALID": "set MDW_KEY or MDW_KEY_FILE to a key that is valid",
    "SCOPE_MISSING": "ask for a key with one of these scopes: {scopes}",
    "SYMBOL_NOT_FOUND": "mdw symbols list --search TEXT looks for it, mdw symbols import registers new ones",
    "SYMBOL_AMBIGUOUS": "add --class stock, etf or crypto",
    "SYMBOL_INACTIVE": "mdw symbols activate {ticker}",
    "BACKFILL_NOT_FOUND": "mdw backfill list names them",
    "KEY_NOT_FOUND": "mdw keys list names them",
    "NOTHING_TO_DO": "mdw backfill plan says what is held already; --refetch fetches it again",
}


def exit_code(error: CallError) -> int:
    """Returns the status: 3 the key, 4 not found, 75 try again, else 1."""
    return _CODES.get(error.code, REFUSED)


def explain(error: MdwError, *, as_json: bool) -> None:
    """Prints an error to stderr: one line, or one JSON object."""
    if as_json and isinstance(error, CallError):
        click.echo(json.dumps({"error": _as_object(error)}), err=True)
        return
    line = " ".join(str(error).split())
    hint = hint_for(error)
    tell(f"{line}; {hint}" if hint else line, as_json=as_json)


def tell(message: str, *, as_json: bool) -> None:
    """Prints to stderr what no service has said: one line, or one JSON object with the message alone."""
    click.echo(json.dumps({"error": {"message": message}}) if as_json else f"mdw: {message}", err=True)


def hint_for(error: MdwError) -> str:
    """Returns what to do about an error; empty where that is not known."""
    if not isinstance(error, CallError) or error.reason not in _HINTS:
        return ""
    try:
        return _HINTS[error.reason].format_map(error.metadata)
    except KeyError:
        return ""


def _as_object(error: CallError) -> dict[str, object]:
    return {
        "code": error.code.name,
        "reason": error.reason,
        "message": error.message,
        "metadata": error.metadata,
        "violations": [{"field": each.field, "description": each.description} for each in error.violations],
    }
