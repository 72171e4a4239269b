-- How work is handed out and how a part of it is written, each in one round trip and with a fresh snapshot a statement.

CREATE SEQUENCE ingest.job_turns AS bigint;

-- Jobs of one priority take turns: a claim goes to the job after the one that was served last.
CREATE TABLE ingest.turns (
  priority smallint PRIMARY KEY CONSTRAINT turns_priority CHECK (priority BETWEEN 1 AND 4),
  turn bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
INSERT INTO ingest.turns (priority) VALUES (1), (2), (3), (4);
COMMENT ON COLUMN ingest.turns.turn IS 'The turn of the slice claimed last';
COMMENT ON COLUMN ingest.slices.turn IS 'The number of its job, from ingest.job_turns: claims go round the jobs of a priority';

-- A bar that the newest answer lacked, and the newest answer that held its values: an older answer that comes later replaces
-- only what is older still, so that any order of answers ends in the same bars.
CREATE TABLE ingest.absent_bars (
  ts timestamptz,
  fetch_time timestamptz NOT NULL,
  symbol_id integer,
  timeframe smallint,
  PRIMARY KEY (symbol_id, timeframe, ts)
);

-- Says whether any job still wants a slice: true, false where all of them wait, null where all have ended.
CREATE FUNCTION ingest.slice_wanted(p_slice_id bigint) RETURNS boolean
LANGUAGE sql VOLATILE AS $$
  SELECT bool_or(b.state IN (1, 2))
  FROM ingest.backfill_slices l
  JOIN ingest.backfills b USING (backfill_id)
  WHERE l.slice_id = p_slice_id AND b.state IN (1, 2, 3);
$$;

-- Takes the next slice under a lease, with a new token and an announced write; no row when nothing is due. A slice whose jobs
-- ended or wait is put right on the way. Planned as for a large table whatever the statistics say.
CREATE FUNCTION ingest.claim_slice(p_kinds smallint[], p_owner text, p_lease interval)
RETURNS SETOF ingest.slices
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
  v_turn bigint;
  v_slice ingest.slices;
  v_wanted boolean;
BEGIN
  FOR v_priority IN REVERSE 4..1 LOOP
    CONTINUE WHEN NOT EXISTS (SELECT FROM ingest.slices WHERE state = 1 AND NOT held AND priority = v_priority);
    SELECT turn INTO STRICT v_turn FROM ingest.turns WHERE priority = v_priority FOR UPDATE;
    LOOP
      SELECT * INTO v_slice FROM ingest.slices
      WHERE state = 1 AND NOT held AND priority = v_priority AND turn > v_turn AND kind = ANY (p_kinds)
        AND (next_try_time IS NULL OR next_try_time <= clock_timestamp())
      ORDER BY turn, slice_id LIMIT 1 FOR UPDATE SKIP LOCKED;
      IF NOT FOUND THEN
        SELECT * INTO v_slice FROM ingest.slices
        WHERE state = 1 AND NOT held AND priority = v_priority AND turn <= v_turn AND kind = ANY (p_kinds)
          AND (next_try_time IS NULL OR next_try_time <= clock_timestamp())
        ORDER BY turn, slice_id LIMIT 1 FOR UPDATE SKIP LOCKED;
      END IF;
      EXIT WHEN NOT FOUND;
      v_wanted := ingest.slice_wanted(v_slice.slice_id);
      EXIT WHEN v_wanted;
      IF v_wanted IS NULL THEN
        UPDATE ingest.slices
        SET state = 6, end_time = clock_timestamp(), token = token + 1, next_try_time = NULL
        WHERE slice_id = v_slice.slice_id;
      ELSE
        UPDATE ingest.slices SET held = true WHERE slice_id = v_slice.slice_id;
      END IF;
    END LOOP;
    CONTINUE WHEN v_slice.slice_id IS NULL;
    UPDATE ingest.turns SET turn = v_slice.turn WHERE priority = v_priority;
    IF v_slice.write_id IS NULL THEN
      v_slice.write_id := ingest.announce_write(v_slice.slice_id);
    END IF;
    RETURN QUERY
    UPDATE ingest.slices
    SET state = 2, token = token + 1, lease_owner = p_owner, lease_until = clock_timestamp() + p_lease,
        fetch_time = clock_timestamp(), requests = requests + 1, next_try_time = NULL, write_id = v_slice.write_id
    WHERE slice_id = v_slice.slice_id
    RETURNING *;
    RETURN;
  END LOOP;
END $$;

-- On a cluster (bars distributed by symbol_id, Citus): waits until what is prepared now on the nodes of these symbols has come to an
-- end. Whoever sees a write in ingest.writes then sees its bars, too: a node commits a moment later than this server, and one that
-- was lost in between only when it is back. Raises MD006 after 2 s. On one server it does nothing.
CREATE FUNCTION ingest.await_nodes(p_symbol_ids integer[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_until timestamptz := clock_timestamp() + interval '2 s';
  v_symbol_id integer;
  v_waited text[];
  v_prepared text[];
BEGIN
  IF to_regclass('pg_catalog.pg_dist_partition') IS NULL THEN
    RETURN;
  ELSIF NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = 'ingest.bars'::regclass) THEN
    RETURN;
  END IF;
  FOR v_symbol_id IN
    SELECT DISTINCT ON (p.groupid) s.symbol_id
    FROM (SELECT get_shard_id_for_distribution_column('ingest.bars', u) AS shardid, min(u) AS symbol_id
          FROM unnest(p_symbol_ids) AS u GROUP BY 1) s
    JOIN pg_dist_placement p USING (shardid)
    ORDER BY p.groupid
  LOOP
    v_waited := NULL;
    LOOP
      -- Goes to the node of the symbol as it stands, and reads no bar there.
      EXECUTE format(
        'SELECT (SELECT array_agg(x.gid) FROM pg_prepared_xact() AS x'
        '        WHERE x.gid LIKE ''citus\_%%'' AND x.dbid = (SELECT a.datid FROM pg_stat_get_activity(pg_backend_pid()) AS a))'
        ' FROM (SELECT count(*) FROM ingest.bars WHERE symbol_id = %s AND timeframe = -1) AS nothing', v_symbol_id)
      INTO v_prepared;
      v_waited := array(SELECT g FROM unnest(v_prepared) AS g WHERE v_waited IS NULL OR g = ANY (v_waited));
      EXIT WHEN v_waited = '{}';
      IF clock_timestamp() > v_until THEN
        RAISE EXCEPTION 'a node has a write in doubt: %', v_waited[1] USING ERRCODE = 'MD006';
      END IF;
      PERFORM pg_sleep(0.002);
    END LOOP;
  END LOOP;
END $$;

-- Begins a part's work on the bars of these symbols; call it with their series locked and before any bar is read. On one server it
-- does nothing. On a cluster a transaction that wrote over one connection would commit in one phase, and be lost without a word if the
-- node ends in that moment: an update of no row over two shards of the first symbol's node forces two phases. Then it waits for
-- writes that are still on their way to the nodes.
CREATE FUNCTION ingest.begin_bars(p_symbol_ids integer[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_shard bigint;
  v_other integer := 0;
BEGIN
  IF to_regclass('pg_catalog.pg_dist_partition') IS NULL THEN
    RETURN;
  ELSIF NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = 'ingest.bars'::regclass) OR p_symbol_ids = '{}' THEN
    RETURN;
  END IF;
  v_shard := get_shard_id_for_distribution_column('ingest.bars', p_symbol_ids[1]);
  LOOP
    v_other := v_other + 1;
    -- A node that holds no other shard does with another node's.
    EXIT WHEN v_other > 1000 AND (v_other > 2000 OR get_shard_id_for_distribution_column('ingest.bars', v_other) <> v_shard);
    EXIT WHEN EXISTS (
      SELECT FROM pg_dist_placement one
      JOIN pg_dist_placement two USING (groupid)
      WHERE one.shardid = v_shard AND two.shardid <> v_shard
        AND two.shardid = get_shard_id_for_distribution_column('ingest.bars', v_other));
  END LOOP;
  EXECUTE format('UPDATE ingest.bars SET flags = flags WHERE symbol_id IN (%s, %s) AND timeframe = -1', p_symbol_ids[1], v_other);
  PERFORM ingest.await_nodes(p_symbol_ids);
END $$;

-- Begins a part of one series: fence, then the series' row; no row when the slice is no longer ours. newer_from and newer_to
-- are the spans in which a later answer than this one is stored already.
CREATE FUNCTION ingest.begin_range(
  p_slice_id bigint, p_token bigint, p_write_id integer, p_symbol_id integer, p_timeframe smallint,
  p_fetch_time timestamptz, p_asked_from timestamptz, p_asked_to timestamptz,
  OUT last_ts timestamptz, OUT tail bytea, OUT newer_from timestamptz[], OUT newer_to timestamptz[])
RETURNS SETOF record
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_answer_time timestamptz;
BEGIN
  IF NOT ingest.begin_part(p_slice_id, p_token, p_write_id) THEN
    RETURN;
  END IF;
  SELECT r.answer_time, r.last_ts, r.tail INTO STRICT v_answer_time, last_ts, tail
  FROM ingest.series r
  WHERE r.symbol_id = p_symbol_id AND r.timeframe = p_timeframe
  FOR NO KEY UPDATE;
  IF v_answer_time > p_fetch_time THEN
    SELECT array_agg(w.asked_from), array_agg(w.asked_to) INTO newer_from, newer_to
    FROM ingest.writes w
    WHERE w.symbol_id = p_symbol_id AND w.timeframe = p_timeframe AND w.fetch_time > p_fetch_time
      AND w.commit_time IS NOT NULL AND w.asked_from < p_asked_to AND w.asked_to > p_asked_from;
  END IF;
  RETURN NEXT;
END $$;

-- Ends a part of one series: sessions, figures and watermark, the write, the slice. All counts are what the part adds.
-- p_first_date to p_end_date (exclusive) are the sessions asked for and answered whole. Returns the slice's state.
CREATE FUNCTION ingest.end_range(
  p_slice_id bigint, p_write_id integer, p_symbol_id integer, p_timeframe smallint, p_calendar text,
  p_inserted integer, p_updated integer, p_unchanged integer, p_rejected integer, p_new_rejects integer,
  p_validated integer, p_first_ts timestamptz, p_last_ts timestamptz, p_min_ts timestamptz, p_max_ts timestamptz,
  p_tail bytea, p_sessions integer, p_days date[], p_day_bars integer[], p_day_regular integer[],
  p_fetch_time timestamptz, p_asked_from timestamptz, p_asked_to timestamptz,
  p_first_date date, p_end_date date, p_done boolean)
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

-- Gives up the sessions from p_first_date to p_end_date (exclusive) of a slice: p_state 4 failed, 5 outside the plan. With a cursor the
-- slice goes on from there, without one it ends. Returns the slice's state, null when the slice is no longer ours.
CREATE FUNCTION ingest.give_up(
  p_slice_id bigint, p_token bigint, p_state smallint, p_reason text, p_first_date date, p_end_date date, p_cursor timestamptz)
RETURNS smallint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_slice ingest.slices;
  v_dates datemultirange := datemultirange(daterange(p_first_date, p_end_date));
  v_state smallint;
BEGIN
  SELECT * INTO v_slice FROM ingest.slices WHERE slice_id = p_slice_id AND token = p_token AND state = 2 FOR UPDATE;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  UPDATE ingest.series
  SET failed = CASE WHEN p_state = 4 THEN failed + (v_dates - asked) ELSE failed - v_dates END,
      outside_plan = CASE WHEN p_state = 5 THEN outside_plan + (v_dates - asked) ELSE outside_plan - v_dates END,
      last_error = p_reason
  WHERE symbol_id = v_slice.symbol_id AND timeframe = v_slice.timeframe;
  v_state := CASE WHEN p_cursor IS NULL THEN p_state WHEN ingest.slice_wanted(p_slice_id) IS NULL THEN 6 ELSE 1 END;
  IF v_state <> 1 THEN
    PERFORM ingest.finish(v_slice.write_id, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
  END IF;
  UPDATE ingest.slices
  SET state = v_state, token = token + 1, cursor = coalesce(p_cursor, cursor), reason = p_reason, attempts = 0,
      write_id = CASE WHEN v_state = 1 THEN write_id END, lease_owner = NULL, lease_until = NULL,
      end_time = CASE WHEN v_state = 1 THEN NULL ELSE clock_timestamp() END
  WHERE slice_id = p_slice_id;
  RETURN v_state;
END $$;

REVOKE ALL ON FUNCTION ingest.slice_wanted, ingest.claim_slice, ingest.await_nodes, ingest.begin_bars, ingest.begin_range, ingest.end_range, ingest.give_up FROM public;
GRANT EXECUTE ON FUNCTION ingest.slice_wanted, ingest.claim_slice, ingest.await_nodes, ingest.begin_bars, ingest.begin_range, ingest.end_range, ingest.give_up TO mdw_ingest;
GRANT USAGE ON SEQUENCE ingest.job_turns TO mdw_ingest;
GRANT SELECT, UPDATE ON ingest.turns TO mdw_ingest;
GRANT SELECT, INSERT, UPDATE, DELETE ON ingest.absent_bars TO mdw_ingest;
