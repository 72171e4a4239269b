"""The history of a database as a model: files come, change and go, runs succeed, fail or are cut off, in any order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from migrator.errors import Ahead, BadFiles, MigratorError, SqlFailed
from migrator.files import load
from migrator.runner import up
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from tests.bridge import Bridge

NUMBERS = st.integers(0, 7)
KEPT = "SELECT version, checksum FROM migrator.history WHERE state <> 'STARTED'"
BEGUN = "SELECT version FROM migrator.history WHERE state = 'STARTED'"
HAS_HISTORY = "SELECT to_regclass('migrator.history') IS NOT NULL"
OBJECTS = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname ~ '^[ti][0-9]+$'"
OTHERS = """
SELECT count(*)
FROM pg_stat_activity
WHERE datname = current_database()
  AND pid <> pg_backend_pid()
  AND backend_type = 'client backend'
"""
EMPTY = "DROP OWNED BY CURRENT_USER CASCADE"


@dataclass(frozen=True)
class File:
    """A file of the folder: it makes a table, or an index of one, and may be broken."""

    version: int
    name: str
    makes: str
    on: str = ""
    broken: bool = False

    @property
    def file(self) -> str:
        return f"{self.version:04}_{self.name}.sql"

    @property
    def text(self) -> str:
        if self.on:
            return f"-- migrator: no-transaction\nCREATE INDEX CONCURRENTLY {self.makes} ON {self.on} (n)"
        return f"CREATE TABLE {self.makes} (n int);" + (" SELEC 1;" if self.broken else "")


class Story(RuleBasedStateMachine):
    """Steps of people who write files, of runs, and of those who cut them off."""

    bridge: Bridge
    url: str
    folder: Path
    conn: asyncpg.Connection

    def __init__(self) -> None:
        super().__init__()
        self.disk: list[File] = []
        self.done: dict[int, File] = {}
        """The applied versions, as they were when they were applied."""
        self.objects: set[str] = set()
        self.begun: set[int] = set()
        """Versions that run outside a transaction and were cut off."""
        self._made = 0

    def teardown(self) -> None:
        self.bridge(self.conn.execute(EMPTY))
        for path in self.folder.iterdir():
            path.unlink()

    def _new(self, kind: str) -> str:
        self._made += 1
        return f"{kind}{self._made}"

    def _pick(self, number: int) -> File | None:
        return self.disk[number % len(self.disk)] if self.disk else None

    def _put(self, file: File, old: File | None = None) -> None:
        if old is not None:
            self._drop(old)
        self.disk.append(file)
        self.disk.sort(key=lambda one: (one.version, one.name))
        (self.folder / file.file).write_text(file.text)

    def _drop(self, file: File) -> None:
        self.disk.remove(file)
        (self.folder / file.file).unlink()

    @rule(gap=st.sampled_from([0, 0, 0, 0, 1]), broken=st.sampled_from([False, False, False, True]))
    def write_a_table(self, gap: int, broken: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        version = max((one.version for one in self.disk), default=0) + 1 + gap
        self._put(File(version, "x", self._new("t"), broken=broken))

    @rule(number=NUMBERS)
    def write_an_index(self, number: int) -> None:
        tables = [one for one in self.disk if not one.on]
        if tables:
            version = max(one.version for one in self.disk) + 1
            self._put(File(version, "x", self._new("i"), on=tables[number % len(tables)].makes))

    @rule(number=NUMBERS)
    def write_one_late(self, number: int) -> None:
        free = set(range(1, max((one.version for one in self.disk), default=0))) - {one.version for one in self.disk}
        if free:
            self._put(File(sorted(free)[number % len(free)], "late", self._new("t")))

    @rule(number=NUMBERS)
    def write_a_twin(self, number: int) -> None:
        file = self._pick(number)
        if file and all(one.name != "twin" for one in self.disk):
            self._put(File(file.version, "twin", self._new("t")))

    @rule(number=NUMBERS)
    def edit(self, number: int) -> None:
        if file := self._pick(number):
            self._put(replace(file, makes=self._new("i" if file.on else "t")), file)

    @rule(number=NUMBERS)
    def mend(self, number: int) -> None:
        if file := self._pick(number):
            self._put(replace(file, broken=False), file)

    @rule(number=NUMBERS)
    def rename(self, number: int) -> None:
        if file := self._pick(number):
            self._put(replace(file, name=f"better{self._new('')}"), file)

    @rule(number=NUMBERS)
    def remove(self, number: int) -> None:
        if file := self._pick(number):
            self._drop(file)

    @rule()
    def put_right(self) -> None:
        """Brings back what was applied, and takes away what has no place."""
        wanted = dict(self.done)
        for file in self.disk:
            wanted.setdefault(file.version, file)
        for file in list(self.disk):
            self._drop(file)
        for version in range(1, max(wanted, default=0) + 1):
            if version not in wanted:
                break
            self._put(wanted[version])

    @rule(number=NUMBERS)
    def lose_a_row(self, number: int) -> None:
        """Somebody deletes a row of the history by hand."""
        if self.done:
            version = sorted(self.done)[number % len(self.done)]
            self.bridge(self.conn.execute("DELETE FROM migrator.history WHERE version = $1", version))
            del self.done[version]

    @rule()
    def run(self) -> None:
        expected = self._refusal()
        pending = [] if expected else self._pending()
        for file in pending:
            if not self._goes_in(file):
                expected = SqlFailed
                break
            self._note(file)
        assert type(self.bridge(self._up())) is (expected or type(None)), (expected, self.disk, self.done)

    @rule(seconds=st.floats(0, 0.08))
    def run_and_cut_off(self, seconds: float) -> None:
        """The run is cancelled wherever it is: what it has applied is some of the pending files, from the first on."""
        pending = [] if self._refusal() else self._pending()
        self.bridge(self._cut_off(seconds))
        kept = set(self.bridge(self._kept()))
        for file in pending:
            if file.version not in kept:
                break
            self._note(file)
        self.begun = set(self.bridge(self._begun()))

    @invariant()
    def history_and_objects_are_those_of_the_model(self) -> None:
        checksums = self.bridge(self._kept())
        assert set(checksums) == set(self.done)
        for migration in self._loaded():
            if migration.version in self.done and self.done[migration.version].text == migration.sql:
                assert migration.checksum == checksums[migration.version]
        half = {one.makes for one in self.disk if one.version in self.begun} if self.begun else set()
        found = set(self.bridge(self._objects()))
        assert found - half == self.objects - half

    def _refusal(self) -> type[MigratorError] | None:
        """Says why a run may not even begin."""
        versions = [one.version for one in self.disk]
        if not versions or sorted(versions) != list(range(1, len(versions) + 1)):
            return BadFiles
        newest, last = max(versions), max((v for v in self.done if v <= max(versions)), default=0)
        by_version = {one.version: one for one in self.disk}
        for version, file in self.done.items():
            if version <= newest and (version not in by_version or by_version[version].text != file.text):
                return BadFiles
        if any(one.version < last and one.version not in self.done for one in self.disk):
            return BadFiles
        if self.objects and not self.done and not self.bridge(self._begun()):
            return BadFiles  # whose history is lost
        return Ahead if any(version > newest for version in self.done) else None

    def _pending(self) -> list[File]:
        return [one for one in self.disk if one.version not in self.done]

    def _goes_in(self, file: File) -> bool:
        if file.on and file.on not in self.objects:
            return False
        return not file.broken and (file.makes not in self.objects)

    def _note(self, file: File) -> None:
        self.done[file.version] = file
        self.objects.add(file.makes)
        self.begun.discard(file.version)

    def _loaded(self) -> list[Any]:
        try:
            return list(load(self.folder))
        except BadFiles:
            return []

    async def _up(self) -> MigratorError | None:
        try:
            await up(self.url, self.folder)
        except MigratorError as error:
            return error
        return None

    async def _cut_off(self, seconds: float) -> None:
        task = asyncio.ensure_future(self._up())
        await asyncio.wait([task], timeout=seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(self._alone)

    async def _alone(self) -> bool:
        """Says whether the server, too, is done with what was cut off: until then a commit may still come through."""
        return not await self.conn.fetchval(OTHERS)

    async def _kept(self) -> dict[int, str]:
        return dict(await self.conn.fetch(KEPT)) if await self.conn.fetchval(HAS_HISTORY) else {}

    async def _begun(self) -> list[int]:
        rows = await self.conn.fetch(BEGUN) if await self.conn.fetchval(HAS_HISTORY) else []
        return [row[0] for row in rows]

    async def _objects(self) -> list[str]:
        return [row[0] for row in await self.conn.fetch(OBJECTS)]
