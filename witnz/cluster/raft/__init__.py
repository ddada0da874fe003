"""The built-in engine: pysyncobj's Raft core, with everything round it that it lacks (docs/decisions/0011)."""
