"""Anchored bundles under a trust file: every vector for its own reason, and what is said where nothing is trusted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.anchor_cases import CASES, digest_and_size, evm, ots, pending, stamped, trust_file
from tests.support.bundle_maker import PaperBundle, edited
from tests.support.evm_paper import ACCOUNT, receipt_for
from tests.support.time_authority import authority
from witnz.core.policy import parse_policy
from witnz.core.trust import parse_trust
from witnz.core.verdict import CheckStatus, Verdict
from witnz.errors import FormatError
from witnz.verify.bundle import BundleResult, verify_bundle

VECTORS = Path(__file__).parent.parent / "vectors"
CODES = {
    name: code for name, code in json.loads((VECTORS / "exit-codes.json").read_text()).items() if name.startswith("anchored/")
}
POLICY = parse_policy((VECTORS / "anchored/policy.txt").read_bytes())
TRUST = parse_trust((VECTORS / "anchored/trust.txt").read_bytes())


def details(result: BundleResult, *statuses: CheckStatus) -> list[str]:
    return [f"{check.name}: {check.detail}" for check in result.checks if check.status in statuses]


@pytest.fixture(scope="module")
def paper() -> PaperBundle:
    return PaperBundle()


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_every_anchored_vector_gives_its_exit_code(name: str, code: int) -> None:
    data = (VECTORS / name).read_bytes()
    if code == 2:
        with pytest.raises(FormatError):
            verify_bundle(data, POLICY, trust=TRUST)
    else:
        assert verify_bundle(data, POLICY, trust=TRUST).exit_code == code


@pytest.mark.parametrize("name", CASES)
def test_each_receipt_is_refused_for_the_reason_in_its_name(paper: PaperBundle, name: str) -> None:
    make, code, reason = CASES[name]
    data = make(paper)
    if code == 2:
        with pytest.raises(FormatError, match=reason):
            verify_bundle(data, POLICY, trust=TRUST)
        return
    result = verify_bundle(data, POLICY, trust=TRUST)
    assert result.exit_code == code
    found = details(result, {0: CheckStatus.OK, 3: CheckStatus.FAIL, 4: CheckStatus.SKIP}[code])
    assert any(reason in line for line in found)
    if code == 3:
        assert [line.partition("]")[0] for line in found] == ["anchors[0"] * len(found)
    if code == 4:
        assert any(reason in line for line in result.not_checked)


def test_the_trust_of_the_vectors_is_read_whole() -> None:
    assert (VECTORS / "anchored/trust.txt").read_text() == trust_file()
    assert len(TRUST.blocks) == 2
    assert TRUST.certificates == (authority().root,)


@pytest.mark.parametrize(("name", "suffix"), [("evm", ".trust"), ("rfc3161", ".token"), ("opentimestamps", ".trust")])
def test_without_trust_what_stays_open_is_named_and_nothing_is_green_about_it(name: str, suffix: str) -> None:
    result = verify_bundle((VECTORS / f"anchored/{name}-good.witnz.json").read_bytes(), POLICY)
    assert result.verdict is Verdict.VERIFIED
    not_applied = [check.name for check in result.checks if check.status is CheckStatus.NOT_APPLICABLE]
    assert not_applied == [f"anchors[0]{suffix}"]
    assert any(line.startswith(not_applied[0]) for line in result.not_checked)


@pytest.mark.parametrize("name", [name for name, code in CODES.items() if code == 3 and "-trust" not in name])
def test_without_trust_a_receipt_that_contradicts_itself_is_still_refused(name: str) -> None:
    """What only a trust file can tell is a matter of the account, the block or the authority; nothing else needs one."""
    result = verify_bundle((VECTORS / name).read_bytes(), POLICY)
    assert result.verdict is not Verdict.INCONCLUSIVE
    needs_trust = ("said-so", "reorganised", "untrusted", "expired", "not-for-time", "bit-of", "moved-to", "leads-elsewhere")
    assert (result.exit_code == 0) == any(word in name for word in needs_trust)


def test_trust_in_one_kind_of_anchor_does_not_ask_for_another(paper: PaperBundle) -> None:
    accounts_only = parse_trust(f"account 31337 {ACCOUNT.address}\n".encode())
    stamp = CASES["rfc3161-good"][0](paper)
    assert verify_bundle(stamp, POLICY, trust=accounts_only).exit_code == 0
    result = verify_bundle(CASES["evm-good"][0](paper), POLICY, trust=accounts_only)
    assert result.exit_code == 4
    assert "whether this is block 21000000 of chain 31337: not checked" in details(result, CheckStatus.SKIP)[0]


def test_an_authority_may_be_named_by_the_digest_of_its_certificate(paper: PaperBundle) -> None:
    from cryptography.hazmat.primitives.hashes import SHA256

    digest = authority().root.fingerprint(SHA256())
    for spelling in (digest.hex(), digest.hex(":").upper()):
        trust = parse_trust(f"authority {spelling}\n".encode())
        assert verify_bundle(CASES["rfc3161-good"][0](paper), POLICY, trust=trust).exit_code == 0
    other = parse_trust(f"authority {'ab' * 32}\n".encode())
    assert verify_bundle(CASES["rfc3161-good"][0](paper), POLICY, trust=other).exit_code == 3


def test_what_an_evm_receipt_proves_is_said_in_full(paper: PaperBundle) -> None:
    result = verify_bundle(paper.build(anchors=[evm(paper)]), POLICY, trust=TRUST)
    said = {check.name: check.detail for check in result.checks if check.name.startswith("anchors")}
    assert ACCOUNT.address in said["anchors[0].proof"]
    assert "chain 31337" in said["anchors[0].proof"]
    assert "block 21000000 of 2026-11-21T18:10:00.000000Z" in said["anchors[0].proof"]
    assert "block 21000000 of chain 31337 is as it says" in said["anchors[0].trust"]


def test_a_pending_proof_names_its_calendars_without_their_control_characters(paper: PaperBundle) -> None:
    proof = ots(digest_and_size(paper)[0], b"\xff" + pending(b"https://a.example"), pending(b"https://b\x1b[31m.example"))
    result = verify_bundle(stamped(paper, proof), POLICY)
    assert details(result, CheckStatus.OK)[-1] == (
        "anchors[0].proof: promised by https://a.example, https://b\\x1b[31m.example"
    )


def test_no_byte_of_an_evm_receipt_can_be_changed(paper: PaperBundle) -> None:
    """Header and proof, one change at every seventh byte; each is refused by a check of that receipt."""
    good = receipt_for(*digest_and_size(paper))
    data = paper.build(anchors=[good])
    places = [("header", None, place) for place in range(0, len(good["header"]), 14)]
    places += [("proof", node, place) for node, text in enumerate(good["proof"]) for place in range(0, len(text), 14)]
    for member, node, place in places:
        text = good[member] if node is None else good[member][node]
        other = text[:place] + f"{(int(text[place : place + 2], 16) + 1 + place % 255) % 256:02x}" + text[place + 2 :]
        path = ("anchors", 0, member) if node is None else ("anchors", 0, member, node)
        assert verify_bundle(edited(data, path, other), POLICY, trust=TRUST).exit_code == 3, (member, node, place)
    assert len(places) > 100


def test_an_installation_without_the_extra_says_not_checked() -> None:
    """The base install verifies chains and Bitcoin, and says of a time stamp that it could not look, never that it is good."""
    program = (
        "import sys\n"
        "for name in ('rfc3161_client', 'web3', 'eth_account', 'opentimestamps', 'rlp', 'httpx'):\n"
        "    sys.modules[name] = None\n"
        "from witnz.verify.bundle import verify_bundle\n"
        "from witnz.core.policy import parse_policy\n"
        "from witnz.core.trust import parse_trust\n"
        "read = lambda name: open(f'{sys.argv[1]}/anchored/{name}', 'rb').read()\n"
        "policy, trust = parse_policy(read('policy.txt')), parse_trust(read('trust.txt'))\n"
        "for kind in ('evm', 'opentimestamps', 'rfc3161'):\n"
        "    result = verify_bundle(read(f'{kind}-good.witnz.json'), policy, trust=trust)\n"
        "    print(kind, result.verdict, [c.detail for c in result.checks if c.status == 'skip'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(VECTORS)], capture_output=True, text=True, check=True)
    chain, bitcoin, stamp = done.stdout.splitlines()
    assert chain == "evm VERIFIED []"
    assert bitcoin == "opentimestamps VERIFIED []"
    assert stamp.startswith("rfc3161 INCONCLUSIVE ['the time stamp: not checked (this installation cannot")
