"""TLS: certificates that are read again when they change, and clients that must bring one."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import warnings
from pathlib import Path

import grpc
import pytest

from mdw.ingest.v1 import bars_pb2, bars_pb2_grpc
from tests.kit.conftest import Bars, make_server
from tests.kit.test_server import SERVING, health
from tests.support import make_key, serving, with_key

CERTIFICATES = Path(__file__).parent / "certificates"
CA = (CERTIFICATES / "ca.pem").read_bytes()


@pytest.fixture
def files(tmp_path: Path):
    """Puts a certificate where the server reads it."""

    def put(name: str) -> dict[str, str]:
        for kind in ("pem", "key"):
            shutil.copy(CERTIFICATES / f"{name}.{kind}", tmp_path / f"server.{kind}")
        return {"tls_cert_file": str(tmp_path / "server.pem"), "tls_key_file": str(tmp_path / "server.key")}

    return put


async def call(target: str, key: str, **credentials) -> None:
    # A subchannel of its own, so that each call makes a new handshake.
    options = [("grpc.use_local_subchannel_pool", 1)]
    trusted = grpc.ssl_channel_credentials(CA, **credentials)
    async with grpc.aio.secure_channel(target, trusted, options=options) as channel:
        await bars_pb2_grpc.BarServiceStub(channel).ListBars(
            bars_pb2.ListBarsRequest(), metadata=with_key(key), timeout=60
        )


async def served(target: str) -> bytes:
    """Returns the certificate that the server shows."""
    host, _, port = target.partition(":")
    context = ssl.create_default_context(cafile=str(CERTIFICATES / "ca.pem"))
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return shown


async def test_a_renewed_certificate_is_used_without_a_restart(database, files):
    server = await make_server(database, Bars(), **files("first"))
    key = await make_key(database, "bars.read")
    async with serving(server) as target:
        await call(target, key)
        first = await served(target)
        files("second")
        await call(target, key)
        assert await served(target) != first


async def test_an_unreadable_certificate_leaves_the_old_one_in_use(database, files, tmp_path):
    server = await make_server(database, Bars(), **files("first"))
    key = await make_key(database, "bars.read")
    async with serving(server) as target:
        (tmp_path / "server.pem").unlink()
        await call(target, key)


async def test_clients_bring_a_certificate_where_that_is_asked(database, files):
    server = await make_server(database, Bars(), **files("first"), tls_client_ca_file=str(CERTIFICATES / "ca.pem"))
    key = await make_key(database, "bars.read")
    async with serving(server) as target:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(target, key)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        own = {"private_key": (CERTIFICATES / "client.key").read_bytes()}
        await call(target, key, **own, certificate_chain=(CERTIFICATES / "client.pem").read_bytes())


async def test_plaintext_is_not_answered_where_tls_is_on_but_probes_have_their_own_port(database, files):
    server = await make_server(database, Bars(), **files("first"), health_address="127.0.0.1:0")
    async with serving(server) as target:
        async with grpc.aio.insecure_channel(target) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await health(channel, "readiness")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.health_port}") as channel:
            assert await health(channel, "readiness") == SERVING


async def test_versions_of_tls_that_are_too_old_are_refused(database, files):
    server = await make_server(database, Bars(), **files("first"))
    async with serving(server) as target:
        host, _, port = target.partition(":")
        context = ssl.create_default_context(cafile=str(CERTIFICATES / "ca.pem"))
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # else this side would refuse it itself
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(host, int(port), ssl=context)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        _, writer = await asyncio.open_connection(host, int(port), ssl=context)
        writer.transport.abort()
