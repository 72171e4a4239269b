"""A folder to put migrations into, the command line in this process and in one of its own, and connections."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from deploy.local.roles import OWNER, ensure_database
from migrator import cli
from migrator.usage import parse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from tests.conftest import MigratedDatabase, PostgresServer

    Command = Callable[..., Coroutine[Any, Any, "Ended"]]

REUSED = "mdw_migrator_tests"
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Folder:
    """Migrations of a test."""

    path: Path

    def add(self, name: str, sql: str | bytes) -> Folder:
        data = sql if isinstance(sql, bytes) else sql.encode()
        (self.path / name).write_bytes(data)
        return self

    def remove(self, name: str) -> Folder:
        (self.path / name).unlink()
        return self


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(scope="session")
async def _reused_database(postgres: PostgresServer) -> AsyncIterator[tuple[str, asyncpg.Connection]]:
    admin = await asyncpg.connect(postgres.admin_url)
    await ensure_database(admin, REUSED)
    yield postgres.url(REUSED, OWNER), admin
    await admin.close()
    admin = await asyncpg.connect(postgres.admin_url)  # tests of a cluster kill its servers meanwhile
    await admin.execute(f"DROP DATABASE {REUSED} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def empty_database(_reused_database: tuple[str, asyncpg.Connection]) -> AsyncIterator[str]:
    """The owner's URL of an empty database: emptied after each test, since making one takes longer."""
    url, admin = _reused_database
    yield url
    await admin.execute(f"ALTER DATABASE {REUSED} RESET ALL")
    await admin.fetch("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", REUSED)
    conn = await asyncpg.connect(url)
    await conn.execute("DROP OWNED BY CURRENT_USER CASCADE")
    await conn.close()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty folder for migrations."""
    (tmp_path / "sql").mkdir()
    return Folder(tmp_path / "sql")


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Awaitable[asyncpg.Connection]]]:
    """Opens connections that the test need not close."""
    opened: list[asyncpg.Connection] = []

    async def open_one(url: str, **options: Any) -> asyncpg.Connection:
        opened.append(await asyncpg.connect(url, **options))
        return opened[-1]

    yield open_one
    for conn in opened:
        conn.terminate()


@pytest.fixture
async def conn(empty_database: str, connect: Callable[..., Awaitable[asyncpg.Connection]]) -> asyncpg.Connection:
    """A connection to the empty database."""
    return await connect(empty_database)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in this process."""

    async def run(url: str, *arguments: str, **environ: str) -> Ended:
        capsys.readouterr()
        options = parse(arguments)
        code = await cli.execute(options, {"DATABASE_URL": url, **environ})
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Awaitable[asyncio.subprocess.Process]]]:
    """Starts a migrator as a process of its own, which does not outlive the test."""
    started: list[asyncio.subprocess.Process] = []

    async def start_one(url: str, *arguments: str, **environ: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "migrator",
            *arguments,
            cwd=REPOSITORY,
            env={"DATABASE_URL": url, **environ},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
def url(database: MigratedDatabase) -> str:
    """The owner's URL of a migrated database without keys and symbols."""
    return database.owner_url


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """Where the admin key goes."""
    return tmp_path / "state" / "admin.key"


def secret_in(path: Path) -> str:
    return path.read_text().strip()
