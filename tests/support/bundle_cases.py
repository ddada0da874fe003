"""Bundles by mutation: the file, the exit code it must give under the cluster's policy, and part of the reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tests.support.bundle_maker import (
    GENESIS,
    HIDDEN,
    PATIENT,
    ROWS,
    SEAL_4,
    SEAL_8,
    SEAL_H,
    TABLE_1,
    TABLE_2,
    UPDATED,
    VERIFY_4,
    ZERO,
    PaperBundle,
    edited,
    moved,
)
from tests.support.journal_cases import key_under
from tests.support.journal_maker import (
    CLUSTER,
    SECRET,
    TABLE,
    PaperCluster,
    PaperLog,
    b64,
    root_of_rows,
    seal_body,
    seed,
    signer,
    state_of,
    table_body,
    verify_body,
)
from witnz.core.bundle import BundledTable, RowState
from witnz.core.checkpoint import Checkpoint, cosign, format_checkpoint
from witnz.core.entry import SchemaColumn, hide_key
from witnz.core.keys import Ed25519Signer
from witnz.core.merkle import EMPTY_ROOT, root_of
from witnz.core.note import format_note, parse_note, sign_note

Case = Callable[[PaperBundle], bytes]

CASES: dict[str, tuple[Case, int, str]] = {}


def case(code: int, reason: str = "") -> Callable[[Case], Case]:
    """Register a case under its function's name."""

    def register(make: Case) -> Case:
        CASES[make.__name__.replace("_", "-")] = (make, code, reason)
        return make

    return register


def edit(name: str, path: Sequence[Any], value: Any, code: int = 2, reason: str = "") -> None:
    """A case of one member replaced (``...``: removed) in the file, its digest mended."""
    CASES[name] = (lambda paper: edited(paper.build(), path, value), code, reason)


def copy(name: str, path: Sequence[Any], source: Sequence[Any], reason: str) -> None:
    """A case of one member replaced by another one of the same bundle: everything is real, only not there."""
    CASES[name] = (lambda paper: moved(paper.build(), path, source), 3, reason)


# -- good --------------------------------------------------------------------------------------------------------------


@case(0)
def good(paper: PaperBundle) -> bytes:
    return paper.build()


@case(0)
def good_checkpoint_alone_with_genesis_seal_and_table(paper: PaperBundle) -> bytes:
    records = [paper.parts["records"][position] for position in (GENESIS, TABLE_1, SEAL_8)]
    return paper.build(records=records, rows=[], tables=[BundledTable(TABLE, 1, None, None)], consistency=[])


@case(0)
def good_hidden_key_with_the_secret(paper: PaperBundle) -> bytes:
    return paper.build(rows=[paper.hidden_row()], tables=[BundledTable(HIDDEN, 1, SECRET, None)])


@case(0)
def good_row_of_a_table_without_key(paper: PaperBundle) -> bytes:
    return paper.build(rows=[paper.keyless_row()])


@case(0)
def good_receipts_of_known_types(paper: PaperBundle) -> bytes:
    return paper.build(anchors=[paper.receipt(kind) for kind in ("s3", "evm", "rfc3161")])


@case(0)
def good_basic_receipt(paper: PaperBundle) -> bytes:
    return paper.build(anchors=[paper.receipt("basic") | {"note": paper.cluster.note()}])


@case(0)
def good_receipt_of_an_older_checkpoint(paper: PaperBundle) -> bytes:
    return paper.build(anchors=[paper.receipt("s3", paper.cluster.note(3))])


@case(0)
def good_consistency_from_the_empty_tree(paper: PaperBundle) -> bytes:
    return paper.build(consistency=[(paper.cluster.note(0, root=EMPTY_ROOT), [])])


@case(0)
def good_later_version_of_a_row(paper: PaperBundle) -> bytes:
    return paper.build(rows=[paper.row(5, UPDATED, seal=SEAL_8, size=8, state=None)])


# -- checkpoint --------------------------------------------------------------------------------------------------------


@case(4, "quorum not met")
def checkpoint_with_one_cosignature(paper: PaperBundle) -> bytes:
    return paper.build(checkpoint=paper.cluster.note(cosigners=["node2"]))


@case(4, "quorum not met")
def checkpoint_with_one_cosigner_twice(paper: PaperBundle) -> bytes:
    return paper.build(checkpoint=paper.cluster.note(cosigners=["node2", "node2"]))


