"""Offline verification: every vector with its exit code, forgeries by whoever has no keys, and what the answer says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundle_lies import CASES
from tests.support.bundle_maker import HIDDEN, ROWS, SEAL_8, UPDATED, PaperBundle, edited, unsigned
from tests.support.journal_maker import CLUSTER, SECRET, PaperCluster, seal_body
from tests.support.record_cases import paths
from tests.vectors.generate import every_vector
from witnz.core.bundle import BundledTable
from witnz.core.journal import JournalState
from witnz.core.policy import Policy, parse_policy
from witnz.core.record import parse_record
from witnz.core.verdict import CheckStatus, Verdict
from witnz.errors import FormatError, ProofError, WitnzError
from witnz.verify.bundle import BundleResult, verify_bundle
from witnz.verify.bundle_rows import RowResult

VECTORS = Path(__file__).parent.parent / "vectors"
PUBLISHED_CODES = json.loads((VECTORS / "bundle-exit-codes.json").read_text())
OWN_CODES = json.loads((VECTORS / "exit-codes.json").read_text())
GOOD = (VECTORS / "bundle-good.witnz.json").read_bytes()


def policy_in(path: str) -> Policy:
    return parse_policy((VECTORS / path).read_bytes())


POLICY = policy_in("policy.txt")


def exit_code(data: bytes, policy: Policy | None) -> int:
    try:
        return verify_bundle(data, policy).exit_code
    except FormatError as error:
        return error.exit_code


def reasons(result: BundleResult, *statuses: CheckStatus) -> list[str]:
    return [f"{check.name}: {check.detail}" for check in result.checks if check.status in statuses]


@pytest.fixture(scope="module")
def paper() -> PaperBundle:
    return PaperBundle()


@pytest.mark.parametrize(("name", "code"), PUBLISHED_CODES.items())
def test_every_published_bundle_gives_its_exit_code(name: str, code: int) -> None:
    file, _, without = name.partition(" without a policy")
    assert not without
    policy = None if name.endswith("without a policy") else POLICY
    assert exit_code((VECTORS / f"{file}.witnz.json").read_bytes(), policy) == code


def test_every_published_bundle_is_in_the_list() -> None:
    files = {path.name.removesuffix(".witnz.json") for path in VECTORS.glob("bundle-*.witnz.json")}
    assert {name.partition(" ")[0] for name in PUBLISHED_CODES} == files


@pytest.mark.parametrize(("name", "code"), [item for item in OWN_CODES.items() if item[0].startswith("bundles/")])
def test_every_bundle_of_our_own_gives_its_exit_code(name: str, code: int) -> None:
    file, _, policy_file = name.partition(" with ")
    policy = policy_in(policy_file or "bundles/policy.txt")
    file, without, _ = file.partition(" without a policy")
    assert exit_code((VECTORS / file).read_bytes(), None if without else policy) == code


@pytest.mark.parametrize(("name", "code"), [item for item in OWN_CODES.items() if item[0].startswith("journals/")])
def test_every_journal_of_our_own_gives_its_exit_code(name: str, code: int) -> None:
    *before, last = (VECTORS / name).read_bytes().splitlines()
    state = JournalState()
    for line in before:
        state.apply(parse_record(line))
    try:
        state.apply(parse_record(last))
    except WitnzError as error:
        assert isinstance(error, FormatError | ProofError)
        assert error.exit_code == code
    else:
        assert code == 0


@pytest.mark.parametrize(("name", "code"), [item for item in OWN_CODES.items() if item[0].startswith("records/")])
def test_every_record_of_our_own_gives_its_exit_code(name: str, code: int) -> None:
    data = (VECTORS / name).read_bytes()
    if code == 0:
        assert parse_record(data).type == Path(name).stem
    else:
        with pytest.raises(FormatError) as refused:
            parse_record(data)
        assert refused.value.exit_code == code


def test_our_own_vectors_are_what_the_generator_writes() -> None:
    written = every_vector()
    folders = ("anchored", "bundles", "journals", "records")
    stored = {f"{folder}/{path.name}": path.read_bytes() for folder in folders for path in (VECTORS / folder).iterdir()}
    stored["exit-codes.json"] = (VECTORS / "exit-codes.json").read_bytes()
    assert stored.keys() == written.keys()
    assert [name for name in stored if stored[name] != written[name]] == []


def test_at_least_four_vectors_in_five_are_refusals_and_are_named_so() -> None:
    for codes in (OWN_CODES, PUBLISHED_CODES):
        assert sum(code != 0 for code in codes.values()) >= 4 * sum(code == 0 for code in codes.values())
    assert all(("_fail." in name) == (code != 0) for name, code in OWN_CODES.items() if " with" not in name)


@pytest.mark.parametrize("name", CASES)
def test_each_bundle_is_refused_for_the_reason_in_its_name(paper: PaperBundle, name: str) -> None:
    """An exit code alone would also come from some other check; each must fail for its own reason, and only there."""
    make, code, reason = CASES[name]
    data = make(PaperBundle())
    policy = parse_policy(paper.parts["policy"])
    if code == 2:
        with pytest.raises(FormatError, match=reason.replace("^", "\\^").replace("+", "\\+")):
            verify_bundle(data, policy)
        return
    result = verify_bundle(data, policy)
    found = {0: (), 3: (CheckStatus.FAIL,), 4: (CheckStatus.SKIP,)}[code]
    assert result.exit_code == code
    assert any(reason in line for line in reasons(result, *found)) or code == 0
    if code == 4:
        assert reasons(result, CheckStatus.FAIL) == []
        assert any(reason in line for line in result.not_checked)


def test_every_single_byte_change_of_the_published_bundle_is_refused() -> None:
    """One change at every position; which of the 255 others it is depends on the position."""
    codes = set()
    for position, byte in enumerate(GOOD):
        other = (byte + 1 + position * 7 % 255) % 256
        spoilt = GOOD[:position] + bytes([other]) + GOOD[position + 1 :]
        assert spoilt != GOOD
        codes.add(exit_code(spoilt, POLICY))
    assert codes <= {2, 3}


def test_every_cut_and_every_doubled_byte_is_refused() -> None:
    for position in range(0, len(GOOD), 37):
        assert exit_code(GOOD[:position], POLICY) == 2
        assert exit_code(GOOD[:position] + GOOD[position : position + 1] * 2 + GOOD[position + 1 :], POLICY) == 2


def another(value: Any, path: tuple[Any, ...]) -> Any:
    """A different value of the same type, and as far as it goes of the same grammar."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if not isinstance(value, str):
        return None
    for index, character in enumerate(value):
        if character in "123456789" and path[-1] not in ("at", "log_key", "cosigner", "checkpoint", "policy"):
            return value[:index] + str((int(character) + 1) % 10) + value[index + 1 :]
    middle = len(value) // 2
    return value[:middle] + ("B" if value[middle : middle + 1] == "A" else "A") + value[middle + 1 :]


