-- Deletions of bars, imported files, and parts of many series: a day of the market, or files.

ALTER TABLE ingest.slices ADD COLUMN position integer, ADD COLUMN deleted bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN ingest.slices.position IS 'Of a slice of many series: the symbol_id of the last series that is written';
COMMENT ON COLUMN ingest.slices.deleted IS 'Bars that a deletion took away';

ALTER TABLE ingest.writes ADD COLUMN symbol_ids integer[], ADD COLUMN partial boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN ingest.writes.symbol_ids IS 'Of a part of many series: which. Its fetch_time is that of its last day, of each day before it one day less';
COMMENT ON COLUMN ingest.writes.partial IS 'The source carries no vwap';

-- One row a deletion that was asked for: who, why, and how far it has come.
CREATE TABLE ingest.deletions (
  deletion_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  slice_id bigint NOT NULL CONSTRAINT deletions_slice UNIQUE,
  create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
  symbol_id integer NOT NULL,
  write_id integer,
  first_date date NOT NULL,
  last_date date NOT NULL,
  end_date date,
  timeframe smallint NOT NULL CONSTRAINT deletions_timeframe_stored CHECK (timeframe IN (1, 7)),
  purge boolean NOT NULL,
  key_id uuid,
  reason text NOT NULL CONSTRAINT deletions_reason_length CHECK (length(reason) BETWEEN 1 AND 200),
  CONSTRAINT deletions_dates CHECK (first_date <= last_date)
);
CREATE INDEX deletions_by_series ON ingest.deletions (symbol_id, timeframe);
COMMENT ON COLUMN ingest.deletions.slice_id IS 'Slices that were made later and fetch all again bring bars back';
COMMENT ON COLUMN ingest.deletions.write_id IS 'The newest write that deleted something';
COMMENT ON COLUMN ingest.deletions.end_date IS 'Sessions before it are deleted; null before the first part';

CREATE TABLE ingest.files (
  file_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  slice_id bigint NOT NULL,
  size bigint NOT NULL,
  published timestamptz NOT NULL,
  finish_time timestamptz,
  rows bigint NOT NULL DEFAULT 0,
  rejected bigint NOT NULL DEFAULT 0,
  superseded bigint NOT NULL DEFAULT 0,
  unknown bigint NOT NULL DEFAULT 0,
  file_date date NOT NULL,
  timeframe smallint NOT NULL CONSTRAINT files_timeframe_stored CHECK (timeframe IN (1, 7)),
  asset_class smallint NOT NULL CONSTRAINT files_asset_class CHECK (asset_class IN (1, 3)),
  name text NOT NULL CONSTRAINT files_name_length CHECK (length(name) BETWEEN 1 AND 500),
  sha256 bytea NOT NULL CONSTRAINT files_once UNIQUE CONSTRAINT files_sha256_length CHECK (length(sha256) = 32)
);
CREATE INDEX files_by_slice ON ingest.files (slice_id);
COMMENT ON COLUMN ingest.files.asset_class IS '1 the stock market, ETFs included; 3 crypto';
COMMENT ON COLUMN ingest.files.published IS 'Counts as the time of the answer: 11:00 New York of the next day';
COMMENT ON COLUMN ingest.files.superseded IS 'Lines that a later answer knows better';
COMMENT ON COLUMN ingest.files.unknown IS 'Lines of tickers that nobody registered';

-- The deleted sessions into which a slice brings nothing: all of them if it fetches what is missing, and those deleted after it
-- was asked for if it fetches all again.
CREATE FUNCTION ingest.void_sessions(p_slice_id bigint, p_symbol_id integer, p_timeframe smallint, p_deleted datemultirange)
RETURNS datemultirange
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  IF p_deleted = '{}' OR (SELECT mode = 1 FROM ingest.slices WHERE slice_id = p_slice_id) THEN
    RETURN p_deleted;
  END IF;
  RETURN p_deleted * coalesce((
    SELECT range_agg(daterange(d.first_date, d.end_date))
    FROM ingest.deletions d
    WHERE d.symbol_id = p_symbol_id AND d.timeframe = p_timeframe AND d.slice_id > p_slice_id
      AND d.end_date > d.first_date), '{}');
END $$;

