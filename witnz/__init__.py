"""witnz: tamper evidence for PostgreSQL tables, from outside, provable to people who trust nobody here."""

__version__ = "0.1.0"