def test_no_member_can_be_changed_by_somebody_who_mends_the_digest() -> None:
    """A forger without keys: only what is shown as the maker's claim (created, tool, policy) can be changed at all."""
    document = json.loads(GOOD)
    verified, tried = [], 0
    for path in paths(document):
        inner = document
        for step in path:
            inner = inner[step]
        value = another(inner, path)
        if path == ("sha256",) or value is None:
            continue
        tried += 1
        if exit_code(edited(GOOD, path, value), POLICY) not in (2, 3):
            verified.append(path)
    assert tried > 150
    assert [path[0] for path in verified] in (["created", "tool"], ["created", "policy", "tool"], ["tool"])


def test_no_item_can_be_dropped_or_moved_so_that_more_is_shown(paper: PaperBundle) -> None:
    """What a forger can leave out is left out: rows, tables, notes.  What those rest on cannot be left out."""
    document = json.loads(GOOD)
    for position in range(len(document["records"])):
        rest = document["records"][:position] + document["records"][position + 1 :]
        assert exit_code(unsigned({**document, "records": rest}), POLICY) == 3
    for name in ("rows", "tables", "consistency"):
        result = verify_bundle(unsigned({**document, name: []}), POLICY)
        assert result.verdict is Verdict.VERIFIED
        assert len(result.rows) == (0 if name == "rows" else 2)


def test_the_answer_names_what_was_checked_and_what_was_not() -> None:
    result = verify_bundle(GOOD, POLICY)
    assert result.verdict is Verdict.VERIFIED
    assert result.exit_code == 0
    assert (result.origin, result.size, result.cosigned_by) == ("example.com/witnz/demo", 5, ("node1", "node2"))
    inserted, deleted = result.rows
    assert (inserted.key, inserted.seq, inserted.line_shown, inserted.verified_lsn) == ("2", 3, True, "0/1949A10")
    assert inserted.verified_at == "2026-11-21T18:09:43.500000Z"
    assert (deleted.op, deleted.line_shown, deleted.verified_lsn) == ("delete", False, None)
    assert result.not_checked == ("rows[1] (public.audit_logs entry 6): recorded; whether it was changed later: not checked",)
    assert inserted.statement == (
        "insert of 2 as entry 3 (the row with its values): recorded, and in the table as verified at 0/1949A10"
        " (2026-11-21T18:09:43.500000Z)"
    )
    assert deleted.statement == (
        "delete of 2 as entry 6 (the row's hash only): recorded; whether it was changed later: not checked"
    )
    assert result.claims == {
        "created": "2026-11-21T18:10:00.000000Z",
        "tool": "vectors",
        "policy_inside_is_the_one_given": True,
    }


