"""Brings the stack up: Postgres, roles, schema, keys, the source of bars, services and workers."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from typing import TYPE_CHECKING

import asyncpg

from deploy.local.postgres import EmbeddedPostgres
from deploy.local.roles import LOGINS, OWNER, ensure_database, ensure_logins, with_login
from deploy.local.stack import SERVICES, Stack, StackError, check_ports, free_port
from services.kit.keys import is_well_formed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from deploy.local.state import State
    from deploy.local.switches import Switches

DATABASE = "mdw"
POLYGON = ("POLYGON_API_KEY", "POLYGON_BASE_URL", "POLYGON_REQUESTS_PER_MINUTE")


async def bring_up(stack: Stack, switches: Switches, say: Callable[[str], None]) -> None:
    """Starts everything and returns when every service is ready; raises StackError, PostgresError."""
    state = stack.state
    check_ports(switches.ports)
    urls = await _database(stack, switches, say)
    bootstrap(state, urls.pop(OWNER))
    say(f"The schema is up to date, and the admin key is in {state.admin_key}")
    provider = _provider(stack, switches, say)
    for service in SERVICES:
        stack.start(service, [f"services.{service}"], _environ(service, state, switches, urls) | provider)
    for number in range(1, switches.workers + 1):
        environ = _environ("ingest", state, switches, urls) | provider
        stack.start(f"worker-{number}", ["services.ingest.worker"], environ)
    processes = {child.name: child.process.pid for child in stack.children}
    database = f"127.0.0.1:{stack.postgres.port}" if stack.postgres else ""
    facts = {"pid": os.getpid(), "addresses": switches.addresses, "processes": processes, "postgres": database}
    state.note_running(facts)
    await stack.ready(switches.addresses)


async def _database(stack: Stack, switches: Switches, say: Callable[[str], None]) -> dict[str, str]:
    """Starts Postgres unless DATABASE_URL names one; returns the URL of the owner and of each service's login."""
    passwords = stack.state.passwords((OWNER, *LOGINS))
    if switches.database_url:
        await _make_logins(switches.database_url, {login: passwords[login] for login in LOGINS})
        urls = {login: with_login(switches.database_url, login, passwords[login]) for login in LOGINS}
        return urls | {OWNER: switches.database_url}
    stack.postgres = EmbeddedPostgres(stack.state.postgres, log=stack.state.log("postgres"))
    stack.postgres.start()
    await _make_logins(stack.postgres.url(), passwords, DATABASE)
    say(f"PostgreSQL runs on 127.0.0.1:{stack.postgres.port}")
    return {login: stack.postgres.url(DATABASE, login, password) for login, password in passwords.items()}


async def _make_logins(admin_url: str, passwords: Mapping[str, str], database: str = "") -> None:
    try:
        conn = await asyncpg.connect(admin_url, timeout=10)
    except (ValueError, OverflowError):  # what asyncpg says of it may hold a piece of the password
        raise StackError("DATABASE_URL: is not understood: postgresql://user:password@host:5432/name") from None
    except (OSError, asyncpg.PostgresError, TimeoutError) as error:
        raise StackError(f"DATABASE_URL: no connection: {error}") from error
    try:
        await ensure_logins(conn, passwords)
        if database:
            await ensure_database(conn, database)
    except asyncpg.PostgresError as error:
        raise StackError(f"DATABASE_URL: its role has to be allowed to create roles (CREATEROLE): {error}") from error
    finally:
        await conn.close()


def bootstrap(state: State, owner_url: str) -> None:
    """Runs the migrator's bootstrap, with service keys of our own; a lost admin key is replaced."""
    environ = {"MIGRATION_DATABASE_URL": owner_url}
    for service in ("symbols", "ingest"):
        path = state.service_key(service)
        if not path.exists():
            _migrator(state, {}, "new-key", "--key-file", str(path))
        environ[f"MDW_SERVICE_KEY_{service.upper()}"] = read_key(path)
    if state.admin_key.exists():
        read_key(state.admin_key)
    key_file = ("--key-file", str(state.admin_key))
    _migrator(state, environ, "bootstrap", *key_file)
    if not state.admin_key.exists():
        _migrator(state, environ, "bootstrap", *key_file, "--new-admin-key")


def read_key(path: Path) -> str:
    """Returns the key that a file holds; raises StackError where it holds something else."""
    try:
        text = path.read_text().strip()
    except (OSError, ValueError):
        text = ""
    if not is_well_formed(text):
        raise StackError(f"{path} holds no key: remove it, and the next make run makes another")
    return text


def _migrator(state: State, environ: Mapping[str, str], *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "migrator", *arguments],
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    with state.log("migrator").open("a") as file:
        file.write(done.stdout + done.stderr)
    if done.returncode:
        raise StackError(f"migrator {arguments[0]} failed:\n{(done.stderr or done.stdout).strip()}")


def _provider(stack: Stack, switches: Switches, say: Callable[[str], None]) -> dict[str, str]:
    """Returns where bars come from; starts the replay if they come from nowhere else."""
    if switches.polygon_key:
        say("Bars come from Polygon")
        return {name: os.environ[name] for name in POLYGON if os.environ.get(name)}
    port, key = free_port(), secrets.token_hex(16)
    faults = ["--faults", switches.replay_faults] if switches.replay_faults else []
    stack.start("replay", ["deploy.local.replay", "--port", str(port), *faults], {"REPLAY_KEY": key})
    say("Bars come from a replay of recorded ones; with POLYGON_API_KEY they come from Polygon")
    return dict(zip(POLYGON, (key, f"http://127.0.0.1:{port}", "0"), strict=True))


def _environ(service: str, state: State, switches: Switches, urls: Mapping[str, str]) -> dict[str, str]:
    environ = {"DATABASE_URL": urls[f"mdw_{service}_login"], "LISTEN_ADDRESS": switches.addresses[service]}
    if service == "auth":
        return environ
    targets = {"AUTH_TARGET": switches.addresses["auth"], "SYMBOLS_TARGET": switches.addresses["symbols"]}
    return environ | targets | {"SERVICE_KEY_FILE": str(state.service_key(service))}
