-- Parts of many series in less time: what is the same for all series is worked out once, statements are planned once a connection
-- instead of once a part, and what most parts have no need of is seen to be needless first.

-- As before, with one column more: splits, whether any of the series has one. What later answers know and what was deleted is looked
-- up only where there is such a thing.
-- squawk-ignore ban-drop-function
DROP FUNCTION ingest.begin_many(bigint, bigint, integer, integer[], smallint, timestamptz, timestamptz, timestamptz, text);
CREATE FUNCTION ingest.begin_many(
  p_slice_id bigint, p_token bigint, p_write_id integer, p_symbol_ids integer[], p_timeframe smallint,
  p_fetch_time timestamptz, p_asked_from timestamptz, p_asked_to timestamptz, p_zone text)
RETURNS TABLE (
  symbol_id integer, last_ts timestamptz, tail bytea, newer_from timestamptz[], newer_to timestamptz[], newer_partial boolean[],
  deleted datemultirange, void datemultirange, splits boolean)
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_material = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
  v_last date := ((p_asked_to - interval '1 us') AT TIME ZONE p_zone)::date;
  v_fetch timestamp := p_fetch_time AT TIME ZONE 'America/New_York';
  v_earliest timestamptz := (v_fetch - (v_last - (p_asked_from AT TIME ZONE p_zone)::date) * interval '1 day') AT TIME ZONE 'America/New_York';
  v_more boolean;
  v_splits boolean;
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
  SELECT bool_or(r.answer_time > v_earliest OR r.deleted <> '{}') INTO v_more
  FROM (
    SELECT s.answer_time, s.deleted
    FROM ingest.series s
    WHERE s.symbol_id = ANY (p_symbol_ids) AND s.timeframe = p_timeframe
    ORDER BY s.symbol_id
    FOR NO KEY UPDATE
  ) r;
  PERFORM ingest.begin_bars(p_symbol_ids);
  v_splits := EXISTS (
    SELECT FROM ingest.actions a
    WHERE a.symbol_id = ANY (p_symbol_ids) AND a.kind = 1 AND a.ended_write_id IS NULL AND a.flags & 1 = 0);
  IF NOT v_more THEN
    RETURN QUERY
    SELECT r.symbol_id, r.last_ts, r.tail, NULL::timestamptz[], NULL::timestamptz[], NULL::boolean[], NULL::datemultirange,
           NULL::datemultirange, v_splits
    FROM ingest.series r
    WHERE r.symbol_id = ANY (p_symbol_ids) AND r.timeframe = p_timeframe
    ORDER BY r.symbol_id;
    RETURN;
  END IF;
  RETURN QUERY
  SELECT r.symbol_id, r.last_ts, r.tail, n.newer_from, n.newer_to, n.newer_partial, nullif(r.deleted, '{}'),
         CASE WHEN r.deleted <> '{}' THEN ingest.void_sessions(p_slice_id, r.symbol_id, p_timeframe, r.deleted) END,
         v_splits
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

