"""What a journal says so far, as questions: members, keys, tables, seals, findings, acceptances (formats.md 4).

:class:`witnz.core.journal.JournalState` is the one that fills it; the rules of :mod:`witnz.core.journal_rules` only ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from witnz.core.journal_facts import (
    AcceptedRow,
    Anchored,
    Epoch,
    FindingIdentity,
    JournalFinding,
    KeyChange,
    LogHead,
    Member,
    Split,
    TableRecord,
)
from witnz.core.orders import Orders
from witnz.core.periods import Period, Periods
from witnz.core.record import NO_PREVIOUS

OPERATOR, INTENT = "operator", "intent"
NO_RECORD: Final = (0, NO_PREVIOUS, 0)
"""n, hash and seq of the newest record of a node that has none."""


class JournalView:
    """A journal up to some size (``size``: the records that it holds).

    ``cluster`` is the name, ``cluster_id`` the 32 hex digits, ``log_key`` the verifier key that signs checkpoints now;
    ``system`` and ``timeline`` are those of genesis or of the newest epoch; ``opened`` holds (generation, secret_sha256) of
    each table that is open; ``periods`` says whose keys counted when; ``epoch`` is the newest, None where nothing was restored;
    ``orders`` says which rows and generations are to go.
    """

    def __init__(self) -> None:
        self.size = 0
        self.cluster = ""
        self.cluster_id = ""
        self.log_key = ""
        self.system = ""
        self.timeline = 0
        self.members: dict[str, Member] = {}
        self.quorum = 0
        self.last_seal_lsn = 0
        self.opened: dict[str, tuple[int, str]] = {}
        self.findings: dict[str, JournalFinding] = {}
        self.split: Split | None = None
        self.epoch: Epoch | None = None
        self.periods = Periods()
        self.orders = Orders()
        self._keys: dict[tuple[str, str], bytes] = {}
        self._key_changes: dict[tuple[str, str], list[KeyChange]] = {}
        self._tables: dict[str, TableRecord] = {}
        self._ended_protection: dict[str, int] = {}
        self._newest: dict[str, TableRecord] = {}
        self._sealed: dict[tuple[str, int], LogHead] = {}
        self._sealed_by: dict[tuple[str, int], tuple[int, int]] = {}
        self._ended: dict[tuple[str, int], LogHead] = {}
        self._switched: dict[tuple[str, int], int] = {}
        self._gaps: dict[str, int] = {}
        self._accepts: dict[tuple[str, int], list[AcceptedRow]] = {}
        self._settled: dict[FindingIdentity, int] = {}
        self._chains: dict[str, tuple[int, str, int]] = {}
        self._nonces: set[str] = set()
        self._voted: set[bytes] = set()
        self._anchored: list[Anchored] = []
        self._anchors_tail = 0

    def next_n(self, node: str) -> int:
        """The ``n`` of that node's next record."""
        return self._chains.get(node, NO_RECORD)[0] + 1

    def prev_of(self, node: str) -> str:
        """The ``prev`` of that node's next record."""
        return self._chains.get(node, NO_RECORD)[1]

    def seq_of_newest(self, node: str) -> int:
        """The seq of that node's newest record, 0 for none."""
        return self._chains.get(node, NO_RECORD)[2]

    def overtaken(self, node: str) -> list[Period]:
        """The periods that have ended since that node's newest record: what it signed next may have been right for one."""
        seq = self.seq_of_newest(node)
        return [period for period, following in pairwise(self.periods.all) if following.since > seq]

    def key_in_force(self, kind: str, name: str) -> bytes | None:
        """The key of that kind (``operator intent report log``) and name after the newest record, None if there is none.

        Operator and intent keys are 32 bytes; a report key is DER, a log key the ASCII of its verifier key.
        """
        return self._keys.get((kind, name))

    def keys_in_force(self, kind: str) -> dict[str, bytes]:
        """All keys in force of one kind, by name."""
        return {name: key for (of_kind, name), key in self._keys.items() if of_kind == kind}

    def operator_key(self, name: str) -> bytes | None:
        """The 32-byte operator key in force under that name."""
        return self.key_in_force(OPERATOR, name)

    def intent_key(self, name: str, lsn: int | None = None) -> bytes | None:
        """The 32-byte intent key under that name, in force for a transaction that ended at ``lsn`` (None: by now)."""
        return self.key_in_force(INTENT, name) if lsn is None else self._key_at(INTENT, name, lsn)

    def signer_key(self, name: str, lsn: int) -> bytes | None:
        """The key that signs intents under that name in a transaction that ended at ``lsn``: an intent key or an operator's."""
        return self._key_at(INTENT, name, lsn) or self._key_at(OPERATOR, name, lsn)

    def signers_changed(self) -> bool:
        """Whether any key that signs intents came or went after the genesis, so that rows may have been judged anew."""
        return any(
            kind == INTENT or (kind == OPERATOR and (len(changes) > 1 or changes[0].from_lsn > 0))
            for (kind, _), changes in self._key_changes.items()
        )

    def _key_at(self, kind: str, name: str, lsn: int) -> bytes | None:
        changes = [change for change in self._key_changes.get((kind, name), []) if change.from_lsn <= lsn]
        return changes[-1].key if changes else None

    def tables(self) -> dict[str, TableRecord]:
        """The protected tables, each with its current generation."""
        return dict(self._tables)

    def current_table(self, table: str) -> TableRecord | None:
        """The current generation of a protected table, None where it is not (or no longer) protected."""
        return self._tables.get(table)

    def protection_ended(self, table: str) -> int | None:
        """When the protection of a table ended, in µs since the Unix epoch; None where it is protected, or never was."""
        return None if table in self._tables else self._ended_protection.get(table)

    def newest_generation(self, table: str) -> TableRecord | None:
        """The newest generation ever recorded of a table, protected today or not."""
        return self._newest.get(table)

    def last_sealed(self, table: str, generation: int) -> LogHead | None:
        """The newest seal of one table log."""
        return self._sealed.get((table, generation))

    def sealed_by(self, table: str, generation: int) -> tuple[int, int] | None:
        """The seq of the newest seal of one table log, and the log's size in it."""
        return self._sealed_by.get((table, generation))

    def last_seal_sizes(self) -> dict[tuple[str, int], int]:
        """The newest sealed size by (table, generation)."""
        return {log: head.size for log, head in self._sealed.items()}

    def ended_at(self, table: str, generation: int) -> LogHead | None:
        """Where an ``epoch`` fixed the end of a generation, None where none did."""
        return self._ended.get((table, generation))

    def switched_at(self, table: str, generation: int) -> int | None:
        """The LSN up to which a restored database has what a generation recorded.

        Entries beyond it, up to :meth:`ended_at`, were recorded and are no part of what the database holds.  None where no
        ``epoch`` ended the generation, and where its log does not say what the database holds, because that is another system
        now, or was restored to before the baseline.
        """
        return self._switched.get((table, generation))

    def open_gap(self, table: str) -> int | None:
        """The seq of the newest ``gap`` or ``epoch`` that covers a table and that nobody has accepted yet."""
        return self._gaps.get(table)

    def open_gaps(self) -> dict[str, int]:
        """Every table with an open gap, and the seq of the record that says so."""
        return dict(self._gaps)

    def accepts(self, table: str, generation: int) -> Sequence[AcceptedRow]:
        """The rows that ``accept`` records name for one generation, in journal order."""
        return tuple(self._accepts.get((table, generation), ()))

    def finding_state(self, finding: str) -> JournalFinding | None:
        """A finding by its id, None where the journal does not know it."""
        return self.findings.get(finding)

    def occurrences(self, identity: FindingIdentity) -> int:
        """How many findings of this identity are settled: the highest occurrence that a further one may have."""
        return self._settled.get(identity, 0)

    def anchored(self) -> Sequence[Anchored]:
        """Every ``anchor`` record, in journal order."""
        return self._anchored

    @property
    def newest_worth_anchoring(self) -> int:
        """The seq of the newest record that is no ``anchor`` itself; what ends before it leaves something out."""
        return self._anchors_tail

    def nonce_seen(self, nonce: str) -> bool:
        """Whether an auth with this nonce stands in the journal."""
        return nonce in self._nonces
