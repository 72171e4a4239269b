"""Client and AsyncClient: every RPC that is for people is a method, under the same name in both."""

from __future__ import annotations

import inspect
import multiprocessing
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import date, timedelta
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from mdw.auth.v1.auth_pb2 import CreateKeyResponse, GetKeyResponse, Key, RotateKeyResponse
from mdw.ingest.v1.ingest_pb2 import Backfill, BackfillPlan, StartBackfillResponse
from mdw.symbols.v1.symbols_pb2 import GetSymbolResponse, Symbol, SymbolFilter
from mdw_client import AsyncClient, Client, ConfigurationError, new_symbol
from services.kit.keys import new_secret
from tests.mdw_client.conftest import KEY
from tests.mdw_client.warehouse import SERVICES, Warehouse

PARTS = ("keys", "audit", "symbols", "backfills", "rejects", "bars", "coverage", "schedule", "actions")
NAME = {"key_id": "k"}
JOB = {"backfill_id": "b"}
APPLE = {"ticker": "AAPL", "asset_class": "ASSET_CLASS_STOCK"}
# What is called, the RPC that it must reach, and fields of the request that must be there.
CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any], str, dict[str, Any]]] = [
    (
        "keys.create",
        ("name", "bars.read"),
        {"max_streams": 3},
        "CreateKey",
        {"scopes": ["bars.read"], "max_streams": 3},
    ),
    ("keys.get", ("k",), {}, "GetKey", NAME),
    ("keys.list", (), {"active_only": True}, "ListKeys", {"active_only": True}),
    ("keys.update", (Key(key_id="k"), ["expire_time"]), {}, "UpdateKey", {"update_mask": "expireTime", "key": NAME}),
    ("keys.update", (Key(key_id="k"),), {}, "UpdateKey", {"key": NAME}),
    ("keys.revoke", ("k",), {}, "RevokeKey", NAME),
    ("keys.restore", ("k",), {}, "RestoreKey", NAME),
    ("keys.rotate", ("k",), {"overlap": timedelta(hours=1)}, "RotateKey", {"overlap": "3600s", **NAME}),
    ("keys.delete", ("k",), {}, "DeleteKey", NAME),
    (
        "audit.list",
        (),
        {"codes": "OK", "start": "2024-05-01"},
        "ListAuditEntries",
        {"start_time": "2024-05-01T00:00:00Z"},
    ),
    ("audit.verify", (), {}, "VerifyAuditLog", {}),
    (
        "actions.list",
        (7, "split"),
        {"start": "2024-05-01"},
        "ListCorporateActions",
        {"symbol_id": "7", "kind": "SPLIT"},
    ),
    ("backfills.import_files", ("us_stocks_sip",), {"mode": "refetch"}, "ImportFiles", {"path": "us_stocks_sip"}),
    ("actions.sync", ("AAPL", "2024-05-01"), {}, "SyncActions", {"tickers": ["AAPL"]}),
    ("actions.sync_symbols", ("crypto",), {}, "SyncSymbols", {"asset_class": "ASSET_CLASS_CRYPTO"}),
    ("symbols.create", ("AAPL", "stock"), {"list_date": date(1980, 12, 12)}, "CreateSymbol", {}),
    ("symbols.import_", ([new_symbol("AAPL", "stock", timeframes="1m")],), {}, "ImportSymbols", {}),
    ("symbols.get", ("AAPL", "stock"), {"date": "2012-05-18"}, "GetSymbol", {"date": "2012-05-18", **APPLE}),
    ("symbols.get", (7,), {}, "GetSymbol", {"symbol_id": "7"}),
    (
        "symbols.list",
        ("etf",),
        {"backfill_state": "failed"},
        "ListSymbols",
        {"backfill_state": "BACKFILL_STATE_FAILED"},
    ),
    ("symbols.update", (Symbol(symbol_id=7), "name"), {}, "UpdateSymbol", {"update_mask": "name"}),
    ("symbols.update", (Symbol(symbol_id=7),), {}, "UpdateSymbol", {"symbol": {"symbol_id": "7"}}),
    ("symbols.activate", (["AAPL"], "stock"), {}, "ActivateSymbols", {"symbols": [APPLE]}),
    (
        "symbols.deactivate",
        (),
        {"matching": SymbolFilter(exchange="XNAS")},
        "DeactivateSymbols",
        {"filter": {"exchange": "XNAS"}},
    ),
    ("symbols.delete", ("AAPL", "stock"), {}, "DeleteSymbol", {"symbol": APPLE}),
    (
        "symbols.record_ticker_change",
        ("FB", "META", "2022-06-09"),
        {},
        "RecordTickerChange",
        {"from_date": "2022-06-09"},
    ),
    ("symbols.statistics", ("AAPL", "stock"), {}, "GetSymbolStatistics", APPLE),
    ("symbols.list_statistics", (), {"active_only": True}, "ListSymbolStatistics", {"active_only": True}),
    ("symbols.registry_statistics", (), {"stalest": 5}, "GetRegistryStatistics", {"stalest": 5}),
    ("backfills.plan", ("AAPL", ["1d", "1m"]), {}, "StartBackfill", {"validate_only": True, "tickers": ["AAPL"]}),
    (
        "backfills.start",
        ([7],),
        {"mode": "refetch"},
        "StartBackfill",
        {"symbol_ids": ["7"], "mode": "BACKFILL_MODE_REFETCH"},
    ),
    (
        "backfills.start",
        (),
        {"asset_class": "etf", "start": date(2020, 1, 1)},
        "StartBackfill",
        {"start_time": "2020-01-01T00:00:00Z"},
    ),
    ("backfills.get", ("b",), {}, "GetBackfill", JOB),
    (
        "backfills.list",
        (),
        {"states": ["running"], "kinds": "bars"},
        "ListBackfills",
        {"states": ["RUNNING"], "kinds": ["BARS"]},
    ),
    ("backfills.slices", ("b",), {"states": "failed"}, "ListSlices", {"states": ["FAILED"], **JOB}),
    ("backfills.watch", ("b",), {}, "WatchBackfill", JOB),
    ("backfills.set_priority", ("b", "high"), {}, "UpdateBackfill", {"priority": "PRIORITY_HIGH", **JOB}),
    ("backfills.pause", ("b", "lunch"), {}, "PauseBackfill", {"reason": "lunch", **JOB}),
    ("backfills.resume", ("b",), {}, "ResumeBackfill", JOB),
    ("backfills.cancel", ("b",), {}, "CancelBackfill", JOB),
    ("backfills.status", (), {"stalest": 7}, "GetIngestStatus", {"stalest": 7}),
    ("backfills.retry", ("b",), {}, "RetryBackfill", JOB),
    (
        "bars.delete",
        ("AAPL", "1d", "2024-01-02", "2024-01-03"),
        {"reason": "wrong", "purge": True},
        "DeleteBars",
        {"reason": "wrong", "purge": True, "end_time": "2024-01-03T00:00:00Z"},
    ),
    ("coverage", (["AAPL"], "1m", "2024-01-02"), {}, "GetCoverage", {"tickers": ["AAPL"], "timeframe": "TIMEFRAME_1M"}),
    ("schedule.get", (), {}, "GetSchedule", {}),
    ("schedule.run", (), {}, "RunSchedule", {}),
    ("schedule.pause", ("holiday",), {}, "PauseSchedule", {"note": "holiday"}),
    ("schedule.resume", (), {}, "ResumeSchedule", {}),
    ("watch_session", ("2024-01-02", "AAPL"), {}, "WatchSession", {"session_date": "2024-01-02"}),
    (
        "rejects.list",
        ("AAPL",),
        {"timeframe": "1m"},
        "ListRejectedBars",
        {"timeframe": "TIMEFRAME_1M", "ticker": "AAPL"},
    ),
    ("bars", ("AAPL",), {}, "StreamBars", {"tickers": ["AAPL"]}),
    ("bars.chunks", (), {"asset_class": "crypto"}, "StreamBars", {"asset_class": "ASSET_CLASS_CRYPTO"}),
    ("bars.list", ("AAPL", "1w"), {}, "ListBars", {"timeframe": "TIMEFRAME_1W"}),
    ("bars.list", (["AAPL", "MSFT"],), {"asset_class": "stock"}, "ListBars", {"tickers": ["AAPL", "MSFT"]}),
    ("bars.list", (), {"all_active": True, "strict": True}, "ListBars", {"all_active": True, "strict": True}),
    ("bars.latest", (["AAPL"],), {}, "GetLatestBars", {"timeframe": "TIMEFRAME_1D"}),
]
IDS = [f"{call[0]}-{index}" for index, call in enumerate(CALLS)]


