"""TLS: roots, a certificate of the client's own, and files that are renewed under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from mdw.auth.v1.auth_pb2 import GetKeyRequest
from mdw.auth.v1.auth_pb2_grpc import KeyServiceStub
from mdw_client import AsyncClient, CallError, Client, Tls, channel, renewal
from tests.certificates import Authority
from tests.mdw_client.warehouse import Warehouse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def authority() -> Authority:
    return Authority("ours")


@pytest.fixture
def secure(authority: Authority) -> Iterator[Warehouse]:
    """A server that asks its callers for a certificate of the same authority."""
    certificate, key = authority.issue("server")
    made = Warehouse()
    made.start(credentials=grpc.ssl_server_credentials([(key, certificate)], authority.pem, require_client_auth=True))
    yield made
    made.stop()


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> Tls:
    return write(authority, tmp_path)


def write(authority: Authority, folder: Path) -> Tls:
    certificate, key = authority.issue("client")
    made = Tls(ca_file=folder / "ca.pem", cert_file=folder / "client.pem", key_file=folder / "client.key")
    for path, content in zip(made.files, (authority.pem, certificate, key), strict=True):
        path.write_bytes(content)
    return made


async def test_the_environment_names_the_files(secure: Warehouse, files: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, path in zip(("CA", "CERT", "KEY"), files.files, strict=True):
        monkeypatch.setenv(f"MDW_TLS_{name}_FILE", str(path))
    with Client(secure.target) as client:
        client.keys.get("7")
    async with AsyncClient(secure.target) as aclient:
        await aclient.keys.get("8")
    assert [each.request.key_id for each in secure.received] == ["7", "8"]


def test_a_server_of_another_authority_is_not_spoken_to(secure: Warehouse, tmp_path: Path) -> None:
    others = write(Authority("other"), tmp_path)
    for tls in (others, Tls()):
        with Client(secure.target, tls=tls, timeout=0.3) as client, pytest.raises(CallError):
            client.keys.get("7")
    assert secure.received == []


def test_the_servers_name_may_be_another_than_the_targets(secure: Warehouse, files: Tls) -> None:
    named = Tls(files.ca_file, files.cert_file, files.key_file, server_name="localhost")
    wrong = Tls(files.ca_file, files.cert_file, files.key_file, server_name="elsewhere.example.com")
    with Client(secure.target, tls=named) as client:
        client.keys.get("7")
    with Client(secure.target, tls=wrong, timeout=0.3) as client, pytest.raises(CallError):
        client.keys.get("7")


def test_renewed_files_are_read_again(
    secure: Warehouse, authority: Authority, files: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "LOOK_AGAIN_SECONDS", 0)
    with channel(secure.target, tls=files) as made:
        stub = KeyServiceStub(made)
        stub.GetKey(GetKeyRequest(key_id="first"))
        write(authority, tmp_path)
        stub.GetKey.with_call(GetKeyRequest(key_id="second"))
        files.cert_file.unlink()
        stub.GetKey.future(GetKeyRequest(key_id="between")).result()
    assert [each.request.key_id for each in secure.received] == ["first", "second", "between"]
