"""The durable state of one node, in SQLite."""
