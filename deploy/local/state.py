"""The folder in which make run keeps everything; run as a program, it removes it (make clean-run)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEFAULT_FOLDER = ".mdw"
MARK = "lock"


class StateError(Exception):
    """The state folder cannot be used; the text is one line that says what to do."""


@dataclass(frozen=True)
class State:
    """Where things are in the folder."""

    folder: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> State:
        """Returns the folder that MDW_STATE names, else .mdw in the working folder."""
        return cls(Path(environ.get("MDW_STATE") or DEFAULT_FOLDER).absolute())

    @property
    def admin_key(self) -> Path:
        """The file with the administrator's key."""
        return self.folder / "admin.key"

    @property
    def postgres(self) -> Path:
        """The embedded server's folder."""
        return self.folder / "postgres"

    def service_key(self, service: str) -> Path:
        """The file with a service's key."""
        return self.folder / f"{service}.key"

    def log(self, process: str) -> Path:
        """A process' log file."""
        return self.folder / "logs" / f"{process}.log"

    def prepare(self) -> None:
        """Makes the folder, for its owner's eyes alone; raises StateError."""
        try:
            if self._holds_other_things():
                raise StateError(f"{self.folder} holds other things: name an empty or a new folder with MDW_STATE")
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)  # what made it first, a benchmark for example, may have left it open
            (self.folder / "logs").mkdir(mode=0o700, exist_ok=True)
            (self.folder / MARK).touch(mode=0o600)
        except OSError as error:
            raise StateError(
                f"{self.folder} cannot be written ({error.strerror}): remove it, or name another folder with MDW_STATE"
            ) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder; raises StateError if another make run does."""
        with (self.folder / MARK).open("r+") as file:
            if not _try_lock(file.fileno()):
                raise StateError(
                    f"make run is running already, as process {self.running().get('pid', '?')}, in {self.folder}: "
                    "use it (make status), stop it with Ctrl-C there, or name another folder with MDW_STATE"
                )
            yield

    @property
    def in_use(self) -> bool:
        """Whether a make run holds the folder."""
        try:
            with (self.folder / MARK).open("r+") as file:
                return not _try_lock(file.fileno())
        except OSError:
            return False

    def passwords(self, logins: tuple[str, ...]) -> dict[str, str]:
        """Returns the logins' passwords, made at the first call."""
        path = self.folder / "passwords.json"
        known: dict[str, str] = self._read_json(path)
        if set(logins) - set(known):
            known |= {login: secrets.token_urlsafe(24) for login in logins if login not in known}
            self._write_json(path, known)
        return {login: known[login] for login in logins}

    def running(self) -> dict[str, Any]:
        """Returns what the running make run has noted of itself; empty if none did."""
        return self._read_json(self.folder / "running.json")

    def note_running(self, facts: dict[str, Any] | None) -> None:
        """Notes what is running, or that nothing is."""
        if facts is None:
            (self.folder / "running.json").unlink(missing_ok=True)
        else:
            self._write_json(self.folder / "running.json", facts)

    def _holds_other_things(self) -> bool:
        """Whether this is a folder of somebody else's, which make clean-run would remove with all that is in it."""
        if self.folder.name == DEFAULT_FOLDER or not self.folder.is_dir() or (self.folder / MARK).exists():
            return False
        return any(self.folder.iterdir())

    def remove(self) -> None:
        """Removes the folder and all that is in it; raises StateError."""
        if not (self.folder / MARK).exists() and self.folder.name != DEFAULT_FOLDER:
            raise StateError(f"{self.folder} was not made by make run: it stays")
        if self.in_use:
            raise StateError(f"make run is running in {self.folder}: stop it first (Ctrl-C there)")
        try:
            shutil.rmtree(self.folder)
        except OSError as error:
            raise StateError(f"{error.filename} cannot be removed ({error.strerror}): whose is it?") from error

    def _read_json(self, path: Path) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise StateError(f"{path} cannot be read ({error}): make clean-run removes the folder") from error
        return found

    def _write_json(self, path: Path, content: dict[str, Any]) -> None:
        draft = path.with_suffix(".new")
        descriptor = os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file, indent=1)
        draft.replace(path)


def _try_lock(descriptor: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def main() -> int:
    """Removes the state folder."""
    state = State.from_environment(os.environ)
    try:
        state.remove()
    except FileNotFoundError:
        pass
    except StateError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"removed {state.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
