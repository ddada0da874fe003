"""The records that still say something: what they must keep of a journal, and how few they are."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tests.support.journal_maker import CLUSTER_ID
from witnz.core.decisive import decisive
from witnz.core.record import NO_PREVIOUS, Record

TABLES = ("public.a", "public.b", "public.c")
_SEAL = st.sets(st.sampled_from(TABLES), min_size=1).map(lambda tables: ("seal", sorted(tables)))
JOURNALS = st.lists(st.one_of(_SEAL, st.sampled_from([("verify", []), ("accept", []), ("gap", [])])), max_size=60)


def journal(plan: Sequence[tuple[str, list[str]]]) -> list[Record]:
    """Records whose seals seal one entry more of each table that they name than the seal before."""
    sizes = dict.fromkeys(TABLES, 0)
    made = []
    for seq, (record_type, tables) in enumerate(plan, 1):
        for table in tables:
            sizes[table] += 1
        heads = [{"table": table, "generation": 1, "size": sizes[table]} for table in tables]
        body = {"tables": heads} if record_type == "seal" else {}
        made.append(Record(0, body, CLUSTER_ID, seq, "node1", NO_PREVIOUS, seq, b"", record_type))
    return made


def sealed_before(records: Sequence[Record], seq: int) -> dict[str, int]:
    return {
        head["table"]: head["size"]
        for record in records
        if record.type == "seal" and (record.seq or 0) < seq
        for head in record.body["tables"]
    }


@given(JOURNALS)
def test_whatever_was_decided_is_there_in_order_and_so_is_how_far_each_log_was_sealed_then(
    plan: list[tuple[str, list[str]]],
) -> None:
    records = journal(plan)
    kept = list(decisive(records))
    assert [record.seq for record in kept] == sorted(record.seq or 0 for record in kept)
    assert [r for r in kept if r.type != "seal"] == [r for r in records if r.type not in ("seal", "verify")]
    for seq in [*(record.seq or 0 for record in kept if record.type != "seal"), len(records) + 1]:
        assert sealed_before(kept, seq) == sealed_before(records, seq)


@given(JOURNALS)
def test_between_two_of_them_there_is_at_most_one_seal_a_log(plan: list[tuple[str, list[str]]]) -> None:
    run = 0
    for record in decisive(journal(plan)):
        run = run + 1 if record.type == "seal" else 0
        assert run <= len(TABLES)
