"""ListAuditEntries and VerifyAuditLog: what happened, and whether somebody changed it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mdw.auth.v1 import auth_pb2
from services.auth.reading import AuditReader
from services.auth.store.audit import AuditStore, Filters
from services.auth.store.chains import ChainStore
from services.auth.verifying import Verifier
from services.kit import entries
from services.kit.calls import Call
from services.kit.db import Database
from services.kit.errors import Unavailable
from services.kit.paging import PageTokens
from services.kit.principals import Principal
from services.kit.recorder import Recorder
from tests.auth.test_keys import Keys, refused
from tests.support import make_key, reason, violations

Finding = auth_pb2.AuditFinding


@pytest.fixture
def root(channel, admin) -> Keys:
    return Keys(channel, admin)


@pytest.fixture
async def owner(database):
    conn = await asyncpg.connect(database.admin_url)
    yield conn
    await conn.close()


def row(method: str, *, key: UUID | None = None, code: int = 0, why: str = "") -> entries.Entry:
    call = Call(method=method, peer="10.0.0.1", request_id='quote " and ä')
    if key:
        call.key = Principal(key_id=key, preview="mdw_abcdefgh", scopes=frozenset({"admin"}))
        call.key_preview = call.key.preview
    return entries.entry(call, code, why)


async def fill(
    database, batches: list[list[entries.Entry]], *, writer: UUID | None = None, service: str = "symbols"
) -> UUID:
    """Records batches as a recorder of its own; returns its writer."""
    writer = writer or uuid4()
    conn = await asyncpg.connect(database.symbols_url)
    for seq, batch in enumerate(batches, start=1):
        await conn.fetchval(entries.RECORD, writer, "reads", seq, service, *entries.columns(batch))
    await conn.close()
    return writer


async def pages(root: Keys, size: int, **fields) -> list:
    found, token = [], ""
    while True:
        page = await root.ListAuditEntries(page_size=size, page_token=token, **fields)
        assert len(page.entries) <= size
        found += page.entries
        token = page.next_page_token
        if not token:
            return found


async def test_entries_come_newest_first_and_filtered(database, root):
    key = uuid4()
    await make_key(database, "admin", key_id=key)
    await fill(database, [[row("GetSymbol", key=key)], [row("ListSymbols", code=16, why="KEY_MISSING")]])
    listed = await pages(root, 10, service="symbols")
    assert [entry.method for entry in listed] == ["ListSymbols", "GetSymbol"]
    assert (listed[0].code, listed[0].reason, listed[0].key_id) == ("UNAUTHENTICATED", "KEY_MISSING", "")
    assert (listed[1].key_preview, listed[1].request_id, listed[1].peer) == (
        "mdw_abcdefgh",
        'quote " and ä',
        "10.0.0.1",
    )
    assert [entry.method for entry in await pages(root, 10, key_id=str(key))] == ["GetSymbol"]
    assert [entry.method for entry in await pages(root, 10, method="ListSymbols")] == ["ListSymbols"]
    assert [entry.method for entry in await pages(root, 10, service="symbols", codes=["UNAUTHENTICATED"])] == [
        "ListSymbols"
    ]


async def test_pages_hold_every_row_once_while_rows_arrive(database, root):
    await fill(database, [[row("Old") for _ in range(30)] for _ in range(5)])
    stop = asyncio.Event()

    async def write():
        while not stop.is_set():
            await fill(database, [[row("New") for _ in range(10)]])

    writing = asyncio.create_task(write())
    seen = [entry.entry_id for entry in await pages(root, 7, service="symbols") if entry.method == "Old"]
    stop.set()
    await writing
    assert len(seen) == len(set(seen)) == 150


async def test_a_span_of_time_is_inclusive_and_exclusive(database, root, owner):
    await fill(database, [[row("One")], [row("Two")], [row("Three")]])
    times = [entry.time for entry in await pages(root, 10, service="symbols")]
    inside = await pages(root, 10, service="symbols", start_time=times[1], end_time=times[0])
    assert [entry.method for entry in inside] == ["Two"]
    assert await pages(root, 10, service="symbols", end_time=Timestamp(seconds=1)) == []
    assert violations(await refused(root.ListAuditEntries(start_time=times[0], end_time=times[1]))) == ["end_time"]


async def test_a_page_token_serves_only_its_own_filters(database, root):
    await fill(database, [[row("One"), row("One"), row("One")]])
    token = (await root.ListAuditEntries(page_size=1, service="symbols")).next_page_token
    for fields in ({"service": "auth"}, {"service": "symbols", "method": "One"}, {}):
        assert reason(await refused(root.ListAuditEntries(page_token=token, **fields))) == "PAGE_TOKEN_INVALID"
    for place in range(0, len(token), 5):
        flipped = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        assert (
            reason(await refused(root.ListAuditEntries(page_token=flipped, service="symbols"))) == "PAGE_TOKEN_INVALID"
        )


async def test_bad_filters_are_named(root):
    assert violations(await refused(root.ListAuditEntries(codes=["NO_SUCH"]))) == ["codes"]
    assert violations(await refused(root.ListAuditEntries(key_id="x"))) == ["key_id"]
    assert violations(await refused(root.ListAuditEntries(method="a\nb"))) == ["method"]


async def test_a_slow_read_is_cut_into_smaller_pieces(database, root, monkeypatch):
    """A piece that takes too long is asked for again in quarters."""
    await fill(database, [[row("One")], [row("Two")]])
    original, widths = AuditStore.entries, []

    async def slow(self, filters, **options):
        widths.append(options["end"] - options["start"])
        if widths[-1] > timedelta(hours=3):
            raise TimeoutError
        return await original(self, filters, **options)

    monkeypatch.setattr(AuditStore, "entries", slow)
    assert [entry.method for entry in await pages(root, 10, service="symbols")] == ["Two", "One"]
    assert max(widths) > timedelta(hours=3)


async def test_a_page_ends_when_its_time_is_up_and_goes_on(database, owner):
    """Short or empty pages lead to the same rows in the end."""
    await fill(database, [[row("One")], [row("Two")]])
    db = await Database.open(database.auth_url)
    reader = AuditReader(store=AuditStore(db), tokens=PageTokens(b"secret"), budget=0.0)
    found, token, pages_read = [], "", 0
    while True:
        page = await reader.page(Filters(), start=None, end=None, size=10, token=token)
        found += [entry.method for entry in page.rows]
        token, pages_read = page.next_token, pages_read + 1
        if not token:
            break
    await db.close()
    assert found == ["Two", "One"]
    assert pages_read > 5


async def test_a_piece_that_cannot_be_made_shorter_is_given_up(database):
    async def never(self, filters, **options):
        raise TimeoutError

    db = await Database.open(database.auth_url)
    store = AuditStore(db)
    store.entries = never.__get__(store)
    reader = AuditReader(store=store, tokens=PageTokens(b"secret"))
    with pytest.raises(Unavailable):
        await reader.page(Filters(), start=None, end=None, size=10, token="")
    await db.close()


async def test_an_untouched_log_verifies_while_it_is_written(database, root):
    key = uuid4()
    await make_key(database, "admin", key_id=key)
    db = await Database.open(database.symbols_url)
    async with Recorder(db, service="symbols") as recorder:

        async def write(number: int) -> None:
            call = Call(method=f"M{number}", peer="::1", request_id="é\u2028")
            call.key = Principal(key_id=key, preview="mdw_abcdefgh", scopes=frozenset({"admin"}))
            await recorder.submit(entries.entry(call, 0))
            async with recorder.change(call):
                pass

        await asyncio.gather(*(write(number) for number in range(40)))
        busy = asyncio.gather(*(write(number) for number in range(40)))
        report = await root.VerifyAuditLog()
        await busy
    await db.close()
    assert list(report.findings) == []
    assert report.batches > 40
    assert report.rows >= 80


async def head(owner, writer: UUID) -> auth_pb2.AuditHead:
    found = await owner.fetchrow("SELECT kind, last_seq, head_hash FROM auth.audit_writers WHERE writer = $1", writer)
    return auth_pb2.AuditHead(writer=str(writer), kind=found["kind"], seq=found["last_seq"], hash=found["head_hash"])


TAMPERING = {
    "a row is changed": (
        3,
        Finding.BATCH_EDITED,
        "UPDATE auth.audit_entries SET code = 7 WHERE writer = $1 AND seq = 3",
    ),
    "another key is blamed": (
        3,
        Finding.BATCH_EDITED,
        "UPDATE auth.audit_entries SET key_id = gen_random_uuid() WHERE writer = $1 AND seq = 3",
    ),
    "a count is changed": (
        2,
        Finding.BATCH_EDITED,
        "UPDATE auth.audit_entries SET call_count = 9 WHERE writer = $1 AND seq = 2",
    ),
    "a row is removed": (
        3,
        Finding.BATCH_EDITED,
        "DELETE FROM auth.audit_entries WHERE writer = $1 AND seq = 3 AND ord = 1",
    ),
    "a row is added": (
        3,
        Finding.BATCH_EDITED,
        """
        INSERT INTO auth.audit_entries
        SELECT time, 999999, writer, kind, seq, 9, call_id, key_id, key_preview, service, method, code, reason, peer,
               request_id, duration_us, messages, call_count
        FROM auth.audit_entries
        WHERE writer = $1 AND seq = 3 AND ord = 1
        """,
    ),
    "a row's time is moved": (
        3,
        Finding.BATCH_EDITED,
        """
        UPDATE auth.audit_entries SET time = time + interval '1 microsecond'
        WHERE writer = $1 AND seq = 3 AND ord = 1
        """,
    ),
    "a batch is removed with its rows": (
        3,
        Finding.BATCH_MISSING,
        """
        WITH gone AS (DELETE FROM auth.audit_entries WHERE writer = $1 AND seq = 3)
        DELETE FROM auth.audit_batches WHERE writer = $1 AND seq = 3
        """,
    ),
    "the last batch is removed with its rows": (
        5,
        Finding.BATCH_MISSING,
        """
        WITH gone AS (DELETE FROM auth.audit_entries WHERE writer = $1 AND seq = 5)
        DELETE FROM auth.audit_batches WHERE writer = $1 AND seq = 5
        """,
    ),
    "a batch alone is removed": (
        3,
        Finding.ROWS_UNACCOUNTED,
        "DELETE FROM auth.audit_batches WHERE writer = $1 AND seq = 3",
    ),
    "a batch's hash is replaced": (
        3,
        Finding.BATCH_EDITED,
        "UPDATE auth.audit_batches SET hash = sha256('x') WHERE writer = $1 AND seq = 3",
    ),
    "the recorder's head is replaced": (
        5,
        Finding.HEAD_MISMATCH,
        "UPDATE auth.audit_writers SET head_hash = sha256('x') WHERE writer = $1",
    ),
    "the recorder's row is removed": (
        5,
        Finding.WRITER_MISSING,
        "DELETE FROM auth.audit_writers WHERE writer = $1",
    ),
    "a base is set where batches still are": (
        1,
        Finding.BATCH_EDITED,
        "UPDATE auth.audit_writers SET base_seq = 4 WHERE writer = $1",
    ),
}


@pytest.mark.parametrize("name", TAMPERING)
async def test_tampering_is_found_and_located(database, root, owner, name):
    seq, kind, sql = TAMPERING[name]
    writer = await fill(database, [[row("One"), row("Two")] for _ in range(5)])
    await owner.execute(sql, writer)
    findings = (await root.VerifyAuditLog()).findings
    assert (kind, str(writer), seq) in [(found.kind, found.writer, found.seq) for found in findings]


async def test_a_recorder_removed_with_all_its_rows_is_found_by_its_logged_head(database, root, owner):
    writer = await fill(database, [[row("One")] for _ in range(3)])
    noted = await head(owner, writer)
    assert list((await root.VerifyAuditLog(heads=[noted])).findings) == []
    for table in ("audit_entries", "audit_batches", "audit_writers"):
        await owner.execute(f"DELETE FROM auth.{table} WHERE writer = $1", writer)
    assert list((await root.VerifyAuditLog()).findings) == []
    (found,) = (await root.VerifyAuditLog(heads=[noted])).findings
    assert (found.kind, found.writer, found.chain, found.seq) == (Finding.WRITER_MISSING, str(writer), "reads", 3)


async def test_a_chain_that_was_cut_back_is_found_by_its_logged_head(database, root, owner):
    writer = await fill(database, [[row("One")] for _ in range(3)])
    noted = await head(owner, writer)
    await owner.execute("DELETE FROM auth.audit_entries WHERE writer = $1 AND seq = 3", writer)
    await owner.execute("DELETE FROM auth.audit_batches WHERE writer = $1 AND seq = 3", writer)
    await owner.execute(
        "UPDATE auth.audit_writers w SET last_seq = 2, last_time = b.time, head_hash = b.hash"
        " FROM auth.audit_batches b WHERE w.writer = $1 AND b.writer = $1 AND b.seq = 2",
        writer,
    )
    assert list((await root.VerifyAuditLog()).findings) == []
    (found,) = (await root.VerifyAuditLog(heads=[noted])).findings
    assert (found.kind, found.seq) == (Finding.HEAD_MISMATCH, 3)


async def test_a_span_of_the_log_is_verified_by_itself(database, root, owner):
    writer = await fill(database, [[row("One")] for _ in range(5)])
    await owner.execute("UPDATE auth.audit_entries SET code = 7 WHERE writer = $1 AND seq = 1", writer)
    times = dict(await owner.fetch("SELECT seq, time FROM auth.audit_batches WHERE writer = $1", writer))
    later = Timestamp()
    later.FromDatetime(times[2])
    assert list((await root.VerifyAuditLog(start_time=later)).findings) == []
    assert len((await root.VerifyAuditLog(end_time=later)).findings) == 1


async def test_what_retention_has_dropped_is_no_finding(database, root, owner):
    writer = await fill(database, [[row("One")] for _ in range(5)])
    await owner.execute(
        "UPDATE auth.audit_writers w SET base_seq = 2, base_hash = b.hash"
        " FROM auth.audit_batches b WHERE w.writer = $1 AND b.writer = $1 AND b.seq = 2",
        writer,
    )
    for table in ("audit_entries", "audit_batches"):
        await owner.execute(f"DELETE FROM auth.{table} WHERE writer = $1 AND seq <= 2", writer)
    assert list((await root.VerifyAuditLog()).findings) == []
    await owner.execute("UPDATE auth.audit_writers SET base_hash = sha256('x') WHERE writer = $1", writer)
    (found,) = (await root.VerifyAuditLog()).findings
    assert (found.kind, found.seq) == (Finding.BATCH_EDITED, 3)


async def test_a_log_is_verified_in_small_pieces_as_in_one(database):
    await fill(database, [[row("One"), row("Two")] for _ in range(25)])
    db = await Database.open(database.auth_url)
    for size in (1, 2, 7, 400):
        verifier = Verifier(audit=AuditStore(db), chains=ChainStore(db), batches_a_piece=size)
        report = await verifier.verify(start=None, end=None)
        assert (report.findings, report.batches, report.rows) == ([], 25, 50)
    await db.close()


async def test_a_batch_repeated_on_several_connections_is_written_once(database, owner):
    writer = uuid4()
    for seq in range(1, 11):
        batch = entries.columns([row("One") for _ in range(5)])

        async def send(seq=seq, batch=batch):
            conn = await asyncpg.connect(database.symbols_url)
            try:
                return await conn.fetchval(entries.RECORD, writer, "reads", seq, "symbols", *batch)
            finally:
                await conn.close()

        assert await asyncio.gather(*(send() for _ in range(3))) == [[]] * 3
    assert await owner.fetchval("SELECT count(*) FROM auth.audit_entries") == 50


@pytest.mark.parametrize("role", ["auth", "symbols", "ingest"])
@pytest.mark.parametrize("statement", ["UPDATE auth.{} SET seq = 1", "DELETE FROM auth.{}", "TRUNCATE auth.{}"])
@pytest.mark.parametrize("table", ["audit_entries", "audit_batches"])
async def test_no_service_may_change_the_log(database, role, statement, table):
    conn = await asyncpg.connect(getattr(database, f"{role}_url"))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await conn.execute(statement.format(table))
    await conn.close()


@pytest.mark.parametrize("role", ["symbols", "ingest"])
async def test_other_services_see_no_keys(database, role):
    conn = await asyncpg.connect(getattr(database, f"{role}_url"))
    for table in ("keys", "key_usage", "audit_entries", "requests", "token_key"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.fetch(f"SELECT * FROM auth.{table}")
    await conn.close()
