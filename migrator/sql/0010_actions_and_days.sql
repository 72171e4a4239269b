-- Slices that ask for more than one series' bars: actions, symbols, days of the whole market.

ALTER TABLE ingest.slices
  ADD COLUMN subject text NOT NULL DEFAULT '',
  ADD COLUMN page text NOT NULL DEFAULT '',
  ADD COLUMN unknown bigint NOT NULL DEFAULT 0,
  ADD COLUMN note text NOT NULL DEFAULT '';
COMMENT ON COLUMN ingest.slices.subject IS 'Of actions: splits or dividends; of symbols: which list';
COMMENT ON COLUMN ingest.slices.page IS 'Where the work goes on when a date does not say it';
COMMENT ON COLUMN ingest.slices.unknown IS 'Rows of tickers that nobody registered';
COMMENT ON COLUMN ingest.slices.note IS 'What is left to a person, said as the reason where there is no other';

-- Both tables are small: nobody waits for long.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX actions_by_ex_date ON ingest.actions (ex_date) WHERE ended_write_id IS NULL;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX slices_open_days ON ingest.slices (timeframe, state) WHERE kind = 2 AND state IN (1, 2);
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX slices_open_files ON ingest.slices (timeframe, state) WHERE kind = 3 AND state IN (1, 2);
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX writes_of_many ON ingest.writes (slice_id) WHERE symbol_ids IS NOT NULL;

-- As before; a day of the whole market covers every series of its class, files those that they were met in so far.
CREATE OR REPLACE VIEW ingest.series_figures AS
SELECT f.symbol_id, f.timeframe, f.bars, f.first_ts, f.last_ts, f.validated, f.rejected, f.sessions_present,
       f.watermark, f.last_success_time, f.last_error,
       CASE
         WHEN EXISTS (SELECT FROM ingest.slices s
                      WHERE s.state = 2 AND s.symbol_id = f.symbol_id AND s.timeframe = f.timeframe)
           OR EXISTS (SELECT FROM ingest.slices s
                      WHERE s.kind = 2 AND s.state = 2 AND s.timeframe = f.timeframe
                        AND (s.asset_class = 3) = (f.calendar = '24/7'))
           OR EXISTS (SELECT FROM ingest.slices s
                      JOIN ingest.writes w ON w.slice_id = s.slice_id AND w.symbol_ids IS NOT NULL
                      WHERE s.kind = 3 AND s.state = 2 AND s.timeframe = f.timeframe AND f.symbol_id = ANY (w.symbol_ids)) THEN 3
         WHEN EXISTS (SELECT FROM ingest.slices s
                      WHERE s.state = 1 AND s.symbol_id = f.symbol_id AND s.timeframe = f.timeframe)
           OR EXISTS (SELECT FROM ingest.slices s
                      WHERE s.kind = 2 AND s.state = 1 AND s.timeframe = f.timeframe
                        AND (s.asset_class = 3) = (f.calendar = '24/7'))
           OR EXISTS (SELECT FROM ingest.slices s
                      JOIN ingest.writes w ON w.slice_id = s.slice_id AND w.symbol_ids IS NOT NULL
                      WHERE s.kind = 3 AND s.state = 1 AND s.timeframe = f.timeframe AND f.symbol_id = ANY (w.symbol_ids)) THEN 2
         WHEN NOT isempty(f.failed) THEN 5
         WHEN NOT isempty(f.asked) THEN 4
         ELSE 1
       END::smallint AS state,
       first_session.ordinal AS first_ordinal,
       last_session.ordinal AS last_ordinal,
       closed_session.ordinal AS closed_ordinal
