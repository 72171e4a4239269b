"""The local stack: an embedded Postgres, a replay of Polygon, and the processes of make run."""
