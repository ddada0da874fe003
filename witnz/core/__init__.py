"""Pure: no sockets, files, clock, randomness or database.  Row lines, hashes, trees, notes, proofs, records, verdicts."""
