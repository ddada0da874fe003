"""Everything that talks to PostgreSQL: catalog, preflight, slot, stream, pgoutput, snapshot scan."""