def test_the_checks_come_in_the_order_of_the_format() -> None:
    names = [check.name for check in verify_bundle(GOOD, POLICY).checks]
    stems = [name.partition("[")[0].partition(".")[0] for name in names]
    order = ["checkpoint", "records", "rows", "tables", "consistency", "anchors"]
    assert stems == sorted(stems, key=order.index)
    assert names[3:7] == ["rows[0].log", "rows[0].line", "rows[0].key", "rows[0].state"]


def test_the_json_answer_has_the_members_of_the_interface() -> None:
    answer = json.loads(json.dumps(verify_bundle(GOOD, POLICY).to_json()))
    assert answer["verdict"] == "VERIFIED"
    assert answer["findings"] == []
    assert {check["status"] for check in answer["checks"]} == {"ok"}
    assert set(answer["checks"][0]) == {"name", "status", "detail"}
    assert answer["checkpoint"]["size"] == 5
    assert answer["rows"][0]["statement"].startswith("insert of 2 as entry 3")


def test_without_a_policy_everything_but_the_signatures_is_still_checked() -> None:
    result = verify_bundle(GOOD, None)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert [line.partition(":")[0] for line in reasons(result, CheckStatus.SKIP)] == [
        "checkpoint.signatures",
        "consistency[0].signatures",
    ]
    assert result.claims["policy_inside_is_the_one_given"] is None
    assert result.cosigned_by == ()
    for name, code in OWN_CODES.items():
        if name.startswith("bundles/") and " with" not in name and "signature" not in name and "checkpoint-" not in name:
            without = exit_code((VECTORS / name).read_bytes(), None)
            assert without == (code if code in (2, 3) else 4), name


def test_the_policy_inside_is_never_used() -> None:
    foreign = policy_in("bundles/policy-foreign.txt")
    paper = PaperBundle()
    data = paper.build(policy=foreign.text)
    own = parse_policy(paper.parts["policy"])
    assert verify_bundle(data, own).verdict is Verdict.VERIFIED
    assert verify_bundle(data, own).claims["policy_inside_is_the_one_given"] is False
    assert verify_bundle(paper.build(), foreign).verdict is Verdict.TAMPERED


def test_an_expected_origin_is_compared() -> None:
    assert verify_bundle(GOOD, POLICY, origin="example.com/witnz/demo").exit_code == 0
    result = verify_bundle(GOOD, POLICY, origin="example.com/witnz/other")
    assert result.exit_code == 3
    assert reasons(result, CheckStatus.FAIL)[0].startswith("checkpoint.origin")


def test_receipts_that_need_more_are_named_and_are_inconclusive_only_where_they_were_asked_for(paper: PaperBundle) -> None:
    policy = parse_policy(paper.parts["policy"])
    data = paper.build(anchors=[paper.receipt(kind) for kind in ("s3", "evm", "rfc3161")])
    unasked = verify_bundle(data, policy)
    assert unasked.exit_code == 0
    assert [line.partition(":")[0] for line in unasked.not_checked if line.startswith("anchors")] == [
        "anchors[0].object",
        "anchors[1].trust",
        "anchors[2].token",
    ]
    asked = verify_bundle(data, policy, receipts_asked=True)
    assert asked.exit_code == 4
    assert len(reasons(asked, CheckStatus.SKIP)) == 3


def test_a_receipt_says_which_size_it_covers(paper: PaperBundle) -> None:
    older = paper.cluster.note(3)
    result = verify_bundle(paper.build(anchors=[paper.receipt("s3", older)]), parse_policy(paper.parts["policy"]))
    detail = next(check.detail for check in result.checks if check.name == "anchors[0]")
    assert "size 3 and covers no record beyond it" in detail


def test_a_shown_secret_that_does_not_fit_is_not_used_for_hidden_keys(paper: PaperBundle) -> None:
    wrong = BundledTable(HIDDEN, 1, bytes(32), None)
    right = BundledTable(HIDDEN, 1, SECRET, None)
    policy = parse_policy(paper.parts["policy"])
    result = verify_bundle(paper.build(rows=[paper.hidden_row()], tables=[wrong]), policy)
    assert [check.status for check in result.checks if check.name == "rows[0].key"] == [CheckStatus.SKIP]
    result = verify_bundle(paper.build(rows=[paper.hidden_row()], tables=[wrong, right]), policy)
    assert [check.status for check in result.checks if check.name == "rows[0].key"] == [CheckStatus.OK]
    assert result.verdict is Verdict.TAMPERED


