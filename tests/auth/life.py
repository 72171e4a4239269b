"""A key's life as a model of four facts, one lasting administrator, and a machine that compares it with the service."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import grpc
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mdw.auth.v1 import auth_pb2, auth_pb2_grpc
from tests.auth.test_keys import Keys
from tests.support import make_key, reason, with_key

if TYPE_CHECKING:
    from tests.bridge import Bridge

SCOPES = ("keys.read", "audit.read", "bars.read")
NUMBERS = st.integers(0, 7)
State = auth_pb2.Key.State
END_ADMINISTRATORS = "UPDATE auth.keys SET revoke_time = now() WHERE 'admin' = ANY(scopes) AND revoke_time IS NULL"
WAYS: dict[str, Any] = {
    "revoke": lambda key_id: ("RevokeKey", {"key_id": key_id}),
    "delete": lambda key_id: ("DeleteKey", {"key_id": key_id}),
    "narrow": lambda key_id: ("UpdateKey", {"key": {"key_id": key_id, "scopes": ["keys.read"]}}),
    "expire": lambda key_id: ("UpdateKey", {"key": {"key_id": key_id, "expire_time": {"seconds": 4_000_000_000}}}),
}
"""How an administrator ceases to be a lasting one."""


@dataclass
class Known:
    """What the model holds to be true of one key."""

    key_id: str
    secret: str
    scopes: frozenset[str]
    version: int = 1
    revoked: bool = False
    expired: bool = False
    deleted: bool = False
    expires: bool = False
    calls: int = 0
    restored: bool = False

    @property
    def valid(self) -> bool:
        return not (self.revoked or self.expired or self.deleted)

    @property
    def state(self) -> int:
        if self.deleted:
            return State.DELETED
        if self.revoked:
            return State.REVOKED
        return State.EXPIRED if self.expired else State.ACTIVE


class Life(RuleBasedStateMachine):
    """Steps of an administrator and of the keys' holders, in any order."""

    bridge: Bridge
    channels: list[Any]
    database: Any
    service: str

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[Known] = []
        self.admins = [self.bridge(self._first_administrator())]
        """The lasting administrators; the first makes all the changes."""
        self._turn = 0

    async def _first_administrator(self) -> Known:
        """Makes an administrator, and ends those of earlier lives past the service."""
        conn = await asyncpg.connect(self.database.admin_url)
        await conn.execute(END_ADMINISTRATORS)
        await conn.close()
        key_id = uuid4()
        return Known(str(key_id), await make_key(self.database, "admin", key_id=key_id), frozenset({"admin"}))

    def _call(self, name: str, **fields: Any) -> Any:
        """Calls as the administrator, one service after the other; returns the answer, or the reason of a refusal."""
        self._turn += 1
        root = Keys(self.channels[self._turn % len(self.channels)], self.admins[0].secret)

        async def call() -> Any:
            try:
                return await getattr(root, name)(**fields)
            except grpc.aio.AioRpcError as error:
                return reason(error)

        return self.bridge(call())

    def _used(self, key: Known, channel: int) -> str:
        """Lists keys with a key; returns the reason of a refusal, '' for an answer."""

        async def call() -> str:
            stub = auth_pb2_grpc.KeyServiceStub(self.channels[channel % len(self.channels)])
            try:
                await stub.ListKeys(auth_pb2.ListKeysRequest(page_size=1), metadata=with_key(key.secret))
            except grpc.aio.AioRpcError as error:
                return reason(error)
            return ""

        return str(self.bridge(call()))

    def _pick(self, number: int) -> Known | None:
        return self.keys[number % len(self.keys)] if self.keys else None

    @rule(scopes=st.sets(st.sampled_from(SCOPES), min_size=1))
    def create(self, scopes: set[str]) -> None:
        made = self._call("CreateKey", display_name="a life", scopes=sorted(scopes), request_id=str(uuid4()))
        self.keys.append(Known(made.key.key_id, made.secret, frozenset(scopes)))

    @rule()
    def create_an_administrator(self) -> None:
        made = self._call("CreateKey", display_name="a life", scopes=["admin"], request_id=str(uuid4()))
        self.admins.append(Known(made.key.key_id, made.secret, frozenset({"admin"})))

    @rule(number=NUMBERS, way=st.sampled_from(sorted(WAYS)))
    def end_an_administrator(self, number: int, way: str) -> None:
        """Any may be ended, itself too, but for the last that lasts."""
        key = self.admins[number % len(self.admins)]
        name, fields = WAYS[way](key.key_id)
        answer = self._call(name, **fields)
        if len(self.admins) == 1:
            assert answer == "LAST_ADMINISTRATOR"
            return
        assert not isinstance(answer, str), answer
        self.admins.remove(key)
        if way in ("revoke", "delete"):
            assert self._used(key, 0) == "KEY_INVALID"

    @rule(number=NUMBERS)
    def revoke(self, number: int) -> None:
        self._end(number, "RevokeKey", "revoked", to=True)

    @rule(number=NUMBERS)
    def restore(self, number: int) -> None:
        self._end(number, "RestoreKey", "revoked", to=False)
        if key := self._pick(number):
            key.restored = True

    def _end(self, number: int, name: str, fact: str, *, to: bool) -> None:
        key = self._pick(number)
        if key is None:
            return
        answer = self._call(name, key_id=key.key_id)
        if key.deleted:
            assert answer == "KEY_NOT_FOUND"
            return
        key.version += getattr(key, fact) != to
        setattr(key, fact, to)
        assert (answer.key.state, answer.key.version) == (key.state, key.version)

    @rule(number=NUMBERS)
    def delete(self, number: int) -> None:
        if key := self._pick(number):
            assert self._call("DeleteKey", key_id=key.key_id) == auth_pb2.DeleteKeyResponse()
            key.version += not key.deleted
            key.deleted = True

    @rule(number=NUMBERS, kept=st.sets(st.sampled_from(SCOPES), min_size=1))
    def narrow(self, number: int, kept: set[str]) -> None:
        if (key := self._pick(number)) is None:
            return
        answer = self._call("UpdateKey", key={"key_id": key.key_id, "scopes": sorted(kept)})
        if key.deleted:
            assert answer == "KEY_NOT_FOUND"
        elif not kept <= key.scopes:
            assert answer == "SCOPE_TOO_WIDE"
        else:
            key.scopes, key.version = frozenset(kept), key.version + 1
            assert (frozenset(answer.key.scopes), answer.key.version) == (key.scopes, key.version)

    @rule(number=NUMBERS, at_once=st.booleans(), again=st.booleans())
    def rotate(self, number: int, at_once: bool, again: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        if (key := self._pick(number)) is None:
            return
        fields = {"key_id": key.key_id, "request_id": str(uuid4()), "overlap": {"seconds": 0 if at_once else 3_600}}
        answer = self._call("RotateKey", **fields)
        if key.deleted or key.revoked:
            assert answer == ("KEY_NOT_FOUND" if key.deleted else "KEY_REVOKED")
            return
        key.version, key.expired, key.expires = key.version + 1, key.expired or at_once, True
        assert (answer.old_key.state, answer.old_key.version) == (key.state, key.version)
        self.keys.append(Known(answer.key.key_id, answer.secret, key.scopes))
        if again:
            repeat = self._call("RotateKey", **fields)
            assert (repeat.key, repeat.secret) == (answer.key, "")

    @rule(number=NUMBERS, channel=st.integers(0, 1))
    def use(self, number: int, channel: int) -> None:
        """The holder lists keys: answered, refused for the scope, or not known at all; each leaves its row."""
        if (key := self._pick(number)) is None:
            return
        said = self._used(key, channel)
        while key.valid and key.restored and said == "KEY_INVALID":  # refused so lately that nobody is asked again
            time.sleep(0.05)
            said = self._used(key, channel)
        if not key.valid:
            assert said == "KEY_INVALID"
            return
        assert said == ("" if "keys.read" in key.scopes else "SCOPE_MISSING")
        key.calls += 1

    @rule(number=NUMBERS)
    def validate(self, number: int) -> None:
        if (key := self._pick(number)) is None:
            return

        async def call() -> Any:
            stub = auth_pb2_grpc.AuthServiceStub(self.channels[0])
            return await stub.ValidateKey(
                auth_pb2.ValidateKeyRequest(secret=key.secret), metadata=with_key(self.service)
            )

        answer = self.bridge(call())
        assert answer.HasField("key") == key.valid
        assert not key.valid or answer.key.key_id == key.key_id

    @invariant()
    def lists_agree(self) -> None:
        if not self.keys:
            return
        for active_only in (False, True):
            listed = {key.key_id: key for key in self._call("ListKeys", active_only=active_only, page_size=1000).keys}
            for key in self.keys:
                shown = key.valid if active_only else not key.deleted
                assert (key.key_id in listed) == shown, key
                if shown:
                    found = listed[key.key_id]
                    assert (found.state, found.version) == (key.state, key.version), key
                    assert frozenset(found.scopes) == key.scopes
                    assert (found.HasField("expire_time"), found.request_count) == (key.expires, key.calls)