@case(3, "no signature by a log")
def checkpoint_without_the_logs_signature(paper: PaperBundle) -> bytes:
    note = parse_note(paper.cluster.note())
    return paper.build(checkpoint=format_note(replace(note, signatures=note.signatures[1:])))


def foreign_note(text: str, log: Ed25519Signer, paper: PaperBundle) -> str:
    cosignatures = [cosign(text, paper.cluster.cosigner(node), 1_795_284_600) for node in ("node1", "node2")]
    return format_note(sign_note(text, [log]).with_signatures(*cosignatures))


@case(3, "no signature by a log")
def checkpoint_signed_by_a_foreign_log_key(paper: PaperBundle) -> bytes:
    text = parse_note(paper.cluster.note()).text
    return paper.build(checkpoint=foreign_note(text, Ed25519Signer(CLUSTER, seed("foreign log")), paper))


@case(3, "no signature by a log")
def checkpoint_of_a_foreign_log(paper: PaperBundle) -> bytes:
    leaves = paper.cluster.leaves()
    text = format_checkpoint(Checkpoint("other.example/app", len(leaves), root_of(leaves)))
    return paper.build(checkpoint=foreign_note(text, signer("other.example/app"), paper), consistency=[])


@case(3, "signatures that do not verify")
def checkpoint_with_the_cosignatures_of_an_older_one(paper: PaperBundle) -> bytes:
    note, older = parse_note(paper.cluster.note()), parse_note(paper.cluster.note(3))
    return paper.build(checkpoint=format_note(replace(note, signatures=(note.signatures[0], *older.signatures[1:]))))


@case(3, "signatures that do not verify")
def checkpoint_with_two_good_cosignatures_and_a_forged_one(paper: PaperBundle) -> bytes:
    note, other = parse_note(paper.cluster.note()), parse_note(paper.cluster.note(3, cosigners=["node3"]))
    return paper.build(checkpoint=format_note(note.with_signatures(other.signatures[1])))


@case(3, "not in the checkpoint's tree")
def checkpoint_signed_over_another_root(paper: PaperBundle) -> bytes:
    return paper.build(checkpoint=paper.cluster.note(root=seed("another root")), consistency=[])


@case(3, "not in the checkpoint's tree")
def checkpoint_cut_before_the_records_shown(paper: PaperBundle) -> bytes:
    return paper.build(checkpoint=paper.cluster.note(7), consistency=[])


# -- records -----------------------------------------------------------------------------------------------------------


@case(4, "no journal record is shown")
def records_none(paper: PaperBundle) -> bytes:
    return paper.build(records=[], rows=[], tables=[], consistency=[])


copy("record-in-place-of-another", ("records", SEAL_4, "record"), ("records", SEAL_8, "record"), "not in the checkpoint's tree")
copy("record-with-the-proof-of-another", ("records", 0, "proof"), ("records", 1, "proof"), "not in the checkpoint's tree")
edit("record-with-a-longer-proof", ("records", 8, "proof"), [ZERO] * 70, 3, "not in the checkpoint's tree")
edit("record-with-another-seq", ("records", 0, "record", "seq"), 2, 3, "not in the checkpoint's tree")
edit("record-with-a-seq-beyond-the-tree", ("records", 0, "record", "seq"), 10, 3, "not in the checkpoint's tree")
edit("record-with-another-time", ("records", 0, "record", "at"), "2026-11-21T18:09:38.000000Z", 3, "not in the checkpoint")
edit("record-of-an-unknown-type", ("records", 0, "record", "type"), "vote", 2, "known type")
edit("record-without-a-member", ("records", 1, "record", "body", "mode"), ..., 2, "mode")
edit("record-votes-missing", ("records", 2, "record", "body", "votes"), ..., 2, "votes")
edit("record-proof-hash-of-31-bytes", ("records", 0, "proof", 0), b64(bytes(31)), 2, "base64 of 32 bytes")
edit("record-null", ("records", 0, "record"), None, 2, "expected an object")


@case(3, "under another log")
def genesis_of_another_cluster(paper: PaperBundle) -> bytes:
    other = PaperCluster()
    body = other.genesis_body()
    foreign = "other.example/app"
    body["cluster"] = foreign
    for member in body["members"]:
        member["cosigner"] = key_under(f"{foreign}/nodes/{member['id']}", member["cosigner"])
    body["log_key"] = key_under(foreign, body["log_key"])
    other.add("genesis", body)
    return paper.build(checkpoint=other.note(), records=other.shown(), rows=[], tables=[], consistency=[])


