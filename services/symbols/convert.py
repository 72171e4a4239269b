"""Rows to messages of mdw.symbols.v1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mdw.symbols.v1 import symbols_pb2
from mdw.type.v1 import type_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

    from services.kit.errors import InvalidArgument
    from services.symbols.spans import Span
    from services.symbols.store.rows import Found, Outcome, SeriesFigures, SeriesState, Symbol, SymbolFigures
    from services.symbols.store.statistics import RegistryFigures


def wire(value: Any) -> Any:
    """Returns it as it is: protobuf takes a number for an enum and a datetime for a Timestamp, its stubs do not."""
    return value


def to_symbol(row: Symbol) -> symbols_pb2.Symbol:
    return symbols_pb2.Symbol(
        symbol_id=row.symbol_id,
        ticker=row.present.ticker,
        asset_class=wire(row.asset_class),
        provider_ticker=row.present.provider_ticker,
        name=row.details.name,
        exchange=row.details.exchange,
        type=row.details.type,
        figi=row.details.figi,
        list_date=to_date(row.details.list_date),
        delist_date=to_date(row.details.delist_date),
        active=row.active,
        timeframes=wire(row.details.timeframes),
        tickers=[to_span(span) for span in row.spans],
        series=[to_state(state) for state in row.series],
        create_time=wire(row.create_time),
        update_time=wire(row.update_time),
    )


def to_date(day: date | None) -> str:
    return day.isoformat() if day else ""


def to_span(span: Span) -> symbols_pb2.TickerSpan:
    return symbols_pb2.TickerSpan(
        ticker=span.ticker,
        provider_ticker=span.provider_ticker,
        from_date=to_date(span.from_date),
        to_date=to_date(span.to_date),
        other_symbol_ids=span.other_symbol_ids,
    )


def to_found_under(row: Symbol, found: Found) -> symbols_pb2.TickerSpan | None:
    """Returns the span by which a symbol was found if it is not the one shown."""
    if found.span is None or found.span == row.present:
        return None
    return to_span(found.span)


def to_state(row: SeriesState) -> symbols_pb2.SeriesState:
    return symbols_pb2.SeriesState(
        timeframe=wire(row.timeframe),
        state=wire(row.state),
        last_error=row.last_error,
        last_success_time=wire(row.last_success_time),
        watermark_date=to_date(row.watermark),
    )


def to_import(
    tickers: Sequence[str], refused: Mapping[int, InvalidArgument], outcomes: Mapping[int, Outcome]
) -> symbols_pb2.ImportSymbolsResponse:
    """Returns a result a row: `refused` broke a rule, the others have outcomes."""
    results = [
        _broken(n, ticker, refused[n]) if n in refused else _result(n, ticker, outcomes[n])
        for n, ticker in enumerate(tickers)
    ]
    kind = symbols_pb2.ImportResult
    return symbols_pb2.ImportSymbolsResponse(
        results=results,
        created=sum(result.outcome == kind.CREATED for result in results),
        existed=sum(result.outcome == kind.EXISTED for result in results),
        refused=sum(result.outcome == kind.REFUSED for result in results),
    )


def _broken(n: int, ticker: str, error: InvalidArgument) -> symbols_pb2.ImportResult:
    text = "; ".join(f"{field}: {rule}" for field, rule in error.violations)
    return _refusal(n, ticker, type_pb2.FIELD_INVALID, text)


def _result(n: int, ticker: str, outcome: Outcome) -> symbols_pb2.ImportResult:
    if outcome.taken_by:
        return _refusal(n, ticker, type_pb2.TICKER_TAKEN, outcome.taken_by.describe())
    if outcome.taken_by_row is not None:
        text = f"row {outcome.taken_by_row} has the ticker on some of these days"
        return _refusal(n, ticker, type_pb2.TICKER_TAKEN, text)
    kind = symbols_pb2.ImportResult.EXISTED if outcome.existed else symbols_pb2.ImportResult.CREATED
    return symbols_pb2.ImportResult(row=n, ticker=ticker, outcome=kind, symbol_id=outcome.symbol_id)


def _refusal(n: int, ticker: str, reason: type_pb2.ErrorReason.ValueType, text: str) -> symbols_pb2.ImportResult:
    return symbols_pb2.ImportResult(
        row=n, ticker=ticker, outcome=symbols_pb2.ImportResult.REFUSED, reason=wire(reason), error=text
    )


def to_statistics(row: SymbolFigures) -> symbols_pb2.SymbolStatistics:
    return symbols_pb2.SymbolStatistics(
        symbol_id=row.symbol_id,
        ticker=row.ticker,
        asset_class=wire(row.asset_class),
        series=[_to_series(series) for series in row.series],
    )


def _to_series(row: SeriesFigures) -> symbols_pb2.SeriesStatistics:
    expected = row.sessions_expected
    return symbols_pb2.SeriesStatistics(
        timeframe=wire(row.state.timeframe),
        bars=row.bars,
        first_time=wire(row.first_ts),
        last_time=wire(row.last_ts),
        sessions_expected=expected,
        sessions_present=row.sessions_present,
        sessions_missing=max(expected - row.sessions_present, 0),
        validated_share=share(row.validated, row.bars),
        rejected=row.rejected,
        sessions_behind=row.sessions_behind,
        state=to_state(row.state),
    )


def share(part: int, whole: int) -> float | None:
    """Returns part of whole, None of nothing."""
    return part / whole if whole else None


def to_registry(figures: RegistryFigures) -> symbols_pb2.GetRegistryStatisticsResponse:
    return symbols_pb2.GetRegistryStatisticsResponse(
        asset_classes=[
            symbols_pb2.AssetClassCount(asset_class=wire(asset_class), symbols=symbols, active=active)
            for asset_class, symbols, active in figures.classes
        ],
        states=[
            symbols_pb2.StateCount(timeframe=wire(timeframe), state=wire(state), series=series)
            for timeframe, state, series in figures.states
        ],
        timeframes=[
            symbols_pb2.TimeframeTotal(
                timeframe=wire(timeframe), series=series, bars=bars, validated_share=share(validated, bars)
            )
            for timeframe, series, bars, validated in figures.timeframes
        ],
        stalest=[
            symbols_pb2.StaleSeries(
                symbol_id=symbol_id,
                ticker=ticker,
                asset_class=wire(asset_class),
                timeframe=wire(timeframe),
                sessions_behind=behind,
            )
            for symbol_id, ticker, asset_class, timeframe, behind in figures.stalest
        ],
    )
