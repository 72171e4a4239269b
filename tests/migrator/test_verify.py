"""The live catalog is compared with what the files produce, and each difference has a name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

from deploy.local.roles import OWNER, ensure_database
from migrator.catalog import CatalogObject, read_catalog, read_objects
from migrator.errors import Ahead, BadFiles, Drift, Pending, Problem
from migrator.files import load
from migrator.runner import up
from migrator.schema_file import Expected, parse, render
from migrator.verify import differences, ours, schemas_of, verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.conftest import PostgresServer
    from tests.migrator.conftest import Ended, Folder

    Seen = Callable[[str], Awaitable[list[Problem]]]

MADE = """
CREATE SCHEMA s;
GRANT USAGE ON SCHEMA s TO mdw_auth;
CREATE TYPE s.mood AS ENUM ('good', 'bad');
CREATE DOMAIN s.price AS double precision CHECK (VALUE > 0);
CREATE TYPE s.pair AS (a int, b text);
CREATE SEQUENCE s.counter CACHE 8;
CREATE TABLE s.t (
  n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text COLLATE "C" NOT NULL DEFAULT 'x' CONSTRAINT name_length CHECK (length(name) < 9),
  "Odd name" numeric(8, 2),
  twice int GENERATED ALWAYS AS (m * 2) STORED,
  m int
) WITH (fillfactor = 50);
COMMENT ON TABLE s.t IS 'Things; of ''all'' kinds';
CREATE TABLE s.child (n int REFERENCES s.t);
CREATE TABLE s.days (day date, n int) PARTITION BY RANGE (day);
CREATE TABLE s.days_1 PARTITION OF s.days FOR VALUES FROM ('2026-01-01') TO ('2026-01-02');
CREATE UNIQUE INDEX t_by_name ON s.t (lower(name)) WHERE m > 0;
CREATE FUNCTION s.f(a int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
  -- a comment; with a semicolon
  RETURN a + 1; END $$;
REVOKE ALL ON FUNCTION s.f FROM public;
GRANT EXECUTE ON FUNCTION s.f TO mdw_auth;
CREATE FUNCTION s.g(a int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT a + 1; END;
CREATE FUNCTION s.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER touched BEFORE UPDATE ON s.t FOR EACH ROW EXECUTE FUNCTION s.touch();
CREATE VIEW s.v AS SELECT n, name FROM s.t WHERE m > 0;
CREATE MATERIALIZED VIEW s.mv AS SELECT count(*) AS count FROM s.t;
CREATE RULE nothing AS ON DELETE TO s.child DO INSTEAD NOTHING;
ALTER TABLE s.child ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON s.child FOR SELECT TO mdw_auth USING (n > 0);
GRANT SELECT, INSERT ON s.t TO mdw_auth;
GRANT UPDATE (name) ON s.t TO mdw_auth;
"""


UNPROVEN = """
ALTER TABLE s.child DROP CONSTRAINT child_n_fkey,
  ADD CONSTRAINT child_n_fkey FOREIGN KEY (n) REFERENCES s.t NOT VALID
"""


@pytest.fixture
async def made(empty_database: str, folder: Folder, conn: asyncpg.Connection) -> Folder:
    """A migrated database and the schema file that it was read back into."""
    await up(empty_database, folder.add("0001_s.sql", MADE).path)
    text = render(await read_catalog(conn), load(folder.path), conn.get_server_version().major)
    (folder.path.parent / "schema.sql").write_text(text)
    return folder


@pytest.fixture(scope="module")
async def model(postgres: PostgresServer) -> AsyncIterator[asyncpg.Connection]:
    """A connection to one database for all changes that are undone."""
    admin = await asyncpg.connect(postgres.admin_url)
    await ensure_database(admin, "mdw_verify")
    conn = await asyncpg.connect(postgres.url("mdw_verify", OWNER))
    await conn.execute(MADE)
    yield conn
    await conn.close()
    await admin.execute("DROP DATABASE mdw_verify WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def seen(model: asyncpg.Connection) -> AsyncIterator[Seen]:
    """Makes a change, returns the differences that it makes, and undoes it."""
    objects = tuple(await read_catalog(model))
    expected = Expected("", model.get_server_version().major, objects)
    transaction = model.transaction()
    await transaction.start()

    async def change(sql: str) -> list[Problem]:
        await model.execute(sql)
        found = await read_objects(model, schemas_of(expected) | {"public"})
        return list(differences(objects, ours(found, expected)))

    yield change
    await transaction.rollback()


async def check(url: str, folder: Folder) -> int:
    return await verify(url, folder.path, wait=1, allow_ahead=False)


async def test_what_the_files_made_agrees_with_itself(empty_database: str, made: Folder) -> None:
    assert await check(empty_database, made) == 25


async def test_a_schema_file_reads_back_as_it_was_written(made: Folder, conn: asyncpg.Connection) -> None:
    objects = await read_catalog(conn)
    text = (made.path.parent / "schema.sql").read_text()
    assert [item.key for item in parse(text).objects] == [item.key for item in objects]
    assert render(parse(text).objects, load(made.path), conn.get_server_version().major) == text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DROP TABLE s.child", ["table s.child: is missing", "constraint s.child child_n_fkey: is missing"]),
        ("CREATE TABLE s.other (n int)", ["table s.other: is not from the migrations"]),
        ("CREATE TABLE public.other (n int)", ["table public.other: is not from the migrations"]),
        ("ALTER TABLE s.t DROP COLUMN twice", ["column s.t.twice: is missing"]),
        ("ALTER TABLE s.t ADD COLUMN extra int", ["column s.t.extra: is not from the migrations"]),
        (
            "ALTER TABLE s.t ALTER name DROP NOT NULL",
            ["column s.t.name: is text COLLATE", "and should be text COLLATE"],
        ),
        ("ALTER TABLE s.t ALTER name SET DEFAULT 'y'", ["column s.t.name", "DEFAULT 'y'::text", "DEFAULT 'x'::text"]),
        (
            'ALTER TABLE s.t ALTER "Odd name" TYPE bigint',
            ['column s.t."Odd name": is bigint, and should be numeric(8,2)'],
        ),
        ("ALTER TABLE s.t SET (fillfactor = 90)", ["table s.t: is", "(fillfactor=90)", "(fillfactor=50)"]),
        ("ALTER TABLE s.t DROP CONSTRAINT name_length", ["constraint s.t name_length: is missing"]),
        (UNPROVEN, ["constraint s.child child_n_fkey", "NOT VALID"]),
        ("DROP INDEX s.t_by_name", ["index s.t_by_name: is missing"]),
        ("CREATE INDEX more ON s.t (m)", ["index s.more: is not from the migrations"]),
        ("ALTER TABLE s.t DISABLE TRIGGER touched", ["trigger s.t touched", "-- disabled"]),
        ("ALTER TABLE s.t ENABLE REPLICA TRIGGER touched", ["trigger s.t touched", "-- fires by replication role"]),
        ("DROP TRIGGER touched ON s.t", ["trigger s.t touched: is missing"]),
        (
            "CREATE OR REPLACE FUNCTION s.f(a int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN a; END $$",
            ["function s.f(integer)", "RETURN a; END", "RETURN a + 1; END"],
        ),
        ("DROP FUNCTION s.g", ["function s.g(integer): is missing"]),
        ("CREATE OR REPLACE VIEW s.v AS SELECT n, name FROM s.t", ["view s.v: is"]),
        ("DROP MATERIALIZED VIEW s.mv", ["materialized view s.mv: is missing"]),
        ("ALTER TYPE s.mood ADD VALUE 'odd'", ["type s.mood", "'odd'"]),
        ("ALTER SEQUENCE s.counter CACHE 1", ["sequence s.counter", "CACHE 1;"]),
        ("DROP RULE nothing ON s.child", ["rule s.child nothing: is missing"]),
        ("DROP POLICY own ON s.child", ["policy s.child own: is missing"]),
        ("REVOKE INSERT ON s.t FROM mdw_auth", ["grant on table s.t to mdw_auth"]),
        ("REVOKE UPDATE (name) ON s.t FROM mdw_auth", ["grant on table s.t to mdw_auth"]),
        ("REVOKE USAGE ON SCHEMA s FROM mdw_auth", ["grant on schema s to mdw_auth: is missing: GRANT USAGE"]),
        ("GRANT SELECT ON s.child TO mdw_auth", ["grant on table s.child to mdw_auth: is extra: GRANT SELECT"]),
        ("GRANT SELECT ON s.child TO public", ["grant on table s.child to PUBLIC: is extra"]),
        ("GRANT EXECUTE ON FUNCTION s.f TO public", ["is missing: REVOKE ALL ON FUNCTION s.f(integer) FROM PUBLIC"]),
        ("COMMENT ON TABLE s.t IS NULL", ["comment on table s.t: is missing"]),
        ("ALTER TABLE s.child DISABLE ROW LEVEL SECURITY", ["table s.child: is"]),
    ],
)
async def test_each_kind_of_drift_is_named(seen: Seen, change: str, said: list[str]) -> None:
    found = "\n".join(str(problem) for problem in await seen(change))
    for text in said:
        assert text in found


async def test_an_invalid_index_is_named(empty_database: str, made: Folder, conn: asyncpg.Connection) -> None:
    await conn.execute("INSERT INTO s.t (name, m) VALUES ('a', 1), ('b', 1)")
    await conn.execute("DROP INDEX s.t_by_name")
    with pytest.raises(Exception, match="could not create unique index"):
        await conn.execute("CREATE UNIQUE INDEX CONCURRENTLY t_by_name ON s.t (m)")
    with pytest.raises(Drift, match=r"index s\.t_by_name: is\n.*-- invalid"):
        await check(empty_database, made)


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE s.days_2 PARTITION OF s.days FOR VALUES FROM ('2026-01-02') TO ('2026-01-03')",
        "DROP TABLE s.days_1",
        "GRANT SELECT ON s.t TO pg_monitor",
        "CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.t (n int)",
        "CREATE EXTENSION btree_gist SCHEMA public",
    ],
)
async def test_what_is_nobodys_business_is_no_drift(seen: Seen, change: str) -> None:
    assert await seen(change) == []


async def test_pending_files_are_said_instead_of_their_differences(empty_database: str, made: Folder) -> None:
    text = (made.path.parent / "schema.sql").read_text()
    made.add("0002_more.sql", "CREATE TABLE s.more ()")
    with pytest.raises(BadFiles, match="was made from other migrations"):
        await check(empty_database, made)
    (made.path.parent / "schema.sql").write_text(render(parse(text).objects, load(made.path), 18))
    with pytest.raises(Pending, match="not applied yet: 0002_more"):
        await check(empty_database, made)
    await up(empty_database, made.path)
    made.remove("0002_more.sql")
    (made.path.parent / "schema.sql").write_text(text)
    with pytest.raises(Ahead):
        await check(empty_database, made)
    assert await verify(empty_database, made.path, wait=1, allow_ahead=True) == 0


def test_what_another_server_prints_otherwise_is_the_same() -> None:
    older = CatalogObject("view", "s.v", "CREATE VIEW s.v AS\n SELECT t.n\n   FROM s.t\n  WHERE (t.m > 0);")
    newer = CatalogObject("view", "s.v", "CREATE VIEW s.v AS\n SELECT n\n   FROM s.t\n  WHERE m > 0;")
    other = CatalogObject("view", "s.v", "CREATE VIEW s.v AS\n SELECT n\n   FROM s.t\n  WHERE m > 1;")
    assert list(differences([older], [newer], same_server=False)) == []
    assert len(list(differences([older], [newer]))) == 1
    assert len(list(differences([older], [other], same_server=False))) == 1


@pytest.mark.parametrize("text", ["", "-- nothing here\n"])
async def test_a_file_that_is_no_schema_file_is_refused(empty_database: str, made: Folder, text: str) -> None:
    (made.path.parent / "schema.sql").write_text(text)
    with pytest.raises(BadFiles, match="has no header"):
        await check(empty_database, made)
    (made.path.parent / "schema.sql").unlink()
    with pytest.raises(BadFiles, match="cannot be read"):
        await check(empty_database, made)


async def test_the_command_ends_with_4_and_lists_the_differences(
    empty_database: str, made: Folder, conn: asyncpg.Connection, command: Callable[..., Awaitable[Ended]]
) -> None:
    arguments = ("verify", "--folder", str(made.path), "--json")
    ended = await command(empty_database, *arguments)
    assert (ended.code, ended.json["differences"]) == (0, [])
    await conn.execute("DROP VIEW s.v")
    ended = await command(empty_database, *arguments)
    assert (ended.code, ended.json["problems"][0]["where"]) == (4, "view s.v")
