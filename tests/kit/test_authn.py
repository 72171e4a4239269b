"""The cache of keys, and the look-ups behind it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from uuid import uuid4

import grpc
import pytest

from services.kit import keys
from services.kit.authn import Credentials, KeyCache
from services.kit.errors import Unauthenticated, Unavailable
from services.kit.principals import Principal
from services.kit.remote import RemoteAuthenticator
from tests.support import auth_serving, make_key


class Source:
    """What the cache asks; counts how often."""

    def __init__(self) -> None:
        self.known: dict[str, Principal] = {}
        self.asked = 0
        self.away = False
        self.hold: asyncio.Event | None = None

    async def __call__(self, secret: str) -> Principal | None:
        self.asked += 1
        if self.hold:
            await self.hold.wait()
        if self.away:
            raise Unavailable("AUTH_UNAVAILABLE", "away", retry_after=1)
        return self.known.get(secret)

    def add(self) -> str:
        secret = keys.new_secret()
        self.known[secret] = Principal(key_id=uuid4(), preview=secret[:12], scopes=frozenset({"bars.read"}))
        return secret


async def test_a_hit_and_a_miss_are_asked_for_once():
    source = Source()
    cache = KeyCache(source)
    secret, unknown = source.add(), keys.new_secret()
    for _ in range(5):
        assert await cache.find(secret) == source.known[secret]
        assert await cache.find(unknown) is None
    assert source.asked == 2
    assert cache.cached(keys.digest(secret)) == source.known[secret]
    assert cache.cached(keys.digest(unknown)) is None


async def test_many_at_once_share_one_question_and_one_that_leaves_takes_nobody_along():
    source = Source()
    source.hold = asyncio.Event()
    cache = KeyCache(source)
    secret = source.add()
    asking = [asyncio.create_task(cache.find(secret)) for _ in range(20)]
    await asyncio.sleep(0)
    asking[0].cancel()
    await asyncio.sleep(0)
    source.hold.set()
    assert {one.preview for one in await asyncio.gather(*asking[1:])} == {secret[:12]}
    assert source.asked == 1


async def test_entries_grow_old_and_misses_sooner():
    source = Source()
    cache = KeyCache(source, fresh_seconds=60, miss_seconds=0)
    secret = source.add()
    del source.known[secret]
    assert await cache.find(secret) is None
    secret = source.add()
    assert await cache.find(secret)
    unknown = keys.new_secret()
    await cache.find(unknown)
    await cache.find(unknown)
    assert source.asked == 4


async def test_known_keys_go_on_while_the_source_is_away_and_unknown_ones_do_not():
    source = Source()
    cache = KeyCache(source, fresh_seconds=0)
    secret = source.add()
    await cache.find(secret)
    source.away = True
    assert await cache.find(secret) == source.known[secret]
    with pytest.raises(Unavailable):
        await cache.find(keys.new_secret())


async def test_the_cache_is_bounded():
    source = Source()
    cache = KeyCache(source, capacity=10)
    for _ in range(100):
        await cache.find(keys.new_secret())
    assert len(cache._known) == 10


async def test_forgetting_drops_what_a_question_under_way_will_say():
    source = Source()
    source.hold = asyncio.Event()
    cache = KeyCache(source)
    secret = source.add()
    asking = asyncio.create_task(cache.find(secret))
    await asyncio.sleep(0)
    cache.forget_all()
    source.hold.set()
    await asking
    assert cache.cached(keys.digest(secret)) is None
    await cache.find(secret)
    assert source.asked == 2


async def test_a_source_that_does_not_answer_is_given_up(monkeypatch):
    monkeypatch.setattr("services.kit.authn.LOOKUP_SECONDS", 0.05)
    source = Source()
    source.hold = asyncio.Event()
    with pytest.raises(Unavailable):
        await KeyCache(source).find(source.add())


@pytest.mark.parametrize(
    ("pairs", "why"),
    [
        ([], "KEY_MISSING"),
        ([("x-api-key", "a"), ("x-api-key", "a")], "KEY_TWICE"),
        ([("x-api-key", "a"), ("authorization", "Bearer a")], "KEY_TWICE"),
        ([("x-api-key-bin", b"a")], "KEY_MALFORMED"),
        ([("x-api-key", b"\xff")], "KEY_MALFORMED"),
        ([("authorization", b"\xff")], "KEY_MALFORMED"),
        ([("authorization", "Basic a")], "KEY_MALFORMED"),
    ],
)
def test_a_call_brings_one_key_or_none_that_counts(pairs, why):
    credentials = Credentials()
    for pair in pairs:
        credentials.take(*pair)
    with pytest.raises(Unauthenticated) as caught:
        credentials.secret()
    assert caught.value.audit_reason == why


async def test_a_remote_authenticator_knows_keys_through_the_auth_service(database):
    service = await make_key(database, "service")
    reader = await make_key(database, "bars.read", allowed_peers=("10.0.0.0/8",), max_streams=3)
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(auth_serving(database))
        channel = grpc.aio.insecure_channel(target)
        remote = RemoteAuthenticator(channel, lambda: service)
        assert await remote.check_own_key() == ""
        found = await remote.find(reader)
        assert (found.scopes, found.max_streams, found.max_calls_per_second) == (frozenset({"bars.read"}), 3, None)
        assert found.admits("10.1.1.1")
        assert not found.admits("127.0.0.1")
        assert await remote.find(keys.new_secret()) is None
    assert await remote.find(reader) == found
    with pytest.raises(Unavailable):
        await remote.find(keys.new_secret())
    with pytest.raises(Unavailable):
        await remote.check_own_key()
    await channel.close()


async def test_a_service_whose_own_key_is_refused_says_so(database):
    wrong = await make_key(database, "bars.read")
    async with auth_serving(database) as target, grpc.aio.insecure_channel(target) as channel:
        for own in (wrong, keys.new_secret(), ""):
            remote = RemoteAuthenticator(channel, lambda own=own: own)
            assert "refuses" in await remote.check_own_key()
            with pytest.raises(Unavailable):
                await remote.find(keys.new_secret())
