"""Whatever a request holds: a clean refusal or an answer, from every RPC of every service."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdw.auth.v1 import auth_pb2
from tests.bridge import Bridge, in_thread
from tests.fuzzing import Known, call, judge, messages, mutations
from tests.support import make_key, with_key
from tests.whole import fill, methods, whole

VALUES, BYTES = 10, 4
# Services and hypothesis use the module random at the same time; nothing here hangs on its order.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

QUIET = settings(
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


async def known_things(database: Any) -> Known:
    """Makes a key that may be changed, and returns the ids of what there is."""
    key_id = uuid4()
    await make_key(database, "bars.read", name="toy", key_id=key_id)
    conn = await asyncpg.connect(database.admin_url)
    jobs = [str(row[0]) for row in await conn.fetch("SELECT backfill_id FROM ingest.backfills")]
    symbols = [row[0] for row in await conn.fetch("SELECT symbol_id FROM symbols.symbols")]
    await conn.close()
    return Known(
        {"key_id": [str(key_id)], "backfill_id": jobs, "symbol_id": symbols, "symbol_ids": symbols, "id": [UUID(int=1)]}
    )


def answered(strategy: st.SearchStrategy[bytes], method: Any, send: Any, bridge: Bridge) -> Any:
    """Makes the property that a method's answer to any such body is one that a caller may get."""

    @given(strategy)
    def check(body: bytes) -> None:
        judge(method, bridge(send(body=body)))

    return check


async def fuzz(database: Any, options: settings, values: int, bodies: int) -> None:
    """Sends each RPC so many messages of absurd values and so many broken ones."""
    await fill(database)
    known = await known_things(database)
    async with whole(database) as services:
        bridge = Bridge()
        for method in methods():
            send = partial(call, services.channel(method), method, metadata=with_key(services.key(method)))
            bytes_of = messages(method.input_type, known).map(lambda message: message.SerializeToString())
            for strategy, examples in ((bytes_of, values), (mutations(bytes_of), bodies)):
                await in_thread(settings(options, max_examples=examples)(answered(strategy, method, send, bridge)))


async def test_no_request_gets_more_than_a_clean_refusal(database):
    await fuzz(database, QUIET, VALUES, BYTES)


PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60)
SECRETS = st.one_of(
    PRINTABLE,
    st.sampled_from(["mdw_" + "0" * 72, "mdw_", "Bearer", "Bearer mdw_" + "f" * 72, "x" * 7_000]),
)
HEADERS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["x-api-key", "authorization", "x-request-id", "traceparent", "user-agent2"]), SECRETS
        ),
        st.tuples(st.sampled_from(["x-api-key-bin", "authorization-bin", "x-other-bin"]), st.binary(max_size=60)),
    ),
    max_size=4,
)


async def test_no_metadata_gets_a_stranger_more_than_a_refusal(database):
    async with whole(database) as services:
        bridge = Bridge()
        some = [method for method in methods() if method.name in ("ListKeys", "ListSymbols", "StreamBars")]

        @settings(QUIET, max_examples=20)
        @given(HEADERS, st.sampled_from(some))
        def refused(headers: list[tuple[str, Any]], method: Any) -> None:
            outcome = bridge(call(services.channel(method), method, b"", tuple(headers)))
            judge(method, outcome)
            assert outcome.code.name in ("UNAUTHENTICATED", "RESOURCE_EXHAUSTED")

        await in_thread(refused)


async def test_a_message_larger_than_four_megabytes_is_refused_and_the_service_goes_on(database):
    async with whole(database) as services:
        for method in methods():
            channel, key = services.channel(method), with_key(services.key(method))
            if method.name in ("CreateKey", "CreateSymbol", "StartBackfill", "ListBars", "StreamBars"):
                outcome = await call(channel, method, b"\x0a" + b"\xff\xff\xff\x01" + b"A" * 4_194_305, key)
                judge(method, outcome)
                assert outcome.code.name == "RESOURCE_EXHAUSTED"
        listing = next(method for method in methods() if method.name == "ListKeys")
        body = auth_pb2.ListKeysRequest().SerializeToString()
        assert (await call(services.channel(listing), listing, body, with_key(services.admin))).code.name == "OK"
