"""Signed notes: what is one, what is refused, whose signatures count."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from witnz.core.keys import ED25519, Ed25519Signer, parse_private_key, verifier_key
from witnz.core.note import MAX_TEXT_BYTES, Note, Signature, format_note, parse_note, sign_note, verify_note
from witnz.errors import FormatError, ProofError

NEUMANN = parse_private_key("PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")
# The worked example of the documentation of Go's sumdb/note.
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
LINE = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
NOTE = TEXT + "\n" + LINE

ALICE, BOB = Ed25519Signer("alice", b"a" * 32), Ed25519Signer("bob", b"b" * 32)
ALICE_KEY, BOB_KEY = (verifier_key(signer.name, ED25519, signer.public) for signer in (ALICE, BOB))

NAMES = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="+"), min_size=1, max_size=20)
TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"], include_characters="\n")).map(lambda text: text + "\n")
SIGNATURES = st.builds(Signature, NAMES, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=80))


def test_the_published_note_is_reproduced_byte_for_byte() -> None:
    note = sign_note(TEXT, [NEUMANN.signer()])
    assert format_note(note) == NOTE
    assert parse_note(NOTE) == parse_note(NOTE.encode()) == note
    assert verify_note(note, [NEUMANN.verifier()]) == (NEUMANN.verifier(),)


@given(TEXTS, st.lists(SIGNATURES, min_size=1, max_size=5))
def test_notes_read_back(text: str, signatures: list[Signature]) -> None:
    note = Note(text, tuple(signatures))
    assert parse_note(format_note(note)) == note
    assert parse_note(format_note(note).encode()) == note
    assert format_note(parse_note(format_note(note))) == format_note(note)


@given(st.lists(st.tuples(st.integers(0, len(NOTE.encode()) - 1), st.integers(0, 2), st.binary(max_size=2)), max_size=2))
def test_what_the_parser_accepts_is_written_as_it_was(edits: list[tuple[int, int, bytes]]) -> None:
    data = NOTE.encode()
    for at, removed, added in edits:
        data = data[:at] + added + data[at + removed :]
    try:
        note = parse_note(data)
    except FormatError:
        return
    assert format_note(note).encode() == data


def test_the_last_empty_line_ends_the_text() -> None:
    assert parse_note(f"\n\nmore\n\n\n{LINE}").text == "\n\nmore\n\n"
    inner = TEXT + "\n" + LINE
    outer = sign_note(inner, [ALICE])
    assert parse_note(format_note(outer)) == outer
    assert outer.text == inner


def test_signatures_are_appended_after_those_there_are() -> None:
    note = sign_note(TEXT, [ALICE])
    both = note.with_signatures(*sign_note(TEXT, [BOB]).signatures)
    assert both == sign_note(TEXT, [ALICE, BOB])
    assert len(note.signatures) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "blank line"),
        (TEXT, "blank line"),
        (LINE, "blank line"),
        (TEXT + LINE, "blank line"),
        ("\n" + LINE, "blank line"),
        (TEXT + "\n", "newline"),
        (NOTE[:-1], "newline"),
        (NOTE + "\n", "newline"),
        (NOTE + "more\n", "'— name base64', found 'more'"),
        (NOTE.replace("— ", "- "), "'— name base64'"),
        (NOTE.replace("— ", "—"), "'— name base64'"),
        (NOTE.replace("— ", "—  "), "key name"),
        (NOTE.replace("— ", " — "), "'— name base64'"),
        (NOTE.replace("— PeterNeumann ", "— PeterNeumann"), "'— name base64'"),
        (NOTE.replace("Neumann x", "Neumann  x"), "base64"),
        (NOTE.replace("Peter", "Peter+"), "key name"),
        (NOTE.replace("Peter", "Peter\u2003"), "key name"),
        (NOTE.replace("=\n", "= \n"), "base64"),
        (NOTE.replace("=\n", "\n"), "base64"),
        (NOTE.replace("M=\n", "N=\n"), "canonical"),
        (NOTE.replace("/ZJ", "_ZJ"), "base64"),
        (NOTE.replace("\n", "\r\n"), "blank line"),
        (NOTE.replace("problem,\n", "problem,\r\n"), "control character"),
        (NOTE.replace("think", "thi\tnk"), "control character"),
        (NOTE.replace("think", "thi\0nk"), "control character"),
        (NOTE.replace("think", "thi\x1fnk"), "control character"),
        (NOTE.replace("Peter", "Pe\x01ter"), "key name"),
        (NOTE.replace("think", "thi\ud800nk"), "UTF-8"),
        (f"{TEXT}\n— PeterNeumann x08goA==\n", "more than a key id"),
        (f"{TEXT}\n— PeterNeumann \n", "more than a key id"),
    ],
)
def test_malformed_notes_are_refused(data: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse_note(data)


@pytest.mark.parametrize(
    "data",
    [b"\xff", NOTE.encode().replace(b"think", b"thi\xc0\xafnk"), NOTE.encode("utf-16"), NOTE.encode("latin-1", "replace")],
)
def test_bytes_that_are_not_a_note_in_utf_8_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_note(data)


def test_characters_that_only_look_like_line_ends_are_text() -> None:
    text = "one\u2028two\x85three\x7f\n"
    assert parse_note(format_note(sign_note(text, [ALICE]))).text == text


def test_text_and_signatures_are_bounded() -> None:
    text = "x" * (MAX_TEXT_BYTES - 1) + "\n"
    assert parse_note(f"{text}\n{LINE}").text == text
    for longer in ("x" + text, "é" + text[2:] + "é\n", "\n" * (3 * MAX_TEXT_BYTES)):
        with pytest.raises(FormatError, match="expected at most"):
            parse_note(f"{longer}\n{LINE}")
    assert len(parse_note(TEXT + "\n" + LINE * 100).signatures) == 100
    with pytest.raises(FormatError, match="at most 100 signatures, found 101"):
        parse_note(TEXT + "\n" + LINE * 101)


@pytest.mark.parametrize("text", ["", "no newline", "tab\there\n", "\ud800\n"])
def test_what_cannot_be_a_notes_text_is_not_signed(text: str) -> None:
    with pytest.raises(FormatError):
        sign_note(text, [ALICE])


@pytest.mark.parametrize(
    "note",
    [
        Note(TEXT, ()),
        Note("no newline", (Signature("a", b"1234", b"s"),)),
        Note(TEXT, (Signature("a b", b"1234", b"s"),)),
        Note(TEXT, (Signature("", b"1234", b"s"),)),
        Note(TEXT, (Signature("a\n", b"1234", b"s"),)),
        Note(TEXT, (Signature("a", b"123", b"4s"),)),
        Note(TEXT, (Signature("a", b"1234", b""),)),
    ],
)
def test_notes_that_nobody_could_read_are_not_written(note: Note) -> None:
    with pytest.raises(FormatError):
        format_note(note)


def test_signatures_of_unknown_keys_are_ignored() -> None:
    note = sign_note(TEXT, [ALICE, BOB])
    assert verify_note(note, [BOB_KEY]) == (BOB_KEY,)
    garbage = Signature("carol", b"1234", b"not a signature")
    assert verify_note(note.with_signatures(garbage), [ALICE_KEY, BOB_KEY]) == (ALICE_KEY, BOB_KEY)


def test_a_name_or_an_id_alone_is_not_a_known_key() -> None:
    note = sign_note(TEXT, [ALICE])
    same_name = Signature(BOB_KEY.name, ALICE_KEY.key_id, b"x" * 64)
    same_id = Signature(ALICE_KEY.name, BOB_KEY.key_id, b"x" * 64)
    assert verify_note(note.with_signatures(same_name, same_id), [ALICE_KEY, BOB_KEY]) == (ALICE_KEY,)


def test_a_note_without_a_known_signature_is_refused() -> None:
    with pytest.raises(ProofError, match="by a known key, found none"):
        verify_note(sign_note(TEXT, [ALICE]), [BOB_KEY])
    with pytest.raises(ProofError, match="found none"):
        verify_note(sign_note(TEXT, [ALICE]), [])


@pytest.mark.parametrize("forged", [b"", b"x", b"x" * 63, b"x" * 64, b"x" * 65, bytes(64), bytes(72)])
def test_one_bad_signature_of_a_known_key_condemns_the_note(forged: bytes) -> None:
    note = sign_note(TEXT, [ALICE, BOB]).with_signatures(Signature(BOB_KEY.name, BOB_KEY.key_id, forged))
    assert verify_note(note, [ALICE_KEY]) == (ALICE_KEY,)
    with pytest.raises(ProofError, match="'bob' that verifies"):
        verify_note(note, [ALICE_KEY, BOB_KEY])


def test_a_signature_over_another_text_does_not_verify() -> None:
    moved = Note(TEXT.replace("answer", "Answer"), sign_note(TEXT, [ALICE]).signatures)
    with pytest.raises(ProofError, match="alice"):
        verify_note(moved, [ALICE_KEY])


def test_a_signature_may_be_of_any_length_because_other_types_exist() -> None:
    (short,) = parse_note(f"{TEXT}\n— PeterNeumann x08goAA=\n").signatures
    (long,) = parse_note(f"{TEXT}\n— PeterNeumann {'A' * 12_000}\n").signatures
    assert (short.signature, len(long.signature)) == (b"\0", 8_996)


def test_base64_in_a_signature_line_holds_key_id_and_signature() -> None:
    (signature,) = parse_note(NOTE).signatures
    assert (signature.name, signature.key_id.hex()) == ("PeterNeumann", "c74f20a3")
    assert base64.b64decode(LINE.split()[2]) == signature.key_id + signature.signature
