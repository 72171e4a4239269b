"""Registers symbols with the SymbolService: the registry is not ours to write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from mdw.symbols.v1 import symbols_pb2, symbols_pb2_grpc
from services.ingest.polygon_errors import PassingError
from services.kit.log import get
from services.kit.peers import channel_to
from services.kit.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import date

    from services.ingest.symbol_lists import Listing
    from services.ingest.worker_settings import WorkerSettings

log = get(__name__)

SECONDS = 20.0

# What the registry says of a row, not of the moment.
_REFUSED = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
    }
)

T = TypeVar("T")


class Registry:
    """Calls the SymbolService with this service's own key."""

    def __init__(self, channel: grpc.aio.Channel, service_key: Callable[[], str]) -> None:
        self._channel = channel
        self._stub = symbols_pb2_grpc.SymbolServiceStub(channel)
        self._service_key = service_key

    async def close(self) -> None:
        await self._channel.close()

    async def register(self, new: Sequence[tuple[Listing, date | None]]) -> tuple[int, int, int]:
        """Registers symbols without making them active; returns how many were new, there already, and refused."""
        if not new:
            return 0, 0, 0
        rows = [_new_symbol(listing, first) for listing, first in new]
        answer = await self._call(self._stub.ImportSymbols, symbols_pb2.ImportSymbolsRequest(symbols=rows))
        for result in answer.results:
            if result.outcome == symbols_pb2.ImportResult.REFUSED:
                log.warning("symbol_refused", ticker=result.ticker, error=result.error)
        return answer.created, answer.existed, answer.refused

    async def update(self, symbol_id: int, changed: dict[str, Any]) -> bool:
        """Changes fields of a symbol, or clears those that are ''; says whether the registry took it."""
        symbol = symbols_pb2.Symbol(symbol_id=symbol_id)
        for name, value in changed.items():
            setattr(symbol, name, str(value))
        request = symbols_pb2.UpdateSymbolRequest(symbol=symbol, update_mask=FieldMask(paths=changed))
        return await self._try(self._stub.UpdateSymbol, request)

    async def rename(self, symbol_id: int, ticker: str, first: date) -> bool:
        """Records that a symbol has another ticker from a date on; says whether the registry took it."""
        request = symbols_pb2.RecordTickerChangeRequest(
            symbol=symbols_pb2.SymbolKey(symbol_id=symbol_id), new_ticker=ticker, from_date=str(first)
        )
        return await self._try(self._stub.RecordTickerChange, request)

    async def _try(self, method: Any, request: Any) -> bool:
        try:
            await self._call(method, request)
        except grpc.aio.AioRpcError as error:
            log.warning("symbol_refused", request=type(request).__name__, error=error.details())
            return False
        return True

    async def _call(self, method: Callable[..., Awaitable[T]], request: Any) -> T:
        """Raises PassingError for what may pass, AioRpcError for what the registry refuses."""
        try:
            metadata = (("x-api-key", self._service_key()),)
            return await method(request, metadata=metadata, timeout=SECONDS)
        except SettingsError as error:
            raise PassingError(f"the symbol service cannot be called: {error}") from error
        except grpc.aio.AioRpcError as error:
            if error.code() in _REFUSED:
                raise
            words = f"the symbol service answered {error.code().name}: {error.details()}"
            raise PassingError(words, "see SYMBOLS_TARGET and SERVICE_KEY of the workers") from error


def registry_of(settings: WorkerSettings) -> Registry | None:
    """Makes a registry as the settings say, None where they name no key; raises SettingsError."""
    if not settings.has_service_key:
        return None
    return Registry(channel_to(settings.symbols_target, settings), settings.read_service_key)


def _new_symbol(listing: Listing, first: date | None) -> symbols_pb2.NewSymbol:
    left = str(listing.delist_date or "")
    return symbols_pb2.NewSymbol(
        ticker=listing.provider_ticker,
        asset_class=listing.asset_class,  # type: ignore[arg-type]
        name=listing.name,
        exchange=listing.exchange,
        type=listing.type,
        figi=listing.figi,
        delist_date=left,
        from_date=str(first or ""),
        to_date=left,
        inactive=True,
    )
