"""Bench `migrate_*`: the migrator against a bare asyncpg script, dbmate, yoyo and Alembic, in turns on one server.

`python -m tests.bench.bench_migrator [ROUNDS]` runs it alone, on an embedded Postgres of its own. Rivals that are not
installed (the extra `bench`) are left out.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from deploy.local.postgres import EmbeddedPostgres
from deploy.local.roles import OWNER, ensure_database, ensure_logins, with_login

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

REPOSITORY = Path(__file__).parents[2]
FILES, ROUNDS = 20, 7
TARGETS = {"noop": 1.3, "noop_wall": 1.5, "20": 1.6, "20_wall": 1.5}

SQL = """CREATE TABLE t{0} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, at timestamptz);
CREATE INDEX t{0}_by_name ON t{0} (name);
"""
# The least that a migrator in Python has to do, with and without work.
BARE = """
import asyncio, os, sys, asyncpg
async def main():
    conn = await asyncpg.connect(os.environ["DATABASE_URL"])
    if not await conn.fetchval("SELECT to_regclass('done') IS NOT NULL"):
        await conn.execute("CREATE TABLE done (name text PRIMARY KEY, at timestamptz DEFAULT now())")
        for name in sorted(os.listdir(sys.argv[1])):
            async with conn.transaction():
                await conn.execute(open(os.path.join(sys.argv[1], name)).read())
                await conn.execute("INSERT INTO done (name) VALUES ($1)", name)
    await conn.close()
asyncio.run(main())
"""
ALEMBIC_ENVIRONMENT = """
import os
from alembic import context
from sqlalchemy import create_engine
url = os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+psycopg2:")
with create_engine(url).connect() as connection:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
"""
ALEMBIC_REVISION = """
from alembic import op
revision, down_revision = {0!r}, {1!r}
def upgrade():
    op.execute({2!r})
"""


@dataclass
class Tool:
    """One contestant: its command for a database's URL, and what its runs took, in milliseconds."""

    command: Callable[[str], Sequence[str]]
    folder: Path
    cpu: dict[str, list[float]] = field(default_factory=dict)
    wall: dict[str, list[float]] = field(default_factory=dict)

    def run(self, url: str, what: str) -> None:
        """Runs it once and notes the time and the CPU of its process and their children."""
        environ = {**os.environ, "DATABASE_URL": url, "PYTHONPATH": str(REPOSITORY)}
        environ.pop("MIGRATION_DATABASE_URL", None)
        with tempfile.TemporaryFile() as output:
            begun = time.perf_counter()
            process = subprocess.Popen(
                self.command(url), cwd=self.folder, env=environ, stdout=output, stderr=subprocess.STDOUT
            )
            _, status, usage = os.wait4(process.pid, 0)
            wall = (time.perf_counter() - begun) * 1_000
            process.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            assert process.returncode == 0, output.read().decode()
        self.wall.setdefault(what, []).append(wall)
        self.cpu.setdefault(what, []).append((usage.ru_utime + usage.ru_stime) * 1_000)


async def rows(superuser_url: str, rounds: int = ROUNDS) -> list[dict[str, object]]:
    """Measures all tools in turns, each in a new database a round; returns a row a figure, in milliseconds."""
    admin = await asyncpg.connect(superuser_url)
    password = secrets.token_urlsafe(16)
    await ensure_logins(admin, {OWNER: password})
    owner_url = with_login(superuser_url, OWNER, password)
    with tempfile.TemporaryDirectory() as folder:
        tools = make_tools(Path(folder))
        for number in range(rounds + 1):  # the first round warms caches, and is forgotten
            for name, tool in tools.items():
                database = f"bench_migrator_{name}"
                await ensure_database(admin, database)
                url = f"{owner_url.rpartition('/')[0]}/{database}"
                for what in ("20", "noop"):
                    await asyncio.to_thread(tool.run, url, what if number else "warm-up")
                await admin.execute(f"DROP DATABASE {database} WITH (FORCE)")
    await admin.close()
    return [
        row(what + suffix, {name: getattr(tool, kind)[what] for name, tool in tools.items()})
        for what in ("noop", "20")
        for kind, suffix in (("cpu", ""), ("wall", "_wall"))
    ]


def row(name: str, times: Mapping[str, Sequence[float]]) -> dict[str, object]:
    """Compares the medians: ours with the bare script's, and with the quickest rival's."""
    median = {tool: round(statistics.median(taken), 1) for tool, taken in times.items()}
    ours, limit = median.pop("mdw"), median.pop("bare")
    ratio = statistics.median(a / b for a, b in zip(times["mdw"], times["bare"], strict=True))
    return {
        "name": f"migrate_{name}",
        "ours": ours,
        "limit": limit,
        "rival": min(median.values(), default=None),
        "ratio": round(ratio, 3),
        "target": TARGETS[name],
        "reached": ratio <= TARGETS[name],
        "rivals": median,
    }


def make_tools(folder: Path) -> dict[str, Tool]:
    """Writes the same migrations in each tool's form."""
    for name in ("mdw", "dbmate", "yoyo", "alembic/versions"):
        (folder / name).mkdir(parents=True)
    for number in range(1, FILES + 1):
        sql, file = SQL.format(number), f"{number:04}_t{number}.sql"
        (folder / "mdw" / file).write_text(sql)
        (folder / "yoyo" / file).write_text(sql)
        (folder / "dbmate" / file).write_text(f"-- migrate:up\n{sql}\n-- migrate:down\n")
        before = f"{number - 1:04}" if number > 1 else None
        revision = ALEMBIC_REVISION.format(f"{number:04}", before, sql)
        (folder / "alembic/versions" / f"{number:04}.py").write_text(revision)
    (folder / "alembic/env.py").write_text(ALEMBIC_ENVIRONMENT)
    (folder / "alembic.ini").write_text("[alembic]\nscript_location = alembic\n")
    (folder / "bare.py").write_text(BARE)
    found = {name: _program(name) for name in ("dbmate", "yoyo", "alembic")}
    ours = [sys.executable, "-m", "migrator", "up", "--folder", str(folder / "mdw")]
    commands: dict[str, Callable[[str], Sequence[str]]] = {
        "mdw": lambda _: ours,
        "bare": lambda _: [sys.executable, "bare.py", "mdw"],
        "dbmate": lambda url: [
            found["dbmate"],
            "--no-dump-schema",
            "-d",
            "dbmate",
            "-u",
            f"{url}?sslmode=disable",
            "up",
        ],
        "yoyo": lambda url: [found["yoyo"], "apply", "--batch", "--no-config-file", "-d", url, "yoyo"],
        "alembic": lambda _: [found["alembic"], "upgrade", "head"],
    }
    return {name: Tool(command, folder) for name, command in commands.items() if found.get(name, "here")}


def _program(name: str) -> str:
    """Returns where a rival is installed, beside this Python or on the path; nothing where it is not."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}") or ""


async def main(*numbers: int) -> None:
    """Runs the bench alone."""
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder))
        server.start()
        try:
            print(json.dumps(await rows(server.url(), *numbers), indent=2))  # noqa: T201
        finally:
            server.stop()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
