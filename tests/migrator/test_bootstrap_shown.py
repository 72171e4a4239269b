"""What bootstrap shows to a person: the secret once, and next steps that work when they are pasted."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from services.kit import keys
from tests.migrator.conftest import REPOSITORY, secret_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import asyncpg

    from tests.migrator.conftest import Command


KEYS = "SELECT display_name, scopes, preview, digest, version FROM auth.keys ORDER BY create_time, display_name"


@pytest.fixture
async def conn(url: str, connect: Callable[..., Awaitable[asyncpg.Connection]]) -> asyncpg.Connection:
    """A connection to it."""
    return await connect(url)


async def test_a_secret_is_shown_before_a_later_step_can_fail(url: str, conn: asyncpg.Connection) -> None:
    await conn.execute("ALTER TABLE symbols.symbols ALTER symbol_id RESTART WITH 2147483647")
    try:
        seen = await asyncio.to_thread(on_a_terminal, url, "bootstrap", code=1)
    finally:
        await conn.execute("ALTER TABLE symbols.symbols ALTER symbol_id RESTART WITH 1")
    shown = [word for word in seen.split() if keys.is_well_formed(word)]
    assert "bootstrap stopped at step 4 of 5 (symbols); done and kept: migrate, verify, keys" in seen
    assert [row["digest"] for row in await conn.fetch(KEYS)] == [keys.digest(secret) for secret in shown]
    assert len(shown) == 1


def on_a_terminal(url: str, *arguments: str, code: int = 0) -> str:
    """Returns what a person sees."""
    reader, writer = os.openpty()
    environ = {"DATABASE_URL": url, "PATH": os.environ["PATH"]}
    process = subprocess.Popen(
        [sys.executable, "-m", "migrator", *arguments], cwd=REPOSITORY, env=environ, stdout=writer, stderr=writer
    )
    os.close(writer)
    seen = b""
    while True:
        try:
            data = os.read(reader, 4096)
        except OSError:
            break
        if not data:
            break
        seen += data
    os.close(reader)
    assert process.wait() == code, seen
    return seen.decode().replace("\r\n", "\n")


async def test_on_a_terminal_the_secret_is_shown_once(url: str, conn: asyncpg.Connection) -> None:
    first = await asyncio.to_thread(on_a_terminal, url, "bootstrap")
    shown = [word for word in first.split() if keys.is_well_formed(word)]
    assert [row["digest"] for row in await conn.fetch(KEYS)] == [keys.digest(secret) for secret in shown]
    assert "shown this once" in first
    assert "key_changed" not in first
    again = await asyncio.to_thread(on_a_terminal, url, "bootstrap")
    assert not any(keys.is_well_formed(word) for word in again.split())


def in_a_shell(url: str, lines: str) -> subprocess.CompletedProcess[str]:
    """Runs lines as pasted into a shell."""
    return subprocess.run(
        [shutil.which("bash") or "bash", "-ec", lines],
        cwd=REPOSITORY,
        env={"DATABASE_URL": url, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )


async def test_the_next_steps_work_when_pasted(url: str, command: Command, key_file: Path) -> None:
    ended = await command(url, "bootstrap", "--key-file", str(key_file))
    lines = ended.out.partition("Next, once the services run:\n")[2].splitlines()
    pasted = "\n".join(line.strip() for line in lines if "curl" not in line and "mdw status" not in line)
    done = await asyncio.to_thread(in_a_shell, url, pasted + '\ncat "$MDW_KEY_FILE"')
    assert done.returncode == 0, done.stderr
    assert "pending" in done.stdout
    assert secret_in(key_file) in done.stdout
