"""What the service may touch, who may call it, and the rows its calls leave."""

from __future__ import annotations

import asyncpg
import grpc
import pytest

from mdw.symbols.v1 import symbols_pb2 as pb
from mdw.symbols.v1 import symbols_pb2_grpc
from services.symbols.__main__ import SCHEMA, build
from services.symbols.settings import SymbolsSettings
from tests.support import environment, make_key, with_key
from tests.symbols.making import create, new, refusal, rename, request

FORBIDDEN = [
    "SELECT 1 FROM ingest.bars",
    "SELECT 1 FROM ingest.series",
    "SELECT 1 FROM ingest.sessions",
    "SELECT 1 FROM ingest.slices",
    "DELETE FROM ingest.series",
    "SELECT 1 FROM auth.keys",
    "SELECT 1 FROM auth.audit_entries",
    "SELECT auth.lock_keys()",
    "SELECT ingest.announce_write(1)",
    "UPDATE symbols.token_key SET secret = ''",
    "CREATE TABLE symbols.mine ()",
]


async def test_the_role_reads_figures_through_the_view_and_nothing_else(database):
    """No bar, no series, no key: only the view, and the function that forgets a symbol."""
    conn = await asyncpg.connect(database.symbols_url)
    for statement in FORBIDDEN:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(statement)
    assert await conn.fetch("SELECT * FROM ingest.series_figures") == []
    assert await conn.fetchval("SELECT ingest.forget_symbol(1)") is True
    await conn.close()


async def test_every_method_needs_its_scope(database, target, symbols):
    """What changes something needs symbols.write, the rest symbols.read; neither is the other."""
    descriptor = pb.DESCRIPTOR.services_by_name["SymbolService"]
    writing = {"CreateSymbol", "ImportSymbols", "UpdateSymbol", "ActivateSymbols", "DeactivateSymbols", "DeleteSymbol"}
    writing.add("RecordTickerChange")
    readers, writers = await make_key(database, "symbols.read"), await make_key(database, "symbols.write")
    async with grpc.aio.insecure_channel(target) as channel:
        stub = symbols_pb2_grpc.SymbolServiceStub(channel)
        for method in descriptor.methods:
            call, empty = getattr(stub, method.name), getattr(pb, method.input_type.name)()
            without = readers if method.name in writing else writers
            await refusal(call(empty, metadata=with_key(without)), "SCOPE_MISSING")
            await refusal(call(empty), "KEY_INVALID")


AUDIT = """
SELECT method, code, reason, kind
FROM auth.audit_entries
WHERE service = 'symbols'
ORDER BY time, id
"""


async def test_every_call_leaves_one_row_and_a_change_its_own(symbols, admin_db):
    """Changes are recorded in their transaction, what was refused or read with the reads."""
    await create(symbols, "FB", request_id="")
    await refusal(create(symbols, "FB"), "SYMBOL_EXISTS")
    await refusal(create(symbols, "fb"), "FIELD_INVALID")
    await rename(symbols, "FB", "META", "2022-06-09")
    await symbols.ImportSymbols(pb.ImportSymbolsRequest(symbols=[new("A")], validate_only=True))
    await symbols.ImportSymbols(pb.ImportSymbolsRequest(symbols=[new("A")]))
    await symbols.UpdateSymbol(pb.UpdateSymbolRequest(symbol=pb.Symbol(ticker="A", name="Agilent")))
    await symbols.DeactivateSymbols(pb.DeactivateSymbolsRequest(filter=pb.SymbolFilter()))
    await symbols.DeleteSymbol(pb.DeleteSymbolRequest(symbol=pb.SymbolKey(ticker="A")))
    await refusal(symbols.GetSymbol(pb.GetSymbolRequest(ticker="A")), "SYMBOL_NOT_FOUND")
    rows = [tuple(row) for row in await admin_db.fetch(AUDIT)]
    changes, reads = await admin_db.fetchrow(
        "SELECT max(kind) FILTER (WHERE method = 'DeleteSymbol'), max(kind) FILTER (WHERE method = 'GetSymbol')"
        " FROM auth.audit_entries"
    )
    assert rows == [
        ("CreateSymbol", 0, "", changes),
        ("CreateSymbol", 6, "SYMBOL_EXISTS", reads),
        ("CreateSymbol", 3, "FIELD_INVALID", reads),
        ("RecordTickerChange", 0, "", changes),
        ("ImportSymbols", 0, "", reads),
        ("ImportSymbols", 0, "", changes),
        ("UpdateSymbol", 0, "", changes),
        ("DeactivateSymbols", 0, "", changes),
        ("DeleteSymbol", 0, "", changes),
        ("GetSymbol", 5, "SYMBOL_NOT_FOUND", reads),
    ]


async def test_a_revoked_key_changes_nothing(symbols, admin_db):
    """The change is rolled back with the refusal of its row, whatever any cache holds."""
    await create(symbols, "AAPL")
    await admin_db.execute("UPDATE auth.keys SET revoke_time = clock_timestamp() WHERE 'admin' = ANY(scopes)")
    await refusal(symbols.CreateSymbol(request("MSFT")), "KEY_INVALID")
    assert await admin_db.fetchval("SELECT count(*) FROM symbols.symbols") == 1


async def test_the_columns_it_checks_at_its_start_are_there(database):
    """A service that looked for what is nowhere would never start."""
    variables = environment(database.symbols_url, service_key="x")
    server = await build(SymbolsSettings.from_environment(variables))
    rows = await server.db.fetch(
        "SELECT a.attname FROM unnest($1::text[]) AS name JOIN pg_attribute a"
        " ON a.attrelid = to_regclass(split_part(name, '.', 1) || '.' || split_part(name, '.', 2))"
        " AND a.attname = split_part(name, '.', 3)",
        list(SCHEMA.columns),
    )
    assert len(rows) == len(SCHEMA.columns)
    await server.db.close()
