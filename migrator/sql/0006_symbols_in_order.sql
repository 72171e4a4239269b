-- migrator: no-transaction
-- Lists of symbols go by asset class and ticker, a page at a time; without this each page sorts the whole registry.
CREATE INDEX CONCURRENTLY tickers_in_order ON symbols.tickers (asset_class, ticker COLLATE "C", symbol_id);
