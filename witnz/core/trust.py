"""What a verifier brings to judge receipts, obtained through another channel, as the policy is: accounts, blocks, authorities.

One item a line, words separated by spaces, ``#`` comments and blank lines anywhere, every line ended by a newline, UTF-8:

    account <chain id> <address>             the account that anchors this log; 40 hex digits, 0x allowed
    block <chain id> <number> <hash>         a block known to be in the chain; 64 hex digits, 0x allowed
    authority <sha256>                       a root certificate of time-stamping authorities: hex SHA-256 of its DER
    bucket <name>                            the bucket that this log is anchored in

A receipt of a kind for which something is listed must be of what is listed.  Nothing of it is ever taken from a bundle.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from witnz.core.policy import Policy
from witnz.errors import FormatError

MAX_TRUST_BYTES: Final = 64 * 1024
MAX_CHAIN_ID: Final = 2**53 - 1

_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}")
_ADDRESS = re.compile(r"(?:0x)?([0-9a-fA-F]{40})")
_HASH = re.compile(r"(?:0x)?([0-9a-fA-F]{64})")
_BUCKET = re.compile(r"[!-~]{1,255}")


@dataclass(frozen=True, slots=True)
class Trust:
    """``accounts``: (chain id, 20 bytes); ``blocks``: (chain id, number) -> 32 bytes; ``authorities``: 32 bytes each.

    ``policy``: whose signatures count; ``now_us``: the verifier's own time, µs since the Unix epoch, None where it has none.
    """

    policy: Policy | None = None
    accounts: frozenset[tuple[int, bytes]] = frozenset()
    blocks: Mapping[tuple[int, int], bytes] = field(default_factory=lambda: MappingProxyType({}))
    authorities: frozenset[bytes] = frozenset()
    buckets: frozenset[str] = frozenset()
    now_us: int | None = None


def parse_trust(data: bytes, policy: Policy | None = None, now_us: int | None = None) -> Trust:
    """The trust in a file of at most 64 KiB.  Raises FormatError with the line of what is malformed, unknown or given twice."""
    if len(data) > MAX_TRUST_BYTES:
        raise FormatError(f"trust: expected at most {MAX_TRUST_BYTES} bytes, found {len(data)}")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"trust: expected valid UTF-8, found another byte at offset {error.start}") from None
    if text and not text.endswith("\n"):
        raise FormatError("trust: expected a final newline, found none")
    found = _Found()
    for number, line in enumerate(text.split("\n")[:-1], 1):
        words = line.partition("#")[0].split()
        if words and (problem := found.take(words)) is not None:
            raise FormatError(f"trust, line {number}: {problem}")
    return Trust(
        policy,
        frozenset(found.accounts),
        MappingProxyType(found.blocks),
        frozenset(found.authorities),
        frozenset(found.buckets),
        now_us,
    )


class _Found:
    """What the lines so far said."""

    def __init__(self) -> None:
        self.accounts: set[tuple[int, bytes]] = set()
        self.blocks: dict[tuple[int, int], bytes] = {}
        self.authorities: set[bytes] = set()
        self.buckets: set[str] = set()

    def take(self, words: list[str]) -> str | None:
        """What is wrong with a line, or None once it is taken."""
        match words:
            case ["account", chain, address]:
                if not _is_chain(chain) or (parts := _ADDRESS.fullmatch(address)) is None:
                    return "expected account <chain id> <address of 40 hex digits>"
                return self._once(self.accounts, (int(chain), bytes.fromhex(parts[1])))
            case ["block", chain, block, block_hash]:
                if not _is_chain(chain) or not _NUMBER.fullmatch(block) or (parts := _HASH.fullmatch(block_hash)) is None:
                    return "expected block <chain id> <number> <hash of 64 hex digits>"
                if self.blocks.setdefault((int(chain), int(block)), bytes.fromhex(parts[1])) != bytes.fromhex(parts[1]):
                    return f"block {block} of chain {chain} is given with two hashes"
                return None
            case ["authority", digest]:
                if (parts := _HASH.fullmatch(digest)) is None:
                    return "expected authority <SHA-256 of 64 hex digits>"
                return self._once(self.authorities, bytes.fromhex(parts[1]))
            case ["bucket", name] if _BUCKET.fullmatch(name):
                return self._once(self.buckets, name)
        return f"expected account, block, authority or bucket with what belongs to it, found {' '.join(words)[:80]!r}"

    def _once(self, into: set[Any], item: Any) -> str | None:
        if item in into:
            return "it is given twice"
        into.add(item)
        return None


def _is_chain(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None and 1 <= int(text) <= MAX_CHAIN_ID
