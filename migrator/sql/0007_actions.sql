-- Corporate actions: facts kept with their versions, so that a read as of an instant applies only those known then.

CREATE SEQUENCE ingest.action_ids AS integer;

CREATE TABLE ingest.actions (
  action_id integer,
  write_id integer,
  ended_write_id integer,
  symbol_id integer NOT NULL,
  ex_date date NOT NULL,
  kind smallint NOT NULL CONSTRAINT actions_kind CHECK (kind IN (1, 2)),
  flags smallint NOT NULL DEFAULT 0,
  split_from double precision,
  split_to double precision,
  cash_amount double precision,
  source_time timestamptz,
  currency text NOT NULL DEFAULT '' CONSTRAINT actions_currency_length CHECK (length(currency) <= 8),
  source_id text NOT NULL DEFAULT '' CONSTRAINT actions_source_id_length CHECK (length(source_id) <= 100),
  PRIMARY KEY (action_id, write_id),
  CONSTRAINT actions_split_with_ratio CHECK ((kind = 1) = (split_from > 0 AND split_to > 0 AND split_from IS NOT NULL AND split_to IS NOT NULL)),
  CONSTRAINT actions_dividend_with_amount CHECK ((kind = 2) = (cash_amount > 0 AND cash_amount IS NOT NULL))
);
CREATE INDEX actions_by_symbol ON ingest.actions (symbol_id, ex_date);
COMMENT ON TABLE ingest.actions IS 'A version a row: seen from write_id on, until ended_write_id';
COMMENT ON COLUMN ingest.actions.kind IS '1 split, 2 cash dividend';
COMMENT ON COLUMN ingest.actions.flags IS '1 repeats another action and is not applied, 2 has an absurd ratio';
COMMENT ON COLUMN ingest.actions.split_to IS 'So many shares from ex_date on for split_from before';
COMMENT ON COLUMN ingest.actions.cash_amount IS 'A share, as declared';

GRANT SELECT, INSERT, UPDATE ON ingest.actions TO mdw_ingest;
GRANT USAGE ON SEQUENCE ingest.action_ids TO mdw_ingest;
