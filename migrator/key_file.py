"""Keeps a secret in a file that only its owner can read."""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING

from migrator.errors import BadFiles

if TYPE_CHECKING:
    from pathlib import Path


def exists(path: Path) -> bool:
    """Whether there is a file."""
    return path.exists()


def read(path: Path) -> str:
    """Returns the secret in a file."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadFiles.of(str(path), f"cannot be read: {error}") from None


def write_new(path: Path, secret: str) -> None:
    """Writes a file that must not exist yet: whole and durable or not at all, for its owner's eyes from the start."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(draft, secret)
        _name(draft, path)
    except OSError as error:
        raise BadFiles.of(str(path), f"cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def _name(draft: Path, path: Path) -> None:
    """Gives a whole file its name, unless another has it."""
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        raise BadFiles.of(str(path), "the file exists already", "name another, or remove it") from None


def _write(path: Path, secret: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
