"""More bundles by mutation: what only one check of a verifier stands against, found by taking the checks out one by one.

They stand in the list of :mod:`tests.support.bundle_cases`; ``CASES`` here is that list, complete.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from tests.support.bundle_cases import CASES, case, edit, other_table
from tests.support.bundle_maker import ROWS, SEAL_8, UPDATED, VERIFY_4, PaperBundle, edited
from tests.support.journal_cases import key_under
from tests.support.journal_maker import (
    CLUSTER,
    SECRET,
    TABLE,
    PaperCluster,
    b64,
    open_body,
    root_of_rows,
    signer,
    state_of,
    table_body,
)
from witnz.core.bundle import BundledTable, RowState
from witnz.core.canonical import canonical
from witnz.core.keys import ED25519, format_verifier_key, key_id, verifier_key
from witnz.core.note import format_note, parse_note, sign_note
from witnz.core.rowline import row_hash, secret_commitment
from witnz.core.state import BUCKETS, EMPTY_BUCKET, StateTree, bucket_hash, bucket_of

_GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493

__all__ = ["CASES"]

# -- a verification of a state that its own log contradicts -------------------------------------------------------------------


@case(3, "covers 4 entries, not entry 5")
def state_with_a_later_row_in_a_verification_of_fewer_entries(paper: PaperBundle) -> bytes:
    rows = [*ROWS, UPDATED]
    root = b64(root_of_rows(rows))
    lying = PaperBundle(state_found=root, state_expected=root)
    return lying.build(rows=[lying.row(5, UPDATED, seal=SEAL_8, size=8, state=state_of(rows, UPDATED, VERIFY_4))])


def _bucket(members: Sequence[bytes]) -> bytes:
    """A verification whose state root has this bucket, whatever is in it, for the row of key 2."""
    number = bucket_of(row_hash(SECRET, ROWS[1]))
    buckets = [EMPTY_BUCKET] * BUCKETS
    buckets[number] = bucket_hash(members)
    tree = StateTree(b"".join(buckets))
    root = b64(tree.root())
    lying = PaperBundle(state_found=root, state_expected=root)
    state = RowState(VERIFY_4, tuple(members), tuple(tree.proof(number)))
    return lying.build(rows=[lying.row(state=state)])


@case(3, "not in the state root")
def state_bucket_out_of_order_under_its_own_root(paper: PaperBundle) -> bytes:
    own = row_hash(SECRET, ROWS[1])
    return _bucket([own, own[:2] + bytes(30)])


@case(3, "not in the state root")
def state_bucket_with_a_row_of_another_bucket_under_its_own_root(paper: PaperBundle) -> bytes:
    own = row_hash(SECRET, ROWS[1])
    return _bucket(sorted([own, bytes([own[0] ^ 1]) + own[1:]]))


@case(3, "not in the bucket")
def state_bucket_of_another_row_under_its_own_root(paper: PaperBundle) -> bytes:
    """As it is once the row is gone: what is proved is that something else is there."""
    return _bucket([row_hash(SECRET, ROWS[1])[:2] + bytes(30)])


@case(0)
def good_state_with_the_row_twice(paper: PaperBundle) -> bytes:
    """A state is a multiset: a table without a key may have the same row twice."""
    return _bucket([row_hash(SECRET, ROWS[1])] * 2)


@case(0)
def good_state_with_the_last_entry_that_was_verified(paper: PaperBundle) -> bytes:
    return paper.build(rows=[paper.row(4, ROWS[2], state=state_of(ROWS, ROWS[2], VERIFY_4))])


# -- what stands in another's place --------------------------------------------------------------------------------------------


@case(3, "no schema entry that stands before")
def row_entry_that_is_its_own_schema(paper: PaperBundle) -> bytes:
    row = paper.row(line=None, state=None)
    return paper.build(rows=[replace(row, entry_line=row.schema_line, entry=row.schema, proof=row.schema_proof)])


@case(3, "is not among the records")
def table_shown_by_its_open_record_only(paper: PaperBundle) -> bytes:
    """The record that opens a generation names the table and the secret too, and nobody had agreed on its rows yet."""
    cluster = PaperCluster().start()
    cluster.add("open", {**open_body(2), "secret_sha256": secret_commitment(SECRET)})
    table = BundledTable(TABLE, 2, SECRET, None)
    return paper.build(checkpoint=cluster.note(), records=cluster.shown(), rows=[], tables=[table], consistency=[])


# -- signatures ---------------------------------------------------------------------------------------------------------------


@case(3, "do not verify")
def checkpoint_signature_with_the_group_order_added(paper: PaperBundle) -> bytes:
    """RFC 8032 5.1.7: s must lie below the order; without that there would be a second signature of the same note."""
    note = parse_note(paper.cluster.note())
    first = note.signatures[0]
    s = int.from_bytes(first.signature[32:], "little") + _GROUP_ORDER
    other = replace(first, signature=first.signature[:32] + s.to_bytes(32, "little"))
    return paper.build(checkpoint=format_note(replace(note, signatures=(other, *note.signatures[1:]))))


OTHER_LOG = signer("vectors.example/other")
TWO_LOGS = PaperCluster().policy.replace(
    "\nwitness", f"\nlog {format_verifier_key(verifier_key(OTHER_LOG.name, ED25519, OTHER_LOG.public))}\nwitness", 1
)
"""The policy of somebody who verifies evidence of two logs, cosigned by the same witnesses."""


@case(3, "no signature by a log of the policy with the origin")
def checkpoint_signed_by_another_log_only(paper: PaperBundle) -> bytes:
    note = parse_note(paper.cluster.note())
    other = sign_note(note.text, [OTHER_LOG]).signatures
    return paper.build(checkpoint=format_note(replace(note, signatures=(*other, *note.signatures[1:]))))


# -- grammar that nothing else stands against ----------------------------------------------------------------------------------

_ROW = "ab" * 32
for _op, _key, _row in (("truncate", "\\N", _ROW), ("truncate", "2", "\\N"), ("schema", "\\N", _ROW), ("schema", "2", "\\N")):
    _hint = '{"columns":[],"identity":"d","oid":16384}' if _op == "schema" else "\\N"
    _line = "\t".join(["1", "6", _op, _key, _row, "0/1949855", "745", "2026-11-21T18:09:39.000000Z", "\\N", _hint, "\\N"])
    _what = "a-row" if _key == "\\N" else "a-key"
    edit(f"row-entry-{_op}-with-{_what}", ("rows", 1, "entry"), _line, 2, "no key")


edit("created-in-the-year-0", ("created",), "0000-01-01T00:00:00.000000Z", 2, "time")


@case(0)
def good_key_of_1024_bytes_in_the_open(paper: PaperBundle) -> bytes:
    """The longest that is not hidden; of one byte more a digest stands in its place."""
    key = b"k" * 1024
    return other_table(paper, {"columns": ["id"], "form": "plain"}, key + b"\tann\tx", key=key)


@case(0)
def good_table_of_the_largest_oid(paper: PaperBundle) -> bytes:
    cluster = PaperCluster().start()
    cluster.add("table", table_body(table="public.other", oid=2**32 - 1))
    return paper.build(checkpoint=cluster.note(), records=cluster.shown(), rows=[], tables=[], consistency=[])


@case(0)
def good_intent_that_says_nothing(paper: PaperBundle) -> bytes:
    """Empty texts are texts; whether its signature holds is for those who judge intents."""
    empty = {"by": "", "hint": "", "key": "", "nonce": "0" * 32, "sig": b64(bytes(64)), "tables": [], "xid": "741"}
    row = b"7\tann\tx"
    return other_table(paper, {"columns": ["id"], "form": "plain"}, row, key=b"7", intent=canonical(empty).decode())


@case(2, "cluster")
def genesis_of_a_cluster_whose_name_is_none(paper: PaperBundle) -> bytes:
    """Its keys agree with it."""
    name = CLUSTER.upper()
    record = json.loads(paper.build())["records"][0]["record"]
    body = record["body"] | {"cluster": name, "log_key": _renamed(record["body"]["log_key"], name)}
    body["members"] = [
        one | {"cosigner": _renamed(one["cosigner"], f"{name}/nodes/{one['id']}")} for one in record["body"]["members"]
    ]
    return edited(paper.build(), ("records", 0, "record"), record | {"body": body})


def _renamed(key: str, name: str) -> str:
    """The same public key under another name."""
    data = b64decode(key.split("+", 2)[2])
    return format_verifier_key(verifier_key(name, data[0], data[1:]))


# -- policies -----------------------------------------------------------------------------------------------------------------

_POLICY = PaperCluster().policy
_LOG = _POLICY.split("\n")[0].split(" ")[1]
_SMALL = (1).to_bytes(32, "little")
_SMALL_KEY = f"{CLUSTER}+{key_id(CLUSTER, ED25519, _SMALL).hex()}+{b64(bytes([ED25519]) + _SMALL)}"
assert b64decode(_LOG.split("+")[2])[0] == ED25519

_LINES = [line for line in _POLICY.split("\n") if line.startswith(("log ", "witness "))]


def _quorum(*lines: str) -> str:
    return "\n".join([*_LINES, *lines, ""])


QUORUMS: dict[str, tuple[str, int, int]] = {
    "none": (_quorum("quorum none"), 0, 0),
    "one-witness": (_quorum("quorum node2"), 0, 0),
    "another-witness": (_quorum("quorum node3"), 4, 4),
    "any-of-three": (_quorum("group g any node1 node2 node3", "quorum g"), 0, 0),
    "any-of-two-that-did-not": (_quorum("group g any node1 node3", "quorum g"), 0, 4),
    "all-of-three": (_quorum("group g all node1 node2 node3", "quorum g"), 4, 4),
    "three-of-three": (_quorum("group g 3 node1 node2 node3", "quorum g"), 4, 4),
    "all-of-two": (_quorum("group g all node1 node2", "quorum g"), 0, 4),
    "groups-of-groups": (_quorum("group a any node1 node3", "group b all node2 a", "quorum b"), 0, 4),
    "groups-of-groups-not-met": (_quorum("group a any node1 node2", "group b all node3 a", "quorum b"), 4, 4),
}
"""Policies that somebody could trust: what the bundle cosigned by node1 and node2 gives, and the one by node2 alone."""

edit("policy-with-a-key-of-small-order", ("policy",), _POLICY.replace(_LOG, _SMALL_KEY), 2, "small order")
edit("policy-with-a-key-under-another-id", ("policy",), _POLICY.replace(_LOG.split("+")[1], "00000000"), 2, "expected key id")
edit(
    "policy-with-a-log-key-twice",
    ("policy",),
    _POLICY.replace("log ", f"log {key_under('other', _LOG)}\nlog ", 1),
    2,
    "every public key once",
)


# -- the file: what no grammar of a member stands against, because nobody knows the members ----------------------------------


def _strange(text: str) -> bytes:
    """A bundle with a receipt of a type that nobody knows, in which ``text`` stands as it is; its digest is of these bytes."""
    plain = PaperBundle()
    data = plain.build(anchors=[plain.receipt("rekor", more="here")])
    data = data.replace(b'"here"', text.encode())
    digest = json.loads(data)["sha256"]
    without = data[:-1].replace(f',"sha256":"{digest}"'.encode(), b"")
    assert without != data[:-1]
    return data.replace(digest.encode(), sha256(without).hexdigest().encode())


CASES["file-is-null"] = (lambda _: b"null\n", 2, "expected")
CASES["file-is-a-number"] = (lambda _: b"1\n", 2, "expected")
CASES["receipt-with-members-out-of-order"] = (lambda _: _strange('{"b":1,"a":2}'), 2, "another spelling")
CASES["receipt-with-a-member-twice"] = (lambda _: _strange('{"a":1,"a":1}'), 2, "found a duplicate")
CASES["receipt-nested-forty-deep"] = (lambda _: _strange("[" * 40 + "]" * 40), 2, "nest")
CASES["receipt-with-a-nul"] = (lambda _: _strange('"\\u0000"'), 2, "U+0000")
