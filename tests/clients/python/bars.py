from mdw_client import Client

client = Client()
for chunk in client.bars.chunks(["AAPL", "MSFT"], "1d"):
    columns = chunk.columns
    for start, close in zip(columns["start_time"], columns["close"]):
        print(chunk.ticker, str(start)[:10], close)
bars = client.bars(["AAPL", "MSFT"], "1d", "2005-01-01", adjustment="split")
print(bars.receipt.bars, "bars as of", bars.as_of)
again = client.bars(["AAPL", "MSFT"], "1d", "2005-01-01", adjustment="split", as_of=bars.receipt)
assert len(again) == len(bars)