def test_a_table_without_a_verification_is_named(paper: PaperBundle) -> None:
    result = verify_bundle(paper.build(tables=[BundledTable(HIDDEN, 1, None, None)]), parse_policy(paper.parts["policy"]))
    assert result.verdict is Verdict.VERIFIED
    assert "tables[0] (public.patients): no verification of the table is shown" in result.not_checked


def test_a_state_that_does_not_fit_is_not_shown_as_verified(paper: PaperBundle) -> None:
    data = edited(paper.build(), ("rows", 0, "state", "bucket"), [])
    result = verify_bundle(data, parse_policy(paper.parts["policy"]))
    assert result.verdict is Verdict.TAMPERED
    assert (result.rows[0].verified_lsn, result.rows[0].verified_at) == (None, None)
    assert result.rows[0].statement.endswith("whether it was changed later: not checked")


def test_a_hidden_key_and_no_key_are_shown_as_such(paper: PaperBundle) -> None:
    data = paper.build(rows=[paper.hidden_row(), paper.keyless_row()], tables=[BundledTable(HIDDEN, 1, SECRET, None)])
    hidden, keyless = verify_bundle(data, parse_policy(paper.parts["policy"])).rows
    assert hidden.key is not None
    assert hidden.key.startswith("\\H")
    assert len(hidden.key) == 66
    assert keyless.key is None
    assert keyless.statement.startswith("insert of a row as entry 2")


def test_a_row_whose_values_are_not_shown_says_so(paper: PaperBundle) -> None:
    row = paper.row(5, None, seal=SEAL_8, size=8, state=None)
    result = verify_bundle(paper.build(rows=[row]), parse_policy(paper.parts["policy"]))
    assert result.verdict is Verdict.VERIFIED
    assert any("its values are not shown" in line for line in result.not_checked)
    assert (result.rows[0].line_shown, result.rows[0].key) == (False, "2")


def test_control_characters_of_a_key_do_not_reach_a_terminal() -> None:
    row = RowResult("public.t", 1, 2, "insert", "a\x1b[31mb", False, None, None)
    assert "\x1b" not in row.statement
    assert "a\\x1b[31mb" in row.statement


def test_a_single_node_cluster_verifies_with_its_own_quorum_of_one() -> None:
    cluster = PaperCluster(1).start()
    other = PaperBundle()
    cluster.add("seal", seal_body("0/1949A00", other.log.head()))
    row = other.log.row(5, seal=2, size=8, line=UPDATED)
    parts = {"checkpoint": cluster.note(), "records": cluster.shown(), "rows": [row], "tables": [], "consistency": []}
    result = verify_bundle(other.build(**parts, policy=cluster.policy), parse_policy(cluster.policy))
    assert (result.verdict, result.origin) == (Verdict.VERIFIED, CLUSTER)


def test_a_bundle_of_many_rows_is_verified_row_by_row(paper: PaperBundle) -> None:
    rows = [paper.row(), *[paper.row(2, ROWS[0], state=None)] * 500]
    result = verify_bundle(paper.build(rows=rows), parse_policy(paper.parts["policy"]))
    assert result.verdict is Verdict.VERIFIED
    assert len(result.rows) == 501
    assert sum(check.name.endswith(".line") for check in result.checks) == 501


def test_the_base_install_is_enough() -> None:
    """Nothing but cryptography and rfc8785 comes in with the verifier."""
    program = (
        "import sys; import witnz.verify.bundle as b; from witnz.core.policy import parse_policy as p\n"
        "r = b.verify_bundle(open(sys.argv[1], 'rb').read(), p(open(sys.argv[2], 'rb').read()))\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "heavy = loaded & {'psycopg', 'pydantic', 'sqlite_utils', 'yaml', 'httpx', 'structlog', 'starlette', 'sqlite3'}\n"
        "print(r.verdict, sorted(heavy), sorted(n for n in sys.modules if n.startswith('witnz.') and n.count('.') == 1))\n"
    )
    command = [sys.executable, "-I", "-c", program, str(VECTORS / "bundle-good.witnz.json"), str(VECTORS / "policy.txt")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output == "VERIFIED [] ['witnz.core', 'witnz.errors', 'witnz.verify']\n"
