-- Bars with all their versions, the series they belong to, and the durable work that brings them in.

CREATE SCHEMA ingest;
GRANT USAGE ON SCHEMA ingest TO mdw_ingest, mdw_symbols;

-- Trading days by calendar, numbered so that "how many sessions between" is a difference of two ordinals.
CREATE TABLE ingest.sessions (
  calendar text CONSTRAINT sessions_calendar CHECK (calendar IN ('XNYS', '24/7')),
  session_date date,
  ordinal integer NOT NULL,
  open_time timestamptz NOT NULL,
  close_time timestamptz NOT NULL,
  PRIMARY KEY (calendar, session_date),
  CONSTRAINT sessions_ordinal UNIQUE (calendar, ordinal),
  CONSTRAINT sessions_open_before_close CHECK (open_time < close_time)
);
CREATE INDEX sessions_by_close_time ON ingest.sessions (calendar, close_time);
COMMENT ON TABLE ingest.sessions IS 'XNYS for stocks and ETFs, regular hours; 24/7 for crypto, UTC days';

-- One row for each request a minute that the plan allows: whoever moves a row's grant_time may send one request.
CREATE TABLE ingest.limiter (
  slot integer PRIMARY KEY,
  grant_time timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);

CREATE TABLE ingest.backfills (
  backfill_id uuid PRIMARY KEY,
  kind smallint NOT NULL CONSTRAINT backfills_kind CHECK (kind BETWEEN 1 AND 6),
  mode smallint NOT NULL CONSTRAINT backfills_mode CHECK (mode BETWEEN 1 AND 2),
  priority smallint NOT NULL CONSTRAINT backfills_priority CHECK (priority BETWEEN 1 AND 4),
  state smallint NOT NULL DEFAULT 1 CONSTRAINT backfills_state CHECK (state BETWEEN 1 AND 6),
  pause_reason text NOT NULL DEFAULT '',
  timeframes smallint[] NOT NULL,
  first_date date,
  last_date date,
  request jsonb NOT NULL DEFAULT '{}',
  key_id uuid,
  totals jsonb,
  error text NOT NULL DEFAULT '',
  create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
  start_time timestamptz,
  finish_time timestamptz,
  CONSTRAINT backfills_ended_with_time CHECK ((state IN (4, 5, 6)) = (finish_time IS NOT NULL)),
  CONSTRAINT backfills_pause_with_reason CHECK (state <> 3 OR pause_reason <> '')
);
CREATE INDEX backfills_by_create_time ON ingest.backfills (create_time, backfill_id);
CREATE INDEX backfills_open ON ingest.backfills (backfill_id) WHERE state IN (1, 2, 3);
COMMENT ON COLUMN ingest.backfills.state IS 'mdw.ingest.v1.Backfill.State: 1 pending, 2 running, 3 paused, 4 succeeded, 5 failed, 6 cancelled';
COMMENT ON COLUMN ingest.backfills.totals IS 'Sums over the slices, stored when the job ends: slices go, the job stays';

