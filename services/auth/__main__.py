"""The auth service: `python -m services.auth`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mdw.auth.v1 import auth_pb2
from services.auth.housekeeping import HEADS_SECONDS, KEEP_SECONDS, Housekeeping
from services.auth.key_servicer import KeyServicer
from services.auth.reading import AuditReader
from services.auth.servicer import AuthServicer
from services.auth.settings import AuthSettings
from services.auth.store.audit import AuditStore
from services.auth.store.chains import ChainStore
from services.auth.store.keys import KeyStore
from services.auth.validation import Validation
from services.auth.verifying import Verifier
from services.kit.db import Database
from services.kit.paging import PageTokens
from services.kit.process import serve
from services.kit.recorder import Recorder
from services.kit.requests import Requests
from services.kit.schema import RequiredSchema
from services.kit.server import Server

if TYPE_CHECKING:
    from services.kit.authn import KeyCache

SCHEMA = RequiredSchema(
    version=1,
    columns=("auth.keys.digest", "auth.key_usage.call_count", "auth.audit_entries.call_count", "auth.requests.answer"),
    functions=(
        "auth.record_calls",
        "auth.lock_keys",
        "auth.change_committed",
        "auth.make_partitions",
        "auth.fold_usage",
    ),
)
PARTITION_CHECK_SECONDS = 60.0


async def build(settings: AuthSettings) -> Server:
    """Wires the service; nothing is asked of the database yet."""
    db = await Database.open(
        settings.database_url, size=settings.pool_size, application_name="mdw auth", pooler=settings.database_pooler
    )
    recorder = Recorder(db, service="auth")
    validation = Validation(KeyStore(db))
    authenticator = validation.authenticator()
    server = Server(settings, service="auth", db=db, recorder=recorder, authenticator=authenticator, schema=SCHEMA)
    audit = AuditStore(db)
    server.add(AuthServicer(validation=validation, audit=audit), auth_pb2.DESCRIPTOR.services_by_name["AuthService"])
    requests = Requests("auth")
    server.add(
        _key_servicer(server, recorder, audit, requests, authenticator),
        auth_pb2.DESCRIPTOR.services_by_name["KeyService"],
    )
    house = Housekeeping(
        audit=audit, keys=KeyStore(db), requests=requests, db=db, retention_days=settings.audit_retention_days
    )
    _keep_house(server, house)
    return server


def _key_servicer(
    server: Server, recorder: Recorder, audit: AuditStore, requests: Requests, authenticator: KeyCache
) -> KeyServicer:
    tokens = PageTokens()
    server.prepare(lambda: tokens.load(server.db, "auth"))
    return KeyServicer(
        store=KeyStore(server.db),
        recorder=recorder,
        requests=requests,
        tokens=tokens,
        reader=AuditReader(store=audit, tokens=tokens),
        verifier=Verifier(audit=audit, chains=ChainStore(server.db)),
        changed=authenticator.forget_all,
    )


def _keep_house(server: Server, housekeeping: Housekeeping) -> None:
    server.prepare(housekeeping.make_partitions)
    server.readiness.add("audit_partitions", housekeeping.look_ahead, seconds=PARTITION_CHECK_SECONDS)
    server.background.every(KEEP_SECONDS, "keep", housekeeping.keep)
    server.background.every(HEADS_SECONDS, "log_heads", housekeeping.log_heads)
    server.background.every(HEADS_SECONDS, "log_keys", housekeeping.log_keys)
    server.metrics.gauge(
        "mdw_audit_partition_days_ahead",
        "Days for which the audit log has partitions.",
        lambda: housekeeping.days_ahead,
    )


if __name__ == "__main__":
    sys.exit(serve(AuthSettings, build))