# -- rows --------------------------------------------------------------------------------------------------------------

edit("row-seal-beyond-the-records", ("rows", 0, "seal"), 9, 3, "is no seal")
edit("row-seal-is-a-table-record", ("rows", 0, "seal"), TABLE_1, 3, "is no seal")
edit("row-seal-of-another-table", ("rows", 0, "seal"), SEAL_H, 3, "does not list")
edit("row-seal-of-another-size", ("rows", 0, "seal"), SEAL_8, 3, "not in the log")
edit("row-of-another-generation", ("rows", 0, "generation"), 2, 3, "does not list")
edit("row-line-without-a-column", ("rows", 0, "line"), "2\tb\\tob", 3, "not the one recorded")
edit("row-blind-other", ("rows", 0, "blind"), ZERO, 3, "not the one recorded")
_ELSEWHERE = "1\t6\tdelete\t3\t\\N\t0/1\t745\t2026-11-21T18:09:39.000000Z\t\\N\t\\N\t\\N"
edit("row-entry-of-another-lsn", ("rows", 1, "entry"), _ELSEWHERE, 3, "entry 6 is not in the log")
edit("row-entry-with-ten-columns", ("rows", 0, "entry"), "1\t3\tinsert", 2, "11 columns")
edit("row-entry-of-version-2", ("rows", 0, "entry"), "2" + "\t\\N" * 10, 2, "version")
edit("row-line-with-a-raw-newline", ("rows", 0, "line"), "2\nb", 2, "line")
edit("row-line-with-an-unknown-escape", ("rows", 0, "line"), "2\t\\x", 2, "line")
edit("row-blind-without-line", ("rows", 0, "line"), None, 2, "both null or neither")
edit("row-seal-negative", ("rows", 0, "seal"), -1, 2, "seal")
edit("row-seal-as-text", ("rows", 0, "seal"), "2", 2, "seal")
edit("row-table-without-schema", ("rows", 0, "table"), "audit_logs", 2, "table name")
edit("row-member-added", ("rows", 0, "note"), "x", 2, "found a member 'note'")
edit("row-member-missing", ("rows", 0, "state"), ..., 2, "expected a member 'state'")
edit("row-bucket-member-short", ("rows", 0, "state", "bucket", 0), "00", 2, "64 lower-case hex")
copy("row-entry-proof-of-another-entry", ("rows", 0, "proof"), ("rows", 0, "schema_proof"), "entry 3 is not in the log")
copy("row-schema-is-the-entry", ("rows", 0, "schema"), ("rows", 0, "entry"), "no schema entry")


@case(3, "no schema entry that stands before")
def row_under_a_later_schema(paper: PaperBundle) -> bytes:
    row = paper.row(5, UPDATED, seal=SEAL_8, size=8, state=None)
    later = paper.log.row(8, seal=SEAL_8, size=8)
    return paper.build(rows=[replace(row, schema_line=later.entry_line, schema=later.entry, schema_proof=later.proof)])


@case(3, "no schema entry that stands before")
def row_under_an_earlier_entry_that_is_no_schema(paper: PaperBundle) -> bytes:
    row, earlier = paper.row(line=None, state=None), paper.row(2, state=None)
    return paper.build(rows=[replace(row, schema_line=earlier.entry_line, schema=earlier.entry, schema_proof=earlier.proof)])


@case(3, "schema entry 1 is not in the log")
def row_with_a_schema_of_its_own(paper: PaperBundle) -> bytes:
    other = PaperLog(columns=tuple(SchemaColumn(name, 25, -1, name == "id") for name in ("id", "actor", "other")))
    row, forged = paper.row(), other.lines[0]
    return paper.build(rows=[replace(row, schema_line=forged)])


@case(3, "has 3 columns, its schema entry 2")
def row_line_with_more_columns_than_its_schema(paper: PaperBundle) -> bytes:
    return own_log(paper, PaperLog(columns=(SchemaColumn("id", 20, -1, True), SchemaColumn("actor", 25, -1, False))))


@case(3, "key column 'id' is not in the schema")
def row_schema_without_the_key_column(paper: PaperBundle) -> bytes:
    names = ("key", "actor", "note")
    return own_log(paper, PaperLog(columns=tuple(SchemaColumn(name, 25, -1, False) for name in names)))