-- Begins a part of one series: fence, then the series' row; no row when the slice is no longer ours. newer_from and newer_to
-- are the spans in which a later answer than this one is stored already, newer_partial says which of those carry no vwap. Takes
-- what it took before, so that workers of the version before get on with it.
-- squawk-ignore ban-drop-function
DROP FUNCTION ingest.begin_range(bigint, bigint, integer, integer, smallint, timestamptz, timestamptz, timestamptz);
CREATE FUNCTION ingest.begin_range(
  p_slice_id bigint, p_token bigint, p_write_id integer, p_symbol_id integer, p_timeframe smallint,
  p_fetch_time timestamptz, p_asked_from timestamptz, p_asked_to timestamptz,
  OUT last_ts timestamptz, OUT tail bytea, OUT newer_from timestamptz[], OUT newer_to timestamptz[],
  OUT newer_partial boolean[], OUT deleted datemultirange, OUT void datemultirange)
RETURNS SETOF record
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_answer_time timestamptz;
  v_zone text;
BEGIN
  IF NOT ingest.begin_part(p_slice_id, p_token, p_write_id) THEN
    RETURN;
  END IF;
  SELECT r.answer_time, r.last_ts, r.tail, r.deleted INTO STRICT v_answer_time, last_ts, tail, deleted
  FROM ingest.series r
  WHERE r.symbol_id = p_symbol_id AND r.timeframe = p_timeframe
  FOR NO KEY UPDATE;
  PERFORM ingest.begin_bars(ARRAY[p_symbol_id]);
  void := CASE WHEN deleted = '{}' THEN deleted ELSE ingest.void_sessions(p_slice_id, p_symbol_id, p_timeframe, deleted) END;
  IF v_answer_time > p_fetch_time THEN
    SELECT CASE WHEN p_timeframe = 7 OR s.asset_class = 3 THEN 'UTC' ELSE 'America/New_York' END INTO STRICT v_zone
    FROM ingest.slices s WHERE s.slice_id = p_slice_id;
    SELECT array_agg(a.asked_from), array_agg(a.asked_to), array_agg(a.partial) INTO newer_from, newer_to, newer_partial
    FROM (
      SELECT w.asked_from, w.asked_to, w.partial
      FROM ingest.writes w
      WHERE w.symbol_id = p_symbol_id AND w.timeframe = p_timeframe AND w.fetch_time > p_fetch_time
        AND w.commit_time IS NOT NULL AND w.asked_from < p_asked_to AND w.asked_to > p_asked_from
      UNION ALL
      -- Of days before the last one the fetch_time is earlier, and may be earlier than this answer's.
      SELECT greatest(w.asked_from, (((w.asked_to - interval '1 us') AT TIME ZONE v_zone)::date + 1 - ceil(extract(epoch FROM
               w.fetch_time AT TIME ZONE 'America/New_York' - p_fetch_time AT TIME ZONE 'America/New_York') / 86400)::integer
             )::timestamp AT TIME ZONE v_zone), w.asked_to, w.partial
      FROM ingest.writes w
      WHERE w.symbol_id IS NULL AND w.timeframe = p_timeframe AND w.fetch_time > p_fetch_time
        AND w.commit_time IS NOT NULL AND w.asked_from < p_asked_to AND w.asked_to > p_asked_from
        AND p_symbol_id = ANY (w.symbol_ids)
    ) a;
  END IF;
  RETURN NEXT;
END $$;

-- Begins a part of many series, in key order: fence, series that are not there yet, then all their rows; deleted and void are null
-- where nothing was deleted. p_fetch_time is that of the last day in the span, of each day before it one day less. No row when the
-- slice is no longer ours. Planned as for a large table whatever the statistics say: else each series is met with all others.
CREATE FUNCTION ingest.begin_many(
  p_slice_id bigint, p_token bigint, p_write_id integer, p_symbol_ids integer[], p_timeframe smallint,
  p_fetch_time timestamptz, p_asked_from timestamptz, p_asked_to timestamptz, p_zone text)
RETURNS TABLE (
  symbol_id integer, last_ts timestamptz, tail bytea, newer_from timestamptz[], newer_to timestamptz[], newer_partial boolean[],
  deleted datemultirange, void datemultirange)
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_material = off AS $$
#variable_conflict use_column
DECLARE
  v_last date := ((p_asked_to - interval '1 us') AT TIME ZONE p_zone)::date;
  v_fetch timestamp := p_fetch_time AT TIME ZONE 'America/New_York';
  v_earliest timestamptz := (v_fetch - (v_last - (p_asked_from AT TIME ZONE p_zone)::date) * interval '1 day') AT TIME ZONE 'America/New_York';
