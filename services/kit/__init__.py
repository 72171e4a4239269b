"""What every MDW service shares: the server and what stands around each call."""