CREATE TABLE ingest.slices (
  slice_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  turn bigint NOT NULL DEFAULT 0,
  cursor timestamptz,
  next_try_time timestamptz,
  lease_until timestamptz,
  fetch_time timestamptz,
  end_time timestamptz,
  token bigint NOT NULL DEFAULT 0,
  inserted bigint NOT NULL DEFAULT 0,
  updated bigint NOT NULL DEFAULT 0,
  unchanged bigint NOT NULL DEFAULT 0,
  rejected bigint NOT NULL DEFAULT 0,
  requests integer NOT NULL DEFAULT 0,
  attempts integer NOT NULL DEFAULT 0,
  symbol_id integer,
  write_id integer,
  file_id integer,
  first_date date,
  last_date date,
  kind smallint NOT NULL CONSTRAINT slices_kind CHECK (kind BETWEEN 1 AND 6),
  mode smallint NOT NULL DEFAULT 1 CONSTRAINT slices_mode CHECK (mode BETWEEN 1 AND 2),
  priority smallint NOT NULL CONSTRAINT slices_priority CHECK (priority BETWEEN 1 AND 4),
  state smallint NOT NULL DEFAULT 1 CONSTRAINT slices_state CHECK (state BETWEEN 1 AND 6),
  timeframe smallint CONSTRAINT slices_timeframe_stored CHECK (timeframe IN (1, 7)),
  asset_class smallint,
  held boolean NOT NULL DEFAULT false,
  provider_ticker text NOT NULL DEFAULT '',
  lease_owner text,
  reason text NOT NULL DEFAULT '',
  CONSTRAINT slices_running_with_lease CHECK ((state = 2) = (lease_until IS NOT NULL)),
  CONSTRAINT slices_ended_with_time CHECK ((state IN (3, 4, 5, 6)) = (end_time IS NOT NULL)),
  CONSTRAINT slices_dates CHECK (first_date <= last_date),
  CONSTRAINT slices_range_of_series CHECK (kind <> 1 OR (symbol_id IS NOT NULL AND timeframe IS NOT NULL AND first_date IS NOT NULL AND last_date IS NOT NULL))
) WITH (fillfactor = 70);
CREATE INDEX slices_claim ON ingest.slices (priority DESC, turn, slice_id) WHERE state = 1 AND NOT held;
CREATE INDEX slices_leased ON ingest.slices (lease_until) WHERE state = 2;
CREATE INDEX slices_open_by_series ON ingest.slices (symbol_id, timeframe) WHERE state IN (1, 2);
CREATE INDEX slices_ended ON ingest.slices (end_time) WHERE end_time IS NOT NULL;
COMMENT ON COLUMN ingest.slices.state IS 'mdw.ingest.v1.Slice.State: 1 pending, 2 running, 3 succeeded, 4 failed, 5 outside plan, 6 cancelled';
COMMENT ON COLUMN ingest.slices.turn IS 'Claims take the highest priority, then the lowest turn: jobs of one priority take turns';
COMMENT ON COLUMN ingest.slices.held IS 'All its jobs are paused';
COMMENT ON COLUMN ingest.slices.token IS 'Grows with every claim; a part commits only under the token it was claimed with';
COMMENT ON COLUMN ingest.slices.write_id IS 'The announced write of the next part';
COMMENT ON COLUMN ingest.slices.attempts IS 'Since the cursor last moved';

-- A slice may serve several jobs.
CREATE TABLE ingest.backfill_slices (
  backfill_id uuid REFERENCES ingest.backfills ON DELETE CASCADE,
  slice_id bigint REFERENCES ingest.slices ON DELETE CASCADE,
  PRIMARY KEY (backfill_id, slice_id)
);
CREATE INDEX backfill_slices_by_slice ON ingest.backfill_slices (slice_id);

-- One row for each part that was begun, or is about to be: the order in which changes of bars became visible.
CREATE TABLE ingest.writes (
  write_id integer PRIMARY KEY,
  slice_id bigint,
  symbol_id integer,
  timeframe smallint,
  min_ts timestamptz,
  max_ts timestamptz,
  fetch_time timestamptz,
  asked_from timestamptz,
  asked_to timestamptz,
  commit_time timestamptz,
  high integer,
  open integer[],
  CONSTRAINT writes_committed_whole CHECK ((commit_time IS NULL) = (high IS NULL) AND (commit_time IS NULL) = (open IS NULL))
);
CREATE UNIQUE INDEX writes_by_commit_time ON ingest.writes (commit_time) WHERE commit_time IS NOT NULL;
CREATE INDEX writes_by_series ON ingest.writes (symbol_id, timeframe, fetch_time);
COMMENT ON COLUMN ingest.writes.high IS 'From commit_time on, writes below high that are not in open are seen';
COMMENT ON COLUMN ingest.writes.asked_from IS 'Span that the provider was asked for; asked_to is exclusive';
-- As of any time before the first bar, the warehouse is empty.
INSERT INTO ingest.writes (write_id, commit_time, high, open) VALUES (0, '2000-01-01 00:00:00+00', 1, '{}');