@case(3, "the key is not that of the row line")
def row_recorded_under_another_rows_key(paper: PaperBundle) -> bytes:
    return own_log(paper, PaperLog(), key=b"3")


@case(3, "the key is not that of the row line")
def row_recorded_without_its_key(paper: PaperBundle) -> bytes:
    return own_log(paper, PaperLog(), key=None)


@case(4, "columns are too many")
def row_schema_known_by_its_digest_only(paper: PaperBundle) -> bytes:
    return own_log(paper, PaperLog(columns=tuple(SchemaColumn(f"column_{n:04}" * 4, 25, -1, False) for n in range(1000))))


def own_log(paper: PaperBundle, log: PaperLog, **members: Any) -> bytes:
    """A journal whose seal fixes ``log`` with one row in it: the cluster itself recorded what does not fit."""
    log.add("insert", ROWS[1], **{"key": b"2", **members})
    cluster = PaperCluster().start()
    cluster.add("seal", seal_body("0/1949A00", log.head()))
    row = log.row(2, seal=2, size=2, line=ROWS[1])
    return paper.build(
        checkpoint=cluster.note(), records=cluster.shown(), rows=[row], tables=[], consistency=[], policy=cluster.policy
    )


@case(3, "not the one recorded")
def row_line_for_a_delete_that_recorded_none(paper: PaperBundle) -> bytes:
    return paper.build(rows=[paper.row(6, ROWS[2], seal=SEAL_8, size=8, state=None)])


@case(4, "unresolved")
def row_unresolved(paper: PaperBundle) -> bytes:
    return paper.build(rows=[paper.row(7, None, seal=SEAL_8, size=8, state=None)])


@case(3, "is not among the records")
def row_without_its_table_record(paper: PaperBundle) -> bytes:
    row = replace(paper.row(state=None), seal=SEAL_4 - 1)
    return paper.build(records=paper.without_record(TABLE_1), rows=[row], tables=[])


@case(4, "the table's secret is not in the bundle")
def row_hidden_key_without_the_secret(paper: PaperBundle) -> bytes:
    return paper.build(rows=[paper.hidden_row()], tables=[])


@case(3, "the secret is not the one")
def row_hidden_key_with_another_secret(paper: PaperBundle) -> bytes:
    return paper.build(rows=[paper.hidden_row()], tables=[BundledTable(HIDDEN, 1, seed("another secret"), None)])


@case(3, "must be hidden")
def row_key_in_the_open_where_it_is_hidden(paper: PaperBundle) -> bytes:
    return other_table(paper, {"columns": ["id"], "form": "hidden"}, key=b"P-17")


@case(3, "hidden key is another row's")
def row_hidden_key_of_another_row(paper: PaperBundle) -> bytes:
    return other_table(paper, {"columns": ["id"], "form": "hidden"}, hidden_key="0" * 64)


@case(3, "the key is not that of the row line")
def row_key_hidden_where_it_is_plain(paper: PaperBundle) -> bytes:
    return other_table(paper, {"columns": ["id"], "form": "plain"}, hidden_key="0" * 64)


@case(3, "a key stands where the table has none")
def row_key_where_the_table_has_none(paper: PaperBundle) -> bytes:
    return other_table(paper, {"columns": [], "form": "plain"}, key=b"P-17")


@case(3, "a key stands where the table has none")
def row_hidden_key_where_the_table_has_none(paper: PaperBundle) -> bytes:
    return other_table(paper, {"columns": [], "form": "plain"}, hidden_key="0" * 64)


_LONG_ROW = b"k" * 1025 + b"\tcarol\tadmitted"
_LONG_KEY = hide_key(b"k" * 1025, SECRET)


@case(0)
def good_long_key_with_the_secret(paper: PaperBundle) -> bytes:
    return other_table(paper, {"columns": ["id"], "form": "plain"}, _LONG_ROW, hidden_key=_LONG_KEY)


@case(3, "hidden key is another row's")
def row_long_key_of_another_row(paper: PaperBundle) -> bytes:
    return other_table(paper, {"columns": ["id"], "form": "plain"}, _LONG_ROW, hidden_key="0" * 64)


