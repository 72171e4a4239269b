"""All SQL of the ingest service; knows nothing of the wire."""
