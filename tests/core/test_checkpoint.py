"""Checkpoints and cosignatures: published ones, round trips, and what is refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.vectors import SHARED_VECTORS, needs_shared_vectors
from witnz.core.checkpoint import (
    Checkpoint,
    check_cosignature,
    checkpoint_digest,
    cosign,
    format_checkpoint,
    parse_checkpoint,
)
from witnz.core.keys import COSIGNATURE, ED25519, Ed25519Signer, parse_verifier_key, verifier_key
from witnz.core.merkle import EMPTY_ROOT, leaf_hash, root_of
from witnz.core.note import Note, Signature, format_note, parse_note, sign_note, verify_note
from witnz.errors import FormatError, ProofError, UsageError

WORDS = b"one two three four five six seven eit nain ten ileven".split()
ROOT = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
TEXT = f"go.sum database tree\n20852163\n{ROOT}\n"
WITNESS = Ed25519Signer("witness.example/1", b"w" * 32)
WITNESS_KEY = verifier_key(WITNESS.name, COSIGNATURE, WITNESS.public)

CHECKPOINTS = st.builds(
    Checkpoint,
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40),
    st.integers(0, 2**64 - 1),
    st.binary(min_size=32, max_size=32),
    st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20), max_size=3).map(tuple),
)


def test_the_example_of_the_standard_is_a_real_checkpoint_under_its_real_names() -> None:
    # c2sp.org/tlog-checkpoint prints it with other names, under which the signature does not verify.
    note = parse_note(
        f"{TEXT}\n— sum.golang.org "
        "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    )
    key = parse_verifier_key("sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8")
    assert verify_note(note, [key]) == (key,)
    assert parse_checkpoint(note.text).size == 20_852_163
    with pytest.raises(ProofError):
        verify_note(replace(note, text=TEXT.replace("go.sum database tree", "example.com/behind-the-sofa")), [key])


@needs_shared_vectors
def test_the_checkpoints_of_the_log_of_words_are_reproduced_byte_for_byte() -> None:
    key = parse_verifier_key("example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx")
    for size in range(11):
        data = (SHARED_VECTORS / "tessera-log" / f"checkpoint.{size}").read_bytes()
        note = parse_note(data)
        assert verify_note(note, [key]) == (key,)
        checkpoint = parse_checkpoint(note.text)
        assert checkpoint == Checkpoint("example.com/log/testdata", size, root_of([leaf_hash(word) for word in WORDS[:size]]))
        assert format_checkpoint(checkpoint) == note.text
        assert format_note(note).encode() == data


@needs_shared_vectors
def test_the_published_cosignature_verifies_and_says_when() -> None:
    note = parse_note((SHARED_VECTORS / "cosignature" / "rome2026h1.checkpoint").read_bytes())
    key = parse_verifier_key("witness.example.org+b8a2cf20+BFLN3yikSfFkVAJtrnh/CiY3Zozkoy7clp+P7XB28qUN")
    foreign, cosignature = note.signatures
    assert check_cosignature(note.text, cosignature, key) == 1_767_139_200
    assert check_cosignature(note.text, cosignature, verifier_key(key.name, ED25519, key.public)) == 1_767_139_200
    assert check_cosignature(note.text, foreign, key) is None
    assert verify_note(note, [key]) == (key,)  # the log's own signature is of a type unknown here, and ignored
    assert check_cosignature(note.text.replace("300", "301"), cosignature, key) is None


@given(CHECKPOINTS)
def test_checkpoints_read_back(checkpoint: Checkpoint) -> None:
    text = format_checkpoint(checkpoint)
    assert parse_checkpoint(text) == checkpoint
    assert format_checkpoint(parse_checkpoint(text)) == text


def test_extension_lines_are_kept_and_an_empty_tree_has_size_0() -> None:
    text = "example.com/log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\nTimestamp: 1\nmore\n"
    assert parse_checkpoint(text) == Checkpoint("example.com/log", 0, EMPTY_ROOT, ("Timestamp: 1", "more"))


@pytest.mark.parametrize(
    "size",
    ["", "00", "01", "+1", "-1", "1 ", " 1", "1_0", "0x1", "1.0", "1e3", "١", "1١", "1²", "18446744073709551616", "9" * 30],
)
def test_a_size_that_is_not_a_plain_decimal_below_2_to_the_64_is_refused(size: str) -> None:
    with pytest.raises(FormatError, match="checkpoint"):
        parse_checkpoint(f"example.com/log\n{size}\n{ROOT}\n")


def test_the_largest_size_is_read() -> None:
    assert parse_checkpoint(f"example.com/log\n18446744073709551615\n{ROOT}\n").size == 2**64 - 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "example.com/log\n",
        "example.com/log\n1\n",
        f"example.com/log\n1\n{ROOT}",
        f"\n1\n{ROOT}\n",
        f"1\n{ROOT}\n",
        f"example.com/log\n{ROOT}\n1\n",
        f"example.com/log\n1\n{ROOT}\n\n",
        f"example.com/log\n\n1\n{ROOT}\n",
        f"example.com/log\n1\n{ROOT}\nextension\n\nextension\n",
        f"example.com/log\n1\n{ROOT} \n",
        f"example.com/log\n1\n{ROOT[:-1]}\n",
        f"example.com/log\n1\n{ROOT[:-2]}J=\n",
        "example.com/log\n1\nAAAA\n",
        "example.com/log\n1\n" + "A" * 44 + "\n",
        f"example.com/log\r\n1\r\n{ROOT}\r\n",
        f"example.com\t/log\n1\n{ROOT}\n",
        f"example.com/\ud800\n1\n{ROOT}\n",
    ],
)
def test_malformed_checkpoints_are_refused(text: str) -> None:
    with pytest.raises(FormatError):
        parse_checkpoint(text)


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint("", 1, bytes(32)),
        Checkpoint("a\nb", 1, bytes(32)),
        Checkpoint("a", -1, bytes(32)),
        Checkpoint("a", 2**64, bytes(32)),
        Checkpoint("a", 1, bytes(31)),
        Checkpoint("a", 1, bytes(32), ("",)),
        Checkpoint("a", 1, bytes(32), ("b\nc",)),
    ],
)
def test_impossible_checkpoints_are_not_written(checkpoint: Checkpoint) -> None:
    with pytest.raises(FormatError):
        format_checkpoint(checkpoint)


def test_the_digest_is_over_the_text_and_does_not_depend_on_who_cosigned() -> None:
    note = sign_note(TEXT, [WITNESS])
    more = note.with_signatures(cosign(TEXT, WITNESS, 1))
    assert checkpoint_digest(note.text) == checkpoint_digest(more.text) == hashlib.sha256(TEXT.encode()).digest()


@pytest.mark.parametrize("timestamp_s", [0, 1, 1_767_139_200, 2**63 - 1])
def test_a_cosignature_verifies_with_its_time(timestamp_s: int) -> None:
    cosignature = cosign(TEXT, WITNESS, timestamp_s)
    assert len(cosignature.signature) == 72
    assert check_cosignature(TEXT, cosignature, WITNESS_KEY) == timestamp_s
    assert verify_note(Note(TEXT, (cosignature,)), [WITNESS_KEY]) == (WITNESS_KEY,)
    assert parse_note(format_note(Note(TEXT, (cosignature,)))).signatures == (cosignature,)


def test_a_cosignature_of_another_time_text_or_key_does_not_verify() -> None:
    good = cosign(TEXT, WITNESS, 1_000)
    later = replace(good, signature=(1_001).to_bytes(8, "big") + good.signature[8:])
    assert check_cosignature(TEXT, later, WITNESS_KEY) is None
    assert check_cosignature(TEXT.replace("20852163", "20852164"), good, WITNESS_KEY) is None
    assert check_cosignature(TEXT + "extension\n", good, WITNESS_KEY) is None
    other = Ed25519Signer(WITNESS.name, b"o" * 32)
    other_key = verifier_key(other.name, COSIGNATURE, other.public)
    assert check_cosignature(TEXT, good, other_key) is None
    assert check_cosignature(TEXT, replace(good, key_id=other_key.key_id), other_key) is None
    assert check_cosignature(TEXT, replace(good, name="witness.example/2"), WITNESS_KEY) is None


def test_time_out_of_range_in_a_cosignature_does_not_verify_even_if_signed() -> None:
    message = b"cosignature/v1\ntime %d\n" % 2**63 + TEXT.encode()
    signature = Signature(WITNESS.name, WITNESS_KEY.key_id, (2**63).to_bytes(8, "big") + WITNESS.sign(message))
    assert check_cosignature(TEXT, signature, WITNESS_KEY) is None


@pytest.mark.parametrize("length", [0, 8, 64, 71, 73, 80])
def test_a_cosignature_of_another_length_does_not_verify(length: int) -> None:
    good = cosign(TEXT, WITNESS, 1_000)
    cut = replace(good, signature=(good.signature + bytes(8))[:length])
    assert check_cosignature(TEXT, cut, WITNESS_KEY) is None


def test_a_note_signature_is_no_cosignature_and_a_cosignature_no_note_signature() -> None:
    (plain,) = sign_note(TEXT, [WITNESS]).signatures
    assert check_cosignature(TEXT, plain, WITNESS_KEY) is None
    assert check_cosignature(TEXT, replace(plain, key_id=WITNESS_KEY.key_id), WITNESS_KEY) is None
    note_key = verifier_key(WITNESS.name, ED25519, WITNESS.public)
    disguised = replace(cosign(TEXT, WITNESS, 1), key_id=note_key.key_id)
    with pytest.raises(ProofError):
        verify_note(Note(TEXT, (disguised,)), [note_key])


@pytest.mark.parametrize("timestamp_s", [-1, 2**63])
def test_a_time_out_of_range_is_not_cosigned(timestamp_s: int) -> None:
    with pytest.raises(UsageError, match="cosignature time"):
        cosign(TEXT, WITNESS, timestamp_s)


def test_what_is_not_a_checkpoint_is_not_cosigned() -> None:
    with pytest.raises(FormatError):
        cosign("I owe you\na thousand\npounds\n", WITNESS, 1)