def other_table(paper: PaperBundle, keys: dict[str, Any], line: bytes = PATIENT, **members: Any) -> bytes:
    """A table of its own in the journal, with one row recorded under the key given."""
    log, name = PaperLog("public.other"), "public.other"
    log.add("insert", line, **members)
    cluster = PaperCluster().start()
    cluster.add("table", table_body(table=name, keys=keys))
    cluster.add("seal", seal_body("0/1949A00", log.head()))
    row = log.row(2, seal=3, size=2, line=line)
    return paper.build(
        checkpoint=cluster.note(),
        records=cluster.shown(),
        rows=[row],
        tables=[BundledTable(name, 1, SECRET, None)],
        consistency=[],
    )


# -- state -------------------------------------------------------------------------------------------------------------

edit("state-verify-beyond-the-records", ("rows", 0, "state", "verify"), 99, 3, "no verification")
edit("state-verify-is-a-seal", ("rows", 0, "state", "verify"), SEAL_4, 3, "no verification")
edit("state-bucket-empty", ("rows", 0, "state", "bucket"), [], 3, "not in the bucket")
edit("state-proof-empty", ("rows", 0, "state", "proof"), [], 3, "not in the state root")
edit("state-proof-hash-other", ("rows", 0, "state", "proof", 3), ZERO, 3, "not in the state root")


def with_state(paper: PaperBundle, state: RowState) -> bytes:
    return paper.build(rows=[paper.row(state=state)])


@case(3, "not in the state root")
def state_bucket_with_another_row_added(paper: PaperBundle) -> bytes:
    state = state_of(ROWS, ROWS[1], VERIFY_4)
    other = state.bucket[0][:2] + bytes(30)
    return with_state(paper, replace(state, bucket=(other, *state.bucket)))


@case(3, "not in the state root")
def state_bucket_with_the_row_twice(paper: PaperBundle) -> bytes:
    state = state_of(ROWS, ROWS[1], VERIFY_4)
    return with_state(paper, replace(state, bucket=state.bucket * 2))


@case(3, "covers 4 entries, not entry 5")
def state_from_before_the_entry(paper: PaperBundle) -> bytes:
    state = state_of([*ROWS, UPDATED], UPDATED, VERIFY_4)
    return paper.build(rows=[paper.row(5, UPDATED, seal=SEAL_8, size=8, state=state)])


@case(3, "no row that could be part of a state")
def state_of_a_deleted_row(paper: PaperBundle) -> bytes:
    log = PaperLog()
    log.add("delete", ROWS[1], key=b"2")
    cluster = PaperCluster().start()
    cluster.add("seal", seal_body("0/1949A00", log.head()))
    cluster.add("verify", verify_body(2, 3, root_of_rows(ROWS)))
    row = log.row(2, seal=2, size=2, line=ROWS[1], state=state_of(ROWS, ROWS[1], 3))
    return paper.build(checkpoint=cluster.note(), records=cluster.shown(), rows=[row], tables=[], consistency=[])


def verified(**verification: Any) -> Case:
    return lambda paper: PaperBundle(**verification).build(tables=[])


_ROLLING = {"mode": "rolling", "range": {"from": None, "to": None}}
_DIFFERS = {"verdict": "TAMPERED", "state_expected": b64(seed("another state"))}
CASES["state-from-a-rolling-verification"] = (verified(**_ROLLING), 3, "none of one snapshot")
CASES["state-from-an-inconclusive-verification"] = (verified(verdict="INCONCLUSIVE"), 3, "none of one snapshot")
CASES["state-from-a-verification-that-found-another-state"] = (verified(**_DIFFERS), 3, "none of one snapshot")
CASES["state-from-a-verification-with-unresolved-rows"] = (
    verified(verdict="INCONCLUSIVE", unresolved=1),
    3,
    "none of one snapshot",
)

_VERIFIED_THOUGH = {
    "the-state-differs": {"state_expected": b64(seed("another state"))},
    "rows-are-unresolved": {"unresolved": 1},
    "findings-are-named": {"findings": ["F-0123456789ab"]},
}
for _name, _members in _VERIFIED_THOUGH.items():
    CASES[f"state-said-verified-though-{_name}"] = (verified(**_members), 3, "none of one snapshot")

# -- tables ------------------------------------------------------------------------------------------------------------

edit("table-verify-is-a-seal", ("tables", 0, "verify"), SEAL_4, 3, "no verification")
edit("table-verify-beyond-the-records", ("tables", 0, "verify"), 99, 3, "no verification")
edit("table-of-another-name", ("tables", 0, "table"), HIDDEN, 3, "no verification")
edit("table-of-another-generation", ("tables", 0, "generation"), 2, 3, "is not among the records")
edit("table-secret-short", ("tables", 0, "secret"), b64(bytes(31)), 2, "base64 of 32 bytes")
edit("table-generation-zero", ("tables", 0, "generation"), 0, 2, "generation")