-- As before, and done at once where there is neither a suspect nor an empty session, nor a series whose first bar comes only now with
-- sessions behind it that were asked.
CREATE OR REPLACE FUNCTION ingest.note_many_suspects(
  p_symbol_ids integer[], p_timeframe smallint, p_calendar text, p_first_dates date[], p_end_dates date[],
  p_empty_symbols integer[], p_empty_first date[], p_empty_last date[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET enable_nestloop = on SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan AS $$
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
  IF NOT v_any AND cardinality(p_empty_symbols) = 0 AND NOT EXISTS (
    SELECT FROM ingest.series r
    WHERE r.symbol_id = ANY (p_symbol_ids) AND r.timeframe = p_timeframe
      AND (r.first_ts AT TIME ZONE v_zone)::date >= (SELECT min(d) FROM unnest(p_first_dates) AS d)
      AND upper(r.asked) > (SELECT min(d) FROM unnest(p_end_dates) AS d)) THEN
    RETURN;
  END IF;
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

-- As before; what is asked by then and the watermark are worked out once a series.
CREATE OR REPLACE FUNCTION ingest.end_many(
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
SET enable_hashjoin = on SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
  v_count integer := cardinality(p_symbol_ids);
  v_first date := (SELECT min(d) FROM unnest(p_first_dates) AS d);
  v_end date := (SELECT max(d) FROM unnest(p_end_dates) AS d);
  v_inserted bigint := (SELECT sum(i) FROM unnest(p_inserted) AS i) * CASE WHEN cardinality(p_inserted) = 1 THEN v_count ELSE 1 END;
  v_near date[];
  v_wanted boolean;
  v_held boolean;
  v_state smallint;
  v_next integer;
BEGIN
  p_first_dates := ingest.filled(p_first_dates, v_count);
  p_end_dates := ingest.filled(p_end_dates, v_count);
  SELECT array_agg(c.session_date ORDER BY c.session_date) INTO v_near
  FROM ingest.sessions c
  WHERE c.calendar = p_calendar
    AND c.session_date >= v_first - 14 AND c.session_date <= v_end;
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
      failed = CASE WHEN isempty(r.failed) THEN r.failed ELSE r.failed - u.answered END,
      outside_plan = CASE WHEN isempty(r.outside_plan) THEN r.outside_plan ELSE r.outside_plan - u.answered END,
      (asked, watermark) = (
        SELECT f.asked,
               CASE WHEN f.until > v_near[1] AND f.until <= v_near[cardinality(v_near)]
                    THEN v_near[width_bucket(f.until - 1, v_near)]
                    ELSE (SELECT max(c.session_date) FROM ingest.sessions c
                          WHERE c.calendar = p_calendar AND c.session_date < f.until) END
        FROM (
          SELECT m.asked,
                 CASE WHEN datemultirange(range_merge(m.asked)) = m.asked THEN upper(m.asked)
                      ELSE (SELECT upper(run) FROM unnest(m.asked) AS run ORDER BY run LIMIT 1) END AS until
          FROM (SELECT r.asked + u.answered AS asked OFFSET 0) m
          OFFSET 0
        ) f),
      last_success_time = clock_timestamp(), last_error = ''
  FROM (
    SELECT a.symbol_id, a.inserted, a.validated, a.new_rejects, a.sessions, a.changed, a.first_ts, a.last_ts, a.tail,
           datemultirange(daterange(a.first_date, a.end_date)) AS answered
    FROM unnest(p_symbol_ids, ingest.filled(p_inserted, v_count), ingest.filled(p_validated, v_count),
                ingest.filled(p_new_rejects, v_count), ingest.filled(p_sessions, v_count), ingest.filled(p_changed, v_count),
                ingest.filled(p_first_ts, v_count), ingest.filled(p_last_ts, v_count), ingest.filled(p_tails, v_count),
                p_first_dates, p_end_dates)
      AS a (symbol_id, inserted, validated, new_rejects, sessions, changed, first_ts, last_ts, tail, first_date, end_date)
    OFFSET 0  -- each OFFSET keeps an expression from being made anew wherever it is used
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
      inserted = s.inserted + coalesce(v_inserted, 0), updated = s.updated + p_updated,
      unchanged = s.unchanged + p_unchanged, rejected = s.rejected + p_rejected,
      requests = CASE WHEN s.kind = 3 THEN 0 ELSE s.requests END,
      lease_owner = CASE WHEN v_state = 2 THEN s.lease_owner END,
      lease_until = CASE WHEN v_state = 2 THEN clock_timestamp() + p_lease END,
      end_time = CASE WHEN v_state < 3 THEN NULL ELSE clock_timestamp() END
  WHERE s.slice_id = p_slice_id;
  RETURN QUERY SELECT v_state, v_next;
END $$;

REVOKE ALL ON FUNCTION ingest.begin_many FROM public;
GRANT EXECUTE ON FUNCTION ingest.begin_many TO mdw_ingest;