-- The columns stand in this order so that no byte is padding. No foreign key, no trigger: the table may move to a cluster.
CREATE TABLE ingest.bars (
  ts timestamptz NOT NULL,
  open double precision NOT NULL,
  high double precision NOT NULL,
  low double precision NOT NULL,
  close double precision NOT NULL,
  vwap double precision NOT NULL,
  volume double precision NOT NULL,
  symbol_id integer NOT NULL,
  trade_count integer NOT NULL,
  write_id integer NOT NULL,
  timeframe smallint NOT NULL,
  flags smallint NOT NULL,
  PRIMARY KEY (symbol_id, timeframe, ts)
);
COMMENT ON COLUMN ingest.bars.ts IS 'Start of the minute, or 00:00Z of the session''s date';
COMMENT ON COLUMN ingest.bars.vwap IS 'NaN where the source has none';
COMMENT ON COLUMN ingest.bars.trade_count IS '-1 where the source has none';

-- Versions that were replaced or deleted, by the write that ended them.
CREATE TABLE ingest.bar_revisions (
  ts timestamptz NOT NULL,
  open double precision NOT NULL,
  high double precision NOT NULL,
  low double precision NOT NULL,
  close double precision NOT NULL,
  vwap double precision NOT NULL,
  volume double precision NOT NULL,
  symbol_id integer NOT NULL,
  trade_count integer NOT NULL,
  write_id integer NOT NULL,
  ended_write_id integer NOT NULL,
  timeframe smallint NOT NULL,
  flags smallint NOT NULL,
  PRIMARY KEY (symbol_id, timeframe, ended_write_id, ts)
);

-- One row a series: its mutex, its figures and its watermark. Locked before its bars, in key order.
CREATE TABLE ingest.series (
  symbol_id integer REFERENCES symbols.symbols,
  timeframe smallint CONSTRAINT series_timeframe_stored CHECK (timeframe IN (1, 7)),
  last_write_id integer,
  sessions_present integer NOT NULL DEFAULT 0,
  bars bigint NOT NULL DEFAULT 0,
  validated bigint NOT NULL DEFAULT 0,
  rejected bigint NOT NULL DEFAULT 0,
  first_ts timestamptz,
  last_ts timestamptz,
  answer_time timestamptz,
  last_success_time timestamptz,
  watermark date,
  last_error text NOT NULL DEFAULT '',
  tail bytea NOT NULL DEFAULT '',
  asked datemultirange NOT NULL DEFAULT '{}',
  failed datemultirange NOT NULL DEFAULT '{}',
  outside_plan datemultirange NOT NULL DEFAULT '{}',
  deleted datemultirange NOT NULL DEFAULT '{}',
  PRIMARY KEY (symbol_id, timeframe),
  CONSTRAINT series_empty_without_times CHECK ((bars = 0) = (first_ts IS NULL) AND (bars = 0) = (last_ts IS NULL)),
  CONSTRAINT series_counts CHECK (bars >= 0 AND validated BETWEEN 0 AND bars AND rejected >= 0 AND sessions_present >= 0)
) WITH (fillfactor = 40);
COMMENT ON COLUMN ingest.series.asked IS 'Sessions that were asked for and answered, as ranges of dates';
COMMENT ON COLUMN ingest.series.watermark IS 'Last date of the first unbroken run of asked; never the last bar';
COMMENT ON COLUMN ingest.series.tail IS 'Closes and volumes of the last 20 bars, so that an append reads no bars';
COMMENT ON COLUMN ingest.series.answer_time IS 'Newest fetch_time of the committed answers';

