"""Keeps a secret in a file that only its owner can read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from migrator.errors import BadFiles

if TYPE_CHECKING:
    from pathlib import Path


def write_new(path: Path, secret: str) -> None:
    """Writes a file that must not exist yet, durably, readable by its owner alone from its first moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise BadFiles.of(str(path), "the file exists already", "name another, or remove it") from None
    except OSError as error:
        raise BadFiles.of(str(path), f"cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
