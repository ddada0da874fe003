"""The tree of RFC 6962 and RFC 9162 against published constants, third-party vectors and its own definition."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.vectors import SHARED_VECTORS, needs_shared_vectors
from witnz.core.merkle import (
    EMPTY_ROOT,
    consistency_path,
    inclusion_path,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from witnz.errors import UsageError

# The eight leaves of the Certificate Transparency test suites and the roots of their prefixes.
CT_LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
SIZES = range(1, 71)
LEAVES = [leaf_hash(b"entry %d" % i) for i in range(70)]
ROOTS = {size: root_of(LEAVES[:size]) for size in SIZES}
INCLUSION = {(i, size): inclusion_path(LEAVES[:size], i) for size in SIZES for i in range(size)}
CONSISTENCY = {(old, new): consistency_path(LEAVES, old, new) for new in SIZES for old in range(1, new + 1)}


def load(name: str) -> list[dict[str, Any]]:
    vectors: list[dict[str, Any]] = json.loads((SHARED_VECTORS / "merkle" / name).read_bytes())
    assert len(vectors) == 49  # most are mutations that must fail
    assert {vector["wantErr"] for vector in vectors} == {True, False}
    return vectors


def unpack(vector: dict[str, Any], *names: str) -> list[bytes]:
    return [base64.b64decode(vector[name]) for name in names]


def proof_of(vector: dict[str, Any]) -> list[bytes]:
    return [base64.b64decode(part) for part in vector["proof"] or []]


def test_hashes_are_the_published_ones() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert leaf_hash(b"L123456").hex() == "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
    assert node_hash(b"N123", b"N456").hex() == "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"


def test_roots_of_the_eight_certificate_transparency_leaves_are_the_published_ones() -> None:
    leaves = [leaf_hash(bytes.fromhex(entry)) for entry in CT_LEAVES]
    assert [root_of(leaves[:size]).hex() for size in range(1, 9)] == CT_ROOTS
    assert root_of([]) == EMPTY_ROOT


def test_the_last_leaf_is_never_duplicated() -> None:
    assert root_of(LEAVES[:3]) == node_hash(node_hash(LEAVES[0], LEAVES[1]), LEAVES[2])
    assert root_of(LEAVES[:3]) != root_of([*LEAVES[:3], LEAVES[2]])


@needs_shared_vectors
def test_inclusion_vectors_are_judged_as_their_makers_say() -> None:
    wrong = []
    for vector in load("inclusion.json"):
        leaf, root = unpack(vector, "leafHash", "root")
        verdict = verify_inclusion(vector["leafIdx"], vector["treeSize"], leaf, proof_of(vector), root)
        if verdict is vector["wantErr"]:
            wrong.append(vector["case"])
    assert wrong == []


@needs_shared_vectors
def test_consistency_vectors_are_judged_as_their_makers_say() -> None:
    wrong = []
    for vector in load("consistency.json"):
        root1, root2 = unpack(vector, "root1", "root2")
        verdict = verify_consistency(vector["size1"], vector["size2"], root1, root2, proof_of(vector))
        if verdict is vector["wantErr"]:
            wrong.append(vector["case"])
    assert wrong == []


def test_every_inclusion_proof_of_every_small_tree_verifies() -> None:
    for (index, size), proof in INCLUSION.items():
        assert verify_inclusion(index, size, LEAVES[index], proof, ROOTS[size]), (index, size)


def test_every_consistency_proof_between_small_trees_verifies() -> None:
    for (old, new), proof in CONSISTENCY.items():
        assert verify_consistency(old, new, ROOTS[old], ROOTS[new], proof), (old, new)


def test_an_inclusion_proof_shows_nothing_about_another_index_or_leaf() -> None:
    for (index, size), proof in INCLUSION.items():
        for other in {(index + 1) % size, index ^ 1, size - 1 - index} - {index}:
            assert not verify_inclusion(other, size, LEAVES[index], proof, ROOTS[size]), (index, other, size)
        assert not verify_inclusion(index, size, LEAVES[(index + 1) % 70], proof, ROOTS[size])


def mutations(proof: list[bytes]) -> list[list[bytes]]:
    mutated = [[*proof, LEAVES[0]], [LEAVES[0], *proof]]
    for at, part in enumerate(proof):
        mutated.append([*proof[:at], *proof[at + 1 :]])
        mutated.append([*proof[:at], bytes([part[0] ^ 1]) + part[1:], *proof[at + 1 :]])
        mutated.append([*proof[:at], part[:-1], *proof[at + 1 :]])
        mutated.append([*proof[:at], part + b"\0", *proof[at + 1 :]])
    if len(proof) > 1:
        mutated.append(proof[::-1])
    return mutated


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 33, 64, 70])
def test_a_mutated_inclusion_proof_fails(size: int) -> None:
    for index in range(size):
        for proof in mutations(INCLUSION[index, size]):
            assert not verify_inclusion(index, size, LEAVES[index], proof, ROOTS[size]), (index, size)


@pytest.mark.parametrize("new", [2, 3, 7, 8, 33, 64, 70])
def test_a_mutated_consistency_proof_fails(new: int) -> None:
    for old in range(1, new):
        for proof in mutations(CONSISTENCY[old, new]):
            assert not verify_consistency(old, new, ROOTS[old], ROOTS[new], proof), (old, new)
        proof = CONSISTENCY[old, new]
        assert not verify_consistency(old, new, ROOTS[new], ROOTS[old], proof)
        assert not verify_consistency(old, new, ROOTS[old], EMPTY_ROOT, proof)
        assert not verify_consistency(old, new, EMPTY_ROOT, ROOTS[new], proof)
        assert not verify_consistency(new, old, ROOTS[new], ROOTS[old], proof)


def test_a_proof_longer_than_the_tree_is_high_fails_even_where_it_leads_to_the_root() -> None:
    extra = LEAVES[69]
    for (index, size), proof in INCLUSION.items():
        for root in (node_hash(extra, ROOTS[size]), node_hash(ROOTS[size], extra)):
            assert not verify_inclusion(index, size, LEAVES[index], [*proof, extra], root), (index, size)
    for (old, new), proof in CONSISTENCY.items():
        roots = node_hash(extra, ROOTS[old]), node_hash(extra, ROOTS[new])
        assert not verify_consistency(old, new, *roots, [*proof, extra]), (old, new)
        assert not verify_consistency(old, new, ROOTS[old], node_hash(ROOTS[new], extra), [*proof, extra]), (old, new)


def test_equal_sizes_are_consistent_only_with_equal_roots_and_no_proof() -> None:
    assert verify_consistency(5, 5, ROOTS[5], ROOTS[5], [])
    assert not verify_consistency(5, 5, ROOTS[5], ROOTS[6], [])
    assert not verify_consistency(5, 5, ROOTS[5], ROOTS[5], [ROOTS[5]])


def test_nothing_follows_from_the_empty_tree() -> None:
    assert not verify_consistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, [])
    assert not verify_consistency(0, 3, EMPTY_ROOT, ROOTS[3], [])
    assert not verify_inclusion(0, 0, LEAVES[0], [], EMPTY_ROOT)


@pytest.mark.parametrize("size", [-1, 0, 2**64, 2**64 + 1, True, 1.0, None, "1"])
def test_a_size_out_of_range_fails_and_does_not_raise(size: Any) -> None:
    assert not verify_inclusion(0, size, LEAVES[0], [], LEAVES[0])
    assert not verify_consistency(size, size, LEAVES[0], LEAVES[0], [])
    assert not verify_consistency(1, size, LEAVES[0], LEAVES[0], [])


def test_the_largest_size_is_in_range_and_longer_proofs_than_63_hashes_are_refused() -> None:
    zeros = bytes(32)

    def root_over(hashes: int) -> bytes:
        root = zeros
        for _ in range(hashes):
            root = node_hash(root, zeros)
        return root

    assert verify_inclusion(0, 2**63, zeros, [zeros] * 63, root_over(63))
    assert not verify_inclusion(0, 2**64 - 1, zeros, [zeros] * 64, root_over(64))
    assert verify_inclusion(2**64 - 2, 2**64 - 1, zeros, [zeros] * 63, node_chain(63))
    assert not verify_inclusion(2**64 - 1, 2**64 - 1, zeros, [zeros] * 63, node_chain(63))


def node_chain(hashes: int) -> bytes:
    root = bytes(32)
    for _ in range(hashes):
        root = node_hash(bytes(32), root)
    return root


@pytest.mark.parametrize("hash_", [b"", LEAVES[0][:31], LEAVES[0] + b"\0", None, LEAVES[0].hex(), 7])
def test_a_hash_that_is_not_32_bytes_fails_and_does_not_raise(hash_: Any) -> None:
    assert not verify_inclusion(0, 1, hash_, [], hash_)
    assert not verify_inclusion(0, 2, LEAVES[0], [hash_], ROOTS[2])
    assert not verify_consistency(1, 1, hash_, hash_, [])
    assert not verify_consistency(1, 2, ROOTS[1], ROOTS[2], [hash_])
    assert not verify_inclusion(0, 1, LEAVES[0], hash_, LEAVES[0])


@given(st.integers(), st.integers(), st.lists(st.binary(max_size=40), max_size=70), st.binary(max_size=33))
def test_verification_of_anything_at_all_answers(number: int, other: int, proof: list[bytes], root: bytes) -> None:
    assert verify_inclusion(number, other, root, proof, root) in {True, False}
    assert verify_consistency(number, other, root, root, proof) in {True, False}


def test_proofs_that_do_not_exist_cannot_be_asked_for() -> None:
    for index in (-1, 3, 4):
        with pytest.raises(UsageError, match=f"below the tree size 3, found {index}"):
            inclusion_path(LEAVES[:3], index)
    for old, new in ((0, 3), (4, 3), (1, 4), (-1, 2)):
        with pytest.raises(UsageError, match=f"found {old} and {new}"):
            consistency_path(LEAVES[:3], old, new)
