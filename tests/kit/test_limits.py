from __future__ import annotations

import asyncio
import ipaddress
from uuid import uuid4

import pytest

from services.kit.entries import Entry
from services.kit.errors import ResourceExhausted
from services.kit.floods import MAX_KINDS, ROWS_A_SECOND, Floods
from services.kit.limits import Buckets, KeyLimits, PeerThrottle
from services.kit.principals import Principal
from tests.waiting import until


def test_a_bucket_lets_its_burst_through_and_then_its_rate():
    buckets = Buckets()
    passed = [moment for moment in range(100) if buckets.take("k", 10.0, 5.0, now=moment / 100) == 0.0]
    assert passed == [0, 1, 2, 3, 4, *passed[5:]]
    assert len(passed) in (13, 14)


def test_a_bucket_says_how_long_to_wait():
    buckets = Buckets()
    assert buckets.take("k", 2.0, 1.0, now=0.0) == 0.0
    assert buckets.take("k", 2.0, 1.0, now=0.1) == pytest.approx(0.4)
    assert buckets.take("other", 2.0, 1.0, now=0.1) == 0.0
    buckets.give_back("k", 2.0)
    assert buckets.take("k", 2.0, 1.0, now=0.1) == 0.0


def test_buckets_of_many_keys_stay_bounded():
    buckets = Buckets(capacity=100)
    for number in range(10_000):
        buckets.take(number, 1.0, 1.0, now=number / 1e6)
    assert len(buckets._full_at) <= 101


async def test_a_failing_peer_is_refused_and_a_waiting_one_gets_its_turn():
    throttle = PeerThrottle(rate=2.0)  # none comes back within half a second
    for _ in range(10):
        throttle.failed("a")
    with pytest.raises(ResourceExhausted):
        throttle.failed("a")
    await throttle.turn("a")
    throttle.give_back("a")
    await throttle.turn("b")
    slow = PeerThrottle(rate=0.2)
    await slow.turn("a")
    with pytest.raises(ResourceExhausted):
        await slow.turn("a")


def key(**limits) -> Principal:
    return Principal(key_id=uuid4(), preview="mdw_", scopes=frozenset(), **limits)


def test_a_key_has_its_own_limit_or_the_default():
    limits = KeyLimits(max_calls_per_second=3, max_streams=1)
    mine, other = key(max_calls_per_second=1), key()
    limits.take(mine)
    with pytest.raises(ResourceExhausted) as caught:
        limits.take(mine)
    assert caught.value.retry_after > 0
    for _ in range(3):
        limits.take(other)


def test_streams_are_counted_and_given_back():
    limits = KeyLimits(max_calls_per_second=3, max_streams=1)
    mine = key()
    with limits.stream(mine), pytest.raises(ResourceExhausted), limits.stream(mine):
        pass
    with limits.stream(mine):
        pass
    assert not limits._streams


def test_a_key_is_bound_to_its_networks():
    bound = key(allowed_peers=(ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::/32")))
    assert bound.admits("10.1.1.1")
    assert bound.admits("2001:db8::5")
    assert not bound.admits("11.1.1.1")
    assert not bound.admits("")
    assert key().admits("")


def refusal(peer: str = "10.0.0.1", method: str = "M") -> Entry:
    return Entry(uuid4(), None, "", method, "", 16, "KEY_UNKNOWN", peer, "", 1, 0, 1)


class Written:
    """Stands where the committer does."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.refused = False
        self.error: Exception | None = None

    def __call__(self, entry: Entry) -> asyncio.Future[bool]:
        self.entries.append(entry)
        future = asyncio.get_running_loop().create_future()
        if self.error:
            future.set_exception(self.error)
        else:
            future.set_result(self.refused)
        return future


async def test_a_flood_becomes_few_rows_with_the_exact_count():
    written = Written()
    floods = Floods(written)
    answers = await asyncio.gather(*(floods.record(refusal()) for _ in range(500)))
    assert answers == [False] * 500
    assert sum(entry.call_count for entry in written.entries) == 500
    assert len(written.entries) <= 2 * ROWS_A_SECOND + 2


async def test_who_goes_away_takes_nobody_along():
    floods = Floods(Written())
    for _ in range(ROWS_A_SECOND):
        floods.record(refusal())
    first, second = (asyncio.ensure_future(_wait(floods)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is False


async def _wait(floods) -> bool:
    return await floods.record(refusal())


async def test_a_failed_commit_reaches_all_that_were_merged():
    written = Written()
    floods = Floods(written)
    waiting = [floods.record(refusal()) for _ in range(ROWS_A_SECOND + 5)]
    written.error = ResourceExhausted("X", "y", retry_after=1)
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in outcomes[-5:]] == [ResourceExhausted] * 5


async def test_kinds_beyond_the_bound_are_counted_together():
    written = Written()
    floods = Floods(written)
    for number in range(MAX_KINDS + 500):
        floods.record(refusal(method=str(number)))
    await until(lambda: sum(entry.call_count for entry in written.entries) == MAX_KINDS + 500)
    assert [entry.call_count for entry in written.entries if entry.method == "*"][-1] >= 1


async def test_calls_that_nobody_waits_for_are_written_with_the_next_flush():
    written = Written()
    floods = Floods(written)
    for _ in range(3):
        floods.count(refusal())
    floods.flush()
    assert [entry.call_count for entry in written.entries] == [3]
