"""Signed evidence for auditors: what a period's journal shows, as JSON, PDF and lists that anybody counts again."""
