"""What of the schema the server's SQL uses; a database that lacks any of it is refused at the start, by name."""

from __future__ import annotations

from services.kit.schema import RequiredSchema

_TABLES = {
    "symbols.ticker_spans": """
        symbol_id asset_class ticker provider_ticker from_date to_date active timeframes list_date delist_date
    """,
    "ingest.sessions": "calendar session_date ordinal open_time close_time",
    "ingest.backfills": """
        backfill_id kind mode priority state pause_reason timeframes first_date last_date request key_id totals error
        create_time start_time finish_time
    """,
    "ingest.slices": """
        slice_id turn cursor next_try_time lease_owner lease_until fetch_time end_time token inserted updated unchanged
        rejected requests attempts symbol_id write_id first_date last_date kind mode priority state timeframe
        asset_class held provider_ticker reason subject unknown deleted
    """,
    "ingest.backfill_slices": "backfill_id slice_id",
    "ingest.series": """
        symbol_id timeframe bars first_ts last_ts validated rejected sessions_present asked failed outside_plan deleted
        last_write_id last_error
    """,
    "ingest.suspects": "symbol_id timeframe first_date last_date asks counts_from next_ask_time gave_up_reason",
    "ingest.minute_sessions": "symbol_id session_date bars regular_bars",
    "ingest.schedule": "paused note changed_by changed_by_preview change_time",
    "ingest.schedule_runs": "calendar session_date backfill_id regular result run_time",
    "ingest.rejected_bars": "reject_id symbol_id ticker timeframe ts reason raw first_seen last_seen",
    "ingest.writes": "write_id symbol_id timeframe min_ts max_ts commit_time high open",
    "ingest.bars": "ts open high low close vwap volume symbol_id trade_count write_id timeframe flags",
    "ingest.bar_revisions": """
        ts open high low close vwap volume symbol_id trade_count write_id ended_write_id timeframe flags
    """,
    "ingest.actions": """
        action_id write_id ended_write_id symbol_id ex_date kind flags split_from split_to cash_amount currency
        source_id source_time
    """,
    "ingest.deletions": "slice_id symbol_id timeframe write_id first_date last_date end_date purge key_id reason",
    "ingest.requests": "key_id method request_id request_hash answer create_time",
    "ingest.token_key": "secret",
}

SCHEMA = RequiredSchema(
    version=10,
    columns=tuple(f"{table}.{column}" for table, columns in _TABLES.items() for column in columns.split()),
    functions=(
        "auth.record_calls",
        "auth.change_committed",
        "ingest.await_nodes",
        "ingest.finish",
        "ingest.slice_wanted",
        "ingest.suspect_wait",
    ),
)
