"""Requests made from the contracts' own descriptors, well-formed and not, and what an answer to them may look like."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.rpc import error_details_pb2
from hypothesis import strategies as st

from mdw.type.v1 import type_pb2
from services.kit.status import DETAILS_KEY
from tests.support import detail, violations

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, MethodDescriptor

C = grpc.StatusCode
ALLOWED = {
    C.OK,
    C.INVALID_ARGUMENT,
    C.NOT_FOUND,
    C.ALREADY_EXISTS,
    C.FAILED_PRECONDITION,
    C.OUT_OF_RANGE,
    C.RESOURCE_EXHAUSTED,
    C.ABORTED,
    C.UNAUTHENTICATED,
    C.PERMISSION_DENIED,
}
MAX_DETAILS = 6_144
INTERNALS = re.compile(
    r"traceback|asyncpg|postgres|\.py\b|<class|\bselect\b.*\bfrom\b|\binsert into\b|exception|0x[0-9a-f]{6}"
    r"|mdw_[0-9a-f]{16}|/services/|object at|nonetype|duplicate key value|violates",
    re.IGNORECASE | re.DOTALL,
)
SECONDS = 60.0
STREAM_SECONDS = 0.25
WAITING = {"WatchBackfill", "WatchSession"}
"""They last until their deadline by nature."""

STRANGE = [
    "",
    "\0",
    "a\0b",
    "\u202eAAPL",
    "A" * 300,
    "é" * 200,
    "'; DROP TABLE ingest.bars; --",
    "%s{0}%(x)s",
    "../../etc/passwd",
    "\ud7ff\U0010ffff",
    "-1",
    "NaN",
    "1e400",
    "{}",
    "////",
    "A" * 5_000,
    "00000000-0000-0000-0000-000000000000",
    "AAPL\n",
    "X:",
    "I:SPX",
    "*",
]
LIKELY = {
    "ticker": ["AAPL", "AAPL", "BTC-USD", "NOPE"],
    "tickers": ["AAPL", "AAPL", "NOPE"],
    "scopes": ["bars.read", "keys.read", "admin", "service", "nothing"],
    "paths": ["display_name", "scopes", "expire_time", "name", "active", "timeframes", "delist_date", "*", "key_id"],
    "allowed_peers": ["127.0.0.1", "10.0.0.0/8", "::1/64", "300.1.1.1", "10.0.0.0/99"],
    "codes": ["OK", "UNAUTHENTICATED", "NOPE"],
    "kind": ["reads", "changes", "other"],
    "page_token": [""],
    "display_name": ["Some name"],
    "timeframes": [7],
    "timeframe": [7],
    "service": ["auth", ""],
    "method": ["ListKeys", ""],
}
_TIMES = {"start_time": {"seconds": 1_104_710_400}, "end_time": {"seconds": 1_112_140_800}}
_SPAN = {"timeframe": 7, **_TIMES}
_KEY = {"display_name": "Some name", "scopes": ["bars.read"]}
_CALL = {"call_id": str(UUID(int=7)), "method": "ListBars", "scopes": ["bars.read"], "call_count": 1}
GOOD: dict[str, dict[str, Any]] = {
    "CreateKeyRequest": {**_KEY, "expire_time": {"seconds": 4_000_000_000}},
    "RecordCallsRequest": {"writer": str(UUID(int=5)), "kind": 1, "seq": 1, "service": "other", "calls": [_CALL]},
    "CreateSymbolRequest": {"symbol": {"ticker": "MSFT", "asset_class": 1, "list_date": "1990-01-02"}},
    "UpdateSymbolRequest": {"symbol": {"ticker": "AAPL", "asset_class": 1, "name": "x"}},
    "RecordTickerChangeRequest": {
        "symbol": {"ticker": "AAPL", "asset_class": 1},
        "new_ticker": "APPL",
        "from_date": "2006-01-03",
    },
    "StartBackfillRequest": {"tickers": ["AAPL"], **_TIMES, "timeframes": [7]},
    "DeleteBarsRequest": {"ticker": "AAPL", **_SPAN, "reason": "a test"},
    "ListBarsRequest": {"ticker": "AAPL", **_SPAN},
    "StreamBarsRequest": {"tickers": ["AAPL"], **_SPAN},
    "GetLatestBarsRequest": {"tickers": ["AAPL"], "timeframe": 7},
    "GetCoverageRequest": {"tickers": ["AAPL"], **_SPAN},
    "WatchSessionRequest": {"tickers": ["AAPL"], "timeframe": 7, "session_date": "2005-01-03"},
}
"""Requests that would be answered, for the methods that ask for much."""

DATES = [
    "2005-01-03",
    "2005-02-15",
    "2005-02-30",
    "0001-01-01",
    "9999-12-31",
    "2005-1-3",
    "20050103",
    "\uff12\uff10\uff10\uff15-01-03",
]
INT32 = [0, 1, -1, 2, 1000, 1001, 2**31 - 1, -(2**31)]
INT64 = [*INT32, 2**63 - 1, -(2**63), 2**53 + 1]
DOUBLES = [0.0, -0.0, 1.0, -1.0, 0.5, float("nan"), float("inf"), float("-inf"), 5e-324, 1.7e308]
SECONDS_OF_2005 = [1_104_710_400, 1_107_216_000, 1_112_140_800]
ODD_SECONDS = [0, 1, -1, -62_135_596_800, 253_402_300_799, 253_402_300_800, 2**63 - 1, -(2**63), 2**53 + 1]
NANOS = [0, 1, 1_000, 999_999_999, 1_000_000_000, -1, -(2**31)]


_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
}


@dataclass
class Known:
    """Ids of things that exist; fuzzed fields of these names often hold them."""

    values: dict[str, list[Any]]

    def of(self, field: FieldDescriptor) -> list[Any]:
        kind = str if field.cpp_type == FieldDescriptor.CPPTYPE_STRING else int
        named = [*self.values.get(field.name, []), *LIKELY.get(field.name, [])]
        return [value for value in named if isinstance(value, kind)]


def sensible(field: FieldDescriptor, known: Known) -> st.SearchStrategy[Any]:
    """Returns values of a plain field that a caller may well send."""
    likely = known.of(field)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING and field.type == FieldDescriptor.TYPE_STRING:
        if field.name == "request_id":
            return st.uuids(version=4).map(str)
        return st.sampled_from(likely or (DATES[:2] if "date" in field.name else ["", "some text"]))
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return st.sampled_from(likely or [value.number for value in field.enum_type.values])
    if field.cpp_type in _INTEGERS:
        return st.sampled_from(likely or [0, 1, 2, 10])
    return absurd(field, known)


def absurd(field: FieldDescriptor, known: Known) -> st.SearchStrategy[Any]:
    """Returns values of a plain field, edges first."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return st.binary(max_size=40)
        known_or_dates = [*known.of(field), *(DATES if "date" in field.name else [])]
        return st.one_of(st.sampled_from(STRANGE + known_or_dates), st.uuids().map(str), st.text(max_size=40))
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return st.sampled_from([99, -1, 2**31 - 1])
    if field.cpp_type not in _INTEGERS:
        return st.one_of(st.sampled_from(DOUBLES), st.floats(width=32))
    wide = field.cpp_type in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
    unsigned = field.cpp_type in (FieldDescriptor.CPPTYPE_UINT64, FieldDescriptor.CPPTYPE_UINT32)
    return st.sampled_from([edge for edge in (INT64 if wide else INT32) if edge >= 0 or not unsigned])