@case(4, "was itself inconclusive")
def table_verification_inconclusive(paper: PaperBundle) -> bytes:
    inconclusive = PaperBundle(verdict="INCONCLUSIVE", unresolved=2)
    return inconclusive.build(rows=[])


@case(3, "found the table not as recorded")
def table_verification_found_tampering(paper: PaperBundle) -> bytes:
    return PaperBundle(**_DIFFERS).build(rows=[])


@case(3, "is not among the records")
def table_without_its_record(paper: PaperBundle) -> bytes:
    return paper.build(records=paper.without_record(TABLE_2), rows=[], tables=[BundledTable(HIDDEN, 1, None, None)])


# -- consistency -------------------------------------------------------------------------------------------------------

copy("consistency-of-the-checkpoint-itself-with-a-proof", ("consistency", 0, "checkpoint"), ("checkpoint",), "not a prefix")
edit("consistency-proof-hash-other", ("consistency", 0, "proof", 0), ZERO, 3, "not a prefix")


@case(3, "not a prefix")
def consistency_with_a_fork(paper: PaperBundle) -> bytes:
    fork = PaperCluster()
    fork.add("genesis", fork.genesis_body())
    fork.add("operator", {"action": "fork", "detail": ""})
    fork.add("operator", {"action": "fork", "detail": "more"})
    return paper.build(consistency=[(fork.note(), paper.cluster.consistency(3)[1])])


@case(3, "not a prefix")
def consistency_with_a_newer_checkpoint(paper: PaperBundle) -> bytes:
    proof = paper.cluster.consistency(3)[1]
    records = paper.parts["records"]
    paper.cluster.add("operator", {"action": "one more", "detail": ""})
    return paper.build(records=records, consistency=[(paper.cluster.note(), proof)])


@case(3, "not a prefix")
def consistency_from_the_empty_tree_with_another_root(paper: PaperBundle) -> bytes:
    return paper.build(consistency=[(paper.cluster.note(0, root=seed("no tree")), [])])


@case(3, "not a prefix")
def consistency_from_the_empty_tree_with_a_proof(paper: PaperBundle) -> bytes:
    return paper.build(consistency=[(paper.cluster.note(0, root=EMPTY_ROOT), [bytes(32)])])


@case(3, "another log")
def consistency_with_another_log(paper: PaperBundle) -> bytes:
    text = format_checkpoint(Checkpoint("other.example/app", 3, root_of(paper.cluster.leaves(3))))
    note = foreign_note(text, signer("other.example/app"), paper)
    return paper.build(consistency=[(note, paper.cluster.consistency(3)[1])])


@case(4, "quorum not met")
def consistency_note_with_one_cosignature(paper: PaperBundle) -> bytes:
    _, proof = paper.cluster.consistency(3)
    return paper.build(consistency=[(paper.cluster.note(3, cosigners=["node1"]), proof)])


@case(3, "no signature by a log")
def consistency_note_without_the_logs_signature(paper: PaperBundle) -> bytes:
    older, proof = paper.cluster.consistency(3)
    note = parse_note(older)
    return paper.build(consistency=[(format_note(replace(note, signatures=note.signatures[1:])), proof)])


# -- anchors -----------------------------------------------------------------------------------------------------------


@case(3, "for none of the checkpoints")
def receipt_of_another_checkpoint(paper: PaperBundle) -> bytes:
    return paper.build(anchors=[paper.receipt(digest="ab" * 32)])


@case(3, "for none of the checkpoints")
def receipt_of_an_older_checkpoint_that_is_not_shown(paper: PaperBundle) -> bytes:
    return paper.build(anchors=[paper.receipt("s3", paper.cluster.note(4))])


@case(3, "for none of the checkpoints")
def receipt_of_an_older_checkpoint_whose_proof_fails(paper: PaperBundle) -> bytes:
    older = paper.cluster.note(4)
    return paper.build(consistency=[(older, [])], anchors=[paper.receipt("s3", older)])


@case(3, "says size 8")
def receipt_of_another_size(paper: PaperBundle) -> bytes:
    return paper.build(anchors=[paper.receipt(size=8)])


@case(4, "NOT CHECKED")
def receipt_of_an_unknown_type(paper: PaperBundle) -> bytes:
    return paper.build(anchors=[paper.receipt("rekor", log_index=7)])


