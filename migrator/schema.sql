-- What the migrations produce, read back from PostgreSQL 18. Generated, never edited: see CONTRIBUTING.
-- files: ec358f6323f3b2c6020c68fae2ed7ef66348128bb4eab7c9ca4f89b12d3d1ad8

--: schema auth
CREATE SCHEMA auth;

--: schema ingest
CREATE SCHEMA ingest;

--: schema symbols
CREATE SCHEMA symbols;

--: extension btree_gist
CREATE EXTENSION btree_gist WITH SCHEMA public;

--: sequence auth.audit_entry_id
CREATE SEQUENCE auth.audit_entry_id AS bigint INCREMENT 1 MINVALUE 1 MAXVALUE 9223372036854775807 START 1 CACHE 64;

--: sequence ingest.action_ids
CREATE SEQUENCE ingest.action_ids AS integer INCREMENT 1 MINVALUE 1 MAXVALUE 2147483647 START 1 CACHE 1;

--: sequence ingest.job_turns
CREATE SEQUENCE ingest.job_turns AS bigint INCREMENT 1 MINVALUE 1 MAXVALUE 9223372036854775807 START 1 CACHE 1;

--: table auth.audit_batches
CREATE TABLE auth.audit_batches (
  "time" timestamp with time zone NOT NULL,
  writer uuid NOT NULL,
  kind text NOT NULL,
  seq bigint NOT NULL,
  rows integer NOT NULL,
  prev_hash bytea NOT NULL,
  hash bytea NOT NULL,
  form smallint DEFAULT 1 NOT NULL
) PARTITION BY RANGE ("time");

--: table auth.audit_entries
CREATE TABLE auth.audit_entries (
  "time" timestamp with time zone NOT NULL,
  id bigint NOT NULL,
  writer uuid NOT NULL,
  kind text NOT NULL,
  seq bigint NOT NULL,
  ord integer NOT NULL,
  call_id uuid NOT NULL,
  key_id uuid,
  key_preview text NOT NULL,
  service text NOT NULL,
  method text NOT NULL,
  code smallint NOT NULL,
  reason text NOT NULL,
  peer text NOT NULL,
  request_id text NOT NULL,
  duration_us bigint NOT NULL,
  messages bigint NOT NULL,
  call_count integer NOT NULL
) PARTITION BY RANGE ("time");

--: table auth.audit_writers
CREATE TABLE auth.audit_writers (
  writer uuid NOT NULL,
  kind text NOT NULL,
  service text NOT NULL,
  last_seq bigint DEFAULT 0 NOT NULL,
  last_time timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
  last_digest bytea,
  refusals uuid[] DEFAULT '{}'::uuid[] NOT NULL,
  head_hash bytea DEFAULT decode(repeat('00'::text, 32), 'hex'::text) NOT NULL,
  base_seq bigint DEFAULT 0 NOT NULL,
  base_hash bytea DEFAULT decode(repeat('00'::text, 32), 'hex'::text) NOT NULL
) WITH (fillfactor=10);

--: table auth.key_usage
CREATE TABLE auth.key_usage (
  key_id uuid NOT NULL,
  writer uuid NOT NULL,
  kind text NOT NULL,
  call_count bigint NOT NULL,
  last_use_time timestamp with time zone NOT NULL
) WITH (fillfactor=50);

--: table auth.keys
CREATE TABLE auth.keys (
  key_id uuid NOT NULL,
  display_name text NOT NULL,
  preview text NOT NULL,
  digest bytea,
  scopes text[] NOT NULL,
  allowed_peers cidr[] DEFAULT '{}'::cidr[] NOT NULL,
  max_calls_per_second integer,
  max_streams integer,
  version integer DEFAULT 1 NOT NULL,
  created_by uuid,
  rotated_from uuid,
  create_time timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
  update_time timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
  expire_time timestamp with time zone,
  revoke_time timestamp with time zone,
  delete_time timestamp with time zone
);

