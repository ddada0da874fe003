"""Composition: the running sidecar, its loops, schedule and health."""
