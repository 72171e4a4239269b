"""Client and AsyncClient: the whole warehouse under the same names, blocking and for asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, cast

from mdw_client.actions import Actions
from mdw_client.backfills import Backfills, Rejects
from mdw_client.bars import BarReads
from mdw_client.calls import Asynchronous, Blocking
from mdw_client.channel import DEFAULT_TIMEOUT, aio_channel, channel
from mdw_client.connection import Connection
from mdw_client.coverage import Coverage
from mdw_client.keys import Audit, Keys
from mdw_client.schedule import Schedule
from mdw_client.settings import Settings, load
from mdw_client.symbols import Symbols

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import grpc

    from mdw_client.credentials import Tls


class _Settled:
    """What both clients have in common: they are made of settings and pickle as those."""

    def __init__(
        self,
        target: str | None = None,
        *,
        targets: Mapping[str, str] | None = None,
        key: str | None = None,
        key_file: str | Path | None = None,
        tls: Tls | bool | None = None,
        allow_plaintext: bool | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        """Takes what is not given from the environment.

        `target` is an address or a host, `{service}` in it stands for auth, symbols or ingest; `targets` names single
        services' addresses. `tls=True` trusts the public roots. `timeout` is that of a call, in seconds.
        """
        self._start(
            load(
                target,
                targets=targets,
                key=key,
                key_file=key_file,
                tls=tls,
                allow_plaintext=allow_plaintext,
                timeout=timeout,
            )
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Makes a client of settings that are complete."""
        made = cls.__new__(cls)
        made._start(settings)  # noqa: SLF001 # its own class
        return made

    def _start(self, settings: Settings) -> None:
        self.settings = settings

    def __repr__(self) -> str:
        where = ", ".join(f"{service} at {target}" for service, target in self.settings.targets.items())
        return f"<{type(self).__name__}: {where}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_settings, (self.settings,)


class Client(_Settled):
    """The warehouse, blocking: every method returns its result. Safe for threads; pickles as its settings.

    Without arguments the addresses, the key and TLS come from the environment: MDW_TARGET, MDW_KEY or MDW_KEY_FILE,
    MDW_TLS and others of the project's quickstart. In a forked child it connects anew, or raises ForkedProcessError
    where the parent had used gRPC already.
    """

    def _start(self, settings: Settings) -> None:
        super()._start(settings)
        self._connection = Connection(settings, channel)
        runner = Blocking(self._connection)
        self.keys = Keys(runner)
        self.audit = Audit(runner)
        self.symbols = Symbols(runner)
        self.backfills = Backfills(runner)
        self.rejects = Rejects(runner)
        self.bars = BarReads(runner)
        self.sync = self.bars.sync
        self.schedule = Schedule(runner)
        self.actions = Actions(runner)
        self.coverage = Coverage(runner)
        self.watch_session = self.coverage.watch_session

    def channel(self, service: str) -> grpc.Channel:
        """Returns the channel to auth, symbols or ingest, for the stubs of `mdw` themselves."""
        return cast("grpc.Channel", self._connection.channel(service))

    def close(self) -> None:
        """Closes the connections; a later call opens new ones."""
        for each in self._connection.take_channels():
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(_Settled):
    """The warehouse for asyncio: the methods of Client, to be awaited or iterated over with `async for`."""

    def _start(self, settings: Settings) -> None:
        super()._start(settings)
        self._connection = Connection(settings, aio_channel)
        runner = Asynchronous(self._connection)
        self.keys = Keys(runner)
        self.audit = Audit(runner)
        self.symbols = Symbols(runner)
        self.backfills = Backfills(runner)
        self.rejects = Rejects(runner)
        self.bars = BarReads(runner)
        self.sync = self.bars.sync
        self.schedule = Schedule(runner)
        self.actions = Actions(runner)
        self.coverage = Coverage(runner)
        self.watch_session = self.coverage.watch_session

    def channel(self, service: str) -> grpc.aio.Channel:
        """Returns the channel to auth, symbols or ingest, for the stubs of `mdw` themselves."""
        return cast("grpc.aio.Channel", self._connection.channel(service))

    async def close(self) -> None:
        """Closes the connections; a later call opens new ones."""
        for each in self._connection.take_channels():
            await each.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
