"""The symbols service: which instruments there are, under which tickers at which dates, and what is held of each."""
