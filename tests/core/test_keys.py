"""Keys as signed notes name them: published keys and signatures, damage, and points that identify nobody."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from witnz.core import keys
from witnz.core.keys import (
    COSIGNATURE,
    ED25519,
    Ed25519Signer,
    PrivateKey,
    VerifierKey,
    cosigner_key,
    format_private_key,
    format_verifier_key,
    key_id,
    parse_base64,
    parse_private_key,
    parse_verifier_key,
    verifier_key,
    verify_signature,
)
from witnz.errors import FormatError, KeyProblem

PUBLISHED = [
    "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
    "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
    "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx",
    "witness.example.org+b8a2cf20+BFLN3yikSfFkVAJtrnh/CiY3Zozkoy7clp+P7XB28qUN",
]
# The private key of the documentation of Go's sumdb/note.
NEUMANN = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
NAMES = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="+"), min_size=1, max_size=40)
SEEDS = st.binary(min_size=32, max_size=32)


@pytest.mark.parametrize("text", PUBLISHED)
def test_published_verifier_keys_are_read_and_written_as_they_are(text: str) -> None:
    key = parse_verifier_key(text)
    assert format_verifier_key(key) == str(key) == text
    assert key == verifier_key(key.name, key.type, key.public)
    assert key.key_id.hex() == text.split("+")[1]


def test_the_base64_of_a_key_may_hold_a_plus() -> None:
    assert any("+" in text.split("+", 2)[2] for text in PUBLISHED)
    assert "+" in NEUMANN.split("+", 4)[4]


def test_a_witness_listed_with_its_note_key_is_printed_as_a_cosigner() -> None:
    published = parse_verifier_key(PUBLISHED[-1])
    as_note_key = verifier_key(published.name, ED25519, published.public)
    assert as_note_key.key_id != published.key_id
    assert cosigner_key(parse_verifier_key(format_verifier_key(as_note_key))) == published
    assert cosigner_key(published) == published
    assert published.type == COSIGNATURE


def test_the_published_private_key_is_read_written_and_belongs_to_its_verifier_key() -> None:
    key = parse_private_key(NEUMANN)
    assert (key.name, key.type) == ("PeterNeumann", ED25519)
    assert format_private_key(key.name, key.type, key.seed) == NEUMANN
    assert format_verifier_key(key.verifier()) == PUBLISHED[1]
    assert key.signer().public == key.verifier().public


def test_signatures_are_those_of_rfc_8032() -> None:
    signer = Ed25519Signer("rfc8032-7.1-1", bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    first_half = "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
    signature = first_half + "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    assert signer.public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert signer.sign(b"").hex() == signature
    assert verify_signature(signer.public, bytes.fromhex(signature), b"")


@given(NAMES, st.sampled_from([ED25519, COSIGNATURE]), SEEDS)
def test_keys_read_back(name: str, key_type: int, seed: bytes) -> None:
    text = format_private_key(name, key_type, seed)
    key = parse_private_key(text)
    assert key == PrivateKey(name, key_type, seed)
    assert format_private_key(key.name, key.type, key.seed) == text
    assert parse_verifier_key(format_verifier_key(key.verifier())) == key.verifier()


@given(SEEDS, st.binary(max_size=100))
def test_a_signature_verifies_for_its_key_and_message_only(seed: bytes, message: bytes) -> None:
    signer, other = Ed25519Signer("a", seed), Ed25519Signer("a", bytes([seed[0] ^ 1]) + seed[1:])
    signature = signer.sign(message)
    assert verify_signature(signer.public, signature, message)
    assert not verify_signature(other.public, signature, message)
    assert not verify_signature(signer.public, signature, message + b"\0")
    for at in (0, 31, 32, 63):
        flipped = signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :]
        assert not verify_signature(signer.public, flipped, message)


def test_a_signature_with_a_second_spelling_of_its_scalar_is_refused() -> None:
    signer = Ed25519Signer("a", bytes(32))
    signature = signer.sign(b"message")
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(signature[32:], "little") + order
    assert not verify_signature(signer.public, signature[:32] + scalar.to_bytes(32, "little"), b"message")


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_wrong_lengths_do_not_verify_and_do_not_raise(length: int) -> None:
    signer = Ed25519Signer("a", bytes(32))
    assert not verify_signature(bytes([9]) * length, signer.sign(b""), b"")
    assert not verify_signature(signer.public, (signer.sign(b"") * 2)[:length] if length != 64 else bytes(64), b"")


# Affine Edwards arithmetic of RFC 8032 5.1, slow and obvious, to check the list of points of small order.
P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


def add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    product = D * a[0] * b[0] * a[1] * b[1]
    x = (a[0] * b[1] + a[1] * b[0]) * pow(1 + product, -1, P)
    y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, -1, P)
    return x % P, y % P


def point_of(encoded: bytes) -> tuple[int, int]:
    y = int.from_bytes(encoded, "little") % 2**255 % P
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    root = pow(square, (P + 3) // 8, P)
    if root * root % P != square:
        root = root * pow(2, (P - 1) // 4, P) % P
    assert root * root % P == square
    return root, y


def test_exactly_the_points_of_small_order_are_listed() -> None:
    affine = set()
    for encoded in keys._SMALL_ORDER:
        x, y = point = point_of(encoded)
        for _ in range(3):
            point = add(point, point)
        assert point == (0, 1), encoded.hex()
        affine |= {(x, y), (-x % P, y)}
    assert len(affine) == 8  # the whole subgroup of order 8
    # Each y below 19 has a second spelling y + p; of the subgroup, those are 0 and 1.
    canonical = {y.to_bytes(32, "little") for _, y in affine}
    assert canonical | {P.to_bytes(32, "little"), (P + 1).to_bytes(32, "little")} == keys._SMALL_ORDER


@pytest.mark.parametrize("sign", [0, 0x80])
@pytest.mark.parametrize("encoded", sorted(keys._SMALL_ORDER), ids=bytes.hex)
def test_a_public_key_of_small_order_identifies_nobody(encoded: bytes, sign: int) -> None:
    public = encoded[:31] + bytes([encoded[31] | sign])
    with pytest.raises(FormatError, match="small order"):
        verifier_key("a", ED25519, public)
    with pytest.raises(FormatError, match="small order"):
        parse_verifier_key(format_verifier_key(VerifierKey("a", key_id("a", 1, public), 1, public)))
    assert not any(verify_signature(public, encoded + bytes(32), b"%d" % i) for i in range(32))


def test_the_library_alone_would_accept_one_signature_for_every_message_under_the_neutral_point() -> None:
    neutral = b"\1" + bytes(31)
    Ed25519PublicKey.from_public_bytes(neutral).verify(neutral + bytes(32), b"anything")
    assert not verify_signature(neutral, neutral + bytes(32), b"anything")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sum.golang.org",
        "sum.golang.org+033de0ae",
        "+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
        "sum.golang.org+033DE0AE+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
        "sum.golang.org+033de0af+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
        "sum.golang.com+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
        "sum golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
        "sum\u00a0golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
        "sum\x01golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
        "sum\udc80golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
        "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn9",
        "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuA==",
        "sum.golang.org+033de0ae+Ac4zctda0e5eza-HJyk9SxEdh_s3Ux18htTTAD8OuAn8",
        "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8\n",
        "sum.golang.org+033de0ae+",
        "a" * 2000 + "+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
    ],
)
def test_damaged_verifier_keys_are_refused(text: str) -> None:
    with pytest.raises(FormatError, match="verifier key"):
        parse_verifier_key(text)


@pytest.mark.parametrize("key_type", [0x00, 0x02, 0x05, 0x06, 0xFF])
def test_other_key_types_are_refused_by_number(key_type: int) -> None:
    public = Ed25519Signer("a", bytes(32)).public
    with pytest.raises(FormatError, match=f"found type {key_type:#04x} and 32 bytes"):
        parse_verifier_key(format_verifier_key(VerifierKey("a", key_id("a", key_type, public), key_type, public)))
    with pytest.raises(FormatError, match="expected type 0x01 or 0x04"):
        verifier_key("a", key_type, public)
    with pytest.raises(KeyProblem, match="expected type 0x01 or 0x04"):
        format_private_key("a", key_type, bytes(32))


@pytest.mark.parametrize(
    "text",
    [
        "",
        NEUMANN + "\n",
        NEUMANN[:-1],
        NEUMANN[:-1] + "y",
        NEUMANN.replace("c74f20a3", "c74f20a4"),
        NEUMANN.replace("c74f20a3", "C74F20A3"),
        NEUMANN.replace("+c74f20a3", ""),
        NEUMANN.replace("PeterNeumann+", ""),
        NEUMANN.replace("PeterNeumann", "Peter Neumann"),
        NEUMANN.replace("PeterNeumann", "PeterNeumanm"),
        NEUMANN.replace("PRIVATE", "PUBLIC"),
        NEUMANN.replace("PeterNeumann+c74f20a3+", ""),
        NEUMANN.replace("+AY", "+BY"),
        NEUMANN.replace("+AY", "+Ay"),
        NEUMANN.replace("PeterNeumann", "x" * 2000),
    ],
)
def test_a_damaged_private_key_is_a_key_problem_that_quotes_nothing_and_says_what_to_do(text: str) -> None:
    with pytest.raises(KeyProblem, match="damaged private key: expected") as caught:
        parse_private_key(text)
    assert "backup" in caught.value.hint
    secret = NEUMANN.rpartition("c74f20a3+")[2]
    assert not any(secret[at : at + 4] in str(caught.value) for at in range(len(secret) - 4))
    assert caught.value.__cause__ is None


def test_seeds_are_not_in_what_is_printed() -> None:
    key = parse_private_key(NEUMANN)
    for shown in (repr(key), str(key), repr(key.signer())):
        assert "PeterNeumann" in shown
        assert key.seed.hex() not in shown
        assert repr(key.seed) not in shown


@pytest.mark.parametrize(
    ("name", "seed"), [("a", bytes(31)), ("a", bytes(33)), ("", bytes(32)), ("a b", bytes(32)), ("a+b", bytes(32))]
)
def test_impossible_private_keys_are_not_written(name: str, seed: bytes) -> None:
    with pytest.raises(KeyProblem):
        format_private_key(name, ED25519, seed)


@given(st.binary(max_size=80))
def test_base64_reads_back(data: bytes) -> None:
    assert parse_base64(base64.b64encode(data).decode(), what="x") == data


@pytest.mark.parametrize(
    "text", ["A", "AA", "AA=", "AAA", "AB==", "AAB=", "AA==\n", " AA==", "A-A=", "AA==AA==", "ÄA==", "A=A=", "===="]
)
def test_base64_that_is_not_canonical_is_refused_by_name(text: str) -> None:
    with pytest.raises(FormatError, match="the thing: expected"):
        parse_base64(text, what="the thing")
