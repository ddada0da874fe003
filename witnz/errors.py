"""The one tree of exceptions: "could not look", never "looked and found something".

What a check *finds* is a value (:mod:`witnz.core.finding`, :mod:`witnz.core.verdict`); an exception of this tree means that
a question could not be asked or an answer could not be read.  Every class carries the stable ``code`` that ``--json`` prints,
the process ``exit_code`` of the interface, and a ``hint`` that says what to do.

    WitnzError                     1   unexpected failure
    ├── UsageError                 2   wrong arguments
    ├── ConfigError                2   witnz.yaml or the environment
    ├── FormatError                2   bytes that are not what they claim to be
    ├── ProofError                 3   a signature, hash, proof or link that does not fit
    ├── StoreError                 1   the data directory cannot be used
    │   ├── StoreCorrupt           3   ... because it is not what was written
    │   ├── StoreFull              1   ... because the disk is full or read-only
    │   ├── NotInitialised        10   ... because `witnz init` has not run
    │   └── StoreLocked           11   ... because another process holds it
    ├── KeyProblem                12   a key or permission is missing, damaged or foreign
    ├── NoQuorum                  13   no leader, or too few members answer
    ├── DatabaseError             14   PostgreSQL
    │   ├── DatabaseUnreachable   14   ... cannot be reached now; worth trying again
    │   ├── ReplicationImpossible 14   ... refuses, and will go on refusing, what witnz needs
    │   └── SlotLost              14   ... no longer has the position this node needs
    ├── NodeUnreachable            1   no node answers on its socket
    ├── PeerError                  1   another member of the cluster
    │   ├── PeerUnreachable        1   ... is not connected, or did not answer in time
    │   └── PeerRefused            1   ... answered that it will not
    └── Inconclusive               4   something that was asked for could not be checked
        └── AnchorError            4   a place outside did not do what it was asked
            ├── AnchorUnreachable  4   ... and may, by itself, the next time
            └── AnchorRefused      4   ... and will not until somebody changes something
                └── AnchorContradicts 4  ... because it holds another history of the log
"""

from __future__ import annotations


class WitnzError(Exception):
    """Base of every error witnz raises on purpose.

    ``message`` names the thing, what was expected and what was found; ``hint`` is a sentence that says what to do about it.
    """

    code = "unexpected"
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return self.message


class UsageError(WitnzError):
    code = "usage"
    exit_code = 2


class ConfigError(WitnzError):
    code = "config"
    exit_code = 2


class FormatError(WitnzError):
    """Bytes from outside that do not follow their format; refused before anything is believed."""

    code = "format"
    exit_code = 2


class ProofError(WitnzError):
    """Well formed, but a signature, hash, proof, link or key does not fit."""

    code = "proof"
    exit_code = 3


class StoreError(WitnzError):
    code = "store"
    exit_code = 1


class EntriesPruned(StoreError):
    """Entries are asked for that an order had removed; their hashes are kept."""

    code = "log.pruned"
    exit_code = 4


class StoreCorrupt(StoreError):
    code = "store.corrupt"
    exit_code = 3


class StoreFull(StoreError):
    code = "store.full"
    exit_code = 1


class NotInitialised(StoreError):
    code = "store.not-initialised"
    exit_code = 10


class StoreLocked(StoreError):
    code = "store.locked"
    exit_code = 11


class KeyProblem(WitnzError):
    code = "key"
    exit_code = 12


class NoQuorum(WitnzError):
    code = "quorum"
    exit_code = 13


class DatabaseError(WitnzError):
    code = "database"
    exit_code = 14


class DatabaseUnreachable(DatabaseError):
    code = "database.unreachable"


class ReplicationImpossible(DatabaseError):
    code = "database.replication"


class SlotLost(DatabaseError):
    code = "database.slot-lost"


class NodeUnreachable(WitnzError):
    code = "node.unreachable"


class PeerError(WitnzError):
    code = "peer"


class PeerUnreachable(PeerError):
    """No connection, or no answer in time; whether the peer acted is not known."""

    code = "peer.unreachable"


class PeerRefused(PeerError):
    """The peer answered with an error; ``refusal`` is its code."""

    code = "peer.refused"

    def __init__(self, message: str, *, hint: str = "", code: str | None = None, refusal: str = "") -> None:
        super().__init__(message, hint=hint, code=code)
        self.refusal = refusal


class Inconclusive(WitnzError):
    code = "inconclusive"
    exit_code = 4


class AnchorError(Inconclusive):
    """An anchor's service did not do what it was asked; nothing is lost, and ``retryable`` says whether time alone may help."""

    code = "anchor"
    retryable = True


class AnchorUnreachable(AnchorError):
    """It could not be reached, was busy, or answered with an error of its own."""

    code = "anchor.unreachable"


class AnchorRefused(AnchorError):
    """It refuses, and will go on refusing: credentials, permissions, an unsuitable place, no funds."""

    code = "anchor.refused"
    retryable = False


class AnchorContradicts(AnchorRefused):
    """It holds another history of this log than the one that was to be published."""

    code = "anchor.contradicts"