@case(3, "for none of the checkpoints")
def receipt_of_an_unknown_type_and_another_digest(paper: PaperBundle) -> bytes:
    return paper.build(anchors=[paper.receipt("rekor", digest="ab" * 32)])


@case(3, "is not the checkpoint that it is for")
def basic_receipt_with_another_note(paper: PaperBundle) -> bytes:
    return paper.build(anchors=[paper.receipt("basic") | {"note": paper.cluster.note(3)}])


@case(4, "quorum not met")
def basic_receipt_with_one_cosignature(paper: PaperBundle) -> bytes:
    return paper.build(anchors=[paper.receipt("basic") | {"note": paper.cluster.note(cosigners=["node1"])}])


@case(2, "found a member 'more'")
def receipt_with_an_unknown_member(paper: PaperBundle) -> bytes:
    data = paper.build(anchors=[paper.receipt()])
    return edited(data, ("anchors", 0, "more"), 1)


@case(2, "expected a receipt object")
def receipt_is_a_text(paper: PaperBundle) -> bytes:
    return edited(paper.build(), ("anchors",), ["s3"])


# -- the file ----------------------------------------------------------------------------------------------------------

edit("format-missing", ("format",), ..., 2, "format")
edit("created-with-three-digits", ("created",), "2026-11-21T18:10:00.000Z", 2, "time")
edit("tool-not-a-text", ("tool",), 1, 2, "tool")
edit("records-not-a-list", ("records",), {}, 2, "records: expected an array")
edit("anchors-null", ("anchors",), None, 2, "anchors: expected an array")
edit("policy-without-a-quorum", ("policy",), "", 2, "policy")
edit("checkpoint-not-a-note", ("checkpoint",), "vectors.example/app\n9\n", 2, "note")
edit("checkpoint-with-an-extension-line", ("checkpoint",), "a\n1\n" + ZERO + "\nmore\n\n— a AAAAAAA=\n", 2, "extension")
edit("consistency-without-a-proof", ("consistency", 0, "proof"), ..., 2, "proof")


@case(2, "one newline")
def file_without_its_newline(paper: PaperBundle) -> bytes:
    return paper.build()[:-1]


@case(2, "another spelling")
def file_with_two_newlines(paper: PaperBundle) -> bytes:
    return paper.build()[:-2] + b" }\n"


@case(2, "expected JSON")
def file_with_a_trailing_object(paper: PaperBundle) -> bytes:
    return paper.build()[:-1] + b"{}\n"


@case(2, "expected JSON")
def file_with_a_byte_order_mark(paper: PaperBundle) -> bytes:
    return b"\xef\xbb\xbf" + paper.build()


@case(2, "sha256")
def file_with_the_digest_of_another(paper: PaperBundle) -> bytes:
    data = paper.build()
    return data.replace(json.loads(data)["sha256"].encode(), json.loads(paper.build(rows=[]))["sha256"].encode())


@case(2, "another spelling")
def file_with_an_escaped_letter(paper: PaperBundle) -> bytes:
    return paper.build().replace(b"witnz vectors", b"witnz vector\\u0073")


@case(2, "nest")
def file_nested_a_thousand_deep(paper: PaperBundle) -> bytes:
    return paper.build().replace(b'"anchors":[]', b'"anchors":' + b"[" * 1000 + b"]" * 1000)


@case(2, "U+D800")
def file_with_a_lone_surrogate(paper: PaperBundle) -> bytes:
    return paper.build().replace(b"witnz vectors", b"witnz\\ud800vectors")


@case(2, "U+0000")
def file_with_a_nul(paper: PaperBundle) -> bytes:
    return paper.build().replace(b"witnz vectors", b"witnz\\u0000vectors")


@case(2, "UTF-8")
def file_not_in_utf8(paper: PaperBundle) -> bytes:
    return paper.build().replace(b"witnz vectors", b"witnz\xffvectors")


@case(2, "2^53")
def file_with_a_number_beyond_two_to_the_53(paper: PaperBundle) -> bytes:
    return paper.build().replace(b'"seal":2', b'"seal":9007199254740993')


@case(2, "expected")
def file_is_a_list(paper: PaperBundle) -> bytes:
    return b"[" + paper.build()[:-1] + b"]\n"


@case(2, "expected")
def file_empty(paper: PaperBundle) -> bytes:
    return b""
