#!/bin/sh
# Run once by the postgres image: the group roles that migration 0001 would else create, and one login for each service.
set -eu
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
  -v auth_user="$AUTH_USER" -v auth_password="$AUTH_PASSWORD" \
  -v symbols_user="$SYMBOLS_USER" -v symbols_password="$SYMBOLS_PASSWORD" \
  -v ingest_user="$INGEST_USER" -v ingest_password="$INGEST_PASSWORD" <<'SQL'
CREATE ROLE mdw_auth NOLOGIN;
CREATE ROLE mdw_symbols NOLOGIN;
CREATE ROLE mdw_ingest NOLOGIN;
CREATE ROLE :"auth_user" LOGIN PASSWORD :'auth_password' IN ROLE mdw_auth;
CREATE ROLE :"symbols_user" LOGIN PASSWORD :'symbols_password' IN ROLE mdw_symbols;
CREATE ROLE :"ingest_user" LOGIN PASSWORD :'ingest_password' IN ROLE mdw_ingest;
SQL
