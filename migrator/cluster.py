"""Looks at a cluster before tables move in it, and refuses what would not work; nothing is changed here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from migrator.errors import BadFiles, TryAgain

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

MINIMUM_CITUS = (12, 0)
INTERVAL = "citus.recover_2pc_interval"
INTERVAL_MS = 2000

VERSION = """
SELECT extversion, EXISTS (SELECT FROM pg_available_extensions WHERE name = 'citus') AS available,
       current_database() AS database
FROM (VALUES (1)) one
LEFT JOIN pg_extension ON extname = 'citus'
"""
OWNER = """
SELECT relowner::regrole::text AS owner, pg_has_role(relowner, 'USAGE') AS ours, current_user AS role
FROM pg_class
WHERE oid = 'ingest.bars'::regclass
"""
HAS_GROUP = "SELECT to_regclass('pg_catalog.pg_dist_local_group') IS NOT NULL"
GROUP = "SELECT groupid FROM pg_dist_local_group"
COORDINATOR = "SELECT nodename || ':' || nodeport FROM pg_dist_node WHERE groupid = 0"
NODES = """
SELECT nodename || ':' || nodeport AS name, groupid, shouldhaveshards AS holds
FROM pg_dist_node
WHERE noderole = 'primary' AND isactive
ORDER BY groupid
"""
ASK = """
SELECT nodename || ':' || nodeport AS name, success, coalesce(result, '') AS answer
FROM run_command_on_all_nodes($1)
JOIN pg_dist_node USING (nodeid)
ORDER BY nodeid
"""
THEIR_VERSION = "SELECT coalesce((SELECT extversion FROM pg_extension WHERE extname = 'citus'), 'none')"
RECOVERY = """
SELECT setting::int AS milliseconds,
       has_parameter_privilege(name, 'ALTER SYSTEM')
         AND has_function_privilege('pg_reload_conf()', 'EXECUTE') AS may_set
FROM pg_settings
WHERE name = $1
"""
REFUSED = re.compile(r"password|authentication|pg_hba|role .* does not exist|database .* does not exist|permission")

ADD_NODES = (
    "on the coordinator, as a superuser: SELECT citus_set_coordinator_host('this host'), then for each worker "
    "SELECT citus_add_node('its host', 5432)"
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that tables can move in: the nodes that hold shards, and how often it looks for lost commits."""

    holders: tuple[str, ...]
    recovery_ms: int


async def require_coordinator(conn: asyncpg.Connection) -> None:
    """Raises BadFiles where the server is a worker of a cluster: what runs there is not seen elsewhere."""
    if await conn.fetchval(HAS_GROUP) and await conn.fetchval(GROUP):
        coordinator = await conn.fetchval(COORDINATOR)
        at = f", {coordinator}" if coordinator else ""
        raise BadFiles.of("", "this node is a worker of the cluster", f"use the URL of its coordinator{at}")


async def require_owner(conn: asyncpg.Connection) -> None:
    """Raises BadFiles unless the role owns the tables."""
    row = await conn.fetchrow(OWNER)
    if row is not None and not row["ours"]:
        hint = f"run it as {row['owner']}"
        raise BadFiles.of("", f"role {row['role']} does not own ingest.bars, {row['owner']} does", hint)


async def require_cluster(conn: asyncpg.Connection) -> Cluster:
    """Returns the cluster; raises BadFiles, or TryAgain where a node does not answer, with what to do."""
    version = await _require_extension(conn)
    holders = tuple(row["name"] for row in await conn.fetch(NODES) if row["holds"])
    if not holders:
        raise BadFiles.of("", "the cluster has no node that holds shards", ADD_NODES)
    _require_same(version, await conn.fetch(ASK, THEIR_VERSION))
    return Cluster(holders, await _recovery(conn))


async def _require_extension(conn: asyncpg.Connection) -> str:
    """Reads the catalog alone: with the wrong version of its library, Citus answers no question of its own."""
    row = await conn.fetchrow(VERSION)
    assert row is not None  # noqa: S101 - a row of VALUES is always there
    if row["extversion"] is None:
        need = "" if row["available"] else "install Citus and set shared_preload_libraries = 'citus' on every node; "
        hint = f"{need}as a superuser, in database {row['database']} of every node: CREATE EXTENSION citus; {ADD_NODES}"
        raise BadFiles.of("", f"database {row['database']} does not have the extension citus", hint)
    version: str = row["extversion"]
    if tuple(int(number) for number in re.findall(r"\d+", version)[:2]) < MINIMUM_CITUS:
        wanted = ".".join(str(number) for number in MINIMUM_CITUS)
        hint = "on every node, the coordinator first: install a newer one, then ALTER EXTENSION citus UPDATE"
        raise BadFiles.of("", f"Citus {version} is too old: {wanted} or newer is needed", hint)
    return version


def _require_same(version: str, answers: Sequence[asyncpg.Record]) -> None:
    for row in answers:
        answer = " ".join(row["answer"].split())
        if not row["success"]:
            if REFUSED.search(answer):
                hint = "let this role in from the coordinator: pg_hba.conf there, .pgpass or pg_dist_authinfo here"
                raise BadFiles.of(row["name"], f"the node refuses this role: {answer}", hint)
            raise TryAgain.of(row["name"], f"the node does not answer: {answer}", "run it again when it is back")
        if answer != version:
            hint = "the same version on every node: install it there, then ALTER EXTENSION citus UPDATE"
            raise BadFiles.of(row["name"], f"the node has Citus {answer}, the coordinator {version}", hint)


async def _recovery(conn: asyncpg.Connection) -> int:
    row = await conn.fetchrow(RECOVERY, INTERVAL)
    if row is None:
        raise BadFiles.of(
            "", "the server has not loaded Citus", "set shared_preload_libraries = 'citus' and restart it"
        )
    if row["milliseconds"] > INTERVAL_MS and not row["may_set"]:
        message = f"{INTERVAL} is {row['milliseconds'] // 1000} s, 2 s are needed, and this role may not set it"
        hint = f"as a superuser of the coordinator: ALTER SYSTEM SET {INTERVAL} = '2s'; SELECT pg_reload_conf()"
        raise BadFiles.of("", message, hint)
    milliseconds: int = row["milliseconds"]
    return milliseconds
