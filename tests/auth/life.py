"""A key's life as a model of four facts, and a machine that compares it with the service step by step."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mdw.auth.v1 import auth_pb2, auth_pb2_grpc
from tests.auth.test_keys import Keys
from tests.support import reason, with_key

if TYPE_CHECKING:
    from tests.bridge import Bridge

SCOPES = ("keys.read", "audit.read", "bars.read")
NUMBERS = st.integers(0, 7)
State = auth_pb2.Key.State


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
    admin: str
    service: str

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[Known] = []
        self._turn = 0

    def _call(self, name: str, **fields: Any) -> Any:
        """Calls as the administrator, one service after the other; returns the answer, or the reason of a refusal."""
        self._turn += 1
        root = Keys(self.channels[self._turn % len(self.channels)], self.admin)

        async def call() -> Any:
            try:
                return await getattr(root, name)(**fields)
            except grpc.aio.AioRpcError as error:
                return reason(error)

        return self.bridge(call())

    async def _a_little_later(self, call: Any) -> Any:
        await asyncio.sleep(0.05)
        return await call()

    def _pick(self, number: int) -> Known | None:
        return self.keys[number % len(self.keys)] if self.keys else None

    @rule(scopes=st.sets(st.sampled_from(SCOPES), min_size=1))
    def create(self, scopes: set[str]) -> None:
        made = self._call("CreateKey", display_name="a life", scopes=sorted(scopes), request_id=str(uuid4()))
        self.keys.append(Known(made.key.key_id, made.secret, frozenset(scopes)))

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

        async def call() -> str:
            stub = auth_pb2_grpc.KeyServiceStub(self.channels[channel % len(self.channels)])
            try:
                await stub.ListKeys(auth_pb2.ListKeysRequest(page_size=1), metadata=with_key(key.secret))
            except grpc.aio.AioRpcError as error:
                return reason(error)
            return ""

        said = self.bridge(call())
        while key.valid and key.restored and said == "KEY_INVALID":  # refused so lately that nobody is asked again
            said = self.bridge(self._a_little_later(call))
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