BEGIN
  IF NOT ingest.begin_part(p_slice_id, p_token, p_write_id) THEN
    RETURN;
  END IF;
  IF (SELECT count(*) FROM ingest.series r WHERE r.symbol_id = ANY (p_symbol_ids) AND r.timeframe = p_timeframe)
     < cardinality(p_symbol_ids) THEN
    INSERT INTO ingest.series (symbol_id, timeframe)
    SELECT u.symbol_id, p_timeframe
    FROM unnest(p_symbol_ids) AS u (symbol_id)
    WHERE NOT EXISTS (SELECT FROM ingest.series r WHERE r.symbol_id = u.symbol_id AND r.timeframe = p_timeframe)
    ORDER BY u.symbol_id
    ON CONFLICT DO NOTHING;
  END IF;
  PERFORM FROM ingest.series r
  WHERE r.symbol_id = ANY (p_symbol_ids) AND r.timeframe = p_timeframe
  ORDER BY r.symbol_id
  FOR NO KEY UPDATE;
  PERFORM ingest.begin_bars(p_symbol_ids);
  RETURN QUERY
  SELECT r.symbol_id, r.last_ts, r.tail, n.newer_from, n.newer_to, n.newer_partial, nullif(r.deleted, '{}'),
         CASE WHEN r.deleted <> '{}' THEN ingest.void_sessions(p_slice_id, r.symbol_id, p_timeframe, r.deleted) END
  FROM ingest.series r
  LEFT JOIN LATERAL (
    SELECT array_agg(a.asked_from) AS newer_from, array_agg(a.asked_to) AS newer_to, array_agg(a.partial) AS newer_partial
    FROM (
      SELECT w.asked_from, w.partial,
             least(w.asked_to, (v_last + ceil(extract(epoch FROM
               w.fetch_time AT TIME ZONE 'America/New_York' - v_fetch) / 86400)::integer)::timestamp AT TIME ZONE p_zone) AS asked_to
      FROM ingest.writes w
      WHERE r.answer_time > v_earliest AND w.symbol_id = r.symbol_id AND w.timeframe = p_timeframe AND w.fetch_time > v_earliest
        AND w.commit_time IS NOT NULL AND w.asked_from < p_asked_to AND w.asked_to > p_asked_from
      UNION ALL
      SELECT w.asked_from, w.partial, w.asked_to
      FROM ingest.writes w
      WHERE r.answer_time > v_earliest AND w.symbol_id IS NULL AND w.timeframe = p_timeframe AND w.fetch_time > v_earliest
        AND w.commit_time IS NOT NULL AND w.asked_from < p_asked_to AND w.asked_to > p_asked_from
        AND r.symbol_id = ANY (w.symbol_ids)
        AND w.fetch_time AT TIME ZONE 'America/New_York'
            > v_fetch - (v_last - ((w.asked_to - interval '1 us') AT TIME ZONE p_zone)::date) * interval '1 day'
    ) a
    WHERE a.asked_from < a.asked_to
  ) n ON true
  WHERE r.symbol_id = ANY (p_symbol_ids) AND r.timeframe = p_timeframe
  ORDER BY r.symbol_id;
END $$;

