-- Keys, usage and the audit log, and the functions through which every service records its calls.

-- One NOLOGIN group a service. Where they are there already, a plain owner without CREATEROLE can run this file; where an operator
-- is about to make them, such an owner waits (MDW75: the migrator tries again, and ends with 75).
DO $$
DECLARE
  v_name text;
BEGIN
  FOREACH v_name IN ARRAY ARRAY['mdw_auth', 'mdw_symbols', 'mdw_ingest'] LOOP
    BEGIN
      IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = v_name) THEN
        EXECUTE format('CREATE ROLE %I NOLOGIN', v_name);
      END IF;
    EXCEPTION
      WHEN duplicate_object OR unique_violation THEN
        NULL;  -- another database of this server was migrated at the same time
      WHEN insufficient_privilege THEN
        RAISE EXCEPTION 'role % is not there yet, and % may not make it', v_name, current_user
          USING ERRCODE = 'MDW75', HINT = 'as an administrator of the server: CREATE ROLE ' || v_name || ' NOLOGIN';
    END;
  END LOOP;
END $$;

-- Services check at their start that the schema is new enough.
GRANT USAGE ON SCHEMA migrator TO mdw_auth, mdw_symbols, mdw_ingest;
GRANT SELECT ON migrator.history TO mdw_auth, mdw_symbols, mdw_ingest;

CREATE SCHEMA auth;
GRANT USAGE ON SCHEMA auth TO mdw_auth, mdw_symbols, mdw_ingest;

CREATE TABLE auth.keys (
  key_id uuid PRIMARY KEY,
  display_name text NOT NULL CONSTRAINT keys_display_name_length CHECK (length(display_name) BETWEEN 1 AND 63),
  preview text NOT NULL,
  digest bytea UNIQUE CONSTRAINT keys_digest_length CHECK (length(digest) = 32),
  scopes text[] NOT NULL CONSTRAINT keys_scopes_not_empty CHECK (cardinality(scopes) > 0),
  allowed_peers cidr[] NOT NULL DEFAULT '{}',
  max_calls_per_second integer CONSTRAINT keys_max_calls_positive CHECK (max_calls_per_second > 0),
  max_streams integer CONSTRAINT keys_max_streams_positive CHECK (max_streams > 0),
  version integer NOT NULL DEFAULT 1,
  created_by uuid,
  rotated_from uuid,
  create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
  update_time timestamptz NOT NULL DEFAULT clock_timestamp(),
  expire_time timestamptz,
  revoke_time timestamptz,
  delete_time timestamptz,
  CONSTRAINT keys_deleted_without_digest CHECK ((delete_time IS NULL) = (digest IS NOT NULL))
);
CREATE INDEX keys_by_create_time ON auth.keys (create_time, key_id);
COMMENT ON COLUMN auth.keys.digest IS 'SHA-256 of the key''s text, which is kept nowhere; null once deleted';

-- One row a key, recorder and kind, so that no row is hot; fold_usage adds up those of silent recorders.
CREATE TABLE auth.key_usage (
  key_id uuid,
  writer uuid,
  kind text,
  call_count bigint NOT NULL,
  last_use_time timestamptz NOT NULL,
  PRIMARY KEY (key_id, writer, kind)
) WITH (fillfactor = 50);

CREATE TABLE auth.audit_writers (
  writer uuid,
  kind text CONSTRAINT audit_writers_kind CHECK (kind IN ('reads', 'changes')),
  service text NOT NULL,
  last_seq bigint NOT NULL DEFAULT 0,
  last_time timestamptz NOT NULL DEFAULT clock_timestamp(),
  last_digest bytea,
  refusals uuid[] NOT NULL DEFAULT '{}',
  head_hash bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
  base_seq bigint NOT NULL DEFAULT 0,
  base_hash bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
  PRIMARY KEY (writer, kind)
) WITH (fillfactor = 10);
COMMENT ON COLUMN auth.audit_writers.last_digest IS 'Of the last batch''s call_ids: a repeated batch must bring the same';
COMMENT ON COLUMN auth.audit_writers.base_seq IS 'What retention has dropped ends here';

CREATE TABLE auth.audit_batches (
  time timestamptz,
  writer uuid,
  kind text,
  seq bigint,
  rows integer NOT NULL,
  prev_hash bytea NOT NULL,
  hash bytea NOT NULL,
  form smallint NOT NULL DEFAULT 1,
  PRIMARY KEY (time, writer, kind, seq)
) PARTITION BY RANGE (time);
COMMENT ON COLUMN auth.audit_batches.form IS 'Which canonical form the hash is of';

CREATE SEQUENCE auth.audit_entry_id CACHE 64;

CREATE TABLE auth.audit_entries (
  time timestamptz,
  id bigint,
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
  call_count integer NOT NULL,
  PRIMARY KEY (time, id)
) PARTITION BY RANGE (time);
CREATE INDEX audit_entries_by_key ON auth.audit_entries (key_id, time, id);
CREATE INDEX audit_entries_by_call ON auth.audit_entries (call_id);

-- Answers of changes that were asked with a request_id; kept 48 hours.
CREATE TABLE auth.requests (
  key_id uuid,
  method text,
  request_id uuid,
  request_hash bytea NOT NULL,
  answer bytea,
  create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (key_id, method, request_id)
);
CREATE INDEX requests_by_create_time ON auth.requests (create_time);