def method(client: Client | AsyncClient, path: str) -> Any:
    found: Any = client
    for name in path.split("."):
        found = getattr(found, name)
    return found


def check(warehouse: Warehouse, rpc: str, expected: dict[str, Any]) -> None:
    received = warehouse.received[-1]
    sent = MessageToDict(received.request, preserving_proto_field_name=True)
    assert received.method == rpc
    assert received.metadata["x-api-key"] == KEY
    assert {name: sent.get(name) for name in expected} == expected
    if "request_id" in received.request.DESCRIPTOR.fields_by_name and not sent.get("validate_only"):
        assert len(received.request.request_id) == 36


@pytest.mark.parametrize("call", CALLS, ids=IDS)
def test_a_method_sends_its_request(warehouse: Warehouse, client: Client, call) -> None:
    path, args, kwargs, rpc, expected = call
    answer = method(client, path)(*args, **kwargs)
    if hasattr(answer, "__iter__"):
        list(answer)
    check(warehouse, rpc, expected)


@pytest.mark.parametrize("call", CALLS, ids=IDS)
async def test_it_does_on_asyncio(warehouse: Warehouse, aclient: AsyncClient, call) -> None:
    path, args, kwargs, rpc, expected = call
    answer = method(aclient, path)(*args, **kwargs)
    if hasattr(answer, "__aiter__"):
        _ = [each async for each in answer]
    else:
        await answer
    check(warehouse, rpc, expected)


