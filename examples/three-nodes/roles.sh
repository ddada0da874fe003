#!/bin/sh
# Run once by the PostgreSQL image when it makes the database: the application's owner, the role that witnz uses, two tables.
set -eu
psql -v ON_ERROR_STOP=1 -v owner="$OWNER_PASSWORD" -v watcher="$WITNZ_DB_PASSWORD" -U postgres -d app <<'SQL'
CREATE ROLE app_owner LOGIN PASSWORD :'owner';
CREATE ROLE witnz LOGIN REPLICATION PASSWORD :'watcher';
GRANT CREATE ON DATABASE app TO app_owner;
ALTER SCHEMA public OWNER TO app_owner;
SET ROLE app_owner;
CREATE TABLE audit_logs (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), actor text, action text);
CREATE TABLE prices (product int PRIMARY KEY, cents int NOT NULL);
GRANT USAGE ON SCHEMA public TO witnz;
GRANT SELECT ON audit_logs, prices TO witnz;
SQL
