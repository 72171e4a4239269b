"""`bootstrap`: from an empty database to one that services can start on, in five steps that may be repeated."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from migrator import connect
from migrator.admin_key import AdminKey, ensure_admin_key
from migrator.changes import Changes
from migrator.command_up import describe, run_options
from migrator.errors import BadFiles, Exit, MigratorError, Problem
from migrator.keyring import Registered, named, register
from migrator.next_steps import next_steps
from migrator.runner import up
from migrator.sow import sow

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from migrator.output import Output

SERVICE_KEYS = {
    "MDW_SERVICE_KEY_SYMBOLS": ("service symbols", ("service",)),
    "MDW_SERVICE_KEY_INGEST": ("service ingest", ("service", "symbols.read", "symbols.write")),
}
STEPS = ("migrate", "verify", "keys", "symbols", "summary")


@dataclass(slots=True)
class Bootstrap:
    """One run: what it was asked, and what it has done so far."""

    options: argparse.Namespace
    output: Output
    dsn: str
    environ: Mapping[str, str]
    done: list[dict[str, Any]] = field(default_factory=list)
    admin: AdminKey | None = None
    service_keys: dict[str, Registered] = field(default_factory=dict)

    async def run(self) -> Exit:
        """Runs the steps in order."""
        refuse_shared_keys(self.environ)
        outcome = await up(self.dsn, self.options.folder, options=run_options(self.options), say=self.output.say)
        self._finish("migrate", describe(outcome))
        await self._verify()
        conn = await connect.connect(self.dsn, self.options.wait, self.output.note)
        try:
            changes = Changes(conn)
            await changes.make_partitions()
            await self._keys(changes)
            added, held = await sow(changes)
        finally:
            await connect.close(conn)
        self._finish("symbols", f"{added} seeds added" if added else f"{held} symbols held already, none added")
        self._summary()
        return Exit.OK

    async def _verify(self) -> None:
        from migrator.verify import verify  # noqa: PLC0415

        count = await verify(
            self.dsn, self.options.folder, wait=self.options.wait, allow_ahead=self.options.allow_ahead
        )
        agrees = f"the catalog is what the files produce ({count} objects)"
        self._finish("verify", agrees if count else "not compared: the database is ahead of this release")

    async def _keys(self, changes: Changes) -> None:
        self.admin = await ensure_admin_key(changes, self.options, self.environ, terminal=self._on_terminal())
        if self.admin.shown:  # at once: were a later step to fail, nobody would have seen it
            self.output.say(f"\n  {self.admin.shown}\n\nis the admin key, shown this once: keep it now.\n")
        self._log_made(self.admin.key)
        lines = [f"admin: {self.admin.key.preview}.. {self.admin.what_happened}"]
        for variable, (display_name, scopes) in SERVICE_KEYS.items():
            secret = self.environ.get(variable, "").strip()
            if not secret:
                there = await named(changes, display_name)
                known = f"; {there.preview}.. is there" if there else ", so this service has no key yet"
                lines.append(f"{display_name}: {variable} is not set{known}")
                continue
            key = self.service_keys[variable] = await register(changes, secret, display_name, scopes, variable)
            self._log_made(key)
            lines.append(f"{display_name}: {key.preview}.. {_state(key)}")
        self._finish("keys", "\n".join(lines))

    def _log_made(self, key: Registered) -> None:
        """Logs a key's birth as the auth service does, so that after-restore knows of it."""
        if key.made:
            self.output.event({"event": "key_changed", "key_id": str(key.key_id), "version": 1, "state": "ACTIVE"})

    def _on_terminal(self) -> bool:
        return sys.stdout.isatty() and not self.options.json

    def _finish(self, step: str, text: str) -> None:
        self.done.append({"step": step, "detail": text})
        number = len(self.done)
        first, *rest = text.splitlines()
        lines = [f"[{number}/{len(STEPS)}] {step:<8} {first}", *(" " * 15 + line for line in rest)]
        if not self.options.json:
            self.output.say("\n".join(lines))

    def _summary(self) -> None:
        assert self.admin is not None  # noqa: S101 - the step before has set it
        steps = next_steps(self.admin)
        text = f"admin key {self.admin.key.preview}..: {self.admin.where}"
        self._finish("summary", text)
        fields = {
            "steps": self.done,
            "admin_key": {
                "key_id": self.admin.key.key_id,
                "preview": self.admin.key.preview,
                "made": self.admin.key.made,
                "secret_in": self.admin.where,
            },
            "service_keys": {
                name: {"key_id": key.key_id, "preview": key.preview} for name, key in self.service_keys.items()
            },
            "next": steps,
        }
        self.output.result(fields, "\n".join(["Next, once the services run:", *(f"  {step}" for step in steps)]))

    def stopped(self, error: MigratorError) -> MigratorError:
        """Adds to an error what was done before it and what to do next."""
        finished = ", ".join(step["step"] for step in self.done) or "nothing"
        failed = STEPS[len(self.done)]
        message = (
            f"bootstrap stopped at step {len(self.done) + 1} of {len(STEPS)} ({failed}); done and kept: {finished}"
        )
        hint = "put that right and run the same command again: what is done is not done twice"
        error.problems.append(Problem("", message, hint))
        return error


async def run(options: argparse.Namespace, output: Output, dsn: str) -> Exit:
    """Runs the command."""
    bootstrap = Bootstrap(options, output, dsn, options.environ)
    try:
        return await bootstrap.run()
    except (MigratorError, *connect.UNREACHABLE) as error:
        raise bootstrap.stopped(connect.explained(error)) from error


def refuse_shared_keys(environ: Mapping[str, str]) -> None:
    """Raises BadFiles where one secret is given for two purposes: it would have the scopes of whichever came first."""
    names = [name for name in ("MDW_ADMIN_KEY", *SERVICE_KEYS) if environ.get(name, "").strip()]
    secrets: dict[str, str] = {}
    for name in names:
        first = secrets.setdefault(environ[name].strip(), name)
        if first != name:
            raise BadFiles.of(name, f"holds the same key as {first}", "make one a purpose: python -m migrator new-key")


def _state(key: Registered) -> str:
    if key.missing_scopes:
        return f"is there, but lacks {', '.join(key.missing_scopes)}: grant with KeyService/UpdateKey"
    return "registered" if key.made else "is there"
