-- Completeness: sessions that came empty or thin and are asked again, and the schedule that keeps series fresh.

-- A run of sessions that were asked for and answered, and hold no bar, or too few of the minutes usual for the series.
CREATE TABLE ingest.suspects (
  symbol_id integer,
  timeframe smallint,
  first_date date,
  last_date date NOT NULL,
  asks integer NOT NULL CONSTRAINT suspects_asks CHECK (asks > 0),
  counts_from timestamptz,
  next_ask_time timestamptz,
  gave_up_reason text NOT NULL DEFAULT '',
  PRIMARY KEY (symbol_id, timeframe, first_date),
  CONSTRAINT suspects_of_series FOREIGN KEY (symbol_id, timeframe) REFERENCES ingest.series ON DELETE CASCADE,
  CONSTRAINT suspects_dates CHECK (first_date <= last_date),
  CONSTRAINT suspects_given_up_are_not_asked CHECK ((gave_up_reason <> '') = (next_ask_time IS NULL) AND (gave_up_reason <> '') = (counts_from IS NULL))
);
CREATE INDEX suspects_due ON ingest.suspects (next_ask_time) WHERE next_ask_time IS NOT NULL;
COMMENT ON TABLE ingest.suspects IS 'None before the first bar of a series, or the listing date while it has no bar. Stays';
COMMENT ON COLUMN ingest.suspects.asks IS 'Answers that left it so';
COMMENT ON COLUMN ingest.suspects.counts_from IS 'An answer that comes earlier is not one more: the same question within minutes says nothing new';
COMMENT ON COLUMN ingest.suspects.next_ask_time IS 'When the server plans it again';

-- Whether the schedule plans anything by itself.
CREATE TABLE ingest.schedule (
  one boolean PRIMARY KEY DEFAULT true CONSTRAINT schedule_one_row CHECK (one),
  paused boolean NOT NULL DEFAULT false,
  note text NOT NULL DEFAULT '' CONSTRAINT schedule_note_length CHECK (length(note) <= 200),
  changed_by uuid,
  changed_by_preview text NOT NULL DEFAULT '',
  change_time timestamptz
);
INSERT INTO ingest.schedule DEFAULT VALUES;

-- One row a session and calendar: who inserts it plans the session, so that of several replicas one does.
CREATE TABLE ingest.schedule_runs (
  calendar text,
  session_date date,
  backfill_id uuid,
  regular boolean NOT NULL,
  result text NOT NULL,
  run_time timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (calendar, session_date)
);
CREATE INDEX schedule_runs_by_run_time ON ingest.schedule_runs (run_time);
COMMENT ON TABLE ingest.schedule_runs IS 'Kept 400 days';
COMMENT ON COLUMN ingest.schedule_runs.regular IS 'False: asked for by RunSchedule before its time, so that the regular run is still to come';

-- The wait after so many answers without bars; null: it is given up. A session of the last days may still be on its way; an older
-- one is mostly empty for good.
CREATE FUNCTION ingest.suspect_wait(p_asks integer, p_fresh boolean) RETURNS interval
LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN p_asks < CASE WHEN p_fresh THEN 6 ELSE 4 END
    THEN CASE WHEN p_fresh THEN interval '15 minutes' ELSE interval '1 day' END * 4 ^ (p_asks - 1) END;
$$;

-- Sessions of 1m series, each from its first date to its end date (exclusive), without a bar, or thin: under half of the share of
-- regular minutes that was usual in the 20 sessions before, where most minutes usually have a trade.
CREATE FUNCTION ingest.bare_minute_sessions(
  p_symbol_ids integer[], p_calendar text, p_first_dates date[], p_end_dates date[])
RETURNS TABLE (symbol_id integer, session_date date)
LANGUAGE sql STABLE AS $$
  SELECT compared.symbol_id, compared.session_date
  FROM (
    SELECT counted.*, avg(share) OVER before AS usual, count(share) OVER before AS known
    FROM (
      SELECT u.symbol_id, u.first_date, c.session_date,
             60 * m.regular_bars / extract(epoch FROM c.close_time - c.open_time) AS share
      FROM unnest(p_symbol_ids, p_first_dates, p_end_dates) AS u (symbol_id, first_date, end_date)
      JOIN ingest.sessions c ON c.calendar = p_calendar AND c.session_date >= u.first_date - 40 AND c.session_date < u.end_date
      LEFT JOIN ingest.minute_sessions m ON m.symbol_id = u.symbol_id AND m.session_date = c.session_date
      WHERE u.first_date < u.end_date
    ) counted
    WINDOW before AS (PARTITION BY counted.symbol_id ORDER BY counted.session_date ROWS BETWEEN 20 PRECEDING AND 1 PRECEDING)
  ) compared
  WHERE session_date >= first_date AND (share IS NULL OR (known >= 5 AND usual >= 0.5 AND share < usual / 2));
