"""The client of the market data warehouse."""
