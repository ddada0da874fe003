"""Keccak-256 as Ethereum uses it: the sponge of FIPS 202 with the padding of the original submission (0x01, not SHA-3's 0x06).

    rate 136 bytes, capacity 64, output 32; state: 25 lanes of 64 bits, lane (x, y) at index x + 5 y, little-endian

The standard library has SHA3-256, which differs in that one padding byte, and no Keccak-256.  A receipt is some 3 KB, so a few
dozen permutations; speed is no matter here.  Source: FIPS 202 3.2 (steps theta, rho, pi, chi, iota) and 3.3; tests hold the
permutation against the standard library's SHA3-256 and the digest against published ones.
"""

from __future__ import annotations

from typing import Final

RATE_BYTES: Final = 136
DIGEST_BYTES: Final = 32
_MASK: Final = (1 << 64) - 1


def keccak256(data: bytes) -> bytes:
    """The 32-byte Keccak-256 digest of ``data``."""
    return sponge(data, 0x01)


def sponge(data: bytes, domain: int) -> bytes:
    """The digest with rate 136 whose padding begins with the byte ``domain``: 0x01 for Keccak-256, 0x06 for SHA3-256."""
    padded = bytearray(data)
    padded.append(domain)
    padded.extend(bytes(-len(padded) % RATE_BYTES))
    padded[-1] |= 0x80
    lanes = [0] * 25
    for offset in range(0, len(padded), RATE_BYTES):
        for index in range(RATE_BYTES // 8):
            start = offset + 8 * index
            lanes[index] ^= int.from_bytes(padded[start : start + 8], "little")
        lanes = _permuted(lanes)
    return b"".join(lane.to_bytes(8, "little") for lane in lanes[: DIGEST_BYTES // 8])


def _round_constants() -> tuple[int, ...]:
    """The 24 constants of iota: bits 2^j - 1 are the output of the LFSR x^8 + x^6 + x^5 + x^4 + 1 (FIPS 202 3.2.5)."""
    constants, register = [], 1
    for _ in range(24):
        constant = 0
        for bit in range(7):
            if register & 1:
                constant |= 1 << ((1 << bit) - 1)
            register <<= 1
            if register & 0x100:
                register ^= 0x171
        constants.append(constant)
    return tuple(constants)


def _steps() -> tuple[tuple[int, int, int], ...]:
    """rho and pi in one walk: lane ``source`` rotated left by ``bits`` goes to ``target`` (FIPS 202 3.2.2 and 3.2.3)."""
    steps, x, y = [], 1, 0
    for step in range(24):
        target = (y, (2 * x + 3 * y) % 5)
        steps.append((x + 5 * y, target[0] + 5 * target[1], (step + 1) * (step + 2) // 2 % 64))
        x, y = target
    return tuple(steps)


_ROUND_CONSTANTS: Final = _round_constants()
_STEPS: Final = _steps()


def _rotated(lane: int, bits: int) -> int:
    return (lane << bits | lane >> (64 - bits)) & _MASK


def _permuted(lanes: list[int]) -> list[int]:
    """Keccak-f[1600]: 24 rounds."""
    for constant in _ROUND_CONSTANTS:
        columns = [lanes[x] ^ lanes[x + 5] ^ lanes[x + 10] ^ lanes[x + 15] ^ lanes[x + 20] for x in range(5)]
        theta = [columns[(x - 1) % 5] ^ _rotated(columns[(x + 1) % 5], 1) for x in range(5)]
        mixed = [lane ^ theta[index % 5] for index, lane in enumerate(lanes)]
        moved = mixed[:]
        for source, target, bits in _STEPS:
            moved[target] = _rotated(mixed[source], bits)
        lanes = [
            moved[row + x] ^ (~moved[row + (x + 1) % 5] & _MASK & moved[row + (x + 2) % 5])
            for row in range(0, 25, 5)
            for x in range(5)
        ]
        lanes[0] ^= constant
    return lanes
