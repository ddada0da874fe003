"""The anchor opentimestamps against a calendar of the real protocol: promised, complete, lost and lied about."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator

import pytest
from opentimestamps.core.serialize import BytesDeserializationContext
from opentimestamps.core.timestamp import DetachedTimestampFile

from tests.support.anchors import CLUSTER, Kept, now_us, publication
from tests.support.bundle_maker import PaperBundle
from tests.support.calendars import Calendar, calendar
from witnz.anchor.base import Pending, Published, Surroundings
from witnz.anchor.opentimestamps import BACKEND, OpenTimestampsAnchor
from witnz.config import AnchorConfig
from witnz.core.finding import FindingClass
from witnz.core.policy import parse_policy
from witnz.core.receipt import Receipt
from witnz.core.trust import parse_trust
from witnz.core.verdict import CheckStatus
from witnz.errors import AnchorUnreachable
from witnz.verify.bundle import verify_bundle

PUBLICATION = publication()


@pytest.fixture
def alice() -> Iterator[Calendar]:
    with calendar() as one:
        yield one


@pytest.fixture
def bob() -> Iterator[Calendar]:
    with calendar() as one:
        yield one


def anchor_at(*calendars: Calendar | str) -> OpenTimestampsAnchor:
    urls = [one if isinstance(one, str) else one.url for one in calendars]
    section = {"type": "opentimestamps", "calendars": urls, "timeout": "10s"}
    return OpenTimestampsAnchor(AnchorConfig.model_validate(section), Surroundings(CLUSTER, now_us))


def promised(answer: Published | Pending) -> Receipt:
    assert isinstance(answer, Pending)
    assert answer.receipt is not None
    return answer.receipt


def verdict(receipt: Receipt, trust: str) -> int:
    paper = PaperBundle()
    data = paper.build(anchors=[dict(receipt.members)])
    return verify_bundle(data, parse_policy(paper.parts["policy"]), trust=parse_trust(trust.encode())).exit_code


def test_a_promise_first_and_a_block_later(alice: Calendar) -> None:
    anchor, memory = anchor_at(alice), Kept()
    receipt = promised(anchor.publish(PUBLICATION, memory))
    assert (receipt.digest, receipt.size) == (PUBLICATION.digest, 9)
    assert [look.check.status for look in anchor.look(receipt)] == [CheckStatus.SKIP]
    assert BACKEND.party(receipt) == "the OpenTimestamps calendars that promised it (no block holds it yet)"
    assert promised(anchor.publish(PUBLICATION, memory)) == receipt, "the calendar knows no more yet"

    alice.make_block(923_000)
    answer = anchor.publish(PUBLICATION, memory)
    assert isinstance(answer, Published)
    assert [look.check.status for look in anchor.look(answer.receipt)] == [CheckStatus.OK, CheckStatus.SKIP]
    assert BACKEND.party(answer.receipt) == "those who could rewrite Bitcoin from block 923000 on"
    header = alice.headers[923_000]
    assert verdict(answer.receipt, f"bitcoin-block 923000 {header.hex()}\n") == 0
    assert verdict(receipt, f"bitcoin-block 923000 {header.hex()}\n") == 4
    assert verdict(answer.receipt, f"bitcoin-block 923000 {bytes(80).hex()}\n") == 3
    assert verdict(answer.receipt, f"bitcoin-block 923001 {header.hex()}\n") == 4


def test_the_reference_library_reads_the_same_out_of_the_receipt(alice: Calendar) -> None:
    anchor, memory = anchor_at(alice), Kept()
    anchor.publish(PUBLICATION, memory)
    alice.make_block(923_000)
    answer = anchor.publish(PUBLICATION, memory)
    assert isinstance(answer, Published)
    data = b64decode(answer.receipt.members["proof"])
    file = DetachedTimestampFile.deserialize(BytesDeserializationContext(data))
    assert file.file_digest == PUBLICATION.digest
    attested = {repr(attestation): message for message, attestation in file.timestamp.all_attestations()}
    assert attested["BitcoinBlockHeaderAttestation(923000)"] == alice.headers[923_000][36:68]


def test_calendars_do_not_learn_the_digest(alice: Calendar) -> None:
    seen: list[bytes] = []
    promise = alice.promise
    alice.promise = lambda digest: (seen.append(digest), promise(digest))[1]  # type: ignore[method-assign]
    anchor_at(alice).publish(PUBLICATION, Kept())
    assert len(seen) == 1
    assert PUBLICATION.digest not in seen


def test_one_calendar_of_two_is_enough_and_the_other_is_not_waited_for(alice: Calendar, bob: Calendar) -> None:
    anchor, memory = anchor_at(alice, bob, "http://127.0.0.1:1"), Kept()
    promised(anchor.publish(PUBLICATION, memory))
    bob.make_block(923_007)
    answer = anchor.publish(PUBLICATION, memory)
    assert isinstance(answer, Published)
    assert verdict(answer.receipt, f"bitcoin-block 923007 {bob.headers[923_007].hex()}\n") == 0


def test_what_was_promised_outlives_a_restart(alice: Calendar) -> None:
    memory = Kept()
    promised(anchor_at(alice).publish(PUBLICATION, memory))
    alice.make_block(923_000)
    assert isinstance(anchor_at(alice).publish(PUBLICATION, memory), Published)


def test_where_no_calendar_answers_nothing_is_promised() -> None:
    memory = Kept()
    with pytest.raises(AnchorUnreachable, match=r"no calendar answered: .* cannot be reached"):
        anchor_at("http://127.0.0.1:1").publish(PUBLICATION, memory)
    assert memory.document == {}


@pytest.mark.parametrize("answer", [b"", b"<html>", b"\x00" * 9, b"\xf0\x01", b"\x02\x00", b"0" * 20_000])
def test_what_is_no_time_stamp_is_refused(alice: Calendar, answer: bytes) -> None:
    alice.answer = answer
    with pytest.raises(AnchorUnreachable):
        anchor_at(alice).publish(PUBLICATION, Kept())


def test_a_calendar_that_later_talks_nonsense_spoils_nothing(alice: Calendar) -> None:
    anchor, memory = anchor_at(alice), Kept()
    receipt = promised(anchor.publish(PUBLICATION, memory))
    alice.make_block(923_000)
    alice.answer = b"nonsense"
    assert promised(anchor.publish(PUBLICATION, memory)) == receipt
    alice.answer = None
    assert isinstance(anchor.publish(PUBLICATION, memory), Published)


def test_an_address_in_an_answer_is_not_connected_to(alice: Calendar, bob: Calendar) -> None:
    """A calendar that says that its promise is kept by somebody else: nobody goes there."""
    alice.answer = None
    elsewhere, alice.url = alice.url, bob.url
    anchor, memory = anchor_at(elsewhere), Kept()
    promised(anchor.publish(PUBLICATION, memory))
    bob.complete, bob.waiting = {}, alice.waiting
    bob.make_block(923_000)
    assert isinstance(anchor.publish(PUBLICATION, memory), Pending)


def test_looking_finds_what_is_no_proof(alice: Calendar) -> None:
    anchor = anchor_at(alice)
    receipt = promised(anchor.publish(PUBLICATION, Kept()))
    other = Receipt(receipt.type, bytes(32), receipt.size, receipt.members)
    assert anchor.look(other)[0].finding is FindingClass.ANCHOR_ALTERED
    cut = Receipt(receipt.type, receipt.digest, receipt.size, {**receipt.members, "proof": "AA=="})
    assert anchor.look(cut)[0].finding is FindingClass.ANCHOR_ALTERED


def test_the_rehearsal_asks_for_a_promise(alice: Calendar) -> None:
    assert anchor_at(alice).rehearse()[0].status is CheckStatus.OK
    assert anchor_at("http://127.0.0.1:1").rehearse()[0].status is CheckStatus.FAIL
    assert anchor_at(alice).is_own(promised(anchor_at(alice).publish(PUBLICATION, Kept())))
    assert anchor_at(alice).newest(CLUSTER, 0) is None