--: table auth.requests
CREATE TABLE auth.requests (
  key_id uuid NOT NULL,
  method text NOT NULL,
  request_id uuid NOT NULL,
  request_hash bytea NOT NULL,
  answer bytea,
  create_time timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

--: table auth.token_key
CREATE TABLE auth.token_key (
  one boolean DEFAULT true NOT NULL,
  secret bytea NOT NULL
);

--: table ingest.absent_bars
CREATE TABLE ingest.absent_bars (
  ts timestamp with time zone NOT NULL,
  fetch_time timestamp with time zone NOT NULL,
  symbol_id integer NOT NULL,
  timeframe smallint NOT NULL
);

--: table ingest.actions
CREATE TABLE ingest.actions (
  action_id integer NOT NULL,
  write_id integer NOT NULL,
  ended_write_id integer,
  symbol_id integer NOT NULL,
  ex_date date NOT NULL,
  kind smallint NOT NULL,
  flags smallint DEFAULT 0 NOT NULL,
  split_from double precision,
  split_to double precision,
  cash_amount double precision,
  source_time timestamp with time zone,
  currency text DEFAULT ''::text NOT NULL,
  source_id text DEFAULT ''::text NOT NULL
);

--: table ingest.backfill_slices
CREATE TABLE ingest.backfill_slices (
  backfill_id uuid NOT NULL,
  slice_id bigint NOT NULL
);

--: table ingest.backfills
CREATE TABLE ingest.backfills (
  backfill_id uuid NOT NULL,
  kind smallint NOT NULL,
  mode smallint NOT NULL,
  priority smallint NOT NULL,
  state smallint DEFAULT 1 NOT NULL,
  pause_reason text DEFAULT ''::text NOT NULL,
  timeframes smallint[] NOT NULL,
  first_date date,
  last_date date,
  request jsonb DEFAULT '{}'::jsonb NOT NULL,
  key_id uuid,
  totals jsonb,
  error text DEFAULT ''::text NOT NULL,
  create_time timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
  start_time timestamp with time zone,
  finish_time timestamp with time zone
);

--: table ingest.bar_revisions
CREATE TABLE ingest.bar_revisions (
  ts timestamp with time zone NOT NULL,
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
  flags smallint NOT NULL
);

--: table ingest.bars
CREATE TABLE ingest.bars (
  ts timestamp with time zone NOT NULL,
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
  flags smallint NOT NULL
);

--: table ingest.deletions
CREATE TABLE ingest.deletions (
  deletion_id integer GENERATED ALWAYS AS IDENTITY NOT NULL,
  slice_id bigint NOT NULL,
  create_time timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
  symbol_id integer NOT NULL,
  write_id integer,
  first_date date NOT NULL,
  last_date date NOT NULL,
  end_date date,
  timeframe smallint NOT NULL,
  purge boolean NOT NULL,
  key_id uuid,
  reason text NOT NULL
);

--: table ingest.files
CREATE TABLE ingest.files (
  file_id integer GENERATED ALWAYS AS IDENTITY NOT NULL,
  slice_id bigint NOT NULL,
  size bigint NOT NULL,
  published timestamp with time zone NOT NULL,
  finish_time timestamp with time zone,
  rows bigint DEFAULT 0 NOT NULL,
  rejected bigint DEFAULT 0 NOT NULL,
  superseded bigint DEFAULT 0 NOT NULL,
  unknown bigint DEFAULT 0 NOT NULL,
  file_date date NOT NULL,
  timeframe smallint NOT NULL,
  asset_class smallint NOT NULL,
  name text NOT NULL,
  sha256 bytea NOT NULL
);

--: table ingest.limiter
CREATE TABLE ingest.limiter (
  slot integer NOT NULL,
  grant_time timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL
) WITH (fillfactor=50);

--: table ingest.minute_sessions
CREATE TABLE ingest.minute_sessions (
  symbol_id integer NOT NULL,
  session_date date NOT NULL,
  bars integer NOT NULL,
  regular_bars integer NOT NULL
) WITH (fillfactor=90);

--: table ingest.rejected_bars
CREATE TABLE ingest.rejected_bars (
  reject_id bigint GENERATED ALWAYS AS IDENTITY NOT NULL,
  slice_id bigint,
  ts timestamp with time zone,
  first_seen timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
  last_seen timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
  symbol_id integer,
  timeframe smallint NOT NULL,
  ticker text NOT NULL,
  reason text NOT NULL,
  raw text NOT NULL,
  raw_hash bytea NOT NULL
);

--: table ingest.requests
CREATE TABLE ingest.requests (
  key_id uuid NOT NULL,
  method text NOT NULL,
  request_id uuid NOT NULL,
  request_hash bytea NOT NULL,
  answer bytea,
  create_time timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

--: table ingest.schedule
CREATE TABLE ingest.schedule (
  one boolean DEFAULT true NOT NULL,
  paused boolean DEFAULT false NOT NULL,
  note text DEFAULT ''::text NOT NULL,
  changed_by uuid,
  changed_by_preview text DEFAULT ''::text NOT NULL,
  change_time timestamp with time zone
);

--: table ingest.schedule_runs
CREATE TABLE ingest.schedule_runs (
  calendar text NOT NULL,
  session_date date NOT NULL,
  backfill_id uuid,
  regular boolean NOT NULL,
  result text NOT NULL,
  run_time timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

--: table ingest.series
CREATE TABLE ingest.series (
  symbol_id integer NOT NULL,
  timeframe smallint NOT NULL,
  last_write_id integer,
  sessions_present integer DEFAULT 0 NOT NULL,
  bars bigint DEFAULT 0 NOT NULL,
  validated bigint DEFAULT 0 NOT NULL,
  rejected bigint DEFAULT 0 NOT NULL,
  first_ts timestamp with time zone,
  last_ts timestamp with time zone,
  answer_time timestamp with time zone,
  last_success_time timestamp with time zone,
  watermark date,
  last_error text DEFAULT ''::text NOT NULL,
  tail bytea DEFAULT '\x'::bytea NOT NULL,
  asked datemultirange DEFAULT '{}'::datemultirange NOT NULL,
  failed datemultirange DEFAULT '{}'::datemultirange NOT NULL,
  outside_plan datemultirange DEFAULT '{}'::datemultirange NOT NULL,
  deleted datemultirange DEFAULT '{}'::datemultirange NOT NULL
) WITH (fillfactor=40);

--: table ingest.sessions
CREATE TABLE ingest.sessions (
  calendar text NOT NULL,
  session_date date NOT NULL,
  ordinal integer NOT NULL,
  open_time timestamp with time zone NOT NULL,
  close_time timestamp with time zone NOT NULL
);

--: table ingest.slices
CREATE TABLE ingest.slices (
  slice_id bigint GENERATED ALWAYS AS IDENTITY NOT NULL,
  turn bigint DEFAULT 0 NOT NULL,
  cursor timestamp with time zone,
  next_try_time timestamp with time zone,
  lease_until timestamp with time zone,
  fetch_time timestamp with time zone,
  end_time timestamp with time zone,
  token bigint DEFAULT 0 NOT NULL,
  inserted bigint DEFAULT 0 NOT NULL,
  updated bigint DEFAULT 0 NOT NULL,
  unchanged bigint DEFAULT 0 NOT NULL,
  rejected bigint DEFAULT 0 NOT NULL,
  requests integer DEFAULT 0 NOT NULL,
  attempts integer DEFAULT 0 NOT NULL,
  symbol_id integer,
  write_id integer,
  file_id integer,
  first_date date,
  last_date date,
  kind smallint NOT NULL,
  mode smallint DEFAULT 1 NOT NULL,
  priority smallint NOT NULL,
  state smallint DEFAULT 1 NOT NULL,
  timeframe smallint,
  asset_class smallint,
  held boolean DEFAULT false NOT NULL,
  provider_ticker text DEFAULT ''::text NOT NULL,
  lease_owner text,
  reason text DEFAULT ''::text NOT NULL,
  "position" integer,
  deleted bigint DEFAULT 0 NOT NULL,
  subject text DEFAULT ''::text NOT NULL,
  page text DEFAULT ''::text NOT NULL,
  unknown bigint DEFAULT 0 NOT NULL,
  note text DEFAULT ''::text NOT NULL
) WITH (fillfactor=70);

--: table ingest.suspects
CREATE TABLE ingest.suspects (
  symbol_id integer NOT NULL,
  timeframe smallint NOT NULL,
  first_date date NOT NULL,
  last_date date NOT NULL,
  asks integer NOT NULL,
  counts_from timestamp with time zone,
  next_ask_time timestamp with time zone,
  gave_up_reason text DEFAULT ''::text NOT NULL
);

--: table ingest.token_key
CREATE TABLE ingest.token_key (
  one boolean DEFAULT true NOT NULL,
  secret bytea NOT NULL
);

--: table ingest.turns
CREATE TABLE ingest.turns (
  priority smallint NOT NULL,
  turn bigint DEFAULT 0 NOT NULL
) WITH (fillfactor=50);

--: table ingest.writes
CREATE TABLE ingest.writes (
  write_id integer NOT NULL,
  slice_id bigint,
  symbol_id integer,
  timeframe smallint,
  min_ts timestamp with time zone,
  max_ts timestamp with time zone,
  fetch_time timestamp with time zone,
  asked_from timestamp with time zone,
  asked_to timestamp with time zone,
  commit_time timestamp with time zone,
  high integer,
  open integer[],
  symbol_ids integer[],
  partial boolean DEFAULT false NOT NULL
);

--: table symbols.requests
CREATE TABLE symbols.requests (
  key_id uuid NOT NULL,
  method text NOT NULL,
  request_id uuid NOT NULL,
  request_hash bytea NOT NULL,
  answer bytea,
  create_time timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

--: table symbols.symbols
CREATE TABLE symbols.symbols (
  symbol_id integer GENERATED ALWAYS AS IDENTITY NOT NULL,
  asset_class smallint NOT NULL,
  name text DEFAULT ''::text NOT NULL,
  exchange text DEFAULT ''::text NOT NULL,
  type text DEFAULT ''::text NOT NULL,
  figi text DEFAULT ''::text NOT NULL,
  list_date date,
  delist_date date,
  active boolean DEFAULT true NOT NULL,
  timeframes smallint[] DEFAULT '{7}'::smallint[] NOT NULL,
  create_time timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
  update_time timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

--: table symbols.tickers
CREATE TABLE symbols.tickers (
  symbol_id integer NOT NULL,
  from_date date NOT NULL,
  to_date date,
  asset_class smallint NOT NULL,
  ticker text NOT NULL,
  provider_ticker text NOT NULL
);

--: table symbols.token_key
CREATE TABLE symbols.token_key (
  one boolean DEFAULT true NOT NULL,
  secret bytea NOT NULL
);

--: function auth.micros(timestamp with time zone)
CREATE OR REPLACE FUNCTION auth.micros(t timestamp with time zone)
 RETURNS bigint
 LANGUAGE sql
 STABLE
RETURN ((EXTRACT(epoch FROM t) * (1000000)::numeric))::bigint
;

--: function auth.entry_text(auth.audit_entries)
CREATE OR REPLACE FUNCTION auth.entry_text(e auth.audit_entries)
 RETURNS text
 LANGUAGE sql
 STABLE
RETURN (json_build_array((e).id, (e).ord, (e).call_id, (e).key_id, (e).key_preview, (e).service, (e).method, (e).code, (e).reason, (e).peer, (e).request_id, (e).duration_us, (e).messages, (e).call_count))::text
;

--: function auth.batch_hash(bytea,uuid,text,bigint,timestamp with time zone,integer,text)
CREATE OR REPLACE FUNCTION auth.batch_hash(prev bytea, writer uuid, kind text, seq bigint, t timestamp with time zone, n integer, body text)
 RETURNS bytea
 LANGUAGE sql
 STABLE
RETURN sha256((('\x01'::bytea || prev) || convert_to((((json_build_array(writer, kind, seq, auth.micros(t), n))::text || '
'::text) || body), 'UTF8'::name)))
;

--: function auth.require_writable()
CREATE OR REPLACE FUNCTION auth.require_writable()
 RETURNS void
 LANGUAGE plpgsql
 STABLE
AS $function$
BEGIN
  IF current_setting('transaction_read_only') = 'on' THEN
    RAISE EXCEPTION 'the server takes no writes' USING ERRCODE = 'read_only_sql_transaction';
  END IF;
END $function$
;

--: function auth.lock_keys()
CREATE OR REPLACE FUNCTION auth.lock_keys()
 RETURNS void
 LANGUAGE plpgsql
AS $function$
BEGIN
  PERFORM auth.require_writable();
  PERFORM set_config('lock_timeout', '200ms', true), set_config('idle_in_transaction_session_timeout', '1s', true);
  -- A client that stops between a statement's Parse and its Bind is not idle to the server, and held the lock for ever.
  IF current_setting('server_version_num')::integer >= 170000 THEN
    PERFORM set_config('transaction_timeout', '5s', true);
  END IF;
  PERFORM pg_advisory_xact_lock(1833042);
END $function$
;

--: function auth.wait_for_change(uuid,text)
CREATE OR REPLACE FUNCTION auth.wait_for_change(p_writer uuid, p_service text)
 RETURNS void
 LANGUAGE sql
AS $function$
  INSERT INTO auth.audit_writers (writer, kind, service)
  VALUES (p_writer, 'changes', p_service)
  ON CONFLICT DO NOTHING;
  SELECT 1 FROM auth.audit_writers WHERE writer = p_writer AND kind = 'changes' FOR UPDATE;
$function$
;

--: function auth.record_calls(uuid,text,bigint,text,uuid[],uuid[],text[],text[],text[],smallint[],text[],text[],text[],bigint[],bigint[],integer[])
CREATE OR REPLACE FUNCTION auth.record_calls(p_writer uuid, p_kind text, p_seq bigint, p_service text, p_call_ids uuid[], p_key_ids uuid[], p_previews text[], p_methods text[], p_scopes text[], p_codes smallint[], p_reasons text[], p_peers text[], p_request_ids text[], p_durations bigint[], p_messages bigint[], p_counts integer[])
 RETURNS uuid[]
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
  w auth.audit_writers;
  v_digest bytea := sha256(convert_to(p_call_ids::text, 'UTF8'));
  v_time timestamptz;
  v_seq bigint;
  v_refused uuid[];
  v_why text;
  v_rows integer;
  v_body text;
  v_hash bytea;
  v_known uuid[] := '{}';
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'auth.record_calls needs READ COMMITTED' USING ERRCODE = 'MD004';
  END IF;
  PERFORM auth.require_writable();
  -- A process that stops between here and COMMIT would stall every service behind the next RevokeKey.
  PERFORM set_config('idle_in_transaction_session_timeout', '1s', true);
  PERFORM pg_advisory_xact_lock_shared(1833042);

  SELECT * INTO w FROM auth.audit_writers WHERE writer = p_writer AND kind = p_kind FOR UPDATE;
  IF NOT FOUND THEN
    IF p_seq > 1 THEN
      RAISE EXCEPTION 'recorder % is not known at seq %', p_writer, p_seq USING ERRCODE = 'MD002';
    END IF;
    INSERT INTO auth.audit_writers (writer, kind, service) VALUES (p_writer, p_kind, p_service) ON CONFLICT DO NOTHING;
    SELECT * INTO STRICT w FROM auth.audit_writers WHERE writer = p_writer AND kind = p_kind FOR UPDATE;
  END IF;
  v_seq := coalesce(p_seq, w.last_seq + 1);
  IF v_seq = w.last_seq AND v_digest = w.last_digest THEN
    RETURN w.refusals;  -- the answer was lost, not the batch
  ELSIF v_seq <> w.last_seq + 1 THEN
    RAISE EXCEPTION 'recorder % is at seq %, not %', p_writer, w.last_seq, v_seq USING ERRCODE = 'MD002';
  END IF;

  IF 'COMMIT_UNKNOWN' = ANY (p_reasons) THEN  -- wait for the change to end, then see whether it left its row
    PERFORM auth.wait_for_change(p_writer, p_service);
    EXECUTE format('SELECT coalesce(array_agg(call_id), ''{}'') FROM auth.audit_entries WHERE time > %L AND call_id = ANY ($1)',
                   clock_timestamp() - interval '1 day') INTO v_known USING p_call_ids;
  END IF;

  v_time := greatest(clock_timestamp(), w.last_time);
  -- The keys are read in a statement of their own after the lock: one statement for both would read a stale snapshot.
  WITH judged AS (
    SELECT c.*, CASE
        WHEN c.key_id IS NULL OR c.code = 16 THEN NULL
        WHEN k.key_id IS NULL OR k.delete_time IS NOT NULL THEN 'KEY_DELETED'
        WHEN k.revoke_time IS NOT NULL THEN 'KEY_REVOKED'
        WHEN k.expire_time <= clock_timestamp() THEN 'KEY_EXPIRED'
        WHEN c.code = 7 OR c.scopes = '' THEN NULL
        WHEN NOT (k.scopes && string_to_array(c.scopes, ' ') OR 'admin' = ANY (k.scopes) AND c.scopes <> 'service') THEN 'SCOPE_REMOVED'
        WHEN k.allowed_peers = '{}' THEN NULL
        WHEN c.peer = '' OR NOT c.peer::inet <<= ANY (k.allowed_peers::inet[]) THEN 'PEER_NOT_ALLOWED'
      END AS refusal
    FROM unnest(p_call_ids, p_key_ids, p_previews, p_methods, p_scopes, p_codes, p_reasons, p_peers, p_request_ids,
                p_durations, p_messages, p_counts) WITH ORDINALITY
         AS c(call_id, key_id, preview, method, scopes, code, reason, peer, request_id, duration, messages, n, ord)
    LEFT JOIN auth.keys k ON k.key_id = c.key_id
  ), entries AS (
    INSERT INTO auth.audit_entries AS e (time, id, writer, kind, seq, ord, call_id, key_id, key_preview, service, method, code,
      reason, peer, request_id, duration_us, messages, call_count)
    SELECT v_time, nextval('auth.audit_entry_id'), p_writer, p_kind, v_seq, j.ord, j.call_id, j.key_id, left(j.preview, 12), p_service,
           left(j.method, 200), CASE WHEN j.refusal IS NULL THEN j.code ELSE 16 END, left(coalesce(j.refusal, j.reason), 200),
           left(j.peer, 100), left(j.request_id, 100),
           j.duration, j.messages, CASE WHEN j.call_id = ANY (v_known) AND j.reason = 'COMMIT_UNKNOWN' THEN 0 ELSE j.n END
    FROM judged j
    WHERE j.code >= 0
    RETURNING e.*
  ), used AS (
    INSERT INTO auth.key_usage AS u
    SELECT key_id, p_writer, p_kind, sum(call_count), v_time
    FROM entries
    WHERE key_id IS NOT NULL AND code <> 16 AND call_count > 0
    GROUP BY key_id
    ON CONFLICT (key_id, writer, kind) DO UPDATE
    SET call_count = u.call_count + excluded.call_count, last_use_time = excluded.last_use_time
  )
  SELECT r.refused, r.why, e.n, e.body INTO v_refused, v_why, v_rows, v_body
  FROM (SELECT coalesce(array_agg(call_id), '{}') AS refused, min(refusal) AS why FROM judged WHERE refusal IS NOT NULL) r,
       (SELECT count(*)::integer AS n,
               coalesce(string_agg(auth.entry_text(entries::auth.audit_entries), E'\n' ORDER BY ord), '') AS body
        FROM entries) e;

  IF p_kind = 'changes' AND v_refused <> '{}' THEN  -- nobody can commit it by mistake
    RAISE EXCEPTION 'key refused' USING ERRCODE = 'MD001', DETAIL = v_why;
  END IF;
  v_hash := auth.batch_hash(w.head_hash, p_writer, p_kind, v_seq, v_time, v_rows, v_body);
  INSERT INTO auth.audit_batches (time, writer, kind, seq, rows, prev_hash, hash)
  VALUES (v_time, p_writer, p_kind, v_seq, v_rows, w.head_hash, v_hash);
  UPDATE auth.audit_writers
  SET last_seq = v_seq, last_time = v_time, last_digest = v_digest, refusals = v_refused, head_hash = v_hash
  WHERE writer = p_writer AND kind = p_kind;
  RETURN v_refused;
END $function$
;

--: function auth.change_committed(uuid,text,uuid)
CREATE OR REPLACE FUNCTION auth.change_committed(p_writer uuid, p_service text, p_call_id uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
  v_found boolean;
BEGIN
  PERFORM auth.wait_for_change(p_writer, p_service);
  EXECUTE format('SELECT EXISTS (SELECT FROM auth.audit_entries WHERE time > %L AND call_id = $1 AND writer = $2 AND kind = ''changes'')',
                 clock_timestamp() - interval '1 day') INTO v_found USING p_call_id, p_writer;
  RETURN v_found;
END $function$
;

--: function auth.make_partitions(integer)
CREATE OR REPLACE FUNCTION auth.make_partitions(p_ahead integer DEFAULT 14)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
  d date;
  t text;
  v_name text;
  v_made integer := 0;
  lo text;
  hi text;
BEGIN
  PERFORM set_config('lock_timeout', '200ms', true), set_config('idle_in_transaction_session_timeout', '1s', true);
  PERFORM pg_advisory_xact_lock(1833043);
  FOR d IN SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date + i FROM generate_series(0, p_ahead) i LOOP
    lo := d || ' 00:00:00+00';
    hi := (d + 1) || ' 00:00:00+00';
    FOREACH t IN ARRAY ARRAY['audit_batches', 'audit_entries'] LOOP
      v_name := t || to_char(d, '_YYYYMMDD');
      CONTINUE WHEN to_regclass('auth.' || v_name) IS NOT NULL;
      EXECUTE format('CREATE TABLE auth.%I (LIKE auth.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)', v_name, t);
      EXECUTE format('ALTER TABLE auth.%I ATTACH PARTITION auth.%I FOR VALUES FROM (%L) TO (%L)', t, v_name, lo, hi);
      v_made := v_made + 1;
    END LOOP;
  END LOOP;
  RETURN v_made;
END $function$
;

--: function auth.drop_partitions(date)
CREATE OR REPLACE FUNCTION auth.drop_partitions(p_before date)
 RETURNS date
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
  d date;
  v_day_end timestamptz;
BEGIN
  IF p_before > (clock_timestamp() AT TIME ZONE 'UTC')::date - 1 THEN
    RAISE EXCEPTION 'would drop a day in use';
  END IF;
  PERFORM set_config('lock_timeout', '50ms', true), set_config('idle_in_transaction_session_timeout', '1s', true);
  PERFORM pg_advisory_xact_lock(1833043);
  SELECT min(to_date(right(c.relname, 8), 'YYYYMMDD')) INTO d
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
  WHERE i.inhparent IN ('auth.audit_entries'::regclass, 'auth.audit_batches'::regclass);
  IF d IS NULL OR d >= p_before THEN
    RETURN NULL;
  END IF;
  v_day_end := (d + 1)::timestamp AT TIME ZONE 'UTC';
  DELETE FROM auth.audit_writers WHERE last_time < v_day_end;  -- all its batches go; if it lives, MD002 tells it to start anew
  EXECUTE format('UPDATE auth.audit_writers w SET base_seq = b.seq, base_hash = b.hash FROM (
      SELECT DISTINCT ON (writer, kind) writer, kind, b.seq, b.hash FROM auth.%I b JOIN auth.audit_writers USING (writer, kind)
      ORDER BY writer, kind, b.seq DESC) b
    WHERE w.writer = b.writer AND w.kind = b.kind', 'audit_batches' || to_char(d, '_YYYYMMDD'));
  EXECUTE format('DROP TABLE auth.%I, auth.%I',
                 'audit_batches' || to_char(d, '_YYYYMMDD'), 'audit_entries' || to_char(d, '_YYYYMMDD'));
  RETURN d;
END $function$
;

--: function auth.fold_usage(interval)
CREATE OR REPLACE FUNCTION auth.fold_usage(p_silent interval DEFAULT '01:00:00'::interval)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
  v_silent auth.audit_writers[];
  n bigint;
BEGIN
  SELECT array_agg(w) INTO v_silent FROM (
    SELECT * FROM auth.audit_writers w
    WHERE last_time < clock_timestamp() - p_silent
      AND EXISTS (SELECT FROM auth.key_usage u WHERE u.writer = w.writer AND u.kind = w.kind)
    ORDER BY writer, kind LIMIT 1000 FOR UPDATE SKIP LOCKED) w;
  WITH gone AS (
    DELETE FROM auth.key_usage u USING unnest(v_silent) s WHERE u.writer = s.writer AND u.kind = s.kind RETURNING u.*
  ), folded AS (
    INSERT INTO auth.key_usage AS u
    SELECT key_id, '00000000-0000-0000-0000-000000000000', 'folded', sum(call_count), max(last_use_time)
    FROM gone GROUP BY key_id ORDER BY key_id
    ON CONFLICT (key_id, writer, kind) DO UPDATE
    SET call_count = u.call_count + excluded.call_count, last_use_time = greatest(u.last_use_time, excluded.last_use_time))
  SELECT count(*) INTO n FROM gone;
  RETURN n;
END $function$
;

--: function ingest.announce_write(bigint)
CREATE OR REPLACE FUNCTION ingest.announce_write(p_slice_id bigint)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
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
END $function$
;

--: function ingest.begin_part(bigint,bigint,integer)
CREATE OR REPLACE FUNCTION ingest.begin_part(p_slice_id bigint, p_token bigint, p_write_id integer)
 RETURNS boolean
 LANGUAGE plpgsql
AS $function$
BEGIN
  PERFORM pg_advisory_xact_lock(1833045, p_write_id);
  PERFORM FROM ingest.slices
  WHERE slice_id = p_slice_id AND token = p_token AND write_id = p_write_id AND state = 2
  FOR NO KEY UPDATE;
  RETURN FOUND;
END $function$
;

--: function ingest.finish(integer,boolean,integer,smallint,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone)
CREATE OR REPLACE FUNCTION ingest.finish(p_write_id integer, p_more boolean, p_symbol_id integer, p_timeframe smallint, p_min_ts timestamp with time zone, p_max_ts timestamp with time zone, p_fetch_time timestamp with time zone, p_asked_from timestamp with time zone, p_asked_to timestamp with time zone)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
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
END $function$
;

--: function ingest.forget_symbol(integer)
CREATE OR REPLACE FUNCTION ingest.forget_symbol(p_symbol_id integer)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
END $function$
;

--: function ingest.slice_wanted(bigint)
CREATE OR REPLACE FUNCTION ingest.slice_wanted(p_slice_id bigint)
 RETURNS boolean
 LANGUAGE sql
AS $function$
  SELECT bool_or(b.state IN (1, 2))
  FROM ingest.backfill_slices l
  JOIN ingest.backfills b USING (backfill_id)
  WHERE l.slice_id = p_slice_id AND b.state IN (1, 2, 3);
$function$
;

--: function ingest.claim_slice(smallint[],text,interval)
CREATE OR REPLACE FUNCTION ingest.claim_slice(p_kinds smallint[], p_owner text, p_lease interval)
 RETURNS SETOF ingest.slices
 LANGUAGE plpgsql
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_sort TO 'off'
AS $function$
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
END $function$
;

--: function ingest.await_nodes(integer[])
CREATE OR REPLACE FUNCTION ingest.await_nodes(p_symbol_ids integer[])
 RETURNS void
 LANGUAGE plpgsql
AS $function$
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
END $function$
;

--: function ingest.begin_bars(integer[])
CREATE OR REPLACE FUNCTION ingest.begin_bars(p_symbol_ids integer[])
 RETURNS void
 LANGUAGE plpgsql
AS $function$
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
END $function$
;

--: function ingest.give_up(bigint,bigint,smallint,text,date,date,timestamp with time zone)
CREATE OR REPLACE FUNCTION ingest.give_up(p_slice_id bigint, p_token bigint, p_state smallint, p_reason text, p_first_date date, p_end_date date, p_cursor timestamp with time zone)
 RETURNS smallint
 LANGUAGE plpgsql
AS $function$
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
END $function$
;

--: function ingest.suspect_wait(integer,boolean)
CREATE OR REPLACE FUNCTION ingest.suspect_wait(p_asks integer, p_fresh boolean)
 RETURNS interval
 LANGUAGE sql
 IMMUTABLE
AS $function$
  SELECT CASE WHEN p_asks < CASE WHEN p_fresh THEN 6 ELSE 4 END
    THEN CASE WHEN p_fresh THEN interval '15 minutes' ELSE interval '1 day' END * 4 ^ (p_asks - 1) END;
$function$
;

--: function ingest.bare_minute_sessions(integer[],text,date[],date[])
CREATE OR REPLACE FUNCTION ingest.bare_minute_sessions(p_symbol_ids integer[], p_calendar text, p_first_dates date[], p_end_dates date[])
 RETURNS TABLE(symbol_id integer, session_date date)
 LANGUAGE sql
 STABLE
AS $function$
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
$function$
;

--: function ingest.bare_sessions_after(integer,smallint,text,date)
CREATE OR REPLACE FUNCTION ingest.bare_sessions_after(p_symbol_id integer, p_timeframe smallint, p_calendar text, p_date date)
 RETURNS date[]
 LANGUAGE plpgsql
 STABLE
AS $function$
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
END $function$
;

--: function ingest.note_suspects(integer,smallint,text,date,date,date[],date[])
CREATE OR REPLACE FUNCTION ingest.note_suspects(p_symbol_id integer, p_timeframe smallint, p_calendar text, p_first_date date, p_end_date date, p_empty_first date[], p_empty_last date[])
 RETURNS void
 LANGUAGE plpgsql
AS $function$
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
END $function$
;

--: function ingest.end_range(bigint,integer,integer,smallint,text,integer,integer,integer,integer,integer,integer,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,bytea,integer,date[],integer[],integer[],timestamp with time zone,timestamp with time zone,timestamp with time zone,date,date,boolean,date[],date[])
CREATE OR REPLACE FUNCTION ingest.end_range(p_slice_id bigint, p_write_id integer, p_symbol_id integer, p_timeframe smallint, p_calendar text, p_inserted integer, p_updated integer, p_unchanged integer, p_rejected integer, p_new_rejects integer, p_validated integer, p_first_ts timestamp with time zone, p_last_ts timestamp with time zone, p_min_ts timestamp with time zone, p_max_ts timestamp with time zone, p_tail bytea, p_sessions integer, p_days date[], p_day_bars integer[], p_day_regular integer[], p_fetch_time timestamp with time zone, p_asked_from timestamp with time zone, p_asked_to timestamp with time zone, p_first_date date, p_end_date date, p_done boolean, p_empty_first date[], p_empty_last date[])
 RETURNS smallint
 LANGUAGE plpgsql
AS $function$
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
END $function$
;

--: function ingest.void_sessions(bigint,integer,smallint,datemultirange)
CREATE OR REPLACE FUNCTION ingest.void_sessions(p_slice_id bigint, p_symbol_id integer, p_timeframe smallint, p_deleted datemultirange)
 RETURNS datemultirange
 LANGUAGE plpgsql
AS $function$
BEGIN
  IF p_deleted = '{}' OR (SELECT mode = 1 FROM ingest.slices WHERE slice_id = p_slice_id) THEN
    RETURN p_deleted;
  END IF;
  RETURN p_deleted * coalesce((
    SELECT range_agg(daterange(d.first_date, d.end_date))
    FROM ingest.deletions d
    WHERE d.symbol_id = p_symbol_id AND d.timeframe = p_timeframe AND d.slice_id > p_slice_id
      AND d.end_date > d.first_date), '{}');
END $function$
;

--: function ingest.begin_range(bigint,bigint,integer,integer,smallint,timestamp with time zone,timestamp with time zone,timestamp with time zone)
CREATE OR REPLACE FUNCTION ingest.begin_range(p_slice_id bigint, p_token bigint, p_write_id integer, p_symbol_id integer, p_timeframe smallint, p_fetch_time timestamp with time zone, p_asked_from timestamp with time zone, p_asked_to timestamp with time zone, OUT last_ts timestamp with time zone, OUT tail bytea, OUT newer_from timestamp with time zone[], OUT newer_to timestamp with time zone[], OUT newer_partial boolean[], OUT deleted datemultirange, OUT void datemultirange)
 RETURNS SETOF record
 LANGUAGE plpgsql
AS $function$
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
END $function$
;

--: function ingest.note_many_suspects(integer[],smallint,text,date[],date[],integer[],date[],date[])
CREATE OR REPLACE FUNCTION ingest.note_many_suspects(p_symbol_ids integer[], p_timeframe smallint, p_calendar text, p_first_dates date[], p_end_dates date[], p_empty_symbols integer[], p_empty_first date[], p_empty_last date[])
 RETURNS void
 LANGUAGE plpgsql
 SET enable_nestloop TO 'on'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
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
END $function$
;

--: function ingest.filled(anyarray,integer)
CREATE OR REPLACE FUNCTION ingest.filled(p_values anyarray, p_count integer)
 RETURNS anyarray
 LANGUAGE sql
 IMMUTABLE
AS $function$
  SELECT CASE WHEN cardinality(p_values) = 1 THEN array_fill(p_values[1], ARRAY[p_count]) ELSE p_values END;
$function$
;

--: function ingest.end_many(bigint,integer,smallint,text,integer[],integer[],integer[],integer[],integer[],boolean[],timestamp with time zone[],timestamp with time zone[],bytea[],date[],date[],integer[],date[],integer[],integer[],integer,integer,integer,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,boolean,integer[],date[],date[],integer,boolean,interval,text)
CREATE OR REPLACE FUNCTION ingest.end_many(p_slice_id bigint, p_write_id integer, p_timeframe smallint, p_calendar text, p_symbol_ids integer[], p_inserted integer[], p_validated integer[], p_new_rejects integer[], p_sessions integer[], p_changed boolean[], p_first_ts timestamp with time zone[], p_last_ts timestamp with time zone[], p_tails bytea[], p_first_dates date[], p_end_dates date[], p_minute_symbols integer[], p_minute_days date[], p_minute_bars integer[], p_minute_regular integer[], p_updated integer, p_unchanged integer, p_rejected integer, p_min_ts timestamp with time zone, p_max_ts timestamp with time zone, p_fetch_time timestamp with time zone, p_asked_from timestamp with time zone, p_asked_to timestamp with time zone, p_partial boolean, p_empty_symbols integer[], p_empty_first date[], p_empty_last date[], p_position integer, p_done boolean, p_lease interval, p_note text)
 RETURNS TABLE(state smallint, write_id integer)
 LANGUAGE plpgsql
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_nestloop TO 'off'
 SET enable_mergejoin TO 'off'
 SET enable_hashjoin TO 'on'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
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
END $function$
;

--: function ingest.begin_delete(bigint,bigint,integer,integer,smallint,timestamp with time zone,timestamp with time zone)
CREATE OR REPLACE FUNCTION ingest.begin_delete(p_slice_id bigint, p_token bigint, p_write_id integer, p_symbol_id integer, p_timeframe smallint, p_from timestamp with time zone, p_to timestamp with time zone, OUT purge boolean, OUT create_time timestamp with time zone, OUT kept_from timestamp with time zone[], OUT kept_to timestamp with time zone[])
 RETURNS SETOF record
 LANGUAGE plpgsql
AS $function$
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
END $function$
;

--: function ingest.end_delete(bigint,integer,integer,smallint,text,integer,integer,timestamp with time zone,timestamp with time zone,bytea,integer,date[],integer[],integer[],date,timestamp with time zone,boolean,integer,datemultirange)
CREATE OR REPLACE FUNCTION ingest.end_delete(p_slice_id bigint, p_write_id integer, p_symbol_id integer, p_timeframe smallint, p_calendar text, p_bars integer, p_validated integer, p_min_ts timestamp with time zone, p_max_ts timestamp with time zone, p_tail bytea, p_sessions integer, p_days date[], p_day_bars integer[], p_day_regular integer[], p_end_date date, p_cursor timestamp with time zone, p_done boolean, p_rejects integer, p_deleted datemultirange)
 RETURNS smallint
 LANGUAGE plpgsql
AS $function$
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
END $function$
;

--: function ingest.note_lost_day(smallint,date,smallint,text)
CREATE OR REPLACE FUNCTION ingest.note_lost_day(p_asset_class smallint, p_day date, p_state smallint, p_reason text)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
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
END $function$
;

--: function ingest.close_slice(bigint,bigint,smallint,text)
CREATE OR REPLACE FUNCTION ingest.close_slice(p_slice_id bigint, p_token bigint, p_state smallint, p_reason text)
 RETURNS smallint
 LANGUAGE plpgsql
AS $function$
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
END $function$
;

--: function ingest.known_splits(integer)
CREATE OR REPLACE FUNCTION ingest.known_splits(p_symbol_id integer)
 RETURNS double precision[]
 LANGUAGE plpgsql
AS $function$
BEGIN
  RETURN (
    SELECT array_agg(ARRAY[a.ex_date - DATE '1970-01-01', a.split_from, a.split_to] ORDER BY a.ex_date, a.action_id)
    FROM ingest.actions a
    WHERE a.symbol_id = p_symbol_id AND a.kind = 1 AND a.ended_write_id IS NULL AND a.flags & 1 = 0);
END $function$
;

--: function ingest.end_step(bigint,integer,integer,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,integer,integer,integer,integer,integer,timestamp with time zone,text,boolean,boolean,interval,text)
CREATE OR REPLACE FUNCTION ingest.end_step(p_slice_id bigint, p_write_id integer, p_symbol_id integer, p_min_ts timestamp with time zone, p_max_ts timestamp with time zone, p_fetch_time timestamp with time zone, p_asked_from timestamp with time zone, p_asked_to timestamp with time zone, p_inserted integer, p_updated integer, p_unchanged integer, p_rejected integer, p_unknown integer, p_cursor timestamp with time zone, p_page text, p_done boolean, p_more boolean, p_lease interval, p_note text DEFAULT ''::text)
 RETURNS TABLE(state smallint, write_id integer)
 LANGUAGE plpgsql
AS $function$
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
END $function$
;

--: function ingest.begin_many(bigint,bigint,integer,integer[],smallint,timestamp with time zone,timestamp with time zone,timestamp with time zone,text)
CREATE OR REPLACE FUNCTION ingest.begin_many(p_slice_id bigint, p_token bigint, p_write_id integer, p_symbol_ids integer[], p_timeframe smallint, p_fetch_time timestamp with time zone, p_asked_from timestamp with time zone, p_asked_to timestamp with time zone, p_zone text)
 RETURNS TABLE(symbol_id integer, last_ts timestamp with time zone, tail bytea, newer_from timestamp with time zone[], newer_to timestamp with time zone[], newer_partial boolean[], deleted datemultirange, void datemultirange, splits boolean)
 LANGUAGE plpgsql
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_sort TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET enable_material TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
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
END $function$
;

--: constraint auth.audit_batches audit_batches_pkey
ALTER TABLE auth.audit_batches ADD CONSTRAINT audit_batches_pkey PRIMARY KEY ("time", writer, kind, seq);

--: constraint auth.audit_entries audit_entries_pkey
ALTER TABLE auth.audit_entries ADD CONSTRAINT audit_entries_pkey PRIMARY KEY ("time", id);

--: constraint auth.audit_writers audit_writers_pkey
ALTER TABLE auth.audit_writers ADD CONSTRAINT audit_writers_pkey PRIMARY KEY (writer, kind);

--: constraint auth.audit_writers audit_writers_kind
ALTER TABLE auth.audit_writers ADD CONSTRAINT audit_writers_kind CHECK ((kind = ANY (ARRAY['reads'::text, 'changes'::text])));

--: constraint auth.key_usage key_usage_pkey
ALTER TABLE auth.key_usage ADD CONSTRAINT key_usage_pkey PRIMARY KEY (key_id, writer, kind);

--: constraint auth.keys keys_pkey
ALTER TABLE auth.keys ADD CONSTRAINT keys_pkey PRIMARY KEY (key_id);

--: constraint auth.keys keys_deleted_without_digest
ALTER TABLE auth.keys ADD CONSTRAINT keys_deleted_without_digest CHECK (((delete_time IS NULL) = (digest IS NOT NULL)));

--: constraint auth.keys keys_digest_key
ALTER TABLE auth.keys ADD CONSTRAINT keys_digest_key UNIQUE (digest);

--: constraint auth.keys keys_digest_length
ALTER TABLE auth.keys ADD CONSTRAINT keys_digest_length CHECK ((length(digest) = 32));

--: constraint auth.keys keys_display_name_length
ALTER TABLE auth.keys ADD CONSTRAINT keys_display_name_length CHECK (((length(display_name) >= 1) AND (length(display_name) <= 63)));

--: constraint auth.keys keys_max_calls_positive
ALTER TABLE auth.keys ADD CONSTRAINT keys_max_calls_positive CHECK ((max_calls_per_second > 0));

--: constraint auth.keys keys_max_streams_positive
ALTER TABLE auth.keys ADD CONSTRAINT keys_max_streams_positive CHECK ((max_streams > 0));

--: constraint auth.keys keys_scopes_not_empty
ALTER TABLE auth.keys ADD CONSTRAINT keys_scopes_not_empty CHECK ((cardinality(scopes) > 0));

--: constraint auth.requests requests_pkey
ALTER TABLE auth.requests ADD CONSTRAINT requests_pkey PRIMARY KEY (key_id, method, request_id);

--: constraint auth.token_key token_key_pkey
ALTER TABLE auth.token_key ADD CONSTRAINT token_key_pkey PRIMARY KEY (one);

--: constraint auth.token_key token_key_one_row
ALTER TABLE auth.token_key ADD CONSTRAINT token_key_one_row CHECK (one);

--: constraint ingest.absent_bars absent_bars_pkey
ALTER TABLE ingest.absent_bars ADD CONSTRAINT absent_bars_pkey PRIMARY KEY (symbol_id, timeframe, ts);

--: constraint ingest.actions actions_pkey
ALTER TABLE ingest.actions ADD CONSTRAINT actions_pkey PRIMARY KEY (action_id, write_id);

--: constraint ingest.actions actions_currency_length
ALTER TABLE ingest.actions ADD CONSTRAINT actions_currency_length CHECK ((length(currency) <= 8));

--: constraint ingest.actions actions_dividend_with_amount
ALTER TABLE ingest.actions ADD CONSTRAINT actions_dividend_with_amount CHECK (((kind = 2) = ((cash_amount > (0)::double precision) AND (cash_amount IS NOT NULL))));

--: constraint ingest.actions actions_kind
ALTER TABLE ingest.actions ADD CONSTRAINT actions_kind CHECK ((kind = ANY (ARRAY[1, 2])));

--: constraint ingest.actions actions_source_id_length
ALTER TABLE ingest.actions ADD CONSTRAINT actions_source_id_length CHECK ((length(source_id) <= 100));

--: constraint ingest.actions actions_split_with_ratio
ALTER TABLE ingest.actions ADD CONSTRAINT actions_split_with_ratio CHECK (((kind = 1) = ((split_from > (0)::double precision) AND (split_to > (0)::double precision) AND (split_from IS NOT NULL) AND (split_to IS NOT NULL))));

--: constraint ingest.backfill_slices backfill_slices_pkey
ALTER TABLE ingest.backfill_slices ADD CONSTRAINT backfill_slices_pkey PRIMARY KEY (backfill_id, slice_id);

--: constraint ingest.backfills backfills_pkey
ALTER TABLE ingest.backfills ADD CONSTRAINT backfills_pkey PRIMARY KEY (backfill_id);

--: constraint ingest.backfills backfills_ended_with_time
ALTER TABLE ingest.backfills ADD CONSTRAINT backfills_ended_with_time CHECK (((state = ANY (ARRAY[4, 5, 6])) = (finish_time IS NOT NULL)));

--: constraint ingest.backfills backfills_kind
ALTER TABLE ingest.backfills ADD CONSTRAINT backfills_kind CHECK (((kind >= 1) AND (kind <= 6)));

--: constraint ingest.backfills backfills_mode
ALTER TABLE ingest.backfills ADD CONSTRAINT backfills_mode CHECK (((mode >= 1) AND (mode <= 2)));

--: constraint ingest.backfills backfills_pause_with_reason
ALTER TABLE ingest.backfills ADD CONSTRAINT backfills_pause_with_reason CHECK (((state <> 3) OR (pause_reason <> ''::text)));

--: constraint ingest.backfills backfills_priority
ALTER TABLE ingest.backfills ADD CONSTRAINT backfills_priority CHECK (((priority >= 1) AND (priority <= 4)));

--: constraint ingest.backfills backfills_state
ALTER TABLE ingest.backfills ADD CONSTRAINT backfills_state CHECK (((state >= 1) AND (state <= 6)));

--: constraint ingest.bar_revisions bar_revisions_pkey
ALTER TABLE ingest.bar_revisions ADD CONSTRAINT bar_revisions_pkey PRIMARY KEY (symbol_id, timeframe, ended_write_id, ts);

--: constraint ingest.bars bars_pkey
ALTER TABLE ingest.bars ADD CONSTRAINT bars_pkey PRIMARY KEY (symbol_id, timeframe, ts);

--: constraint ingest.deletions deletions_pkey
ALTER TABLE ingest.deletions ADD CONSTRAINT deletions_pkey PRIMARY KEY (deletion_id);

--: constraint ingest.deletions deletions_dates
ALTER TABLE ingest.deletions ADD CONSTRAINT deletions_dates CHECK ((first_date <= last_date));

--: constraint ingest.deletions deletions_reason_length
ALTER TABLE ingest.deletions ADD CONSTRAINT deletions_reason_length CHECK (((length(reason) >= 1) AND (length(reason) <= 200)));

--: constraint ingest.deletions deletions_slice
ALTER TABLE ingest.deletions ADD CONSTRAINT deletions_slice UNIQUE (slice_id);

--: constraint ingest.deletions deletions_timeframe_stored
ALTER TABLE ingest.deletions ADD CONSTRAINT deletions_timeframe_stored CHECK ((timeframe = ANY (ARRAY[1, 7])));

--: constraint ingest.files files_pkey
ALTER TABLE ingest.files ADD CONSTRAINT files_pkey PRIMARY KEY (file_id);

--: constraint ingest.files files_asset_class
ALTER TABLE ingest.files ADD CONSTRAINT files_asset_class CHECK ((asset_class = ANY (ARRAY[1, 3])));

--: constraint ingest.files files_name_length
ALTER TABLE ingest.files ADD CONSTRAINT files_name_length CHECK (((length(name) >= 1) AND (length(name) <= 500)));

--: constraint ingest.files files_once
ALTER TABLE ingest.files ADD CONSTRAINT files_once UNIQUE (sha256);

--: constraint ingest.files files_sha256_length
ALTER TABLE ingest.files ADD CONSTRAINT files_sha256_length CHECK ((length(sha256) = 32));

--: constraint ingest.files files_timeframe_stored
ALTER TABLE ingest.files ADD CONSTRAINT files_timeframe_stored CHECK ((timeframe = ANY (ARRAY[1, 7])));

--: constraint ingest.limiter limiter_pkey
ALTER TABLE ingest.limiter ADD CONSTRAINT limiter_pkey PRIMARY KEY (slot);

--: constraint ingest.minute_sessions minute_sessions_pkey
ALTER TABLE ingest.minute_sessions ADD CONSTRAINT minute_sessions_pkey PRIMARY KEY (symbol_id, session_date);

--: constraint ingest.minute_sessions minute_sessions_counts
ALTER TABLE ingest.minute_sessions ADD CONSTRAINT minute_sessions_counts CHECK (((bars > 0) AND ((regular_bars >= 0) AND (regular_bars <= bars))));

--: constraint ingest.rejected_bars rejected_bars_pkey
ALTER TABLE ingest.rejected_bars ADD CONSTRAINT rejected_bars_pkey PRIMARY KEY (reject_id);

--: constraint ingest.rejected_bars rejected_bars_once
ALTER TABLE ingest.rejected_bars ADD CONSTRAINT rejected_bars_once UNIQUE NULLS NOT DISTINCT (symbol_id, timeframe, reason, raw_hash);

--: constraint ingest.requests requests_pkey
ALTER TABLE ingest.requests ADD CONSTRAINT requests_pkey PRIMARY KEY (key_id, method, request_id);

--: constraint ingest.schedule schedule_pkey
ALTER TABLE ingest.schedule ADD CONSTRAINT schedule_pkey PRIMARY KEY (one);

--: constraint ingest.schedule schedule_note_length
ALTER TABLE ingest.schedule ADD CONSTRAINT schedule_note_length CHECK ((length(note) <= 200));

--: constraint ingest.schedule schedule_one_row
ALTER TABLE ingest.schedule ADD CONSTRAINT schedule_one_row CHECK (one);

--: constraint ingest.schedule_runs schedule_runs_pkey
ALTER TABLE ingest.schedule_runs ADD CONSTRAINT schedule_runs_pkey PRIMARY KEY (calendar, session_date);

--: constraint ingest.series series_pkey
ALTER TABLE ingest.series ADD CONSTRAINT series_pkey PRIMARY KEY (symbol_id, timeframe);

--: constraint ingest.series series_counts
ALTER TABLE ingest.series ADD CONSTRAINT series_counts CHECK (((bars >= 0) AND ((validated >= 0) AND (validated <= bars)) AND (rejected >= 0) AND (sessions_present >= 0)));

--: constraint ingest.series series_empty_without_times
ALTER TABLE ingest.series ADD CONSTRAINT series_empty_without_times CHECK ((((bars = 0) = (first_ts IS NULL)) AND ((bars = 0) = (last_ts IS NULL))));

--: constraint ingest.series series_timeframe_stored
ALTER TABLE ingest.series ADD CONSTRAINT series_timeframe_stored CHECK ((timeframe = ANY (ARRAY[1, 7])));

--: constraint ingest.sessions sessions_pkey
ALTER TABLE ingest.sessions ADD CONSTRAINT sessions_pkey PRIMARY KEY (calendar, session_date);

--: constraint ingest.sessions sessions_calendar
ALTER TABLE ingest.sessions ADD CONSTRAINT sessions_calendar CHECK ((calendar = ANY (ARRAY['XNYS'::text, '24/7'::text])));

--: constraint ingest.sessions sessions_open_before_close
ALTER TABLE ingest.sessions ADD CONSTRAINT sessions_open_before_close CHECK ((open_time < close_time));

--: constraint ingest.sessions sessions_ordinal
ALTER TABLE ingest.sessions ADD CONSTRAINT sessions_ordinal UNIQUE (calendar, ordinal);

--: constraint ingest.slices slices_pkey
ALTER TABLE ingest.slices ADD CONSTRAINT slices_pkey PRIMARY KEY (slice_id);

--: constraint ingest.slices slices_dates
ALTER TABLE ingest.slices ADD CONSTRAINT slices_dates CHECK ((first_date <= last_date));

--: constraint ingest.slices slices_ended_with_time
ALTER TABLE ingest.slices ADD CONSTRAINT slices_ended_with_time CHECK (((state = ANY (ARRAY[3, 4, 5, 6])) = (end_time IS NOT NULL)));

--: constraint ingest.slices slices_kind
ALTER TABLE ingest.slices ADD CONSTRAINT slices_kind CHECK (((kind >= 1) AND (kind <= 6)));

--: constraint ingest.slices slices_mode
ALTER TABLE ingest.slices ADD CONSTRAINT slices_mode CHECK (((mode >= 1) AND (mode <= 2)));

--: constraint ingest.slices slices_priority
ALTER TABLE ingest.slices ADD CONSTRAINT slices_priority CHECK (((priority >= 1) AND (priority <= 4)));

--: constraint ingest.slices slices_range_of_series
ALTER TABLE ingest.slices ADD CONSTRAINT slices_range_of_series CHECK (((kind <> 1) OR ((symbol_id IS NOT NULL) AND (timeframe IS NOT NULL) AND (first_date IS NOT NULL) AND (last_date IS NOT NULL))));

--: constraint ingest.slices slices_running_with_lease
ALTER TABLE ingest.slices ADD CONSTRAINT slices_running_with_lease CHECK (((state = 2) = (lease_until IS NOT NULL)));

--: constraint ingest.slices slices_state
ALTER TABLE ingest.slices ADD CONSTRAINT slices_state CHECK (((state >= 1) AND (state <= 6)));

--: constraint ingest.slices slices_timeframe_stored
ALTER TABLE ingest.slices ADD CONSTRAINT slices_timeframe_stored CHECK ((timeframe = ANY (ARRAY[1, 7])));

--: constraint ingest.suspects suspects_pkey
ALTER TABLE ingest.suspects ADD CONSTRAINT suspects_pkey PRIMARY KEY (symbol_id, timeframe, first_date);

--: constraint ingest.suspects suspects_asks
ALTER TABLE ingest.suspects ADD CONSTRAINT suspects_asks CHECK ((asks > 0));

--: constraint ingest.suspects suspects_dates
ALTER TABLE ingest.suspects ADD CONSTRAINT suspects_dates CHECK ((first_date <= last_date));

--: constraint ingest.suspects suspects_given_up_are_not_asked
ALTER TABLE ingest.suspects ADD CONSTRAINT suspects_given_up_are_not_asked CHECK ((((gave_up_reason <> ''::text) = (next_ask_time IS NULL)) AND ((gave_up_reason <> ''::text) = (counts_from IS NULL))));

--: constraint ingest.token_key token_key_pkey
ALTER TABLE ingest.token_key ADD CONSTRAINT token_key_pkey PRIMARY KEY (one);

--: constraint ingest.token_key token_key_one_row
ALTER TABLE ingest.token_key ADD CONSTRAINT token_key_one_row CHECK (one);

--: constraint ingest.turns turns_pkey
ALTER TABLE ingest.turns ADD CONSTRAINT turns_pkey PRIMARY KEY (priority);

--: constraint ingest.turns turns_priority
ALTER TABLE ingest.turns ADD CONSTRAINT turns_priority CHECK (((priority >= 1) AND (priority <= 4)));

--: constraint ingest.writes writes_pkey
ALTER TABLE ingest.writes ADD CONSTRAINT writes_pkey PRIMARY KEY (write_id);

--: constraint ingest.writes writes_committed_whole
ALTER TABLE ingest.writes ADD CONSTRAINT writes_committed_whole CHECK ((((commit_time IS NULL) = (high IS NULL)) AND ((commit_time IS NULL) = (open IS NULL))));

--: constraint symbols.requests requests_pkey
ALTER TABLE symbols.requests ADD CONSTRAINT requests_pkey PRIMARY KEY (key_id, method, request_id);

--: constraint symbols.symbols symbols_pkey
ALTER TABLE symbols.symbols ADD CONSTRAINT symbols_pkey PRIMARY KEY (symbol_id);

--: constraint symbols.symbols symbols_asset_class
ALTER TABLE symbols.symbols ADD CONSTRAINT symbols_asset_class CHECK (((asset_class >= 1) AND (asset_class <= 3)));

--: constraint symbols.symbols symbols_exchange_length
ALTER TABLE symbols.symbols ADD CONSTRAINT symbols_exchange_length CHECK ((length(exchange) <= 16));

--: constraint symbols.symbols symbols_figi_length
ALTER TABLE symbols.symbols ADD CONSTRAINT symbols_figi_length CHECK ((length(figi) <= 16));

--: constraint symbols.symbols symbols_listed_before_delisted
ALTER TABLE symbols.symbols ADD CONSTRAINT symbols_listed_before_delisted CHECK ((list_date <= delist_date));

--: constraint symbols.symbols symbols_name_length
ALTER TABLE symbols.symbols ADD CONSTRAINT symbols_name_length CHECK ((length(name) <= 200));

--: constraint symbols.symbols symbols_timeframes_stored
ALTER TABLE symbols.symbols ADD CONSTRAINT symbols_timeframes_stored CHECK ((timeframes <@ '{1,7}'::smallint[]));

--: constraint symbols.symbols symbols_type_length
ALTER TABLE symbols.symbols ADD CONSTRAINT symbols_type_length CHECK ((length(type) <= 16));

--: constraint symbols.tickers tickers_pkey
ALTER TABLE symbols.tickers ADD CONSTRAINT tickers_pkey PRIMARY KEY (symbol_id, from_date);

--: constraint symbols.tickers tickers_dates
ALTER TABLE symbols.tickers ADD CONSTRAINT tickers_dates CHECK ((from_date <= to_date));

--: constraint symbols.tickers tickers_one_at_a_time
ALTER TABLE symbols.tickers ADD CONSTRAINT tickers_one_at_a_time EXCLUDE USING gist (symbol_id WITH =, daterange(from_date, to_date, '[]'::text) WITH &&);

--: constraint symbols.tickers tickers_one_holder
ALTER TABLE symbols.tickers ADD CONSTRAINT tickers_one_holder EXCLUDE USING gist (asset_class WITH =, ticker WITH =, daterange(from_date, to_date, '[]'::text) WITH &&);

--: constraint symbols.tickers tickers_one_provider_holder
ALTER TABLE symbols.tickers ADD CONSTRAINT tickers_one_provider_holder EXCLUDE USING gist (provider_ticker WITH =, daterange(from_date, to_date, '[]'::text) WITH &&);

--: constraint symbols.tickers tickers_provider_ticker_length
ALTER TABLE symbols.tickers ADD CONSTRAINT tickers_provider_ticker_length CHECK (((length(provider_ticker) >= 1) AND (length(provider_ticker) <= 40)));

--: constraint symbols.tickers tickers_ticker_length
ALTER TABLE symbols.tickers ADD CONSTRAINT tickers_ticker_length CHECK (((length(ticker) >= 1) AND (length(ticker) <= 32)));

--: constraint symbols.token_key token_key_pkey
ALTER TABLE symbols.token_key ADD CONSTRAINT token_key_pkey PRIMARY KEY (one);

--: constraint symbols.token_key token_key_one_row
ALTER TABLE symbols.token_key ADD CONSTRAINT token_key_one_row CHECK (one);

--: constraint ingest.backfill_slices backfill_slices_backfill_id_fkey
ALTER TABLE ingest.backfill_slices ADD CONSTRAINT backfill_slices_backfill_id_fkey FOREIGN KEY (backfill_id) REFERENCES ingest.backfills(backfill_id) ON DELETE CASCADE;

--: constraint ingest.backfill_slices backfill_slices_slice_id_fkey
ALTER TABLE ingest.backfill_slices ADD CONSTRAINT backfill_slices_slice_id_fkey FOREIGN KEY (slice_id) REFERENCES ingest.slices(slice_id) ON DELETE CASCADE;

--: constraint ingest.series series_symbol_id_fkey
ALTER TABLE ingest.series ADD CONSTRAINT series_symbol_id_fkey FOREIGN KEY (symbol_id) REFERENCES symbols.symbols(symbol_id);

--: constraint ingest.suspects suspects_of_series
ALTER TABLE ingest.suspects ADD CONSTRAINT suspects_of_series FOREIGN KEY (symbol_id, timeframe) REFERENCES ingest.series(symbol_id, timeframe) ON DELETE CASCADE;

--: constraint symbols.tickers tickers_symbol_id_fkey
ALTER TABLE symbols.tickers ADD CONSTRAINT tickers_symbol_id_fkey FOREIGN KEY (symbol_id) REFERENCES symbols.symbols(symbol_id) ON DELETE CASCADE;

--: index auth.audit_entries_by_call
CREATE INDEX audit_entries_by_call ON ONLY auth.audit_entries USING btree (call_id);

--: index auth.audit_entries_by_key
CREATE INDEX audit_entries_by_key ON ONLY auth.audit_entries USING btree (key_id, "time", id);

--: index auth.keys_by_create_time
CREATE INDEX keys_by_create_time ON auth.keys USING btree (create_time, key_id);

--: index auth.requests_by_create_time
CREATE INDEX requests_by_create_time ON auth.requests USING btree (create_time);

--: index ingest.actions_by_ex_date
CREATE INDEX actions_by_ex_date ON ingest.actions USING btree (ex_date) WHERE (ended_write_id IS NULL);

--: index ingest.actions_by_symbol
CREATE INDEX actions_by_symbol ON ingest.actions USING btree (symbol_id, ex_date);

--: index ingest.backfill_slices_by_slice
CREATE INDEX backfill_slices_by_slice ON ingest.backfill_slices USING btree (slice_id);

--: index ingest.backfills_by_create_time
CREATE INDEX backfills_by_create_time ON ingest.backfills USING btree (create_time, backfill_id);

--: index ingest.backfills_open
CREATE INDEX backfills_open ON ingest.backfills USING btree (backfill_id) WHERE (state = ANY (ARRAY[1, 2, 3]));

--: index ingest.deletions_by_series
CREATE INDEX deletions_by_series ON ingest.deletions USING btree (symbol_id, timeframe);

--: index ingest.files_by_slice
CREATE INDEX files_by_slice ON ingest.files USING btree (slice_id);

--: index ingest.rejected_bars_by_last_seen
CREATE INDEX rejected_bars_by_last_seen ON ingest.rejected_bars USING btree (last_seen);

--: index ingest.requests_by_create_time
CREATE INDEX requests_by_create_time ON ingest.requests USING btree (create_time);

--: index ingest.schedule_runs_by_run_time
CREATE INDEX schedule_runs_by_run_time ON ingest.schedule_runs USING btree (run_time);

--: index ingest.sessions_by_close_time
CREATE INDEX sessions_by_close_time ON ingest.sessions USING btree (calendar, close_time);

--: index ingest.slices_claim
CREATE INDEX slices_claim ON ingest.slices USING btree (priority DESC, turn, slice_id) WHERE ((state = 1) AND (NOT held));

--: index ingest.slices_ended
CREATE INDEX slices_ended ON ingest.slices USING btree (end_time) WHERE (end_time IS NOT NULL);

--: index ingest.slices_leased
CREATE INDEX slices_leased ON ingest.slices USING btree (lease_until) WHERE (state = 2);

--: index ingest.slices_open_by_series
CREATE INDEX slices_open_by_series ON ingest.slices USING btree (symbol_id, timeframe) WHERE (state = ANY (ARRAY[1, 2]));

--: index ingest.slices_open_days
CREATE INDEX slices_open_days ON ingest.slices USING btree (timeframe, state) WHERE ((kind = 2) AND (state = ANY (ARRAY[1, 2])));

--: index ingest.slices_open_files
CREATE INDEX slices_open_files ON ingest.slices USING btree (timeframe, state) WHERE ((kind = 3) AND (state = ANY (ARRAY[1, 2])));

--: index ingest.suspects_due
CREATE INDEX suspects_due ON ingest.suspects USING btree (next_ask_time) WHERE (next_ask_time IS NOT NULL);

--: index ingest.writes_by_commit_time
CREATE UNIQUE INDEX writes_by_commit_time ON ingest.writes USING btree (commit_time) WHERE (commit_time IS NOT NULL);

--: index ingest.writes_by_series
CREATE INDEX writes_by_series ON ingest.writes USING btree (symbol_id, timeframe, fetch_time);

--: index ingest.writes_of_many
CREATE INDEX writes_of_many ON ingest.writes USING btree (slice_id) WHERE (symbol_ids IS NOT NULL);

--: index symbols.requests_by_create_time
CREATE INDEX requests_by_create_time ON symbols.requests USING btree (create_time);

--: index symbols.tickers_by_ticker
CREATE INDEX tickers_by_ticker ON symbols.tickers USING btree (ticker text_pattern_ops);

--: index symbols.tickers_in_order
CREATE INDEX tickers_in_order ON symbols.tickers USING btree (asset_class, ticker COLLATE "C", symbol_id);

--: view symbols.ticker_spans
CREATE VIEW symbols.ticker_spans AS
 SELECT t.symbol_id,
    t.asset_class,
    t.ticker,
    t.provider_ticker,
    t.from_date,
    t.to_date,
    s.name,
    s.active,
    s.timeframes,
    s.list_date,
    s.delist_date,
    s.exchange,
    s.type,
    s.figi,
    s.create_time
   FROM (symbols.tickers t
     JOIN symbols.symbols s USING (symbol_id));

--: view ingest.series_figures
CREATE VIEW ingest.series_figures AS
 SELECT f.symbol_id,
    f.timeframe,
    f.bars,
    f.first_ts,
    f.last_ts,
    f.validated,
    f.rejected,
    f.sessions_present,
    f.watermark,
    f.last_success_time,
    f.last_error,
    (
        CASE
            WHEN ((EXISTS ( SELECT
               FROM ingest.slices s
              WHERE ((s.state = 2) AND (s.symbol_id = f.symbol_id) AND (s.timeframe = f.timeframe)))) OR (EXISTS ( SELECT
               FROM ingest.slices s
              WHERE ((s.kind = 2) AND (s.state = 2) AND (s.timeframe = f.timeframe) AND ((s.asset_class = 3) = (f.calendar = '24/7'::text))))) OR (EXISTS ( SELECT
               FROM (ingest.slices s
                 JOIN ingest.writes w ON (((w.slice_id = s.slice_id) AND (w.symbol_ids IS NOT NULL))))
              WHERE ((s.kind = 3) AND (s.state = 2) AND (s.timeframe = f.timeframe) AND (f.symbol_id = ANY (w.symbol_ids)))))) THEN 3
            WHEN ((EXISTS ( SELECT
               FROM ingest.slices s
              WHERE ((s.state = 1) AND (s.symbol_id = f.symbol_id) AND (s.timeframe = f.timeframe)))) OR (EXISTS ( SELECT
               FROM ingest.slices s
              WHERE ((s.kind = 2) AND (s.state = 1) AND (s.timeframe = f.timeframe) AND ((s.asset_class = 3) = (f.calendar = '24/7'::text))))) OR (EXISTS ( SELECT
               FROM (ingest.slices s
                 JOIN ingest.writes w ON (((w.slice_id = s.slice_id) AND (w.symbol_ids IS NOT NULL))))
              WHERE ((s.kind = 3) AND (s.state = 1) AND (s.timeframe = f.timeframe) AND (f.symbol_id = ANY (w.symbol_ids)))))) THEN 2
            WHEN (NOT isempty(f.failed)) THEN 5
            WHEN (NOT isempty(f.asked)) THEN 4
            ELSE 1
        END)::smallint AS state,
    first_session.ordinal AS first_ordinal,
    last_session.ordinal AS last_ordinal,
    closed_session.ordinal AS closed_ordinal
   FROM (((( SELECT r.symbol_id,
            r.timeframe,
            r.last_write_id,
            r.sessions_present,
            r.bars,
            r.validated,
            r.rejected,
            r.first_ts,
            r.last_ts,
            r.answer_time,
            r.last_success_time,
            r.watermark,
            r.last_error,
            r.tail,
            r.asked,
            r.failed,
            r.outside_plan,
            r.deleted,
                CASE
                    WHEN (y.asset_class = 3) THEN '24/7'::text
                    ELSE 'XNYS'::text
                END AS calendar,
                CASE
                    WHEN ((y.asset_class = 3) OR (r.timeframe = 7)) THEN 'UTC'::text
                    ELSE 'America/New_York'::text
                END AS zone
           FROM (ingest.series r
             JOIN symbols.symbols y USING (symbol_id))) f
     LEFT JOIN LATERAL ( SELECT c.ordinal
           FROM ingest.sessions c
          WHERE ((c.calendar = f.calendar) AND (c.session_date >= ((f.first_ts AT TIME ZONE f.zone))::date))
          ORDER BY c.session_date
         LIMIT 1) first_session ON (true))
     LEFT JOIN LATERAL ( SELECT c.ordinal
           FROM ingest.sessions c
          WHERE ((c.calendar = f.calendar) AND (c.session_date <= ((f.last_ts AT TIME ZONE f.zone))::date))
          ORDER BY c.session_date DESC
         LIMIT 1) last_session ON (true))
     LEFT JOIN LATERAL ( SELECT c.ordinal
           FROM ingest.sessions c
          WHERE ((c.calendar = f.calendar) AND (c.close_time <= statement_timestamp()))
          ORDER BY c.close_time DESC
         LIMIT 1) closed_session ON (true));

--: grant on function auth.batch_hash(bytea,uuid,text,bigint,timestamp with time zone,integer,text) to PUBLIC
REVOKE ALL ON FUNCTION auth.batch_hash(bytea,uuid,text,bigint,timestamp with time zone,integer,text) FROM PUBLIC;

--: grant on function auth.batch_hash(bytea,uuid,text,bigint,timestamp with time zone,integer,text) to mdw_auth
GRANT EXECUTE ON FUNCTION auth.batch_hash(bytea,uuid,text,bigint,timestamp with time zone,integer,text) TO mdw_auth;

--: grant on function auth.change_committed(uuid,text,uuid) to PUBLIC
REVOKE ALL ON FUNCTION auth.change_committed(uuid,text,uuid) FROM PUBLIC;

--: grant on function auth.change_committed(uuid,text,uuid) to mdw_auth
GRANT EXECUTE ON FUNCTION auth.change_committed(uuid,text,uuid) TO mdw_auth;

--: grant on function auth.change_committed(uuid,text,uuid) to mdw_ingest
GRANT EXECUTE ON FUNCTION auth.change_committed(uuid,text,uuid) TO mdw_ingest;

--: grant on function auth.change_committed(uuid,text,uuid) to mdw_symbols
GRANT EXECUTE ON FUNCTION auth.change_committed(uuid,text,uuid) TO mdw_symbols;

--: grant on function auth.drop_partitions(date) to PUBLIC
REVOKE ALL ON FUNCTION auth.drop_partitions(date) FROM PUBLIC;

--: grant on function auth.drop_partitions(date) to mdw_auth
GRANT EXECUTE ON FUNCTION auth.drop_partitions(date) TO mdw_auth;

--: grant on function auth.entry_text(auth.audit_entries) to PUBLIC
REVOKE ALL ON FUNCTION auth.entry_text(auth.audit_entries) FROM PUBLIC;

--: grant on function auth.entry_text(auth.audit_entries) to mdw_auth
GRANT EXECUTE ON FUNCTION auth.entry_text(auth.audit_entries) TO mdw_auth;

--: grant on function auth.fold_usage(interval) to PUBLIC
REVOKE ALL ON FUNCTION auth.fold_usage(interval) FROM PUBLIC;

--: grant on function auth.fold_usage(interval) to mdw_auth
GRANT EXECUTE ON FUNCTION auth.fold_usage(interval) TO mdw_auth;

--: grant on function auth.lock_keys() to PUBLIC
REVOKE ALL ON FUNCTION auth.lock_keys() FROM PUBLIC;

--: grant on function auth.lock_keys() to mdw_auth
GRANT EXECUTE ON FUNCTION auth.lock_keys() TO mdw_auth;

--: grant on function auth.make_partitions(integer) to PUBLIC
REVOKE ALL ON FUNCTION auth.make_partitions(integer) FROM PUBLIC;

--: grant on function auth.make_partitions(integer) to mdw_auth
GRANT EXECUTE ON FUNCTION auth.make_partitions(integer) TO mdw_auth;

--: grant on function auth.micros(timestamp with time zone) to PUBLIC
REVOKE ALL ON FUNCTION auth.micros(timestamp with time zone) FROM PUBLIC;

--: grant on function auth.micros(timestamp with time zone) to mdw_auth
GRANT EXECUTE ON FUNCTION auth.micros(timestamp with time zone) TO mdw_auth;

--: grant on function auth.record_calls(uuid,text,bigint,text,uuid[],uuid[],text[],text[],text[],smallint[],text[],text[],text[],bigint[],bigint[],integer[]) to PUBLIC
REVOKE ALL ON FUNCTION auth.record_calls(uuid,text,bigint,text,uuid[],uuid[],text[],text[],text[],smallint[],text[],text[],text[],bigint[],bigint[],integer[]) FROM PUBLIC;

--: grant on function auth.record_calls(uuid,text,bigint,text,uuid[],uuid[],text[],text[],text[],smallint[],text[],text[],text[],bigint[],bigint[],integer[]) to mdw_auth
GRANT EXECUTE ON FUNCTION auth.record_calls(uuid,text,bigint,text,uuid[],uuid[],text[],text[],text[],smallint[],text[],text[],text[],bigint[],bigint[],integer[]) TO mdw_auth;

--: grant on function auth.record_calls(uuid,text,bigint,text,uuid[],uuid[],text[],text[],text[],smallint[],text[],text[],text[],bigint[],bigint[],integer[]) to mdw_ingest
GRANT EXECUTE ON FUNCTION auth.record_calls(uuid,text,bigint,text,uuid[],uuid[],text[],text[],text[],smallint[],text[],text[],text[],bigint[],bigint[],integer[]) TO mdw_ingest;

--: grant on function auth.record_calls(uuid,text,bigint,text,uuid[],uuid[],text[],text[],text[],smallint[],text[],text[],text[],bigint[],bigint[],integer[]) to mdw_symbols
GRANT EXECUTE ON FUNCTION auth.record_calls(uuid,text,bigint,text,uuid[],uuid[],text[],text[],text[],smallint[],text[],text[],text[],bigint[],bigint[],integer[]) TO mdw_symbols;

--: grant on function auth.require_writable() to PUBLIC
REVOKE ALL ON FUNCTION auth.require_writable() FROM PUBLIC;

--: grant on function auth.require_writable() to mdw_auth
GRANT EXECUTE ON FUNCTION auth.require_writable() TO mdw_auth;

--: grant on function auth.wait_for_change(uuid,text) to PUBLIC
REVOKE ALL ON FUNCTION auth.wait_for_change(uuid,text) FROM PUBLIC;

--: grant on function ingest.announce_write(bigint) to PUBLIC
REVOKE ALL ON FUNCTION ingest.announce_write(bigint) FROM PUBLIC;

--: grant on function ingest.announce_write(bigint) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.announce_write(bigint) TO mdw_ingest;

--: grant on function ingest.await_nodes(integer[]) to PUBLIC
REVOKE ALL ON FUNCTION ingest.await_nodes(integer[]) FROM PUBLIC;

--: grant on function ingest.await_nodes(integer[]) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.await_nodes(integer[]) TO mdw_ingest;

--: grant on function ingest.bare_minute_sessions(integer[],text,date[],date[]) to PUBLIC
REVOKE ALL ON FUNCTION ingest.bare_minute_sessions(integer[],text,date[],date[]) FROM PUBLIC;

--: grant on function ingest.bare_minute_sessions(integer[],text,date[],date[]) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.bare_minute_sessions(integer[],text,date[],date[]) TO mdw_ingest;

--: grant on function ingest.bare_sessions_after(integer,smallint,text,date) to PUBLIC
REVOKE ALL ON FUNCTION ingest.bare_sessions_after(integer,smallint,text,date) FROM PUBLIC;

--: grant on function ingest.bare_sessions_after(integer,smallint,text,date) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.bare_sessions_after(integer,smallint,text,date) TO mdw_ingest;

--: grant on function ingest.begin_bars(integer[]) to PUBLIC
REVOKE ALL ON FUNCTION ingest.begin_bars(integer[]) FROM PUBLIC;

--: grant on function ingest.begin_bars(integer[]) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.begin_bars(integer[]) TO mdw_ingest;

--: grant on function ingest.begin_delete(bigint,bigint,integer,integer,smallint,timestamp with time zone,timestamp with time zone) to PUBLIC
REVOKE ALL ON FUNCTION ingest.begin_delete(bigint,bigint,integer,integer,smallint,timestamp with time zone,timestamp with time zone) FROM PUBLIC;

--: grant on function ingest.begin_delete(bigint,bigint,integer,integer,smallint,timestamp with time zone,timestamp with time zone) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.begin_delete(bigint,bigint,integer,integer,smallint,timestamp with time zone,timestamp with time zone) TO mdw_ingest;

--: grant on function ingest.begin_many(bigint,bigint,integer,integer[],smallint,timestamp with time zone,timestamp with time zone,timestamp with time zone,text) to PUBLIC
REVOKE ALL ON FUNCTION ingest.begin_many(bigint,bigint,integer,integer[],smallint,timestamp with time zone,timestamp with time zone,timestamp with time zone,text) FROM PUBLIC;

--: grant on function ingest.begin_many(bigint,bigint,integer,integer[],smallint,timestamp with time zone,timestamp with time zone,timestamp with time zone,text) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.begin_many(bigint,bigint,integer,integer[],smallint,timestamp with time zone,timestamp with time zone,timestamp with time zone,text) TO mdw_ingest;

--: grant on function ingest.begin_part(bigint,bigint,integer) to PUBLIC
REVOKE ALL ON FUNCTION ingest.begin_part(bigint,bigint,integer) FROM PUBLIC;

--: grant on function ingest.begin_part(bigint,bigint,integer) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.begin_part(bigint,bigint,integer) TO mdw_ingest;

--: grant on function ingest.begin_range(bigint,bigint,integer,integer,smallint,timestamp with time zone,timestamp with time zone,timestamp with time zone) to PUBLIC
REVOKE ALL ON FUNCTION ingest.begin_range(bigint,bigint,integer,integer,smallint,timestamp with time zone,timestamp with time zone,timestamp with time zone) FROM PUBLIC;

--: grant on function ingest.begin_range(bigint,bigint,integer,integer,smallint,timestamp with time zone,timestamp with time zone,timestamp with time zone) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.begin_range(bigint,bigint,integer,integer,smallint,timestamp with time zone,timestamp with time zone,timestamp with time zone) TO mdw_ingest;

--: grant on function ingest.claim_slice(smallint[],text,interval) to PUBLIC
REVOKE ALL ON FUNCTION ingest.claim_slice(smallint[],text,interval) FROM PUBLIC;

--: grant on function ingest.claim_slice(smallint[],text,interval) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.claim_slice(smallint[],text,interval) TO mdw_ingest;

--: grant on function ingest.close_slice(bigint,bigint,smallint,text) to PUBLIC
REVOKE ALL ON FUNCTION ingest.close_slice(bigint,bigint,smallint,text) FROM PUBLIC;

--: grant on function ingest.close_slice(bigint,bigint,smallint,text) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.close_slice(bigint,bigint,smallint,text) TO mdw_ingest;

--: grant on function ingest.end_delete(bigint,integer,integer,smallint,text,integer,integer,timestamp with time zone,timestamp with time zone,bytea,integer,date[],integer[],integer[],date,timestamp with time zone,boolean,integer,datemultirange) to PUBLIC
REVOKE ALL ON FUNCTION ingest.end_delete(bigint,integer,integer,smallint,text,integer,integer,timestamp with time zone,timestamp with time zone,bytea,integer,date[],integer[],integer[],date,timestamp with time zone,boolean,integer,datemultirange) FROM PUBLIC;

--: grant on function ingest.end_delete(bigint,integer,integer,smallint,text,integer,integer,timestamp with time zone,timestamp with time zone,bytea,integer,date[],integer[],integer[],date,timestamp with time zone,boolean,integer,datemultirange) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.end_delete(bigint,integer,integer,smallint,text,integer,integer,timestamp with time zone,timestamp with time zone,bytea,integer,date[],integer[],integer[],date,timestamp with time zone,boolean,integer,datemultirange) TO mdw_ingest;

--: grant on function ingest.end_many(bigint,integer,smallint,text,integer[],integer[],integer[],integer[],integer[],boolean[],timestamp with time zone[],timestamp with time zone[],bytea[],date[],date[],integer[],date[],integer[],integer[],integer,integer,integer,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,boolean,integer[],date[],date[],integer,boolean,interval,text) to PUBLIC
REVOKE ALL ON FUNCTION ingest.end_many(bigint,integer,smallint,text,integer[],integer[],integer[],integer[],integer[],boolean[],timestamp with time zone[],timestamp with time zone[],bytea[],date[],date[],integer[],date[],integer[],integer[],integer,integer,integer,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,boolean,integer[],date[],date[],integer,boolean,interval,text) FROM PUBLIC;

--: grant on function ingest.end_many(bigint,integer,smallint,text,integer[],integer[],integer[],integer[],integer[],boolean[],timestamp with time zone[],timestamp with time zone[],bytea[],date[],date[],integer[],date[],integer[],integer[],integer,integer,integer,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,boolean,integer[],date[],date[],integer,boolean,interval,text) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.end_many(bigint,integer,smallint,text,integer[],integer[],integer[],integer[],integer[],boolean[],timestamp with time zone[],timestamp with time zone[],bytea[],date[],date[],integer[],date[],integer[],integer[],integer,integer,integer,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,boolean,integer[],date[],date[],integer,boolean,interval,text) TO mdw_ingest;

--: grant on function ingest.end_range(bigint,integer,integer,smallint,text,integer,integer,integer,integer,integer,integer,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,bytea,integer,date[],integer[],integer[],timestamp with time zone,timestamp with time zone,timestamp with time zone,date,date,boolean,date[],date[]) to PUBLIC
REVOKE ALL ON FUNCTION ingest.end_range(bigint,integer,integer,smallint,text,integer,integer,integer,integer,integer,integer,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,bytea,integer,date[],integer[],integer[],timestamp with time zone,timestamp with time zone,timestamp with time zone,date,date,boolean,date[],date[]) FROM PUBLIC;

--: grant on function ingest.end_range(bigint,integer,integer,smallint,text,integer,integer,integer,integer,integer,integer,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,bytea,integer,date[],integer[],integer[],timestamp with time zone,timestamp with time zone,timestamp with time zone,date,date,boolean,date[],date[]) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.end_range(bigint,integer,integer,smallint,text,integer,integer,integer,integer,integer,integer,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,bytea,integer,date[],integer[],integer[],timestamp with time zone,timestamp with time zone,timestamp with time zone,date,date,boolean,date[],date[]) TO mdw_ingest;

--: grant on function ingest.end_step(bigint,integer,integer,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,integer,integer,integer,integer,integer,timestamp with time zone,text,boolean,boolean,interval,text) to PUBLIC
REVOKE ALL ON FUNCTION ingest.end_step(bigint,integer,integer,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,integer,integer,integer,integer,integer,timestamp with time zone,text,boolean,boolean,interval,text) FROM PUBLIC;

--: grant on function ingest.end_step(bigint,integer,integer,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,integer,integer,integer,integer,integer,timestamp with time zone,text,boolean,boolean,interval,text) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.end_step(bigint,integer,integer,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,integer,integer,integer,integer,integer,timestamp with time zone,text,boolean,boolean,interval,text) TO mdw_ingest;

--: grant on function ingest.filled(anyarray,integer) to PUBLIC
REVOKE ALL ON FUNCTION ingest.filled(anyarray,integer) FROM PUBLIC;

--: grant on function ingest.filled(anyarray,integer) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.filled(anyarray,integer) TO mdw_ingest;

--: grant on function ingest.finish(integer,boolean,integer,smallint,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone) to PUBLIC
REVOKE ALL ON FUNCTION ingest.finish(integer,boolean,integer,smallint,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone) FROM PUBLIC;

--: grant on function ingest.finish(integer,boolean,integer,smallint,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.finish(integer,boolean,integer,smallint,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone,timestamp with time zone) TO mdw_ingest;

--: grant on function ingest.forget_symbol(integer) to PUBLIC
REVOKE ALL ON FUNCTION ingest.forget_symbol(integer) FROM PUBLIC;

--: grant on function ingest.forget_symbol(integer) to mdw_symbols
GRANT EXECUTE ON FUNCTION ingest.forget_symbol(integer) TO mdw_symbols;

--: grant on function ingest.give_up(bigint,bigint,smallint,text,date,date,timestamp with time zone) to PUBLIC
REVOKE ALL ON FUNCTION ingest.give_up(bigint,bigint,smallint,text,date,date,timestamp with time zone) FROM PUBLIC;

--: grant on function ingest.give_up(bigint,bigint,smallint,text,date,date,timestamp with time zone) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.give_up(bigint,bigint,smallint,text,date,date,timestamp with time zone) TO mdw_ingest;

--: grant on function ingest.known_splits(integer) to PUBLIC
REVOKE ALL ON FUNCTION ingest.known_splits(integer) FROM PUBLIC;

--: grant on function ingest.known_splits(integer) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.known_splits(integer) TO mdw_ingest;

--: grant on function ingest.note_lost_day(smallint,date,smallint,text) to PUBLIC
REVOKE ALL ON FUNCTION ingest.note_lost_day(smallint,date,smallint,text) FROM PUBLIC;

--: grant on function ingest.note_lost_day(smallint,date,smallint,text) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.note_lost_day(smallint,date,smallint,text) TO mdw_ingest;

--: grant on function ingest.note_many_suspects(integer[],smallint,text,date[],date[],integer[],date[],date[]) to PUBLIC
REVOKE ALL ON FUNCTION ingest.note_many_suspects(integer[],smallint,text,date[],date[],integer[],date[],date[]) FROM PUBLIC;

--: grant on function ingest.note_many_suspects(integer[],smallint,text,date[],date[],integer[],date[],date[]) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.note_many_suspects(integer[],smallint,text,date[],date[],integer[],date[],date[]) TO mdw_ingest;

--: grant on function ingest.note_suspects(integer,smallint,text,date,date,date[],date[]) to PUBLIC
REVOKE ALL ON FUNCTION ingest.note_suspects(integer,smallint,text,date,date,date[],date[]) FROM PUBLIC;

--: grant on function ingest.note_suspects(integer,smallint,text,date,date,date[],date[]) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.note_suspects(integer,smallint,text,date,date,date[],date[]) TO mdw_ingest;

--: grant on function ingest.slice_wanted(bigint) to PUBLIC
REVOKE ALL ON FUNCTION ingest.slice_wanted(bigint) FROM PUBLIC;

--: grant on function ingest.slice_wanted(bigint) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.slice_wanted(bigint) TO mdw_ingest;

--: grant on function ingest.suspect_wait(integer,boolean) to PUBLIC
REVOKE ALL ON FUNCTION ingest.suspect_wait(integer,boolean) FROM PUBLIC;

--: grant on function ingest.suspect_wait(integer,boolean) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.suspect_wait(integer,boolean) TO mdw_ingest;

--: grant on function ingest.void_sessions(bigint,integer,smallint,datemultirange) to PUBLIC
REVOKE ALL ON FUNCTION ingest.void_sessions(bigint,integer,smallint,datemultirange) FROM PUBLIC;

--: grant on function ingest.void_sessions(bigint,integer,smallint,datemultirange) to mdw_ingest
GRANT EXECUTE ON FUNCTION ingest.void_sessions(bigint,integer,smallint,datemultirange) TO mdw_ingest;

--: grant on schema auth to mdw_auth
GRANT USAGE ON SCHEMA auth TO mdw_auth;

--: grant on schema auth to mdw_ingest
GRANT USAGE ON SCHEMA auth TO mdw_ingest;

--: grant on schema auth to mdw_symbols
GRANT USAGE ON SCHEMA auth TO mdw_symbols;

--: grant on schema ingest to mdw_ingest
GRANT USAGE ON SCHEMA ingest TO mdw_ingest;

--: grant on schema ingest to mdw_symbols
GRANT USAGE ON SCHEMA ingest TO mdw_symbols;

--: grant on schema symbols to mdw_ingest
GRANT USAGE ON SCHEMA symbols TO mdw_ingest;

--: grant on schema symbols to mdw_symbols
GRANT USAGE ON SCHEMA symbols TO mdw_symbols;

--: grant on sequence ingest.action_ids to mdw_ingest
GRANT USAGE ON SEQUENCE ingest.action_ids TO mdw_ingest;

--: grant on sequence ingest.job_turns to mdw_ingest
GRANT USAGE ON SEQUENCE ingest.job_turns TO mdw_ingest;

--: grant on table auth.audit_batches to mdw_auth
GRANT SELECT ON TABLE auth.audit_batches TO mdw_auth;

--: grant on table auth.audit_entries to mdw_auth
GRANT SELECT ON TABLE auth.audit_entries TO mdw_auth;

--: grant on table auth.audit_writers to mdw_auth
GRANT SELECT ON TABLE auth.audit_writers TO mdw_auth;

--: grant on table auth.key_usage to mdw_auth
GRANT SELECT ON TABLE auth.key_usage TO mdw_auth;

--: grant on table auth.keys to mdw_auth
GRANT INSERT, SELECT, UPDATE ON TABLE auth.keys TO mdw_auth;

--: grant on table auth.requests to mdw_auth
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE auth.requests TO mdw_auth;

--: grant on table auth.token_key to mdw_auth
GRANT SELECT ON TABLE auth.token_key TO mdw_auth;

--: grant on table ingest.absent_bars to mdw_ingest
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE ingest.absent_bars TO mdw_ingest;

--: grant on table ingest.actions to mdw_ingest
GRANT INSERT, SELECT, UPDATE ON TABLE ingest.actions TO mdw_ingest;

--: grant on table ingest.backfill_slices to mdw_ingest
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE ingest.backfill_slices TO mdw_ingest;

--: grant on table ingest.backfills to mdw_ingest
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE ingest.backfills TO mdw_ingest;

--: grant on table ingest.bar_revisions to mdw_ingest
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE ingest.bar_revisions TO mdw_ingest;

--: grant on table ingest.bars to mdw_ingest
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE ingest.bars TO mdw_ingest;

--: grant on table ingest.deletions to mdw_ingest
GRANT INSERT, SELECT, UPDATE ON TABLE ingest.deletions TO mdw_ingest;

--: grant on table ingest.files to mdw_ingest
GRANT INSERT, SELECT, UPDATE ON TABLE ingest.files TO mdw_ingest;

--: grant on table ingest.limiter to mdw_ingest
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE ingest.limiter TO mdw_ingest;

--: grant on table ingest.minute_sessions to mdw_ingest
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE ingest.minute_sessions TO mdw_ingest;

--: grant on table ingest.rejected_bars to mdw_ingest
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE ingest.rejected_bars TO mdw_ingest;

--: grant on table ingest.requests to mdw_ingest
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE ingest.requests TO mdw_ingest;

--: grant on table ingest.schedule to mdw_ingest
GRANT SELECT, UPDATE ON TABLE ingest.schedule TO mdw_ingest;

--: grant on table ingest.schedule_runs to mdw_ingest
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE ingest.schedule_runs TO mdw_ingest;

--: grant on table ingest.series to mdw_ingest
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE ingest.series TO mdw_ingest;

--: grant on table ingest.series_figures to mdw_ingest
GRANT SELECT ON TABLE ingest.series_figures TO mdw_ingest;

--: grant on table ingest.series_figures to mdw_symbols
GRANT SELECT ON TABLE ingest.series_figures TO mdw_symbols;

--: grant on table ingest.sessions to mdw_ingest
GRANT SELECT ON TABLE ingest.sessions TO mdw_ingest;

--: grant on table ingest.slices to mdw_ingest
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE ingest.slices TO mdw_ingest;

--: grant on table ingest.suspects to mdw_ingest
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE ingest.suspects TO mdw_ingest;

--: grant on table ingest.token_key to mdw_ingest
GRANT SELECT ON TABLE ingest.token_key TO mdw_ingest;

--: grant on table ingest.turns to mdw_ingest
GRANT SELECT, UPDATE ON TABLE ingest.turns TO mdw_ingest;

--: grant on table ingest.writes to mdw_ingest
GRANT INSERT, SELECT, UPDATE ON TABLE ingest.writes TO mdw_ingest;

--: grant on table symbols.requests to mdw_symbols
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE symbols.requests TO mdw_symbols;

--: grant on table symbols.symbols to mdw_symbols
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE symbols.symbols TO mdw_symbols;

--: grant on table symbols.ticker_spans to mdw_ingest
GRANT SELECT ON TABLE symbols.ticker_spans TO mdw_ingest;

--: grant on table symbols.ticker_spans to mdw_symbols
GRANT SELECT ON TABLE symbols.ticker_spans TO mdw_symbols;

--: grant on table symbols.tickers to mdw_symbols
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE symbols.tickers TO mdw_symbols;

--: grant on table symbols.token_key to mdw_symbols
GRANT SELECT ON TABLE symbols.token_key TO mdw_symbols;

--: comment on table auth.audit_batches column form
COMMENT ON COLUMN auth.audit_batches.form IS 'Which canonical form the hash is of';

--: comment on table auth.audit_writers column base_seq
COMMENT ON COLUMN auth.audit_writers.base_seq IS 'What retention has dropped ends here';

--: comment on table auth.audit_writers column last_digest
COMMENT ON COLUMN auth.audit_writers.last_digest IS 'Of the last batch''s call_ids: a repeated batch must bring the same';

--: comment on table auth.keys column digest
COMMENT ON COLUMN auth.keys.digest IS 'SHA-256 of the key''s text, which is kept nowhere; null once deleted';

--: comment on table ingest.actions
COMMENT ON TABLE ingest.actions IS 'A version a row: seen from write_id on, until ended_write_id';

--: comment on table ingest.actions column cash_amount
COMMENT ON COLUMN ingest.actions.cash_amount IS 'A share, as declared';

--: comment on table ingest.actions column flags
COMMENT ON COLUMN ingest.actions.flags IS '1 repeats another action and is not applied, 2 has an absurd ratio';

--: comment on table ingest.actions column kind
COMMENT ON COLUMN ingest.actions.kind IS '1 split, 2 cash dividend';

--: comment on table ingest.actions column split_to
COMMENT ON COLUMN ingest.actions.split_to IS 'So many shares from ex_date on for split_from before';

--: comment on table ingest.backfills column state
COMMENT ON COLUMN ingest.backfills.state IS 'mdw.ingest.v1.Backfill.State: 1 pending, 2 running, 3 paused, 4 succeeded, 5 failed, 6 cancelled';

--: comment on table ingest.backfills column totals
COMMENT ON COLUMN ingest.backfills.totals IS 'Sums over the slices, stored when the job ends: slices go, the job stays';

--: comment on table ingest.bars column trade_count
COMMENT ON COLUMN ingest.bars.trade_count IS '-1 where the source has none';

--: comment on table ingest.bars column ts
COMMENT ON COLUMN ingest.bars.ts IS 'Start of the minute, or 00:00Z of the session''s date';

--: comment on table ingest.bars column vwap
COMMENT ON COLUMN ingest.bars.vwap IS 'NaN where the source has none';

--: comment on table ingest.deletions column end_date
COMMENT ON COLUMN ingest.deletions.end_date IS 'Sessions before it are deleted; null before the first part';

--: comment on table ingest.deletions column slice_id
COMMENT ON COLUMN ingest.deletions.slice_id IS 'Slices that were made later and fetch all again bring bars back';

--: comment on table ingest.deletions column write_id
COMMENT ON COLUMN ingest.deletions.write_id IS 'The newest write that deleted something';

--: comment on table ingest.files column asset_class
COMMENT ON COLUMN ingest.files.asset_class IS '1 the stock market, ETFs included; 3 crypto';

--: comment on table ingest.files column published
COMMENT ON COLUMN ingest.files.published IS 'Counts as the time of the answer: 11:00 New York of the next day';

--: comment on table ingest.files column superseded
COMMENT ON COLUMN ingest.files.superseded IS 'Lines that a later answer knows better';

--: comment on table ingest.files column unknown
COMMENT ON COLUMN ingest.files.unknown IS 'Lines of tickers that nobody registered';

--: comment on table ingest.schedule_runs
COMMENT ON TABLE ingest.schedule_runs IS 'Kept 400 days';

--: comment on table ingest.schedule_runs column regular
COMMENT ON COLUMN ingest.schedule_runs.regular IS 'False: asked for by RunSchedule before its time, so that the regular run is still to come';

--: comment on table ingest.series column answer_time
COMMENT ON COLUMN ingest.series.answer_time IS 'Newest fetch_time of the committed answers';

--: comment on table ingest.series column asked
COMMENT ON COLUMN ingest.series.asked IS 'Sessions that were asked for and answered, as ranges of dates';

--: comment on table ingest.series column tail
COMMENT ON COLUMN ingest.series.tail IS 'Closes and volumes of the last 20 bars, so that an append reads no bars';

--: comment on table ingest.series column watermark
COMMENT ON COLUMN ingest.series.watermark IS 'Last date of the first unbroken run of asked; never the last bar';

--: comment on table ingest.sessions
COMMENT ON TABLE ingest.sessions IS 'XNYS for stocks and ETFs, regular hours; 24/7 for crypto, UTC days';

--: comment on table ingest.slices column "position"
COMMENT ON COLUMN ingest.slices."position" IS 'Of a slice of many series: the symbol_id of the last series that is written';

--: comment on table ingest.slices column attempts
COMMENT ON COLUMN ingest.slices.attempts IS 'Since the cursor last moved';

--: comment on table ingest.slices column deleted
COMMENT ON COLUMN ingest.slices.deleted IS 'Bars that a deletion took away';

--: comment on table ingest.slices column held
COMMENT ON COLUMN ingest.slices.held IS 'All its jobs are paused';

--: comment on table ingest.slices column note
COMMENT ON COLUMN ingest.slices.note IS 'What is left to a person, said as the reason where there is no other';

--: comment on table ingest.slices column page
COMMENT ON COLUMN ingest.slices.page IS 'Where the work goes on when a date does not say it';

--: comment on table ingest.slices column state
COMMENT ON COLUMN ingest.slices.state IS 'mdw.ingest.v1.Slice.State: 1 pending, 2 running, 3 succeeded, 4 failed, 5 outside plan, 6 cancelled';

--: comment on table ingest.slices column subject
COMMENT ON COLUMN ingest.slices.subject IS 'Of actions: splits or dividends; of symbols: which list';

--: comment on table ingest.slices column token
COMMENT ON COLUMN ingest.slices.token IS 'Grows with every claim; a part commits only under the token it was claimed with';

--: comment on table ingest.slices column turn
COMMENT ON COLUMN ingest.slices.turn IS 'The number of its job, from ingest.job_turns: claims go round the jobs of a priority';

--: comment on table ingest.slices column unknown
COMMENT ON COLUMN ingest.slices.unknown IS 'Rows of tickers that nobody registered';

--: comment on table ingest.slices column write_id
COMMENT ON COLUMN ingest.slices.write_id IS 'The announced write of the next part';

--: comment on table ingest.suspects
COMMENT ON TABLE ingest.suspects IS 'None before the first bar of a series, or the listing date while it has no bar. Stays';

--: comment on table ingest.suspects column asks
COMMENT ON COLUMN ingest.suspects.asks IS 'Answers that left it so';

--: comment on table ingest.suspects column counts_from
COMMENT ON COLUMN ingest.suspects.counts_from IS 'An answer that comes earlier is not one more: the same question within minutes says nothing new';

--: comment on table ingest.suspects column next_ask_time
COMMENT ON COLUMN ingest.suspects.next_ask_time IS 'When the server plans it again';

--: comment on table ingest.turns column turn
COMMENT ON COLUMN ingest.turns.turn IS 'The turn of the slice claimed last';

--: comment on table ingest.writes column asked_from
COMMENT ON COLUMN ingest.writes.asked_from IS 'Span that the provider was asked for; asked_to is exclusive';

--: comment on table ingest.writes column high
COMMENT ON COLUMN ingest.writes.high IS 'From commit_time on, writes below high that are not in open are seen';

--: comment on table ingest.writes column partial
COMMENT ON COLUMN ingest.writes.partial IS 'The source carries no vwap';

--: comment on table ingest.writes column symbol_ids
COMMENT ON COLUMN ingest.writes.symbol_ids IS 'Of a part of many series: which. Its fetch_time is that of its last day, of each day before it one day less';

--: comment on table symbols.symbols column asset_class
COMMENT ON COLUMN symbols.symbols.asset_class IS 'mdw.type.v1.AssetClass: 1 stock, 2 ETF, 3 crypto';

--: comment on table symbols.symbols column timeframes
COMMENT ON COLUMN symbols.symbols.timeframes IS 'mdw.type.v1.Timeframe, stored ones only: 1 is 1M, 7 is 1D';

--: comment on table symbols.tickers column from_date
COMMENT ON COLUMN symbols.tickers.from_date IS 'Inclusive; 1900-01-01 where the first day is not known';

--: comment on table symbols.tickers column to_date
COMMENT ON COLUMN symbols.tickers.to_date IS 'Inclusive; null while the ticker is held';