-- The secret that signs page tokens.
CREATE TABLE auth.token_key (
  one boolean PRIMARY KEY DEFAULT true CONSTRAINT token_key_one_row CHECK (one),
  secret bytea NOT NULL
);
INSERT INTO auth.token_key (secret)
VALUES (sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')));

-- Canonical form 1. A batch's hash is sha256 of: byte 01; the previous hash (32 bytes, zeros before seq 1); then the UTF-8
-- of a JSON array [writer, kind, seq, time, rows] and of one JSON array a row, by ord, each row after a line feed. Times are
-- whole microseconds since 1970. json_build_array prints what Python's json.dumps(x, ensure_ascii=False) prints.
CREATE FUNCTION auth.micros(t timestamptz) RETURNS bigint
LANGUAGE sql STABLE
RETURN (extract(epoch FROM t) * 1000000)::bigint;

CREATE FUNCTION auth.entry_text(e auth.audit_entries) RETURNS text
LANGUAGE sql STABLE
RETURN json_build_array(e.id, e.ord, e.call_id, e.key_id, e.key_preview, e.service, e.method, e.code, e.reason, e.peer,
                        e.request_id, e.duration_us, e.messages, e.call_count)::text;

CREATE FUNCTION auth.batch_hash(prev bytea, writer uuid, kind text, seq bigint, t timestamptz, n integer, body text) RETURNS bytea
LANGUAGE sql STABLE
RETURN sha256('\x01'::bytea || prev
              || convert_to(json_build_array(writer, kind, seq, auth.micros(t), n)::text || E'\n' || body, 'UTF8'));

-- Raises 25006 at once on a server that takes no writes any more: behind a commit there that waits for its standby for ever,
-- the audit lock would never be had, and nothing would say why.
CREATE FUNCTION auth.require_writable() RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
  IF current_setting('transaction_read_only') = 'on' THEN
    RAISE EXCEPTION 'the server takes no writes' USING ERRCODE = 'read_only_sql_transaction';
  END IF;
END $$;

-- Everybody who changes auth.keys calls this first, before any row: row first and lock last deadlocks with RevokeKey.
CREATE FUNCTION auth.lock_keys() RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM auth.require_writable();
  PERFORM set_config('lock_timeout', '200ms', true), set_config('idle_in_transaction_session_timeout', '1s', true);
  -- A client that stops between a statement's Parse and its Bind is not idle to the server, and held the lock for ever.
  IF current_setting('server_version_num')::integer >= 170000 THEN
    PERFORM set_config('transaction_timeout', '5s', true);
  END IF;
  PERFORM pg_advisory_xact_lock(1833042);
END $$;

-- Returns when no transaction of this recorder's changes is open between record_calls and its end. The INSERT waits for the
-- recorder's very first change, whose row FOR UPDATE would not see.
CREATE FUNCTION auth.wait_for_change(p_writer uuid, p_service text) RETURNS void
LANGUAGE sql VOLATILE AS $$
  INSERT INTO auth.audit_writers (writer, kind, service)
  VALUES (p_writer, 'changes', p_service)
  ON CONFLICT DO NOTHING;
  SELECT 1 FROM auth.audit_writers WHERE writer = p_writer AND kind = 'changes' FOR UPDATE;
$$;

-- Records a batch of calls under the audit lock, shared, and returns the calls whose keys have gone meanwhile. The last seq
-- again gets the stored refusals and inserts nothing; a null seq takes the next one (changes). Code 16 is not judged again,
-- 7 only for the key's life, -1 checks a running stream and stores nothing. p_scopes: space-separated, any one suffices.
-- Raises MD001 a refused change, MD002 a seq from nowhere (take a new recorder), MD004 not READ COMMITTED.
CREATE FUNCTION auth.record_calls(
  p_writer uuid, p_kind text, p_seq bigint, p_service text,
  p_call_ids uuid[], p_key_ids uuid[], p_previews text[], p_methods text[], p_scopes text[],
  p_codes smallint[], p_reasons text[], p_peers text[], p_request_ids text[],
  p_durations bigint[], p_messages bigint[], p_counts integer[])
RETURNS uuid[]
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
END $$;

-- After a connection broke in COMMIT: waits for that transaction to end, then says for certain whether it committed.
CREATE FUNCTION auth.change_committed(p_writer uuid, p_service text, p_call_id uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_found boolean;
BEGIN
  PERFORM auth.wait_for_change(p_writer, p_service);
  EXECUTE format('SELECT EXISTS (SELECT FROM auth.audit_entries WHERE time > %L AND call_id = $1 AND writer = $2 AND kind = ''changes'')',
                 clock_timestamp() - interval '1 day') INTO v_found USING p_call_id, p_writer;
  RETURN v_found;
END $$;

-- Makes the partitions of today and the days ahead, and returns how many it made. LIKE and ATTACH, because PARTITION OF
-- behind a slow read of the audit stalls every call.
CREATE FUNCTION auth.make_partitions(p_ahead integer DEFAULT 14) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
END $$;

-- Drops the oldest day that ended before p_before: one day a call and a transaction; null when there is none.
CREATE FUNCTION auth.drop_partitions(p_before date) RETURNS date
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
END $$;

-- Adds up the usage rows of recorders that were silent for p_silent into one row a key; returns how many rows it took in.
CREATE FUNCTION auth.fold_usage(p_silent interval DEFAULT '1 hour') RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA auth FROM public;
GRANT EXECUTE ON FUNCTION auth.record_calls, auth.change_committed TO mdw_auth, mdw_symbols, mdw_ingest;
GRANT EXECUTE ON FUNCTION auth.lock_keys, auth.require_writable, auth.make_partitions, auth.drop_partitions, auth.fold_usage,
  auth.micros, auth.entry_text, auth.batch_hash TO mdw_auth;
GRANT SELECT ON ALL TABLES IN SCHEMA auth TO mdw_auth;
GRANT INSERT, UPDATE ON auth.keys TO mdw_auth;
GRANT INSERT, UPDATE, DELETE ON auth.requests TO mdw_auth;

SELECT auth.make_partitions(14);