$$;

-- Sessions from p_date on, before the next bar, that were asked for and are not suspect: they came empty when a later bar was
-- taken for the first of the series.
CREATE FUNCTION ingest.bare_sessions_after(p_symbol_id integer, p_timeframe smallint, p_calendar text, p_date date)
RETURNS date[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
  v_next date;
BEGIN
  IF p_timeframe = 7 THEN
    SELECT min(b.ts AT TIME ZONE 'UTC')::date INTO v_next FROM ingest.bars b
    WHERE b.symbol_id = p_symbol_id AND b.timeframe = 7 AND b.ts >= p_date::timestamp AT TIME ZONE 'UTC';
  ELSE
    SELECT min(m.session_date) INTO v_next FROM ingest.minute_sessions m
    WHERE m.symbol_id = p_symbol_id AND m.session_date >= p_date;
  END IF;
  RETURN array(
    SELECT c.session_date
    FROM ingest.sessions c
    JOIN ingest.series r ON r.symbol_id = p_symbol_id AND r.timeframe = p_timeframe AND r.asked @> c.session_date
    WHERE c.calendar = p_calendar AND c.session_date >= p_date AND c.session_date < v_next
      AND NOT EXISTS (
        SELECT FROM ingest.suspects s
        WHERE s.symbol_id = p_symbol_id AND s.timeframe = p_timeframe AND c.session_date BETWEEN s.first_date AND s.last_date));
END $$;

-- Notes which of the sessions from p_first_date to p_end_date (exclusive), all of them answered, are suspect, and clears those that
-- are not any more; what lies outside stays. Days: p_empty_first and p_empty_last are the runs without a bar, stored or new;
-- minutes are looked up. Call it with the series' row locked and its figures up to date, before the commit lock.
CREATE FUNCTION ingest.note_suspects(
  p_symbol_id integer, p_timeframe smallint, p_calendar text, p_first_date date, p_end_date date,
  p_empty_first date[], p_empty_last date[])
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_now timestamptz := clock_timestamp();
  v_zone text := CASE WHEN p_timeframe = 7 OR p_calendar = '24/7' THEN 'UTC' ELSE 'America/New_York' END;
  v_from date;
  v_last date;
  v_until date;
  v_bare date[] := '{}';
  v_deleted datemultirange;
  v_old ingest.suspects[];
BEGIN
  IF p_timeframe = 1 THEN
    v_bare := array(
      SELECT m.session_date
      FROM ingest.bare_minute_sessions(ARRAY[p_symbol_id], p_calendar, ARRAY[p_first_date], ARRAY[p_end_date]) AS m);
  ELSIF cardinality(p_empty_first) > 0 THEN
    SELECT coalesce(array_agg(c.session_date), '{}') INTO v_bare
    FROM unnest(p_empty_first, p_empty_last) AS e (first_date, last_date)
    JOIN ingest.sessions c ON c.calendar = p_calendar AND c.session_date BETWEEN e.first_date AND e.last_date
    WHERE c.session_date >= p_first_date AND c.session_date < p_end_date;
  END IF;
  SELECT (r.first_ts AT TIME ZONE v_zone)::date, (r.last_ts AT TIME ZONE v_zone)::date, r.deleted INTO v_from, v_last, v_deleted
  FROM ingest.series r WHERE r.symbol_id = p_symbol_id AND r.timeframe = p_timeframe;
  IF v_from >= p_first_date AND v_from < p_end_date THEN
    v_bare := v_bare || ingest.bare_sessions_after(p_symbol_id, p_timeframe, p_calendar, p_end_date);
  END IF;
  IF cardinality(v_bare) = 0 AND NOT EXISTS (SELECT FROM ingest.suspects WHERE symbol_id = p_symbol_id AND timeframe = p_timeframe) THEN
    RETURN;
  END IF;
  SELECT coalesce(v_from, max(t.list_date), '-infinity'), coalesce(max(t.delist_date), 'infinity') INTO v_from, v_until
  FROM symbols.ticker_spans t WHERE t.symbol_id = p_symbol_id;
  v_bare := array(SELECT d FROM unnest(v_bare) AS d WHERE d BETWEEN v_from AND v_until AND NOT v_deleted @> d);
  -- Runs within a week are taken along, because what comes between may join them.
  WITH gone AS (
    DELETE FROM ingest.suspects s
    WHERE s.symbol_id = p_symbol_id AND s.timeframe = p_timeframe
      AND (s.first_date < v_from OR (s.first_date <= p_end_date + 7 AND s.last_date >= p_first_date - 7))
    RETURNING s
  )
  SELECT array_agg(s) INTO v_old FROM gone;
  INSERT INTO ingest.suspects (symbol_id, timeframe, first_date, last_date, asks, counts_from, next_ask_time, gave_up_reason)
  WITH old AS (
    SELECT * FROM unnest(v_old)
  ), asked AS (
    SELECT c.session_date, c.ordinal, o.asks, o.counts_from, o.next_ask_time, o.gave_up_reason,
           o.asks IS NULL OR o.counts_from <= v_now AS counts,
           c.session_date >= v_now::date - 14 AND coalesce(v_last, v_from) >= v_now::date - 14 AS fresh
    FROM unnest(v_bare) AS b (session_date)
    JOIN ingest.sessions c ON c.calendar = p_calendar AND c.session_date = b.session_date
    LEFT JOIN old o ON b.session_date BETWEEN o.first_date AND o.last_date
  ), judged AS (
    SELECT a.session_date, a.ordinal, a.counts_from, a.next_ask_time, a.gave_up_reason, a.counts,
           coalesce(a.asks, 0) + CASE WHEN a.counts THEN 1 ELSE 0 END AS asks, a.fresh,
           ingest.suspect_wait(coalesce(a.asks, 0) + 1, a.fresh) AS wait
    FROM asked a
  ), pieces AS (
    SELECT j.session_date AS first_date, j.session_date AS last_date, j.ordinal AS first_ordinal, j.ordinal AS last_ordinal, j.asks,
           CASE WHEN j.counts THEN v_now + j.wait ELSE j.counts_from END AS counts_from,
           CASE WHEN j.counts THEN v_now + j.wait ELSE j.next_ask_time END AS next_ask_time,
           CASE WHEN NOT j.counts THEN j.gave_up_reason
                WHEN j.wait IS NULL AND v_last IS NULL THEN format('no bar at all after %s answers: does the provider know the ticker?', j.asks)
                WHEN j.wait IS NULL THEN format('still empty or thin after %s answers', j.asks)
                ELSE '' END AS gave_up_reason
    FROM judged j
    UNION ALL
    SELECT first_session.session_date, last_session.session_date, first_session.ordinal, last_session.ordinal, o.asks,
           o.counts_from, o.next_ask_time, o.gave_up_reason
    FROM old o
    CROSS JOIN LATERAL (
      VALUES (greatest(o.first_date, v_from), least(o.last_date, p_first_date - 1)),
             (greatest(o.first_date, p_end_date, v_from), o.last_date)
    ) AS side (first_date, last_date)
    JOIN LATERAL (
      SELECT c.session_date, c.ordinal FROM ingest.sessions c
      WHERE c.calendar = p_calendar AND c.session_date BETWEEN side.first_date AND side.last_date
      ORDER BY c.session_date LIMIT 1
    ) first_session ON true
    JOIN LATERAL (
      SELECT c.session_date, c.ordinal FROM ingest.sessions c
      WHERE c.calendar = p_calendar AND c.session_date BETWEEN side.first_date AND side.last_date
      ORDER BY c.session_date DESC LIMIT 1
    ) last_session ON true
  ), starts AS (
    SELECT p.*,
           (p.first_ordinal, p.asks, p.counts_from, p.next_ask_time, p.gave_up_reason)
             IS DISTINCT FROM (lag(p.last_ordinal) OVER w + 1, lag(p.asks) OVER w, lag(p.counts_from) OVER w,
                               lag(p.next_ask_time) OVER w, lag(p.gave_up_reason) OVER w) AS begins
    FROM pieces p
    WINDOW w AS (ORDER BY p.first_ordinal)
  ), runs AS (
    SELECT s.*, count(*) FILTER (WHERE s.begins) OVER (ORDER BY s.first_ordinal) AS run
    FROM starts s
  )
  SELECT p_symbol_id, p_timeframe, min(r.first_date), max(r.last_date), min(r.asks), min(r.counts_from), min(r.next_ask_time),
         min(r.gave_up_reason)
  FROM runs r
  GROUP BY r.run;
END $$;

-- As before, and notes the suspects among the sessions answered.
-- squawk-ignore ban-drop-function
DROP FUNCTION ingest.end_range;
CREATE FUNCTION ingest.end_range(
  p_slice_id bigint, p_write_id integer, p_symbol_id integer, p_timeframe smallint, p_calendar text,
  p_inserted integer, p_updated integer, p_unchanged integer, p_rejected integer, p_new_rejects integer,
  p_validated integer, p_first_ts timestamptz, p_last_ts timestamptz, p_min_ts timestamptz, p_max_ts timestamptz,
  p_tail bytea, p_sessions integer, p_days date[], p_day_bars integer[], p_day_regular integer[],
  p_fetch_time timestamptz, p_asked_from timestamptz, p_asked_to timestamptz,
  p_first_date date, p_end_date date, p_done boolean, p_empty_first date[], p_empty_last date[])
RETURNS smallint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_sessions integer := p_sessions;
  v_answered datemultirange := '{}';
  v_state smallint;
  v_next integer;
BEGIN
  IF cardinality(p_days) > 0 THEN
    WITH kept AS (
      INSERT INTO ingest.minute_sessions AS m (symbol_id, session_date, bars, regular_bars)
      SELECT p_symbol_id, d.session_date, d.bars, d.regular_bars
      FROM unnest(p_days, p_day_bars, p_day_regular) AS d (session_date, bars, regular_bars)
      ON CONFLICT (symbol_id, session_date) DO UPDATE
      SET bars = m.bars + excluded.bars, regular_bars = m.regular_bars + excluded.regular_bars
      RETURNING m.session_date, m.xmax = 0 AS added
    )
    SELECT count(*) INTO v_sessions
    FROM kept
    JOIN ingest.sessions c ON c.calendar = p_calendar AND c.session_date = kept.session_date
    WHERE kept.added;
  END IF;
  IF p_first_date < p_end_date THEN
    v_answered := datemultirange(daterange(p_first_date, p_end_date));
  END IF;
  UPDATE ingest.series r
  SET bars = r.bars + p_inserted, validated = r.validated + p_validated, rejected = r.rejected + p_new_rejects,
      sessions_present = r.sessions_present + v_sessions,
      first_ts = least(r.first_ts, p_first_ts), last_ts = greatest(r.last_ts, p_last_ts),
      last_write_id = CASE WHEN p_min_ts IS NULL THEN r.last_write_id ELSE p_write_id END,
      answer_time = greatest(r.answer_time, p_fetch_time), tail = coalesce(p_tail, r.tail),
      asked = r.asked + v_answered, failed = r.failed - v_answered, outside_plan = r.outside_plan - v_answered,
      watermark = (
        SELECT max(c.session_date) FROM ingest.sessions c
        WHERE c.calendar = p_calendar
          AND c.session_date < (SELECT upper(run) FROM unnest(r.asked + v_answered) AS run ORDER BY run LIMIT 1)),
      last_success_time = clock_timestamp(), last_error = ''
  WHERE r.symbol_id = p_symbol_id AND r.timeframe = p_timeframe;
  IF p_first_date < p_end_date THEN
    PERFORM ingest.note_suspects(p_symbol_id, p_timeframe, p_calendar, p_first_date, p_end_date, p_empty_first, p_empty_last);
  END IF;
  v_state := CASE WHEN p_done THEN 3 WHEN ingest.slice_wanted(p_slice_id) IS NULL THEN 6 ELSE 1 END;
  v_next := ingest.finish(p_write_id, v_state = 1, p_symbol_id, p_timeframe, p_min_ts, p_max_ts, p_fetch_time, p_asked_from, p_asked_to);
  UPDATE ingest.slices
  SET state = v_state, cursor = p_asked_to, write_id = v_next, attempts = 0, reason = '',
      inserted = inserted + p_inserted, updated = updated + p_updated, unchanged = unchanged + p_unchanged,
      rejected = rejected + p_rejected, lease_owner = NULL, lease_until = NULL,
      end_time = CASE WHEN v_state = 1 THEN NULL ELSE clock_timestamp() END
  WHERE slice_id = p_slice_id;
  RETURN v_state;
END $$;

REVOKE ALL ON FUNCTION ingest.suspect_wait, ingest.bare_minute_sessions, ingest.bare_sessions_after, ingest.note_suspects, ingest.end_range FROM public;
GRANT EXECUTE ON FUNCTION ingest.suspect_wait, ingest.bare_minute_sessions, ingest.bare_sessions_after, ingest.note_suspects, ingest.end_range TO mdw_ingest;
GRANT SELECT, INSERT, UPDATE, DELETE ON ingest.suspects, ingest.schedule_runs TO mdw_ingest;
GRANT SELECT, UPDATE ON ingest.schedule TO mdw_ingest;
