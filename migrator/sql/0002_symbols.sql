-- The registry: symbols, and the tickers they hold at which dates.

CREATE EXTENSION IF NOT EXISTS btree_gist WITH SCHEMA public;

CREATE SCHEMA symbols;
GRANT USAGE ON SCHEMA symbols TO mdw_symbols, mdw_ingest;

CREATE TABLE symbols.symbols (
  symbol_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  asset_class smallint NOT NULL CONSTRAINT symbols_asset_class CHECK (asset_class BETWEEN 1 AND 3),
  name text NOT NULL DEFAULT '' CONSTRAINT symbols_name_length CHECK (length(name) <= 200),
  exchange text NOT NULL DEFAULT '' CONSTRAINT symbols_exchange_length CHECK (length(exchange) <= 16),
  type text NOT NULL DEFAULT '' CONSTRAINT symbols_type_length CHECK (length(type) <= 16),
  figi text NOT NULL DEFAULT '' CONSTRAINT symbols_figi_length CHECK (length(figi) <= 16),
  list_date date,
  delist_date date,
  active boolean NOT NULL DEFAULT true,
  timeframes smallint[] NOT NULL DEFAULT '{7}' CONSTRAINT symbols_timeframes_stored CHECK (timeframes <@ '{1,7}'::smallint[]),
  create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
  update_time timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT symbols_listed_before_delisted CHECK (list_date <= delist_date)
);
COMMENT ON COLUMN symbols.symbols.asset_class IS 'mdw.type.v1.AssetClass: 1 stock, 2 ETF, 3 crypto';
COMMENT ON COLUMN symbols.symbols.timeframes IS 'mdw.type.v1.Timeframe, stored ones only: 1 is 1M, 7 is 1D';

CREATE TABLE symbols.tickers (
  symbol_id integer REFERENCES symbols.symbols ON DELETE CASCADE,
  from_date date,
  to_date date,
  asset_class smallint NOT NULL,
  ticker text NOT NULL CONSTRAINT tickers_ticker_length CHECK (length(ticker) BETWEEN 1 AND 32),
  provider_ticker text NOT NULL CONSTRAINT tickers_provider_ticker_length CHECK (length(provider_ticker) BETWEEN 1 AND 40),
  PRIMARY KEY (symbol_id, from_date),
  CONSTRAINT tickers_dates CHECK (from_date <= to_date),
  CONSTRAINT tickers_one_holder EXCLUDE USING gist (asset_class WITH =, ticker WITH =, daterange(from_date, to_date, '[]') WITH &&),
  CONSTRAINT tickers_one_provider_holder EXCLUDE USING gist (provider_ticker WITH =, daterange(from_date, to_date, '[]') WITH &&),
  CONSTRAINT tickers_one_at_a_time EXCLUDE USING gist (symbol_id WITH =, daterange(from_date, to_date, '[]') WITH &&)
);
CREATE INDEX tickers_by_ticker ON symbols.tickers (ticker text_pattern_ops);
COMMENT ON COLUMN symbols.tickers.from_date IS 'Inclusive; 1900-01-01 where the first day is not known';
COMMENT ON COLUMN symbols.tickers.to_date IS 'Inclusive; null while the ticker is held';

CREATE TABLE symbols.requests (
  key_id uuid,
  method text,
  request_id uuid,
  request_hash bytea NOT NULL,
  answer bytea,
  create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (key_id, method, request_id)
);
CREATE INDEX requests_by_create_time ON symbols.requests (create_time);

CREATE TABLE symbols.token_key (
  one boolean PRIMARY KEY DEFAULT true CONSTRAINT token_key_one_row CHECK (one),
  secret bytea NOT NULL
);
INSERT INTO symbols.token_key (secret)
VALUES (sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')));

-- What ingest knows of the registry: which symbol holds which ticker when.
CREATE VIEW symbols.ticker_spans AS
SELECT t.symbol_id, t.asset_class, t.ticker, t.provider_ticker, t.from_date, t.to_date,
       s.name, s.active, s.timeframes, s.list_date, s.delist_date
FROM symbols.tickers t
JOIN symbols.symbols s USING (symbol_id);

GRANT SELECT, INSERT, UPDATE, DELETE ON symbols.symbols, symbols.tickers, symbols.requests TO mdw_symbols;
GRANT SELECT ON symbols.token_key TO mdw_symbols;
GRANT SELECT ON symbols.ticker_spans TO mdw_symbols, mdw_ingest;
