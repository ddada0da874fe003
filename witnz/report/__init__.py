"""Signed evidence for auditors: what a period's journal shows, as JSON, PDF and tables that anybody re-derives (formats.md 8)."""
