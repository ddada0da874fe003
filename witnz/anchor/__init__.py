"""Anchors: places that the database's administrators do not control, and what they say about a checkpoint."""