-- As ingest.note_suspects, of each series that a part answers from its first date to its end date (exclusive). p_empty_* are the
-- runs of sessions without a daily bar, stored or new; minutes are looked up. Sessions that come empty for the first time are noted
-- together. One by one are taken: series with suspects from before among the sessions answered; those that have their first bar only
-- now, with suspects before it, or sessions behind it that were asked; those of which something was deleted.
CREATE FUNCTION ingest.note_many_suspects(
  p_symbol_ids integer[], p_timeframe smallint, p_calendar text, p_first_dates date[], p_end_dates date[],
  p_empty_symbols integer[], p_empty_first date[], p_empty_last date[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET enable_nestloop = on SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  v_now timestamptz := clock_timestamp();
  v_zone text := CASE WHEN p_timeframe = 7 OR p_calendar = '24/7' THEN 'UTC' ELSE 'America/New_York' END;
  v_any boolean;
  v_alone integer[];
BEGIN
  IF p_timeframe = 1 THEN
    SELECT coalesce(array_agg(m.symbol_id), '{}'), coalesce(array_agg(m.session_date), '{}'), coalesce(array_agg(m.session_date), '{}')
    INTO p_empty_symbols, p_empty_first, p_empty_last
    FROM ingest.bare_minute_sessions(p_symbol_ids, p_calendar, p_first_dates, p_end_dates) AS m;
  END IF;
  v_any := EXISTS (
    SELECT FROM ingest.suspects s
    WHERE s.timeframe = p_timeframe AND s.symbol_id BETWEEN p_symbol_ids[1] AND p_symbol_ids[cardinality(p_symbol_ids)]);
  v_alone := array(
    SELECT u.symbol_id
    FROM unnest(p_symbol_ids, p_first_dates, p_end_dates) AS u (symbol_id, first_date, end_date)
    CROSS JOIN LATERAL (
      SELECT * FROM ingest.series r WHERE r.symbol_id = u.symbol_id AND r.timeframe = p_timeframe LIMIT 1
    ) r  -- with LIMIT each is looked up by its key; else the planner may meet every series with all others
    WHERE u.first_date < u.end_date
      AND (v_any AND EXISTS (
             SELECT FROM ingest.suspects s
             WHERE s.symbol_id = u.symbol_id AND s.timeframe = p_timeframe AND s.first_date < u.end_date AND s.last_date >= u.first_date)
           OR ((r.first_ts AT TIME ZONE v_zone)::date >= u.first_date AND (r.first_ts AT TIME ZONE v_zone)::date < u.end_date
               AND (upper(r.asked) > u.end_date
                    OR v_any AND EXISTS (SELECT FROM ingest.suspects s WHERE s.symbol_id = u.symbol_id AND s.timeframe = p_timeframe)))
           OR (r.deleted <> '{}' AND u.symbol_id = ANY (p_empty_symbols)))
    ORDER BY u.symbol_id);
  IF cardinality(v_alone) = 0 AND cardinality(p_empty_symbols) = 0 THEN
    RETURN;
  END IF;
  PERFORM ingest.note_suspects(
    u.symbol_id, p_timeframe, p_calendar, u.first_date, u.end_date,
    array(SELECT e.first_date FROM unnest(p_empty_symbols, p_empty_first) AS e (symbol_id, first_date) WHERE e.symbol_id = u.symbol_id),
    array(SELECT e.last_date FROM unnest(p_empty_symbols, p_empty_last) AS e (symbol_id, last_date) WHERE e.symbol_id = u.symbol_id))
  FROM unnest(p_symbol_ids, p_first_dates, p_end_dates) AS u (symbol_id, first_date, end_date)
  WHERE u.symbol_id = ANY (v_alone);
  INSERT INTO ingest.suspects (symbol_id, timeframe, first_date, last_date, asks, counts_from, next_ask_time)
  SELECT i.symbol_id, p_timeframe, min(i.session_date), max(i.session_date), 1,
         v_now + ingest.suspect_wait(1, i.fresh), v_now + ingest.suspect_wait(1, i.fresh)
  FROM (
    SELECT b.symbol_id, b.session_date, b.fresh,
           b.ordinal - row_number() OVER (PARTITION BY b.symbol_id, b.fresh ORDER BY b.ordinal) AS run
    FROM (
      SELECT e.symbol_id, c.session_date, c.ordinal,
             c.session_date >= v_now::date - 14
               AND coalesce((r.last_ts AT TIME ZONE v_zone)::date, l.first_date) >= v_now::date - 14 AS fresh
      FROM unnest(p_empty_symbols, p_empty_first, p_empty_last) AS e (symbol_id, first_date, last_date)
      CROSS JOIN LATERAL (
        SELECT * FROM ingest.series r WHERE r.symbol_id = e.symbol_id AND r.timeframe = p_timeframe LIMIT 1
      ) r
      CROSS JOIN LATERAL (
        SELECT coalesce((r.first_ts AT TIME ZONE v_zone)::date, max(t.list_date), '-infinity') AS first_date,
               coalesce(max(t.delist_date), 'infinity') AS last_date
        FROM symbols.ticker_spans t
        WHERE t.symbol_id = e.symbol_id
      ) l
      JOIN ingest.sessions c ON c.calendar = p_calendar
        AND c.session_date BETWEEN greatest(e.first_date, l.first_date) AND least(e.last_date, l.last_date)
      WHERE NOT e.symbol_id = ANY (v_alone)
    ) b
  ) i
  GROUP BY i.symbol_id, i.fresh, i.run;
END $$;

-- An array of one element stands for p_count of the same.
CREATE FUNCTION ingest.filled(p_values anyarray, p_count integer) RETURNS anyarray
LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN cardinality(p_values) = 1 THEN array_fill(p_values[1], ARRAY[p_count]) ELSE p_values END;
$$;

-- Ends a part of many series: sessions, figures and watermarks, the write, the slice. Arrays hold an element a series, or one for
-- all; those of minutes one a session. Unless the slice is done the claim goes on under the next write, with a new lease; state 1: its jobs wait.
CREATE FUNCTION ingest.end_many(
  p_slice_id bigint, p_write_id integer, p_timeframe smallint, p_calendar text, p_symbol_ids integer[],
  p_inserted integer[], p_validated integer[], p_new_rejects integer[], p_sessions integer[], p_changed boolean[],
  p_first_ts timestamptz[], p_last_ts timestamptz[], p_tails bytea[], p_first_dates date[], p_end_dates date[],
  p_minute_symbols integer[], p_minute_days date[], p_minute_bars integer[], p_minute_regular integer[],
  p_updated integer, p_unchanged integer, p_rejected integer, p_min_ts timestamptz, p_max_ts timestamptz,
  p_fetch_time timestamptz, p_asked_from timestamptz, p_asked_to timestamptz, p_partial boolean,
  p_empty_symbols integer[], p_empty_first date[], p_empty_last date[],
  p_position integer, p_done boolean, p_lease interval, p_note text)
RETURNS TABLE (state smallint, write_id integer)
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_nestloop = off SET enable_mergejoin = off
SET enable_hashjoin = on AS $$
#variable_conflict use_column
DECLARE
  v_count integer := cardinality(p_symbol_ids);
  v_near date[];
  v_wanted boolean;
  v_held boolean;
  v_state smallint;
  v_next integer;
BEGIN
  p_inserted := ingest.filled(p_inserted, v_count);
  p_first_dates := ingest.filled(p_first_dates, v_count);
  p_end_dates := ingest.filled(p_end_dates, v_count);
  SELECT array_agg(c.session_date ORDER BY c.session_date) INTO v_near
  FROM ingest.sessions c
  WHERE c.calendar = p_calendar
    AND c.session_date >= (SELECT min(d) - 14 FROM unnest(p_first_dates) AS d)
    AND c.session_date <= (SELECT max(d) FROM unnest(p_end_dates) AS d);
  IF cardinality(p_minute_symbols) > 0 THEN
    WITH kept AS (
      INSERT INTO ingest.minute_sessions AS m (symbol_id, session_date, bars, regular_bars)
      SELECT d.symbol_id, d.session_date, d.bars, d.regular_bars
      FROM unnest(p_minute_symbols, p_minute_days, p_minute_bars, p_minute_regular) AS d (symbol_id, session_date, bars, regular_bars)
      ON CONFLICT (symbol_id, session_date) DO UPDATE
      SET bars = m.bars + excluded.bars, regular_bars = m.regular_bars + excluded.regular_bars
      RETURNING m.symbol_id, m.session_date, m.xmax = 0 AS added
    ), added AS (
      SELECT kept.symbol_id, count(*)::integer AS sessions
      FROM kept
      JOIN ingest.sessions c ON c.calendar = p_calendar AND c.session_date = kept.session_date
      WHERE kept.added
      GROUP BY kept.symbol_id
    )
    SELECT array_agg(coalesce(a.sessions, 0) ORDER BY u.position) INTO p_sessions
    FROM unnest(p_symbol_ids) WITH ORDINALITY AS u (symbol_id, position)
    LEFT JOIN added a USING (symbol_id);
  END IF;
  UPDATE ingest.series r
  SET bars = r.bars + u.inserted, validated = r.validated + u.validated, rejected = r.rejected + u.new_rejects,
      sessions_present = r.sessions_present + u.sessions,
      first_ts = least(r.first_ts, u.first_ts), last_ts = greatest(r.last_ts, u.last_ts),
      last_write_id = CASE WHEN u.changed THEN p_write_id ELSE r.last_write_id END,
      answer_time = greatest(r.answer_time, p_fetch_time), tail = coalesce(u.tail, r.tail),
      asked = r.asked + u.answered,
      failed = CASE WHEN isempty(r.failed) THEN r.failed ELSE r.failed - u.answered END,
      outside_plan = CASE WHEN isempty(r.outside_plan) THEN r.outside_plan ELSE r.outside_plan - u.answered END,
      watermark = (
        SELECT CASE WHEN f.until > v_near[1] AND f.until <= v_near[cardinality(v_near)]
                    THEN v_near[width_bucket(f.until - 1, v_near)]
                    ELSE (SELECT max(c.session_date) FROM ingest.sessions c
                          WHERE c.calendar = p_calendar AND c.session_date < f.until) END
        FROM (SELECT CASE WHEN datemultirange(range_merge(m.asked)) = m.asked THEN upper(m.asked)
                          ELSE (SELECT upper(run) FROM unnest(m.asked) AS run ORDER BY run LIMIT 1) END AS until
              FROM (SELECT r.asked + u.answered AS asked OFFSET 0) m) f),
      last_success_time = clock_timestamp(), last_error = ''
  FROM (
    SELECT a.symbol_id, a.inserted, a.validated, a.new_rejects, a.sessions, a.changed, a.first_ts, a.last_ts, a.tail,
           datemultirange(daterange(a.first_date, a.end_date)) AS answered
    FROM unnest(p_symbol_ids, p_inserted, ingest.filled(p_validated, v_count),
                ingest.filled(p_new_rejects, v_count), ingest.filled(p_sessions, v_count), ingest.filled(p_changed, v_count),
                ingest.filled(p_first_ts, v_count), ingest.filled(p_last_ts, v_count), ingest.filled(p_tails, v_count),
                p_first_dates, p_end_dates)
      AS a (symbol_id, inserted, validated, new_rejects, sessions, changed, first_ts, last_ts, tail, first_date, end_date)
    OFFSET 0  -- or answered would be made anew wherever it is used
  ) u
  WHERE r.symbol_id = u.symbol_id AND r.symbol_id = ANY (p_symbol_ids) AND r.timeframe = p_timeframe;
  PERFORM ingest.note_many_suspects(p_symbol_ids, p_timeframe, p_calendar, p_first_dates, p_end_dates, p_empty_symbols, p_empty_first,
                                    p_empty_last);
  UPDATE ingest.writes SET symbol_ids = p_symbol_ids, partial = p_partial WHERE write_id = p_write_id;
  v_wanted := ingest.slice_wanted(p_slice_id);
  SELECT s.held INTO STRICT v_held FROM ingest.slices s WHERE s.slice_id = p_slice_id;
  v_state := CASE WHEN p_done THEN 3 WHEN v_wanted IS NULL THEN 6 WHEN v_held OR NOT v_wanted THEN 1 ELSE 2 END;
  v_next := ingest.finish(p_write_id, v_state < 3, NULL, p_timeframe, p_min_ts, p_max_ts, p_fetch_time, p_asked_from, p_asked_to);
  UPDATE ingest.slices s
  SET state = v_state, position = CASE WHEN p_done THEN NULL ELSE p_position END, write_id = v_next, attempts = 0, reason = p_note,
      inserted = s.inserted + coalesce((SELECT sum(i) FROM unnest(p_inserted) AS i), 0), updated = s.updated + p_updated,
      unchanged = s.unchanged + p_unchanged, rejected = s.rejected + p_rejected,
      requests = CASE WHEN s.kind = 3 THEN 0 ELSE s.requests END,
      lease_owner = CASE WHEN v_state = 2 THEN s.lease_owner END,
      lease_until = CASE WHEN v_state = 2 THEN clock_timestamp() + p_lease END,
      end_time = CASE WHEN v_state < 3 THEN NULL ELSE clock_timestamp() END
  WHERE s.slice_id = p_slice_id;
  RETURN QUERY SELECT v_state, v_next;
END $$;

-- Begins a part of a deletion: fence, then the series' row; no row when the slice is no longer ours. What slices that were made
-- later and fetch all again have answered stays: kept_from and kept_to are those spans.
CREATE FUNCTION ingest.begin_delete(
  p_slice_id bigint, p_token bigint, p_write_id integer, p_symbol_id integer, p_timeframe smallint,
  p_from timestamptz, p_to timestamptz,
  OUT purge boolean, OUT create_time timestamptz, OUT kept_from timestamptz[], OUT kept_to timestamptz[])
RETURNS SETOF record
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  IF NOT ingest.begin_part(p_slice_id, p_token, p_write_id) THEN
    RETURN;
  END IF;
  PERFORM FROM ingest.series r WHERE r.symbol_id = p_symbol_id AND r.timeframe = p_timeframe FOR NO KEY UPDATE;
  PERFORM ingest.begin_bars(ARRAY[p_symbol_id]);
  SELECT d.purge, d.create_time INTO STRICT purge, create_time FROM ingest.deletions d WHERE d.slice_id = p_slice_id;
  SELECT array_agg(w.asked_from), array_agg(w.asked_to) INTO kept_from, kept_to
  FROM ingest.writes w
  JOIN ingest.slices s ON s.slice_id = w.slice_id
  WHERE (w.symbol_id = p_symbol_id OR w.symbol_id IS NULL AND p_symbol_id = ANY (w.symbol_ids))
    AND w.timeframe = p_timeframe AND w.commit_time IS NOT NULL AND w.fetch_time IS NOT NULL
    AND w.slice_id > p_slice_id AND s.mode = 2 AND w.asked_from < p_to AND w.asked_to > p_from;
  RETURN NEXT;
END $$;

-- Ends a part of a deletion: sessions, figures, the write, the deletion, the slice. All counts are what the part takes away but
-- p_validated, which is added. p_deleted are the sessions that are not to be fetched any more. Returns the slice's state.
CREATE FUNCTION ingest.end_delete(
  p_slice_id bigint, p_write_id integer, p_symbol_id integer, p_timeframe smallint, p_calendar text,
  p_bars integer, p_validated integer, p_min_ts timestamptz, p_max_ts timestamptz, p_tail bytea,
  p_sessions integer, p_days date[], p_day_bars integer[], p_day_regular integer[],
  p_end_date date, p_cursor timestamptz, p_done boolean, p_rejects integer, p_deleted datemultirange)
RETURNS smallint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_sessions integer := p_sessions;
  v_first timestamptz;
  v_last timestamptz;
  v_state smallint;
  v_next integer;
BEGIN
  IF cardinality(p_days) > 0 THEN
    WITH gone AS (
      DELETE FROM ingest.minute_sessions m
      USING unnest(p_days, p_day_bars) AS d (session_date, bars)
      WHERE m.symbol_id = p_symbol_id AND m.session_date = d.session_date AND m.bars = d.bars
      RETURNING m.session_date
    )
    SELECT count(*) INTO v_sessions
    FROM gone
    JOIN ingest.sessions c ON c.calendar = p_calendar AND c.session_date = gone.session_date;
    UPDATE ingest.minute_sessions m
    SET bars = m.bars - d.bars, regular_bars = m.regular_bars - d.regular_bars
    FROM unnest(p_days, p_day_bars, p_day_regular) AS d (session_date, bars, regular_bars)
    WHERE m.symbol_id = p_symbol_id AND m.session_date = d.session_date;
  END IF;
  SELECT b.ts INTO v_first FROM ingest.bars b WHERE b.symbol_id = p_symbol_id AND b.timeframe = p_timeframe ORDER BY b.ts LIMIT 1;
  SELECT b.ts INTO v_last FROM ingest.bars b WHERE b.symbol_id = p_symbol_id AND b.timeframe = p_timeframe ORDER BY b.ts DESC LIMIT 1;
  UPDATE ingest.series r
  SET bars = r.bars - p_bars, validated = r.validated + p_validated, rejected = r.rejected - p_rejects,
      sessions_present = r.sessions_present - v_sessions, first_ts = v_first, last_ts = v_last,
      last_write_id = CASE WHEN p_min_ts IS NULL THEN r.last_write_id ELSE p_write_id END,
      tail = coalesce(p_tail, r.tail), deleted = r.deleted + p_deleted
  WHERE r.symbol_id = p_symbol_id AND r.timeframe = p_timeframe;
  UPDATE ingest.deletions SET write_id = p_write_id, end_date = p_end_date WHERE slice_id = p_slice_id;
  v_state := CASE WHEN p_done THEN 3 WHEN ingest.slice_wanted(p_slice_id) IS NULL THEN 6 ELSE 1 END;
  v_next := ingest.finish(p_write_id, v_state = 1, p_symbol_id, p_timeframe, p_min_ts, p_max_ts, NULL, NULL, NULL);
  UPDATE ingest.slices
  SET state = v_state, cursor = p_cursor, write_id = v_next, attempts = 0, reason = '', requests = 0,
      deleted = deleted + p_bars, lease_owner = NULL, lease_until = NULL,
      end_time = CASE WHEN v_state = 1 THEN NULL ELSE clock_timestamp() END
  WHERE slice_id = p_slice_id;
  RETURN v_state;
END $$;

-- Notes in the series of a day's market that the day failed, or lies outside the plan: those that were ever asked for, may have
-- traded on it, and have no answer for it.
CREATE FUNCTION ingest.note_lost_day(p_asset_class smallint, p_day date, p_state smallint, p_reason text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_ids integer[];
  v_dates datemultirange := datemultirange(daterange(p_day, coalesce(
    (SELECT min(c.session_date) FROM ingest.sessions c
     WHERE c.calendar = CASE WHEN p_asset_class = 3 THEN '24/7' ELSE 'XNYS' END AND c.session_date > p_day), p_day + 1)));
BEGIN
  v_ids := array(
    SELECT r.symbol_id
    FROM ingest.series r
    WHERE r.timeframe = 7 AND NOT r.asked @> p_day AND NOT r.deleted @> p_day
      AND EXISTS (
        SELECT FROM symbols.ticker_spans t
        WHERE t.symbol_id = r.symbol_id AND (t.asset_class = 3) = (p_asset_class = 3)
          AND t.from_date <= p_day AND (t.to_date IS NULL OR t.to_date >= p_day)
          AND (t.list_date IS NULL OR t.list_date <= p_day))
    ORDER BY r.symbol_id
    FOR NO KEY UPDATE OF r);
  UPDATE ingest.series r
  SET failed = CASE WHEN p_state = 4 THEN r.failed + (v_dates - r.asked) ELSE r.failed - v_dates END,
      outside_plan = CASE WHEN p_state = 5 THEN r.outside_plan + (v_dates - r.asked) ELSE r.outside_plan - v_dates END,
      last_error = p_reason
  WHERE r.symbol_id = ANY (v_ids) AND r.timeframe = 7;
END $$;

-- Ends a slice that gets no further and covers no sessions of one series; those of a day's market are told. Null when the slice is
-- no longer ours.
CREATE FUNCTION ingest.close_slice(p_slice_id bigint, p_token bigint, p_state smallint, p_reason text)
RETURNS smallint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_slice ingest.slices;
BEGIN
  SELECT * INTO v_slice FROM ingest.slices WHERE slice_id = p_slice_id AND token = p_token AND state = 2 FOR UPDATE;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  IF v_slice.kind = 2 AND p_state IN (4, 5) THEN
    PERFORM ingest.note_lost_day(v_slice.asset_class, v_slice.first_date, p_state, p_reason);
  END IF;
  PERFORM ingest.finish(v_slice.write_id, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
  UPDATE ingest.slices
  SET state = p_state, token = token + 1, reason = p_reason, attempts = 0, write_id = NULL, lease_owner = NULL,
      lease_until = NULL, requests = CASE WHEN kind IN (3, 4) THEN 0 ELSE requests END, end_time = clock_timestamp()
  WHERE slice_id = p_slice_id;
  RETURN p_state;
END $$;

REVOKE ALL ON FUNCTION ingest.void_sessions, ingest.begin_range, ingest.begin_many, ingest.filled, ingest.end_many, ingest.note_many_suspects,
  ingest.begin_delete, ingest.end_delete, ingest.note_lost_day,
  ingest.close_slice FROM public;
GRANT EXECUTE ON FUNCTION ingest.void_sessions, ingest.begin_range, ingest.begin_many, ingest.filled, ingest.end_many, ingest.note_many_suspects,
  ingest.begin_delete, ingest.end_delete, ingest.note_lost_day,
  ingest.close_slice TO mdw_ingest;
GRANT SELECT, INSERT, UPDATE ON ingest.deletions, ingest.files TO mdw_ingest;
