"""A Postgres of a bench's own, migrated, with the settings of `make run`; and medians of rounds in turns."""

from __future__ import annotations

import secrets
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from deploy.local.postgres import EmbeddedPostgres
from deploy.local.roles import LOGINS, OWNER, ensure_database, ensure_logins
from migrator import runner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(frozen=True)
class Server:
    """Where the superuser and the roles find the database, a folder that it can read, and whom bars are read from."""

    superuser_url: str
    ingest_url: str
    symbols_url: str
    auth_url: str
    folder: Path
    read_urls: tuple[str, ...] = ()


@asynccontextmanager
async def migrated_server() -> AsyncIterator[Server]:
    """Runs a server with an empty database at the newest schema."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # noqa: ASYNC240 - started by root, the server is another user
        embedded = EmbeddedPostgres(folder / "postgres")
        embedded.start()
        try:
            passwords = {login: secrets.token_urlsafe(16) for login in (OWNER, *LOGINS)}
            conn = await asyncpg.connect(embedded.url())
            await ensure_logins(conn, passwords)
            await ensure_database(conn, "bench")
            await conn.close()
            urls = {login: embedded.url("bench", login, passwords[login]) for login in passwords}
            await runner.up(urls[OWNER])
            superuser = embedded.url("bench")
            yield Server(superuser, urls["mdw_ingest_login"], urls["mdw_symbols_login"], urls["mdw_auth_login"], folder)
        finally:
            embedded.stop()


def row(
    name: str,
    *,
    ours: float,
    limit: float,
    rival: float | None,
    ratio: float,
    target: float,
    reached: bool | None = None,
) -> dict[str, object]:
    """Makes a row of the table; figures are a second, and more is better unless `reached` says otherwise."""
    return {
        "name": name,
        "ours": round(ours),
        "limit": round(limit),
        "rival": None if rival is None else round(rival),
        "ratio": round(ratio, 3),
        "target": target,
        "reached": ratio >= target if reached is None else reached,
    }