@st.composite
def messages(draw: Any, kind: Descriptor, known: Known) -> Any:
    """Draws a request: any subset of its fields, all sensible to all absurd, or a good one with some changed."""
    drawing = Drawing(draw, known, draw(st.sampled_from([0, 0, 1, 1, 4, 10])))
    good = GOOD.get(kind.name)
    if good is None or draw(st.integers(0, 3)) == 0:
        return drawing.message(kind)
    made = message_factory.GetMessageClass(kind)(**good)
    for _ in range(draw(st.integers(0, 2))):
        field = draw(st.sampled_from(list(kind.fields)))
        made.ClearField(field.name)
        if draw(st.booleans()):
            drawing.fill(made, field, 0)
    return made


@dataclass
class Drawing:
    """Fills one message; `oddity` of ten plain values are absurd."""

    draw: Any
    known: Known
    oddity: int

    def message(self, kind: Descriptor, depth: int = 0) -> Any:
        made = message_factory.GetMessageClass(kind)()
        if kind.full_name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
            odd = self.odd()
            made.seconds = self.draw(st.sampled_from(ODD_SECONDS if odd else SECONDS_OF_2005))
            made.nanos = self.draw(st.sampled_from(NANOS)) if odd else 0
            return made
        for field in kind.fields:
            if depth < 4 and self.draw(st.integers(0, 9)) < 6 - min(depth, 1):
                self.fill(made, field, depth)
        return made

    def odd(self) -> bool:
        return bool(self.draw(st.integers(0, 9)) < self.oddity)

    def plain(self, field: FieldDescriptor) -> Any:
        return self.draw((absurd if self.odd() else sensible)(field, self.known))

    def fill(self, made: Any, field: FieldDescriptor, depth: int) -> None:
        is_message = field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE
        if is_message and field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            getattr(made, field.name)[self.plain(key)] = self.plain(value)
        elif field.is_repeated:
            for _ in range(self.draw(st.sampled_from([1, 1, 2, 25 if self.odd() else 3]))):
                one = self.message(field.message_type, depth + 1) if is_message else self.plain(field)
                getattr(made, field.name).append(one)
        elif is_message:
            getattr(made, field.name).CopyFrom(self.message(field.message_type, depth + 1))
        else:
            setattr(made, field.name, self.plain(field))


