"""The trust policy: its grammar line by line, and what it says of checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.vectors import SHARED_VECTORS, needs_shared_vectors
from witnz.core.checkpoint import cosign
from witnz.core.keys import COSIGNATURE, ED25519, Ed25519Signer, format_verifier_key, verifier_key
from witnz.core.note import Note, Signature, parse_note, sign_note
from witnz.core.policy import Group, evaluate, format_policy, parse_policy
from witnz.errors import FormatError

ORIGIN = "example.com/log"
TEXT = f"{ORIGIN}\n3\nEhmbaTkn7WWd/qQlqPjaty9OrOy+9msdp4HN955OR5M=\n"
LOG = Ed25519Signer(ORIGIN, b"L" * 32)
WITNESSES = {f"w{i}": Ed25519Signer(f"witness.example/{i}", bytes([i]) * 32) for i in range(1, 7)}


def vkey(signer: Ed25519Signer, key_type: int) -> str:
    return format_verifier_key(verifier_key(signer.name, key_type, signer.public))


LOG_LINE = f"log {vkey(LOG, ED25519)}\n"
WITNESS_LINES = "".join(f"witness {name} {vkey(signer, COSIGNATURE)}\n" for name, signer in WITNESSES.items())
KEYS = LOG_LINE + WITNESS_LINES
OTHER = Ed25519Signer("example.com/other", b"O" * 32)


def checkpoint(*names: str, log: Ed25519Signer = LOG) -> Note:
    return sign_note(TEXT, [log]).with_signatures(*(cosign(TEXT, WITNESSES[name], 1_000) for name in names))


def test_a_policy_is_read_as_the_standard_writes_it() -> None:
    text = (
        "# trusted since 2026\n"
        + LOG_LINE
        + "\t log  "
        + vkey(OTHER, ED25519)
        + "\thttps://example.com/log \n\n \t\n"
        + WITNESS_LINES
        + "  # two organisations\n"
        + "group x 2 w1 w2 w3\ngroup y any w4 w5\ngroup both all x y\nquorum\tboth\n"
    )
    policy = parse_policy(text)
    assert [key.name for key in policy.logs] == [ORIGIN, "example.com/other"]
    assert list(policy.witnesses) == list(WITNESSES)
    assert policy.groups == (Group("x", 2, ("w1", "w2", "w3")), Group("y", 1, ("w4", "w5")), Group("both", 2, ("x", "y")))
    assert policy.quorum == "both"
    assert policy.text == text
    assert parse_policy(text.encode()) == policy


def test_a_policy_needs_nothing_but_a_quorum() -> None:
    policy = parse_policy("quorum none\n")
    assert (policy.logs, dict(policy.witnesses), policy.groups, policy.quorum) == ((), {}, (), "none")


def test_a_quorum_may_be_a_single_witness_and_may_precede_other_definitions() -> None:
    policy = parse_policy(LOG_LINE + f"witness w1 {vkey(WITNESSES['w1'], COSIGNATURE)} http://w1\nquorum w1\ngroup g 1 w1\n")
    assert policy.quorum == "w1"


def test_a_witness_listed_with_its_note_key_counts_as_a_cosigner() -> None:
    policy = parse_policy(LOG_LINE + f"witness w1 {vkey(WITNESSES['w1'], ED25519)}\nquorum w1\n")
    assert policy.witnesses["w1"].type == COSIGNATURE
    assert evaluate(policy, checkpoint("w1")).accepted


def test_names_are_octets_and_not_text() -> None:
    policy = parse_policy(
        f"# caf\xe9\nwitness K {vkey(WITNESSES['w1'], COSIGNATURE)}\n".encode("latin-1")
        + f"witness \u212a {vkey(WITNESSES['w2'], COSIGNATURE)}\n".encode()
        + b"witness \xff\xfe "
        + vkey(WITNESSES["w3"], COSIGNATURE).encode()
        + b"\ngroup g all K \xff\xfe\nquorum g\n"
    )
    assert len(policy.witnesses) == 3
    result = evaluate(policy, checkpoint("w1", "w3"))
    assert (result.satisfied, result.cosigned_by) == (True, ["K", "\\xff\\xfe"])
    assert result.detail.encode()
    assert parse_policy(policy.text) == policy


W1 = vkey(WITNESSES["w1"], COSIGNATURE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "exactly one quorum line, found none"),
        (KEYS, "exactly one quorum line, found none"),
        (KEYS + "quorum w1", "line 8: expected a newline"),
        (KEYS + "quorum none\nquorum none\n", "line 9: expected exactly one quorum line"),
        (KEYS + "quorum\n", "line 8: expected log, witness, group or quorum"),
        (KEYS + "quorum w1 w2\n", "line 8: expected log"),
        (KEYS + "quorum w9\n", "line 8: quorum: expected a witness or group defined on an earlier line, found 'w9'"),
        (KEYS + "quorum W1\n", "earlier line"),
        ("quorum w1\n" + KEYS, "line 1: quorum"),
        (KEYS + "Quorum none\n", "line 8: expected log"),
        (KEYS + "quorum none # really\n", "line 8: expected log"),
        (KEYS + "trust everybody\n", "line 8: expected log"),
        (KEYS + "group g 1\nquorum none\n", "line 8: expected log"),
        (KEYS + "group g\nquorum none\n", "line 8: expected log"),
        (KEYS + "group g 1 w1 w9\nquorum g\n", "members defined on earlier lines, found 'w9'"),
        (KEYS + "group g 1 g\nquorum g\n", "members defined on earlier lines, found 'g'"),
        (KEYS + "group g 1 none\nquorum g\n", "members defined on earlier lines, found 'none'"),
        (KEYS + "group a 1 b\ngroup b 1 w1\nquorum a\n", "line 8: group 'a': expected members defined on earlier lines"),
        (KEYS + "group g 1 w1 w1\nquorum g\n", "member twice, found 'w1'"),
        (KEYS + "group g 1 w1\ngroup h 1 w1\nquorum g\n", "line 9: group 'h': expected no name to be a member twice"),
        (KEYS + "group g 0 w1\nquorum g\n", "number from 1 to 1, found '0'"),
        (KEYS + "group g 2 w1\nquorum g\n", "number from 1 to 1, found '2'"),
        (KEYS + "group g 01 w1\nquorum g\n", "found '01'"),
        (KEYS + "group g +1 w1\nquorum g\n", "found '\\+1'"),
        (KEYS + "group g -1 w1\nquorum g\n", "found '-1'"),
        (KEYS + "group g ALL w1\nquorum g\n", "found 'ALL'"),
        (KEYS + "group g ١ w1\nquorum g\n", "from 1 to 1"),
        (KEYS + "group g 99999999999 w1\nquorum g\n", "from 1 to 1"),
        (KEYS + "group w1 1 w2\nquorum none\n", "defined once, found 'w1' again"),
        (KEYS + "group g 1 w1\ngroup g 1 w2\nquorum g\n", "defined once, found 'g' again"),
        (KEYS + "group none 1 w1\nquorum none\n", "predefined 'none'"),
        (f"witness none {W1}\nquorum none\n", "predefined 'none'"),
        (f"witness w1 {W1}\nwitness w1 {vkey(WITNESSES['w2'], COSIGNATURE)}\nquorum none\n", "defined once, found 'w1' again"),
        (f"witness w1 {W1}\nwitness w2 {W1}\nquorum none\n", "line 2: expected every public key once"),
        (f"witness w1 {W1}\nwitness w2 {vkey(WITNESSES['w1'], ED25519)}\nquorum none\n", "every public key once"),
        (f"witness w1 {W1}\nwitness w2 {vkey(Ed25519Signer('b', bytes([1]) * 32), 4)}\nquorum none\n", "public key once"),
        (LOG_LINE + f"log {vkey(Ed25519Signer('renamed', b'L' * 32), ED25519)}\nquorum none\n", "every public key once"),
        (LOG_LINE + LOG_LINE + "quorum none\n", "every public key once"),
        (f"log {vkey(LOG, COSIGNATURE)}\nquorum none\n", "log key 'example.com/log': expected type 0x01, found 0x04"),
        ("log\nquorum none\n", "line 1: expected log"),
        (f"log {vkey(LOG, ED25519)} http://a http://b\nquorum none\n", "line 1: expected log"),
        (f"witness {W1}\nquorum none\n", "line 1: expected log"),
        (f"witness w1 {W1} http://a http://b\nquorum none\n", "line 1: expected log"),
        (f"witness w1 {W1[:-1]}\nquorum none\n", "line 1: verifier key"),
        ("log nonsense\nquorum none\n", "line 1: verifier key"),
        ("quorum none\r\n", "line 1: expected no control character but tab and newline, found 0x0d"),
        ("# \x00\nquorum none\n", "found 0x00"),
        ("quorum none\n# \x7f\n", "line 2: .*found 0x7f"),
        ("# \x0b\nquorum none\n", "found 0x0b"),
        ("quorum\u00a0none\n", "line 1: expected log"),
        ("# \ud800\nquorum none\n", "UTF-8"),
        ("\ufeffquorum none\n", "line 1: expected log"),
        ("quorum none\n" + "#" * 65_536, "at most 65536 bytes"),
    ],
)
def test_what_the_grammar_does_not_allow_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse_policy(text)


def test_two_keys_that_a_signature_line_could_not_tell_apart_are_refused() -> None:
    # Ids are four bytes, so a stranger can make one to order; these two collide under one name.
    one, two = (verifier_key("w.example", COSIGNATURE, number.to_bytes(32, "big")) for number in (98209, 117355))
    assert one.public != two.public
    assert one.key_id == two.key_id
    with pytest.raises(FormatError, match="line 2: expected key name and id together to name one key"):
        parse_policy(f"witness a {one}\nwitness b {two}\nquorum none\n")


def test_64_kib_of_witnesses_and_deeply_nested_groups_are_read_and_evaluated() -> None:
    signers = [Ed25519Signer(f"w.example/{i}", i.to_bytes(32, "big")) for i in range(400)]
    lines = [f"witness {i} {vkey(signer, COSIGNATURE)}" for i, signer in enumerate(signers)]
    lines += ["group g0 40 " + " ".join(str(i) for i in range(400))]
    lines += [f"group g{i} all g{i - 1}" for i in range(1, 1_500)]
    policy = parse_policy(LOG_LINE + "\n".join([*lines, "quorum g1499", ""]))
    assert len(policy.witnesses) == 400
    cosignatures = [cosign(TEXT, signer, 1) for signer in signers[:40]]
    assert evaluate(policy, sign_note(TEXT, [LOG]).with_signatures(*cosignatures)).accepted
    assert not evaluate(policy, sign_note(TEXT, [LOG]).with_signatures(*cosignatures[1:])).satisfied


def test_the_policy_for_a_cluster_is_written_with_cosigner_keys() -> None:
    cosigners = [("w1", vkey(WITNESSES["w1"], ED25519)), ("w2", vkey(WITNESSES["w2"], COSIGNATURE))]
    text = format_policy(vkey(LOG, ED25519), cosigners, 2)
    assert text == LOG_LINE + "".join(WITNESS_LINES.splitlines(True)[:2]) + "group members 2 w1 w2\nquorum members\n"
    assert parse_policy(text).text == text
    assert format_policy(vkey(LOG, ED25519), [], 0) == LOG_LINE + "quorum none\n"


@pytest.mark.parametrize("quorum", [-1, 3])
def test_a_quorum_that_the_cosigners_cannot_reach_is_not_written(quorum: int) -> None:
    cosigners = [(name, vkey(WITNESSES[name], COSIGNATURE)) for name in ("w1", "w2")]
    with pytest.raises(FormatError, match="number from 1 to 2"):
        format_policy(vkey(LOG, ED25519), cosigners, quorum)
    with pytest.raises(FormatError):
        format_policy(vkey(LOG, ED25519), [], 1)
    with pytest.raises(FormatError):
        format_policy(vkey(LOG, ED25519) + "\nquorum none", [], 0)


POLICY = parse_policy(KEYS + "group x 2 w1 w2 w3\ngroup y any w4 w5\ngroup both all x y\nquorum both\n")


@pytest.mark.parametrize(
    ("cosigners", "satisfied"),
    [
        ("", False),
        ("w1 w2", False),
        ("w4 w5", False),
        ("w1 w4 w5 w6", False),
        ("w1 w2 w4", True),
        ("w2 w3 w5", True),
        ("w1 w2 w3 w4 w5 w6", True),
    ],
)
def test_nested_groups_decide_the_quorum(cosigners: str, satisfied: bool) -> None:
    result = evaluate(POLICY, checkpoint(*cosigners.split()))
    assert (result.log_ok, result.bad, result.satisfied, result.cosigned_by) == (True, [], satisfied, cosigners.split())
    assert result.accepted is satisfied


@given(st.data())
def test_any_policy_of_groups_decides_like_its_recursive_definition(data: st.DataObject) -> None:
    free, lines = list(WITNESSES), []
    members_of: dict[str, tuple[int, list[str]]] = {}
    for i in range(data.draw(st.integers(1, 4))):
        members = data.draw(st.lists(st.sampled_from(free), min_size=1, unique=True))
        threshold = data.draw(st.integers(1, len(members)))
        free = [name for name in free if name not in members] + [f"g{i}"]
        members_of[f"g{i}"] = threshold, members
        lines.append(f"group g{i} {threshold} {' '.join(members)}\n")
    quorum = data.draw(st.sampled_from([*members_of, *WITNESSES, "none"]))
    cosigners = data.draw(st.sets(st.sampled_from(list(WITNESSES))))

    def witnessed(name: str) -> bool:
        if name not in members_of:
            return name in cosigners or name == "none"
        threshold, members = members_of[name]
        return sum(witnessed(member) for member in members) >= threshold

    policy = parse_policy(KEYS + "".join(lines) + f"quorum {quorum}\n")
    result = evaluate(policy, checkpoint(*sorted(cosigners)))
    assert result.satisfied is witnessed(quorum)
    assert result.cosigned_by == sorted(cosigners)


def test_a_quorum_of_none_asks_for_no_cosignature_but_for_the_log() -> None:
    policy = parse_policy(KEYS + "quorum none\n")
    assert evaluate(policy, checkpoint()).accepted
    without_log = Note(TEXT, (cosign(TEXT, WITNESSES["w1"], 1),))
    result = evaluate(policy, without_log)
    assert (result.log_ok, result.satisfied, result.accepted, result.cosigned_by) == (False, True, False, ["w1"])
    assert not evaluate(parse_policy("quorum none\n"), checkpoint()).log_ok


def test_the_log_key_must_carry_the_origin_as_its_name() -> None:
    policy = parse_policy(KEYS + f"log {vkey(OTHER, ED25519)}\nquorum none\n")
    result = evaluate(policy, checkpoint(log=OTHER))
    assert (result.log_ok, result.bad) == (False, [])
    assert "origin example.com/log" in result.detail


def test_foreign_signatures_are_ignored() -> None:
    foreign = Signature("stranger", b"1234", b"garbage")
    same_name = Signature(WITNESSES["w1"].name, b"1234", b"garbage")
    result = evaluate(POLICY, checkpoint("w1", "w2", "w4").with_signatures(foreign, same_name))
    assert result.accepted


def test_two_cosignatures_of_one_witness_count_once() -> None:
    policy = parse_policy(KEYS + "group g 2 w1 w2\nquorum g\n")
    result = evaluate(policy, checkpoint("w1").with_signatures(cosign(TEXT, WITNESSES["w1"], 2)))
    assert (result.satisfied, result.cosigned_by) == (False, ["w1"])


def test_a_policy_keys_signature_that_does_not_verify_is_tampering_whatever_else_does() -> None:
    good = checkpoint("w1", "w2", "w4")
    forged = replace(cosign(TEXT, WITNESSES["w6"], 1), signature=bytes(72))
    result = evaluate(POLICY, good.with_signatures(forged))
    assert (result.log_ok, result.satisfied, result.bad, result.accepted) == (True, True, ["w6"], False)
    assert "do not verify: w6" in result.detail
    assert "w6" not in result.cosigned_by


def test_a_bad_and_a_good_signature_of_one_witness_do_not_count() -> None:
    good = cosign(TEXT, WITNESSES["w1"], 1)
    policy = parse_policy(KEYS + "quorum w1\n")
    result = evaluate(policy, checkpoint("w1").with_signatures(replace(good, signature=good.signature[:-1] + b"x")))
    assert (result.satisfied, result.bad, result.cosigned_by) == (False, ["w1"], [])


def test_signatures_moved_to_another_checkpoint_are_bad() -> None:
    moved = replace(checkpoint("w1", "w2", "w4"), text=TEXT.replace("\n3\n", "\n4\n"))
    result = evaluate(POLICY, moved)
    assert (result.log_ok, result.satisfied, result.cosigned_by) == (False, False, [])
    assert result.bad == [ORIGIN, "w1", "w2", "w4"]


def test_a_note_that_is_not_a_checkpoint_is_refused() -> None:
    with pytest.raises(FormatError, match="checkpoint"):
        evaluate(POLICY, sign_note("hello\n", [LOG]))


@needs_shared_vectors
def test_the_published_bundle_checkpoints_meet_the_published_policy() -> None:
    policy = parse_policy((SHARED_VECTORS / "witnz" / "policy.txt").read_bytes())
    bundle = json.loads((SHARED_VECTORS / "witnz" / "bundle-good.witnz.json").read_bytes())
    assert bundle["policy"] == policy.text
    for text in (bundle["checkpoint"], *(part["checkpoint"] for part in bundle["consistency"])):
        result = evaluate(policy, parse_note(text))
        assert result.accepted
        assert result.cosigned_by == ["node1", "node2"]
        assert not evaluate(policy, parse_note(text.replace("demo\n5", "demo\n6").replace("demo\n3", "demo\n4"))).accepted
    cosigners = [(name, format_verifier_key(key)) for name, key in policy.witnesses.items()]
    assert format_policy(format_verifier_key(policy.logs[0]), cosigners, 2) == policy.text
