"""Recovery of the public key that made an ECDSA signature over secp256k1 (SEC 1 version 2, 4.1.6; curve of SEC 2, 2.4.1).

Only recovery, only on public data: nothing here ever sees a private key, so it need not run in constant time.  Who signs, signs
with a library.  Stricter than SEC 1 as Ethereum is: ``s`` in the lower half (EIP-2), the parity given, x below the order.
"""

from __future__ import annotations

from typing import Final

from witnz.errors import ProofError

FIELD: Final = 2**256 - 2**32 - 977
ORDER: Final = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
_GENERATOR: Final = (
    0x79BE667E_F9DCBBAC_55A06295_CE870B07_029BFCDB_2DCE28D9_59F2815B_16F81798,
    0x483ADA77_26A3C465_5DA4FBFC_0E1108A8_FD17B448_A6855419_9C47D08F_FB10D4B8,
)

Point = tuple[int, int] | None
"""Affine coordinates; None is the point at infinity."""


def recover(digest: bytes, parity: int, r: int, s: int) -> bytes:
    """The public key, x and y of 32 bytes each, under which (r, s) signs the 32-byte ``digest``.

    ``parity``: of the y coordinate of the signature's point, 0 or 1.  Raises :class:`ProofError` where there is no such key,
    and for a signature that Ethereum does not accept.
    """
    if parity not in (0, 1) or not 0 < r < ORDER or not 0 < s <= ORDER // 2:
        raise ProofError("signature: expected r, s and parity in the ranges of secp256k1 with the lower s, found others")
    x = r
    square = (pow(x, 3, FIELD) + 7) % FIELD
    y = pow(square, (FIELD + 1) // 4, FIELD)
    if y * y % FIELD != square:
        raise ProofError("signature: its r is the abscissa of no point of secp256k1")
    if y & 1 != parity:
        y = FIELD - y
    inverse = pow(r, -1, ORDER)
    z = int.from_bytes(digest, "big") % ORDER
    public = _sum(_multiple(s * inverse % ORDER, (x, y)), _multiple(-z * inverse % ORDER, _GENERATOR))
    if public is None:
        raise ProofError("signature: it is made by no public key")
    return public[0].to_bytes(32, "big") + public[1].to_bytes(32, "big")


def _sum(left: Point, right: Point) -> Point:
    if left is None:
        return right
    if right is None:
        return left
    if left[0] == right[0]:
        if (left[1] + right[1]) % FIELD == 0:
            return None
        slope = 3 * left[0] * left[0] * pow(2 * left[1], -1, FIELD) % FIELD
    else:
        slope = (right[1] - left[1]) * pow(right[0] - left[0], -1, FIELD) % FIELD
    x = (slope * slope - left[0] - right[0]) % FIELD
    return x, (slope * (left[0] - x) - left[1]) % FIELD


def _multiple(factor: int, point: Point) -> Point:
    total: Point = None
    while factor:
        if factor & 1:
            total = _sum(total, point)
        point = _sum(point, point)
        factor >>= 1
    return total