FROM (
  SELECT r.*, CASE WHEN y.asset_class = 3 THEN '24/7' ELSE 'XNYS' END AS calendar,
         CASE WHEN y.asset_class = 3 OR r.timeframe = 7 THEN 'UTC' ELSE 'America/New_York' END AS zone
  FROM ingest.series r
  JOIN symbols.symbols y USING (symbol_id)
) f
LEFT JOIN LATERAL (
  SELECT ordinal FROM ingest.sessions c
  WHERE c.calendar = f.calendar AND c.session_date >= (f.first_ts AT TIME ZONE f.zone)::date
  ORDER BY c.session_date LIMIT 1
) first_session ON true
LEFT JOIN LATERAL (
  SELECT ordinal FROM ingest.sessions c
  WHERE c.calendar = f.calendar AND c.session_date <= (f.last_ts AT TIME ZONE f.zone)::date
  ORDER BY c.session_date DESC LIMIT 1
) last_session ON true
LEFT JOIN LATERAL (
  SELECT ordinal FROM ingest.sessions c
  WHERE c.calendar = f.calendar AND c.close_time <= statement_timestamp()
  ORDER BY c.close_time DESC LIMIT 1
) closed_session ON true;

-- As before, and what the registry says of the symbol itself: ingest compares it with the provider's lists.
CREATE OR REPLACE VIEW symbols.ticker_spans AS
SELECT t.symbol_id, t.asset_class, t.ticker, t.provider_ticker, t.from_date, t.to_date,
       s.name, s.active, s.timeframes, s.list_date, s.delist_date, s.exchange, s.type, s.figi, s.create_time
FROM symbols.tickers t
JOIN symbols.symbols s USING (symbol_id);

-- The splits by which a symbol's bars are judged: a row each of the day since 1970, split_from and split_to; null when there are
-- none. VOLATILE, so that called after the series is locked it sees what was committed until then.
CREATE FUNCTION ingest.known_splits(p_symbol_id integer) RETURNS double precision[]
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RETURN (
    SELECT array_agg(ARRAY[a.ex_date - DATE '1970-01-01', a.split_from, a.split_to] ORDER BY a.ex_date, a.action_id)
    FROM ingest.actions a
    WHERE a.symbol_id = p_symbol_id AND a.kind = 1 AND a.ended_write_id IS NULL AND a.flags & 1 = 0);
END $$;

-- Ends a step of a slice of actions or symbols, begun by begin_part. With p_more the claim goes on under the next write, with a new
-- lease; else the slice has come to p_cursor and p_page, or is done. All counts are what the step adds.
CREATE FUNCTION ingest.end_step(
  p_slice_id bigint, p_write_id integer, p_symbol_id integer, p_min_ts timestamptz, p_max_ts timestamptz,
  p_fetch_time timestamptz, p_asked_from timestamptz, p_asked_to timestamptz,
  p_inserted integer, p_updated integer, p_unchanged integer, p_rejected integer, p_unknown integer,
  p_cursor timestamptz, p_page text, p_done boolean, p_more boolean, p_lease interval, p_note text DEFAULT '')
RETURNS TABLE (state smallint, write_id integer)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_state smallint;
  v_next integer;
BEGIN
  v_state := CASE WHEN p_done THEN 3 WHEN ingest.slice_wanted(p_slice_id) IS NULL THEN 6 WHEN p_more THEN 2 ELSE 1 END;
  v_next := ingest.finish(p_write_id, v_state < 3, p_symbol_id, NULL, p_min_ts, p_max_ts, p_fetch_time, p_asked_from, p_asked_to);
  UPDATE ingest.slices s
  SET state = v_state, cursor = CASE WHEN p_more THEN s.cursor ELSE p_cursor END,
      page = CASE WHEN p_more THEN s.page ELSE p_page END, write_id = v_next, attempts = 0, reason = '',
      inserted = s.inserted + p_inserted, updated = s.updated + p_updated, unchanged = s.unchanged + p_unchanged,
      rejected = s.rejected + p_rejected, unknown = s.unknown + p_unknown,
      note = left(concat_ws('; ', nullif(s.note, ''), nullif(p_note, '')), 2000),
      lease_owner = CASE WHEN v_state = 2 THEN s.lease_owner END,
      lease_until = CASE WHEN v_state = 2 THEN clock_timestamp() + p_lease END,
      end_time = CASE WHEN v_state < 3 THEN NULL ELSE clock_timestamp() END
  WHERE s.slice_id = p_slice_id;
  RETURN QUERY SELECT v_state, v_next;
END $$;

REVOKE ALL ON FUNCTION ingest.known_splits, ingest.end_step FROM public;
GRANT EXECUTE ON FUNCTION ingest.known_splits, ingest.end_step TO mdw_ingest;
