"""Sinks, deduplication and the durable outbox of alerts."""
