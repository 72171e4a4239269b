"""A disk that is full under a backfill: its jobs pause and say so, and go on to the tables of an undisturbed run.

The bars lie in a tablespace of their own, on a file system of a few megabytes. Only root may mount one; for others the
database itself says that there is no space, with the same SQLSTATE.
Not collected by `make test`: `python -m pytest tests/faults/full_disk.py`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from services.ingest.store.endings import finish_all
from tests.ingest.backfilling import ingest_running
from tests.ingest.disturbing import PAGE_BARS, Task
from tests.ingest.processes import crew
from tests.ingest.working import PAUSED, desk, replaying
from tests.standby import own_server
from tests.support import auth_serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SIZE, LEFT = "4m", 128 * 1024
"""How big the file system is, and how much of it the backfill finds free: some of its parts fit, not all."""

MOVE = """
TRUNCATE ingest.bars;
CREATE TABLESPACE small LOCATION '{}';
ALTER TABLE ingest.bars SET TABLESPACE small;
ALTER INDEX ingest.bars_pkey SET TABLESPACE small
"""
# For who may not mount: as many bars fit, and the rest is refused.
REFUSE = """
CREATE FUNCTION ingest.no_space() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (SELECT count(*) FROM ingest.bars) > 1000 THEN
    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER no_space AFTER INSERT ON ingest.bars FOR EACH STATEMENT EXECUTE FUNCTION ingest.no_space()
"""
ACCEPT = "DROP TRIGGER no_space ON ingest.bars; DROP FUNCTION ingest.no_space()"

JOBS = "SELECT backfill_id, state, pause_reason FROM ingest.backfills"
RUNNING = "SELECT count(*) FROM ingest.slices WHERE state = 2"
STORED = "SELECT symbol_id, timeframe, count(*) FROM ingest.bars GROUP BY 1, 2 ORDER BY 1, 2"
COUNTED = "SELECT symbol_id, timeframe, bars FROM ingest.series WHERE bars > 0 ORDER BY 1, 2"
TOLD = "SELECT sum(inserted) FROM ingest.slices"


@contextmanager
def small_disk(owner: int) -> Iterator[Path | None]:
    """Mounts a small file system for a user, and takes it away whatever happened; None where mounting is refused."""
    folder = Path(tempfile.mkdtemp(prefix="mdw-small-"))
    try:
        options = f"size={SIZE},mode=0700,uid={owner}"
        mounted = _run("mount", "-t", "tmpfs", "-o", options, "mdw-small", str(folder))
        try:
            yield folder if mounted else None
        finally:
            # Lazily where somebody still holds a file: then it goes with them.
            assert not mounted or _run("umount", str(folder)) or _run("umount", "-l", str(folder))
    finally:
        folder.rmdir()


def _run(*command: str) -> bool:
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False


@asynccontextmanager
async def own_small_server(folder: Path) -> AsyncIterator[tuple[object, Path | None]]:
    """Runs a server and mounts its small disk, which is taken away when the server has ended."""
    with contextlib.ExitStack() as later:
        async with own_server(folder) as (server, database):
            yield database, later.enter_context(small_disk(server.data.stat().st_uid))


async def move_bars(sql, disk):
    for statement in MOVE.format(disk).split(";"):
        await sql.execute(statement)


async def fill(sql, disk):
    if disk is None:
        await sql.execute(REFUSE)
        return
    space = os.statvfs(disk)
    with (disk / "ballast").open("wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, space.f_bavail * space.f_frsize - LEFT)


async def make_space(sql, disk):
    if disk is None:
        await sql.execute(ACCEPT)
    else:
        (disk / "ballast").unlink()


async def test_a_full_disk_pauses_the_jobs_and_resumed_they_end_in_the_tables_of_an_undisturbed_run(tmp_path):
    async with (
        own_small_server(tmp_path / "server") as (database, disk),
        replaying() as replay,
        desk(database) as work,
        crew(tmp_path, work.url, replay.url, POLYGON_PAGE_BARS=str(PAGE_BARS)) as workers,
    ):
        task = Task(work)
        await task.prepare()
        expected = await task.undisturbed(replay.url)
        if disk:
            await move_bars(work.sql, disk)
        await fill(work.sql, disk)
        await task.begin()
        workers.start()
        paused = await jobs_paused(workers, task)
        await see_whole_parts(work.sql, expected)
        await make_space(work.sql, disk)
        await resume(database, paused)
        await workers.until(task.done)
        assert await task.result() == expected


async def jobs_paused(workers, task):
    """Waits until nothing gets on; returns the paused jobs."""

    async def stuck():
        return await task.done() and not await task.desk.sql.fetchval(RUNNING)

    await workers.until(stuck)
    await finish_all(task.desk.db)
    jobs = await task.desk.sql.fetch(JOBS)
    paused = [job for job in jobs if job["state"] == PAUSED]
    assert paused
    assert [job["pause_reason"] for job in paused if "No space left on device" not in job["pause_reason"]] == []
    return [str(job["backfill_id"]) for job in paused]


async def see_whole_parts(sql, expected):
    """Some bars were stored before the disk was full, and what slices and series say of them is so."""
    stored = [tuple(row) for row in await sql.fetch(STORED)]
    assert stored == [tuple(row) for row in await sql.fetch(COUNTED)]
    assert 0 < sum(count for *_, count in stored) == await sql.fetchval(TOLD) < len(expected["bars"])


async def resume(database, backfill_ids):
    async with auth_serving(database) as auth, ingest_running(database, auth) as ingest:
        for backfill_id in backfill_ids:
            await ingest.call("ResumeBackfill", backfill_id=backfill_id)