CREATE TABLE ingest.minute_sessions (
  symbol_id integer,
  session_date date,
  bars integer NOT NULL,
  regular_bars integer NOT NULL,
  PRIMARY KEY (symbol_id, session_date),
  CONSTRAINT minute_sessions_counts CHECK (bars > 0 AND regular_bars BETWEEN 0 AND bars)
) WITH (fillfactor = 90);

-- Impossible bars, as received: nothing is lost.
CREATE TABLE ingest.rejected_bars (
  reject_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  slice_id bigint,
  ts timestamptz,
  first_seen timestamptz NOT NULL DEFAULT clock_timestamp(),
  last_seen timestamptz NOT NULL DEFAULT clock_timestamp(),
  symbol_id integer,
  timeframe smallint NOT NULL,
  ticker text NOT NULL,
  reason text NOT NULL,
  raw text NOT NULL,
  raw_hash bytea NOT NULL,
  CONSTRAINT rejected_bars_once UNIQUE NULLS NOT DISTINCT (symbol_id, timeframe, reason, raw_hash)
);
CREATE INDEX rejected_bars_by_last_seen ON ingest.rejected_bars (last_seen);

CREATE TABLE ingest.requests (
  key_id uuid,
  method text,
  request_id uuid,
  request_hash bytea NOT NULL,
  answer bytea,
  create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (key_id, method, request_id)
);
CREATE INDEX requests_by_create_time ON ingest.requests (create_time);

