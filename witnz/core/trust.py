"""What a verifier brings to judge receipts, obtained through another channel, as the policy is: accounts, blocks, authorities.

One item a line, words separated by spaces, ``#`` comments and blank lines anywhere, every line ended by a newline, UTF-8:

    account <chain id> <address>             the account that anchors this log; 40 hex digits, 0x allowed
    block <chain id> <number> <hash>         a block known to be in the chain; 64 hex digits, 0x allowed
    authority <sha256>                       a root certificate of time-stamping authorities: hex SHA-256 of its DER
    -----BEGIN CERTIFICATE----- …            such a certificate itself, a PEM text as it is
    bitcoin-block <height> <header>          a block known to be in Bitcoin's chain: its 80-byte header, 160 hex digits
    bucket <name>                            the bucket that this log is anchored in

An address in mixed case carries its own checksum (EIP-55), which must hold.  The colons of ``openssl x509 -fingerprint`` may
stay.

A receipt of a kind for which something is listed must be of what is listed.  Nothing of it is ever taken from a bundle.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from witnz.core.policy import Policy
from witnz.errors import FormatError

if TYPE_CHECKING:  # certificates are slow to import, and few trust files hold one
    from cryptography import x509

MAX_TRUST_BYTES: Final = 64 * 1024
MAX_CHAIN_ID: Final = 2**53 - 1

_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}")
_ADDRESS = re.compile(r"(?:0x)?([0-9a-fA-F]{40})")
_HASH = re.compile(r"(?:0x)?([0-9a-fA-F]{64})")
_HEADER = re.compile(r"[0-9a-fA-F]{160}")
_PEM_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_PEM_END: Final = "-----END CERTIFICATE-----"
_BUCKET = re.compile(r"[!-~]{1,255}")


@dataclass(frozen=True, slots=True)
class Trust:
    """``accounts``: (chain id, 20 bytes); ``blocks``: (chain id, number) -> 32 bytes; ``authorities``: 32 bytes each.

    ``certificates``: of authorities, their digests not among ``authorities``; ``bitcoin_blocks``: height -> header of 80 bytes.
    ``policy``: whose signatures count; ``now_us``: the verifier's own time, µs since the Unix epoch, None where it has none.
    """

    policy: Policy | None = None
    accounts: frozenset[tuple[int, bytes]] = frozenset()
    blocks: Mapping[tuple[int, int], bytes] = field(default_factory=lambda: MappingProxyType({}))
    authorities: frozenset[bytes] = frozenset()
    certificates: tuple[x509.Certificate, ...] = ()
    bitcoin_blocks: Mapping[int, bytes] = field(default_factory=lambda: MappingProxyType({}))
    buckets: frozenset[str] = frozenset()
    now_us: int | None = None

    def is_about(self, kind: str) -> bool:
        """Whether something is listed for receipts of this type, so that they must be of what is listed."""
        match kind:
            case "evm":
                return bool(self.accounts or self.blocks)
            case "rfc3161":
                return bool(self.authorities or self.certificates)
            case "opentimestamps":
                return bool(self.bitcoin_blocks)
            case "s3":
                return bool(self.buckets)
            case _:
                return False


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
        if (problem := found.take_line(line)) is not None:
            raise FormatError(f"trust, line {number}: {problem}")
    if found.pem:
        raise FormatError(f"trust: expected {_PEM_END} before its end")
    return Trust(
        policy,
        frozenset(found.accounts),
        MappingProxyType(found.blocks),
        frozenset(found.authorities),
        tuple(found.certificates),
        MappingProxyType(found.bitcoin_blocks),
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
        self.certificates: list[x509.Certificate] = []
        self.bitcoin_blocks: dict[int, bytes] = {}
        self.pem: list[str] = []

    def take_line(self, line: str) -> str | None:
        """What is wrong with a line, or None once it is taken."""
        if self.pem or line.strip() == _PEM_BEGIN:
            return self._take_pem(line.strip())
        words = line.partition("#")[0].split()
        return self.take(words) if words else None

    def _take_pem(self, line: str) -> str | None:
        """A line of a certificate, which is read at its last line."""
        self.pem.append(line)
        if line != _PEM_END:
            return None
        from cryptography import x509

        try:
            self.certificates.append(x509.load_pem_x509_certificate("\n".join(self.pem).encode()))
        except ValueError as error:
            return f"expected a PEM certificate to end here: {error}"
        self.pem = []
        return None

    def take(self, words: list[str]) -> str | None:
        """What is wrong with a line, or None once it is taken."""
        match words:
            case ["account", chain, address]:
                from witnz.core.evm.transaction import format_address  # slow to import, and most verifiers name no account

                if not _is_chain(chain) or (parts := _ADDRESS.fullmatch(address)) is None:
                    return "expected account <chain id> <address of 40 hex digits>"
                if parts[1] not in (parts[1].lower(), parts[1].upper(), format_address(bytes.fromhex(parts[1]))[2:]):
                    return "expected an address whose mixed case is its checksum (EIP-55); is there a typing error?"
                return self._once(self.accounts, (int(chain), bytes.fromhex(parts[1])))
            case ["block", chain, block, block_hash]:
                if not _is_chain(chain) or not _NUMBER.fullmatch(block) or (parts := _HASH.fullmatch(block_hash)) is None:
                    return "expected block <chain id> <number> <hash of 64 hex digits>"
                if self.blocks.setdefault((int(chain), int(block)), bytes.fromhex(parts[1])) != bytes.fromhex(parts[1]):
                    return f"block {block} of chain {chain} is given with two hashes"
                return None
            case ["authority", digest]:
                if (parts := _HASH.fullmatch(digest.replace(":", ""))) is None:
                    return "expected authority <SHA-256 of 64 hex digits>"
                return self._once(self.authorities, bytes.fromhex(parts[1]))
            case ["bitcoin-block", height, header]:
                if not _NUMBER.fullmatch(height) or not _HEADER.fullmatch(header):
                    return "expected bitcoin-block <height> <header of 160 hex digits>"
                if self.bitcoin_blocks.setdefault(int(height), bytes.fromhex(header)) != bytes.fromhex(header):
                    return f"block {height} of Bitcoin is given with two headers"
                return None
            case ["bucket", name] if _BUCKET.fullmatch(name):
                return self._once(self.buckets, name)
        known = "account, block, authority, bitcoin-block or bucket"
        return f"expected {known} with what belongs to it, or a PEM certificate, found {' '.join(words)[:80]!r}"

    def _once(self, into: set[Any], item: Any) -> str | None:
        if item in into:
            return "it is given twice"
        into.add(item)
        return None


def _is_chain(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None and 1 <= int(text) <= MAX_CHAIN_ID