@st.composite
def mutations(draw: Any, bodies: st.SearchStrategy[bytes]) -> bytes:
    """Draws bytes that were a message before something happened to them."""
    body = bytearray(draw(bodies))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(body)))
        way = draw(st.sampled_from(["flip", "cut", "insert", "double", "endless", "deep"]))
        if way == "flip" and body:
            body[at % len(body)] ^= 1 << draw(st.integers(0, 7))
        elif way == "cut":
            del body[at:]
        elif way == "insert":
            body[at:at] = draw(st.binary(min_size=1, max_size=12))
        elif way == "double":
            body += body[:4_096]
        elif way == "endless":
            body[at:at] = b"\xff" * 11
        else:
            body[at:at] = b"\x0a\x7f" * 120
    return bytes(body)


@dataclass(frozen=True)
class Outcome:
    """How a call ended."""

    code: grpc.StatusCode
    error: grpc.aio.AioRpcError | None = None


async def call(channel: grpc.aio.Channel, method: MethodDescriptor, body: bytes, metadata: Any) -> Outcome:
    """Calls an RPC with ready bytes; a stream is read until it ends, or left after its deadline."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    try:
        if method.server_streaming:
            stream = channel.unary_stream(path)(
                body, metadata=metadata, timeout=STREAM_SECONDS if method.name in WAITING else SECONDS
            )
            async for _ in stream:
                pass
        else:
            await channel.unary_unary(path)(body, metadata=metadata, timeout=SECONDS)
    except grpc.aio.AioRpcError as error:
        return Outcome(error.code(), error)
    return Outcome(C.OK)


def judge(method: MethodDescriptor, outcome: Outcome) -> None:
    """Fails on an answer that no caller should ever get."""
    allowed = ALLOWED | {C.DEADLINE_EXCEEDED} if method.name in WAITING else ALLOWED
    assert outcome.code in allowed, outcome.error
    error = outcome.error
    if error is None or outcome.code is C.DEADLINE_EXCEEDED:
        return
    rich = [value for name, value in error.trailing_metadata() or () if name == DETAILS_KEY]
    said = f"{error.details()} {rich[0].decode(errors='replace') if rich else ''}"
    assert not INTERNALS.search(said), said
    if not rich:  # gRPC itself refused it: too big, for one
        assert outcome.code is C.RESOURCE_EXHAUSTED, error
        return
    assert len(rich[0]) <= MAX_DETAILS
    info = detail(error, error_details_pb2.ErrorInfo())
    assert info is not None
    assert info.reason in set(type_pb2.ErrorReason.keys()), info
    if outcome.code is C.INVALID_ARGUMENT:
        _judge_fields(method, violations(error))


def _judge_fields(method: MethodDescriptor, fields: list[str]) -> None:
    """Each violation names a field that the request has, in the contract's spelling; or the request as a whole."""
    assert fields
    for path in fields:
        if path == "request":
            continue
        kind = method.input_type
        for part in path.split("."):
            name = part.partition("[")[0]
            assert kind is not None, (path, "goes on after a plain field")
            assert name in kind.fields_by_name, (path, method.input_type.full_name)
            kind = kind.fields_by_name[name].message_type
