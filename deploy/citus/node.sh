#!/bin/sh
# Run once by the image of each node: the passwords with which this node connects to the others, as the role that asks.
set -eu
umask 077
for login in "$POSTGRES_USER:$POSTGRES_PASSWORD" "$AUTH_USER:$AUTH_PASSWORD" "$SYMBOLS_USER:$SYMBOLS_PASSWORD" "$INGEST_USER:$INGEST_PASSWORD"; do
  echo "*:*:*:$login"
done >"$PGPASSFILE"