CREATE TABLE ingest.token_key (
  one boolean PRIMARY KEY DEFAULT true CONSTRAINT token_key_one_row CHECK (one),
  secret bytea NOT NULL
);
INSERT INTO ingest.token_key (secret)
VALUES (sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')));

-- Announces a write and returns its id: dense and in the order of the commit lock, so that a rollback leaves no hole. Call it
-- in a statement of its own, committed before the part begins.
CREATE FUNCTION ingest.announce_write(p_slice_id bigint) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_write_id integer;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'ingest.announce_write needs READ COMMITTED' USING ERRCODE = 'MD004';
  END IF;
  PERFORM set_config('idle_in_transaction_session_timeout', '1s', true);
  PERFORM pg_advisory_xact_lock(1833044);
  INSERT INTO ingest.writes (write_id, slice_id)
  SELECT max(write_id) + 1, p_slice_id FROM ingest.writes
  RETURNING write_id INTO v_write_id;
  RETURN v_write_id;
END $$;

-- Begins a part: locks the write's id (by which a reaper finds this backend) and then the slice's row, in a mode that lets another
-- job share the slice meanwhile; false when the slice was taken by another worker or ended. The advisory lock comes first: a process stopped between the two would else be
-- invisible to the reaper and its row passed over for ever.
CREATE FUNCTION ingest.begin_part(p_slice_id bigint, p_token bigint, p_write_id integer) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(1833045, p_write_id);
  PERFORM FROM ingest.slices
  WHERE slice_id = p_slice_id AND token = p_token AND write_id = p_write_id AND state = 2
  FOR NO KEY UPDATE;
  RETURN FOUND;
END $$;

-- Makes a write visible: the last statement of a part's transaction. Takes the commit lock, gives the write a commit_time later
-- than every other, and stores what is seen from then on. Returns the id of the next part's write, announced, or null.
CREATE FUNCTION ingest.finish(
  p_write_id integer, p_more boolean, p_symbol_id integer, p_timeframe smallint, p_min_ts timestamptz, p_max_ts timestamptz,
  p_fetch_time timestamptz, p_asked_from timestamptz, p_asked_to timestamptz)
RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_last ingest.writes;
  v_top integer;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'ingest.finish needs READ COMMITTED' USING ERRCODE = 'MD004';
  END IF;
  PERFORM set_config('idle_in_transaction_session_timeout', '1s', true);
  PERFORM pg_advisory_xact_lock(1833044);
  SELECT * INTO STRICT v_last FROM ingest.writes WHERE commit_time IS NOT NULL ORDER BY commit_time DESC LIMIT 1;
  SELECT max(write_id) INTO v_top FROM ingest.writes;
  UPDATE ingest.writes
  SET commit_time = greatest(clock_timestamp(), v_last.commit_time + interval '1 us'),
      high = v_top + 1,
      open = array(SELECT i FROM (SELECT unnest(v_last.open) AS i UNION ALL SELECT generate_series(v_last.high, v_top)) x
                   WHERE i <> p_write_id ORDER BY i),
      symbol_id = p_symbol_id, timeframe = p_timeframe, min_ts = p_min_ts, max_ts = p_max_ts,
      fetch_time = p_fetch_time, asked_from = p_asked_from, asked_to = p_asked_to
  WHERE write_id = p_write_id AND commit_time IS NULL;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'write % was not announced, or is finished', p_write_id USING ERRCODE = 'MD005';
  END IF;
  IF NOT p_more THEN
    RETURN NULL;
  END IF;
  INSERT INTO ingest.writes (write_id, slice_id)
  SELECT v_top + 1, slice_id FROM ingest.writes WHERE write_id = p_write_id;
  RETURN v_top + 1;
END $$;

-- Forgets the series of a symbol that never held a bar; false, and nothing changed, when it did or work on it is under way.
-- For the registry, which may touch nothing else here.
CREATE FUNCTION ingest.forget_symbol(p_symbol_id integer) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM FROM ingest.series WHERE symbol_id = p_symbol_id ORDER BY timeframe FOR UPDATE;
  IF EXISTS (SELECT FROM ingest.series WHERE symbol_id = p_symbol_id AND (bars > 0 OR last_write_id IS NOT NULL))
    OR EXISTS (SELECT FROM ingest.slices WHERE symbol_id = p_symbol_id AND state IN (1, 2)) THEN
    RETURN false;
  END IF;
  -- By itself: joined to local tables, a cluster would gather what it finds, and refuses rows without a column.
  PERFORM 1 FROM ingest.bar_revisions WHERE symbol_id = p_symbol_id LIMIT 1;
  IF FOUND THEN
    RETURN false;
  END IF;
  DELETE FROM ingest.series WHERE symbol_id = p_symbol_id;
  RETURN true;
END $$;

-- What the registry shows of each series: figures kept by the parts, and the state derived from the work itself.
CREATE VIEW ingest.series_figures AS
SELECT f.symbol_id, f.timeframe, f.bars, f.first_ts, f.last_ts, f.validated, f.rejected, f.sessions_present,
       f.watermark, f.last_success_time, f.last_error,
       CASE
         WHEN EXISTS (SELECT FROM ingest.slices s
                      WHERE s.state = 2 AND s.symbol_id = f.symbol_id AND s.timeframe = f.timeframe) THEN 3
         WHEN EXISTS (SELECT FROM ingest.slices s
                      WHERE s.state = 1 AND s.symbol_id = f.symbol_id AND s.timeframe = f.timeframe) THEN 2
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
COMMENT ON VIEW ingest.series_figures IS 'state: mdw.symbols.v1.BackfillState; expected sessions are last_ordinal - first_ordinal + 1, sessions behind are closed_ordinal - last_ordinal';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ingest FROM public;
GRANT EXECUTE ON FUNCTION ingest.announce_write, ingest.begin_part, ingest.finish TO mdw_ingest;
GRANT EXECUTE ON FUNCTION ingest.forget_symbol TO mdw_symbols;
GRANT SELECT ON ingest.series_figures TO mdw_symbols, mdw_ingest;
GRANT SELECT ON ingest.sessions, ingest.token_key TO mdw_ingest;
GRANT SELECT, INSERT, UPDATE, DELETE ON ingest.limiter, ingest.backfills, ingest.slices, ingest.backfill_slices, ingest.bars,
  ingest.bar_revisions, ingest.series, ingest.minute_sessions, ingest.rejected_bars, ingest.requests TO mdw_ingest;
GRANT SELECT, INSERT, UPDATE ON ingest.writes TO mdw_ingest;