def test_every_rpc_for_people_is_a_method() -> None:
    """AuthService is for services."""
    rpcs = {rpc.name for service in SERVICES if service.name != "AuthService" for rpc in service.methods}
    assert rpcs == {call[3] for call in CALLS}


def test_both_clients_have_the_same_names() -> None:
    blocking, aio = Client(key=KEY), AsyncClient(key=KEY)
    for part in PARTS:
        one, other = getattr(blocking, part), getattr(aio, part)
        names = {name for name in dir(one) if not name.startswith("_")}
        assert names == {name for name in dir(other) if not name.startswith("_")}
        for name in names - {"runner"}:
            assert inspect.signature(getattr(one, name)) == inspect.signature(getattr(other, name))


def test_help_says_what_a_method_takes() -> None:
    signature = inspect.signature(Client(key=KEY).keys.get)
    assert list(signature.parameters) == ["key_id"]
    assert "one key" in (Client(key=KEY).keys.get.__doc__ or "")
    assert "one key" in (inspect.getdoc(type(Client(key=KEY).keys).get) or "")


def test_answers_are_unwrapped(warehouse: Warehouse, client: Client) -> None:
    warehouse.answers |= {
        "GetKey": GetKeyResponse(key=Key(key_id="7")),
        "CreateKey": CreateKeyResponse(key=Key(key_id="8"), secret="shown once"),
        "RotateKey": RotateKeyResponse(secret="shown once", old_key=Key(key_id="7")),
        "GetSymbol": GetSymbolResponse(symbol=Symbol(ticker="META")),
        "StartBackfill": StartBackfillResponse(backfill=Backfill(backfill_id="b"), plan=BackfillPlan(slices=3)),
    }
    assert client.keys.get("7").key_id == "7"
    assert client.keys.create("name", "bars.read").secret == "shown once"
    assert client.keys.rotate("7").old_key.key_id == "7"
    assert client.symbols.get("FB").symbol.ticker == "META"
    assert client.backfills.plan("AAPL").slices == 3
    assert client.backfills.start("AAPL").backfill_id == "b"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda client: client.symbols.activate(), "an empty filter means all"),
        (lambda client: client.backfills.start([]), "all_active=True"),
        (lambda client: client.symbols.create("AAPL", "bond"), "is none of stock, etf, crypto"),
        (lambda client: client.backfills.start("AAPL", "2d"), "timeframe: '2d' is none of 1m, 5m"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_it_is_sent(warehouse: Warehouse, client: Client, call, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        call(client)
    assert warehouse.received == []


def test_a_new_symbol_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"AAPL: .*colour"):
        new_symbol("AAPL", "stock", colour="red")


def test_services_are_called_at_their_own_addresses(warehouse: Warehouse) -> None:
    other = Warehouse()
    other.start()
    with Client(targets={"auth": warehouse.target, "symbols": other.target, "ingest": other.target}) as client:
        client.keys.get("7")
        client.symbols.get("AAPL")
        list(client.backfills.list())
        assert client.channel("symbols") is client.channel("ingest")
    other.stop()
    assert [each.method for each in warehouse.received] == ["GetKey"]
    assert [each.method for each in other.received] == ["GetSymbol", "ListBackfills"]


def test_a_client_says_where_its_services_are() -> None:
    shown = repr(Client("warehouse.example.com", key=KEY, tls=True))
    assert shown.startswith("<Client: auth at warehouse.example.com:15051, symbols at ")
    assert KEY not in shown


def test_a_client_pickles_as_its_settings(warehouse: Warehouse, client: Client, aclient: AsyncClient) -> None:
    client.keys.get("7")
    with pickle.loads(pickle.dumps(client)) as copy:
        copy.keys.get("8")
    assert pickle.loads(pickle.dumps(aclient)).settings == aclient.settings
    assert [each.request.key_id for each in warehouse.received] == ["7", "8"]


FORKED = """
import multiprocessing, os, sys
from mdw_client import Client

def work(client, answers):
    try:
        answers.put(client.keys.get("child").key_id or "answered")
    except Exception as error:
        answers.put(type(error).__name__)

client = Client(sys.argv[1])
if sys.argv[2] == "used":
    client.keys.get("parent")
context = multiprocessing.get_context("fork")
answers = context.Queue()
child = context.Process(target=work, args=(client, answers))
child.start()
print(answers.get(timeout=100))
child.join(100)
print(child.exitcode)
client.keys.get("parent")
client.close()
"""


@pytest.mark.parametrize(("used", "answer"), [("used", "ForkedProcessError"), ("unused", "answered")])
def test_in_a_forked_child_it_connects_anew_or_says_why_not(warehouse: Warehouse, used: str, answer: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKED, warehouse.target, used]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=_environment())
    assert done.stdout.split() == [answer, "0"], done.stderr
    assert warehouse.received[-1].request.key_id == "parent"


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(sys.path), "GRPC_VERBOSITY": "ERROR"}


def _get(client: Client) -> str:
    with client:
        return client.keys.get("spawned").DESCRIPTOR.name


def test_it_goes_to_spawned_workers(warehouse: Warehouse, client: Client) -> None:
    client.keys.get("parent")
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        assert pool.apply(_get, (client,)) == "Key"
    assert [each.request.key_id for each in warehouse.received] == ["parent", "spawned"]


def test_a_list_is_an_iterator(client: Client, aclient: AsyncClient) -> None:
    assert isinstance(client.keys.list(), Iterator)
    assert isinstance(aclient.keys.list(), AsyncIterator)
    assert new_secret() != KEY
