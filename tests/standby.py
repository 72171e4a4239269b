"""A second Postgres that follows the first by streaming replication, and takes its place when it is promoted."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from deploy.local.postgres import EmbeddedPostgres, _path
from deploy.local.roles import LOGINS, OWNER, ensure_database, ensure_logins
from migrator import runner
from tests.conftest import MigratedDatabase, PostgresServer
from tests.waiting import until

if TYPE_CHECKING:
    import pwd
    from collections.abc import AsyncIterator
    from pathlib import Path

IN_SYNC = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'"
CAUGHT_UP = "SELECT bool_and(replay_lsn >= pg_current_wal_lsn()) FROM pg_stat_replication"


class Standby(EmbeddedPostgres):
    """A server whose data is a copy of another's, kept up by streaming."""

    def __init__(self, folder: Path, primary: EmbeddedPostgres) -> None:
        super().__init__(folder)
        self._primary = primary

    def _initialise(self, install: Path, owner: pwd.struct_passwd | None) -> None:
        new = self.folder / "data.new"
        shutil.copy(self._primary.folder / "password", self.folder / "password")
        new.mkdir(mode=0o700)
        if owner:
            os.chown(new, owner.pw_uid, owner.pw_gid)
        subprocess.run(
            [
                *(install / "bin/pg_basebackup", "--dbname", self._primary.url(), "--pgdata", _path(new, owner)),
                *("--write-recovery-conf", "--checkpoint", "fast", "--wal-method", "stream", "--no-sync"),
            ],
            check=True,
            capture_output=True,
            cwd=new,
            user=owner.pw_uid if owner else None,
            group=owner.pw_gid if owner else None,
            extra_groups=[] if owner else None,
        )
        new.rename(self.data)


@asynccontextmanager
async def own_server(folder: Path) -> AsyncIterator[tuple[EmbeddedPostgres, MigratedDatabase]]:
    """Runs a Postgres that a test may crash, with a migrated database."""
    embedded = EmbeddedPostgres(folder)
    embedded.start()
    try:
        server = PostgresServer(embedded.url(), dict.fromkeys((OWNER, *LOGINS), "secret"))
        conn = await asyncpg.connect(server.admin_url)
        await ensure_logins(conn, server.passwords)
        await ensure_database(conn, "mdw")
        await conn.close()
        await runner.up(server.url("mdw", OWNER))
        urls = (server.url("mdw", login) for login in LOGINS)
        yield embedded, MigratedDatabase("mdw", server.url("mdw"), server.url("mdw", OWNER), *urls)
    finally:
        embedded.stop()


@dataclass
class Pair:
    """A primary and a standby that has all that the primary has acknowledged."""

    primary: EmbeddedPostgres
    standby: Standby
    database: MigratedDatabase

    @property
    def successor(self) -> MigratedDatabase:
        """The same database on the standby."""
        old = self.database
        urls = {name: self._on_standby(getattr(old, name)) for name in vars(old) if name.endswith("_url")}
        return replace(old, **urls)

    def both(self, url: str) -> str:
        """Returns a URL that names both servers, for whichever takes writes."""
        parts = urlsplit(url)
        login, _, host = parts.netloc.rpartition("@")
        netloc = f"{login}@{host},127.0.0.1:{self.standby.port}"
        return urlunsplit(parts._replace(netloc=netloc, query="target_session_attrs=read-write"))

    async def promote(self) -> None:
        """Makes the standby the primary."""
        conn = await asyncpg.connect(self.standby.url())
        await conn.execute("SELECT pg_promote(true, 60)")
        await conn.close()

    async def forbid_writes(self) -> None:
        """Makes the old primary read-only, and waits until the standby has all that was written before."""
        conn = await asyncpg.connect(self.primary.url())
        await conn.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await conn.execute("SELECT pg_reload_conf()")
        await until(lambda: conn.fetchval(CAUGHT_UP))
        await conn.close()

    def _on_standby(self, url: str) -> str:
        return url.replace(f":{self.primary.port}/", f":{self.standby.port}/")


@asynccontextmanager
async def replicated(folder: Path) -> AsyncIterator[Pair]:
    """Runs a primary with a synchronous standby."""
    async with own_server(folder / "one") as (primary, database):
        standby = Standby(folder / "two", primary)
        standby.start()
        try:
            conn = await asyncpg.connect(primary.url())
            await conn.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            await conn.execute("SELECT pg_reload_conf()")
            await until(lambda: conn.fetchval(IN_SYNC))
            await conn.close()
            yield Pair(primary, standby, database)
        finally:
            standby.stop()
