"""No secret in any log, error, repr or audit row, at DEBUG too, and grpcio's own logger included."""

from __future__ import annotations

import asyncio
import re
import tomllib
from pathlib import Path

import asyncpg
import grpc
import pytest

from mdw.auth.v1 import auth_pb2, auth_pb2_grpc
from services.auth.settings import AuthSettings
from services.kit import keys
from services.kit.remote import RemoteAuthenticator
from tests.auth.test_keys import Keys
from tests.raw import connected
from tests.support import Process, auth_process, environment, make_key, with_key
from tests.waiting import until

SECRET = re.compile(r"mdw_[0-9a-f]{9,}")


@pytest.mark.parametrize("line", ["KEY={}", 'key: "{}"', "-H 'x-api-key: {}' host", "{}", '{{"secret": "{}"}}'])
def test_the_rule_for_scanners_finds_our_keys(line):
    [rule] = tomllib.loads((Path(__file__).parents[2] / ".gitleaks.toml").read_text())["rules"]
    secret = keys.new_secret()
    found = re.search(rule["regex"], line.format(secret))
    assert found is not None
    assert found[rule["secretGroup"]] == secret
    assert any(word in secret for word in rule["keywords"])
    assert re.search(rule["regex"], line.format(keys.preview(secret))) is None


async def call_raw(process: Process, value: bytes) -> None:
    """Calls with a header value that no gRPC client would send, and waits until the log speaks of the call."""

    def told() -> int:
        return sum(event["event"] == "call" for event in process.events)

    before = told()
    async with connected(process.target) as connection:
        connection.end(connection.call("/mdw.auth.v1.KeyService/ListKeys", (b"x-api-key", value)))
        await until(lambda: told() > before)


async def test_a_service_at_debug_prints_and_stores_no_key(database, capfd):
    admin = await make_key(database, "admin")
    service = await make_key(database, "service")
    unknown = keys.new_secret()
    async with auth_process(database, log_level="DEBUG") as process:
        await call_raw(process, admin.encode() + b"\xff\xfe")
        await call_raw(process, admin.encode())
        async with grpc.aio.insecure_channel(process.target) as channel:
            root = Keys(channel, admin)
            made = await root.make("keys.read")
            asked = [
                auth_pb2_grpc.AuthServiceStub(channel).ValidateKey(
                    auth_pb2.ValidateKeyRequest(secret=made.secret), metadata=with_key(service)
                ),
                root.CreateKey(display_name=made.secret[:60], scopes=["bars.read"]),
                root.GetKey(key_id=made.secret),
                root.ListKeys(page_token=made.secret),
                Keys(channel, unknown).ListKeys(),
                channel.unary_unary(f"/mdw.auth.v1.KeyService/{made.secret}")(b"", metadata=with_key(admin)),
                channel.unary_unary("/mdw.auth.v1.KeyService/ListKeys")(
                    b"", metadata=(*with_key(admin), ("x-request-id", made.secret))
                ),
            ]
            errors = await asyncio.gather(*asked, return_exceptions=True)
        process.kill(15)
        await process.end()
    texts = ["".join(process.text), *(str(error) for error in errors if isinstance(error, Exception))]
    captured = capfd.readouterr()
    for text in [*texts, captured.out, captured.err]:
        assert not SECRET.search(text), SECRET.search(text)
    assert "Invalid encoding" in texts[0]
    await nothing_stored(database)


async def nothing_stored(database) -> None:
    conn = await asyncpg.connect(database.admin_url)
    for query in (
        "SELECT string_agg(e::text, '') FROM auth.audit_entries e",
        "SELECT string_agg(k::text, '') FROM auth.keys k",
        "SELECT string_agg(r::text, '') FROM auth.requests r",
        "SELECT string_agg(query, '') FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
    ):
        assert not SECRET.search(await conn.fetchval(query) or "")
    await conn.close()


@pytest.mark.parametrize("build", ["settings", "authenticator", "call"])
async def test_no_repr_shows_a_secret(database, build):
    secret = keys.new_secret()
    if build == "settings":
        shown = repr(AuthSettings.from_environment(environment(f"postgres://mdw:{secret}@db/mdw")))
    elif build == "authenticator":
        async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
            shown = repr(RemoteAuthenticator(channel, lambda: secret))
    else:
        shown = repr(auth_pb2.Key(preview=keys.preview(secret)))
    assert not SECRET.search(shown)
