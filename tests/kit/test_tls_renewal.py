"""Certificates, authorities and a service's key are renewed while calls run: none of them fails."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
import pytest

from mdw.auth.v1 import auth_pb2, auth_pb2_grpc
from mdw.symbols.v1 import symbols_pb2, symbols_pb2_grpc
from mdw_client import renewal
from mdw_client.channel import aio_channel
from mdw_client.credentials import Tls
from services.auth.__main__ import build as build_auth
from services.auth.settings import AuthSettings
from services.kit import server as kit_server
from services.kit.settings import SettingsError
from services.symbols.__main__ import build as build_symbols
from services.symbols.settings import SymbolsSettings
from tests.certificates import Authority, Volume
from tests.support import environment, make_key, serving
from tests.waiting import LONG

if TYPE_CHECKING:
    from services.kit.server import Server

LOADERS = 4


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    """Connections live for a fifth of a second, so that each file is used soon after its change."""
    short = [("grpc.max_connection_age_ms", 200) if name == "grpc.max_connection_age_ms" else (name, value)
             for name, value in kit_server.OPTIONS]  # fmt: skip
    monkeypatch.setattr(kit_server, "OPTIONS", tuple(short))
    monkeypatch.setattr(renewal, "LOOK_AGAIN_SECONDS", 0.02)


@dataclass
class House:
    """Volumes of two services and of a client, filled by authorities."""

    auth: Volume
    symbols: Volume
    client: Volume
    keys: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def at(cls, folder: Path) -> House:
        return cls(*(Volume(folder / name) for name in ("auth", "symbols", "client")))

    def issue(self, authority: Authority) -> None:
        """Gives everyone a new certificate."""
        for name in ("auth", "symbols", "client"):
            cert, key = authority.issue(name)
            getattr(self, name).put(cert=cert, key=key)

    def trust(self, *authorities: Authority) -> None:
        bundle = b"".join(each.pem for each in authorities)
        for volume in (self.auth, self.symbols, self.client):
            volume.put(ca=bundle)

    def server_variables(self, name: str) -> dict[str, str]:
        volume = getattr(self, name)
        return {
            "tls_cert_file": volume.path("cert"),
            "tls_key_file": volume.path("key"),
            "tls_client_ca_file": volume.path("ca"),
        }

    @property
    def client_tls(self) -> Tls:
        return Tls(*(Path(self.client.path(name)) for name in ("ca", "cert", "key")))


@dataclass
class Load:
    """Calls that run all the time, over channels that last."""

    done: Counter[str] = field(default_factory=Counter)
    failed: list[Any] = field(default_factory=list)

    async def run(self, target: str, tls: Tls, key: str) -> None:
        async with aio_channel(target, tls=tls, key=key) as channel:
            stub = symbols_pb2_grpc.SymbolServiceStub(channel)
            while True:
                try:
                    await stub.ListSymbols(symbols_pb2.ListSymbolsRequest())
                    self.done["calls"] += 1
                except grpc.aio.AioRpcError as error:
                    self.failed.append((error.code(), error.details()))
                await asyncio.sleep(0.002)

    async def more(self, seconds: float = 0.5) -> None:
        """Lets connections be made anew, and calls be answered over them."""
        before = self.done["calls"]
        await asyncio.sleep(seconds)
        async with asyncio.timeout(LONG):
            while self.done["calls"] < before + 20:  # noqa: ASYNC110 - the callers have no time to tell
                await asyncio.sleep(0.01)


async def issuer(target: str, house: House) -> str:
    """Returns the name of the authority that signed what a server shows."""
    context = ssl.create_default_context(cafile=house.client.path("ca"))
    context.load_cert_chain(house.client.path("cert"), house.client.path("key"))
    context.set_alpn_protocols(["h2"])
    host, _, port = target.partition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert()
    writer.transport.abort()
    return str(dict(pair[0] for pair in shown["issuer"])["commonName"])


async def auth_service(database, house: House) -> Server:
    variables = environment(database.auth_url, **house.server_variables("auth"))
    return await build_auth(AuthSettings.from_environment(variables))


async def symbols_service(database, house: House, auth_target: str, key_file: Volume) -> Server:
    variables = house.server_variables("symbols") | {
        "auth_target": auth_target,
        "service_key_file": key_file.path("key"),
        "mdw_tls_ca_file": house.symbols.path("ca"),
        "mdw_tls_cert_file": house.symbols.path("cert"),
        "mdw_tls_key_file": house.symbols.path("key"),
    }
    symbols = await build_symbols(SymbolsSettings.from_environment(environment(database.symbols_url, **variables)))
    symbols.answering._authenticator._fresh_seconds = 0.0  # each call asks the auth service
    return symbols


async def test_certificates_authorities_and_the_service_key_are_renewed_under_load(database, tmp_path):
    old, new, house, load = Authority("old"), Authority("new"), House.at(tmp_path), Load()
    house.issue(old)
    house.trust(old)
    first_id = uuid4()
    key_file = Volume(tmp_path / "service")
    key_file.put(key=(await make_key(database, "service", key_id=first_id)).encode())
    admin, reader = await make_key(database), await make_key(database, "symbols.read")
    async with AsyncExitStack() as stack:
        auth = await auth_service(database, house)
        auth_target = await stack.enter_async_context(serving(auth))
        target = await stack.enter_async_context(serving(await symbols_service(database, house, auth_target, key_file)))
        tasks = [asyncio.create_task(load.run(target, house.client_tls, reader)) for _ in range(LOADERS)]
        await load.more()
        assert await issuer(target, house) == "old"

        house.trust(old, new)
        await load.more()
        house.issue(new)
        await load.more()
        house.trust(new)
        await load.more()
        key_file.put(key=(await make_key(database, "service")).encode())
        await load.more(0.1)
        async with aio_channel(auth_target, tls=house.client_tls, key=admin) as channel:
            await auth_pb2_grpc.KeyServiceStub(channel).RevokeKey(auth_pb2.RevokeKeyRequest(key_id=str(first_id)))
        await load.more()

        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await issuer(target, house) == await issuer(auth_target, house) == "new"
    assert load.failed == []
    assert load.done["calls"] > 100


async def test_a_certificate_whose_key_is_still_the_old_one_waits_for_its_key(database, tmp_path):
    authority, house = Authority("first"), House.at(tmp_path)
    house.issue(authority)
    house.trust(authority)
    auth = await auth_service(database, house)
    async with serving(auth) as target:
        cert, key = authority.issue("renewed")
        house.auth.put(cert=cert)
        assert await issuer(target, house) == "first"
        house.auth.put(key=key)
        assert await issuer(target, house) == "first"


async def test_a_stranger_without_a_certificate_is_not_served(database, tmp_path):
    authority, house = Authority("ours"), House.at(tmp_path)
    house.issue(Authority("theirs"))
    house.trust(authority)
    house.auth.put(**dict(zip(("cert", "key"), authority.issue("auth"), strict=True)))
    auth = await auth_service(database, house)
    async with serving(auth) as target, aio_channel(target, tls=house.client_tls, key="none", timeout=1) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await auth_pb2_grpc.KeyServiceStub(channel).ListKeys(auth_pb2.ListKeysRequest())
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_a_service_does_not_send_its_key_in_the_clear():
    environ = {"DATABASE_URL": "postgresql://h/d", "SERVICE_KEY": "x", "AUTH_TARGET": "auth.example.com:15051"}
    settings = SymbolsSettings.from_environment(environ)
    with pytest.raises(SettingsError, match=r"auth\.example\.com"):
        asyncio.run(build_symbols(settings))
