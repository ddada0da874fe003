"""The trust policy of whoever verifies: which logs, which witnesses, how many of them (c2sp.org/tlog-policy).

    log <vkey> [<url>]
    witness <name> <vkey> [<url>]
    group <name> all|any|<k> <member>…
    quorum <name>|none

One item a line, words separated by spaces and tabs, ``#`` comments and blank lines anywhere, every line ended by a newline.
A group or quorum names only what an earlier line defined; a name is defined once, is a member at most once (so a witness counts
in one way only), and is never ``none``; no two logs and no two witnesses share a public key; there is exactly one quorum line.

Names are octets, not text: bytes that are not UTF-8 are carried as surrogate escapes inside and shown with backslashes.
Log keys are of type 0x01 and carry the log's origin as name; witness keys are of type 0x01 or 0x04 and count as 0x04.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from witnz.core.checkpoint import parse_checkpoint
from witnz.core.keys import ED25519, VerifierKey, cosigner_key, format_verifier_key, parse_verifier_key
from witnz.core.note import Note, Signature, signature_fits
from witnz.errors import FormatError

MAX_POLICY_BYTES = 64 * 1024
NO_QUORUM = "none"

_FORBIDDEN = re.compile(rb"[^\t\n\x20-\x7e\x80-\xff]")
_THRESHOLD = re.compile(r"[1-9][0-9]{0,4}")


@dataclass(frozen=True, slots=True)
class Group:
    """At least ``threshold`` of ``members`` (names of witnesses or groups) must have witnessed a checkpoint."""

    name: str
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as read: witnesses by name, groups in the order of their lines, the name of the quorum, the text verbatim."""

    logs: tuple[VerifierKey, ...]
    witnesses: Mapping[str, VerifierKey]
    groups: tuple[Group, ...]
    quorum: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """What a policy says of one checkpoint.

    ``log_ok``: a log of the policy whose name is the checkpoint's origin signed it.  ``bad``: names of policy keys that a
    signature claims and that did not make it; that is tampering, whatever else verifies.  ``satisfied``: the quorum is met.
    ``cosigned_by``: names of the witnesses, in the policy's order, whose cosignatures verify.  ``detail``: a sentence.
    """

    log_ok: bool
    bad: list[str]
    satisfied: bool
    cosigned_by: list[str]
    detail: str

    @property
    def accepted(self) -> bool:
        """Whether the checkpoint is valid under the policy."""
        return self.log_ok and self.satisfied and not self.bad


def parse_policy(data: bytes | str) -> Policy:
    """A policy of at most 64 KiB; FormatError, with the line number, for anything the grammar does not allow."""
    octets = _octets(data) if isinstance(data, str) else data
    if len(octets) > MAX_POLICY_BYTES:
        raise FormatError(f"policy: expected at most {MAX_POLICY_BYTES} bytes, found {len(octets)}")
    if (found := _FORBIDDEN.search(octets)) is not None:
        number = octets.count(b"\n", 0, found.start()) + 1
        raise FormatError(
            f"policy line {number}: expected no control character but tab and newline, found 0x{found.group().hex()}"
        )
    text = octets.decode("utf-8", "surrogateescape")
    lines = text.split("\n")
    if lines.pop():
        raise FormatError(f"policy line {len(lines) + 1}: expected a newline at its end, found the end of the file")
    reader = _PolicyReader()
    for number, line in enumerate(lines, 1):
        words = [word for word in re.split(r"[ \t]+", line) if word]
        if words and not words[0].startswith("#"):
            try:
                reader.read(words)
            except FormatError as error:
                raise FormatError(f"policy line {number}: {error}") from None
    return reader.policy(text)


def format_policy(log_key: str, cosigners: Sequence[tuple[str, str]], quorum: int) -> str:
    """The text of the policy that asks for one log and ``quorum`` of its cosigners, 0 for none of them.

    ``log_key`` and the second of each (name, key) are verifier keys in text; witnesses are printed with type 0x04.  Raises
    FormatError for anything that would not be a valid policy.
    """
    lines = [f"log {log_key}"]
    lines += [f"witness {name} {format_verifier_key(cosigner_key(parse_verifier_key(vkey)))}" for name, vkey in cosigners]
    if quorum == 0:
        lines.append(f"quorum {NO_QUORUM}")
    else:
        lines.append(" ".join(["group", "members", str(quorum), *(name for name, _ in cosigners)]))
        lines.append("quorum members")
    return parse_policy("".join(f"{line}\n" for line in lines)).text


def evaluate(policy: Policy, note: Note) -> PolicyResult:
    """Judge a checkpoint's note by the policy; every signature that names a policy key is verified.

    Signatures by keys that the policy does not list are ignored.  Raises FormatError if the note is not a checkpoint.
    """
    origin = parse_checkpoint(note.text).origin
    by_key: dict[tuple[str, bytes], list[Signature]] = {}
    for signature in note.signatures:
        by_key.setdefault((signature.name, signature.key_id), []).append(signature)

    def signed(key: VerifierKey) -> bool | None:
        """True: signed, and all signatures verify; False: one does not; None: no signature names the key."""
        claimed = by_key.get((key.name, key.key_id))
        return None if claimed is None else all(signature_fits(note.text, signature, key) for signature in claimed)

    logs = [(key.name, signed(key)) for key in policy.logs]
    witnesses = [(name, signed(key)) for name, key in policy.witnesses.items()]
    cosigned_by = [name for name, verdict in witnesses if verdict]
    log_ok = any(verdict and name == origin for name, verdict in logs)
    bad = [_shown(name) for name, verdict in [*logs, *witnesses] if verdict is False]
    satisfied = _quorum_met(policy, cosigned_by)
    shown = [_shown(name) for name in cosigned_by]
    detail = "; ".join(
        [
            f"signed by the log {origin}" if log_ok else f"no signature by a log of the policy with the origin {origin}",
            f"cosigned by {len(shown)} of {len(policy.witnesses)} witnesses" + (f" ({', '.join(shown)})" if shown else ""),
            "no quorum asked for" if policy.quorum == NO_QUORUM else f"quorum {'met' if satisfied else 'not met'}",
            *([f"signatures that do not verify: {', '.join(bad)}"] if bad else []),
        ]
    )
    return PolicyResult(log_ok, bad, satisfied, shown, detail)


def _quorum_met(policy: Policy, cosigned_by: Sequence[str]) -> bool:
    witnessed = set(cosigned_by)
    for group in policy.groups:  # a group refers to earlier lines only, so one pass settles any nesting
        if sum(member in witnessed for member in group.members) >= group.threshold:
            witnessed.add(group.name)
    return policy.quorum == NO_QUORUM or policy.quorum in witnessed


def _octets(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise FormatError(f"policy: expected valid UTF-8, found a lone surrogate at character {error.start}") from None


def _shown(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class _PolicyReader:
    """The definitions read so far, line by line; messages carry no line number, the caller adds it."""

    def __init__(self) -> None:
        self._logs: list[VerifierKey] = []
        self._witnesses: dict[str, VerifierKey] = {}
        self._groups: dict[str, Group] = {}
        self._members: set[str] = set()
        self._quorum: str | None = None

    def read(self, words: list[str]) -> None:
        match words:
            case ["log", vkey] | ["log", vkey, _]:
                self._read_log(vkey)
            case ["witness", name, vkey] | ["witness", name, vkey, _]:
                self._read_witness(name, vkey)
            case ["group", name, threshold, *members] if members:
                self._read_group(name, threshold, members)
            case ["quorum", name]:
                self._read_quorum(name)
            case _:
                raise FormatError(
                    f"expected log, witness, group or quorum with its words, found {_shown(' '.join(words))[:80]!r}"
                )

    def policy(self, text: str) -> Policy:
        if self._quorum is None:
            raise FormatError("policy: expected exactly one quorum line, found none")
        return Policy(tuple(self._logs), MappingProxyType(self._witnesses), tuple(self._groups.values()), self._quorum, text)

    def _read_log(self, vkey: str) -> None:
        key = parse_verifier_key(vkey)
        if key.type != ED25519:
            raise FormatError(f"log key {key.name!r}: expected type 0x01, found {key.type:#04x}")
        self._check_new_key(key, self._logs)
        self._logs.append(key)

    def _read_witness(self, name: str, vkey: str) -> None:
        key = cosigner_key(parse_verifier_key(vkey))
        self._check_new_name(name)
        self._check_new_key(key, self._witnesses.values())
        self._witnesses[name] = key

    def _read_group(self, name: str, threshold: str, members: list[str]) -> None:
        self._check_new_name(name)
        for member, times in Counter(members).items():
            if member not in self._witnesses and member not in self._groups:
                raise FormatError(
                    f"group {_shown(name)!r}: expected members defined on earlier lines, found {_shown(member)!r}"
                )
            if times > 1 or member in self._members:
                raise FormatError(f"group {_shown(name)!r}: expected no name to be a member twice, found {_shown(member)!r}")
        if threshold in ("all", "any"):
            needed = len(members) if threshold == "all" else 1
        elif _THRESHOLD.fullmatch(threshold) is not None and int(threshold) <= len(members):
            needed = int(threshold)
        else:
            allowed = f"all, any or a number from 1 to {len(members)}"
            raise FormatError(f"group {_shown(name)!r}: expected {allowed}, found {_shown(threshold)[:20]!r}")
        self._members.update(members)
        self._groups[name] = Group(name, needed, tuple(members))

    def _read_quorum(self, name: str) -> None:
        if self._quorum is not None:
            raise FormatError("expected exactly one quorum line, found another")
        if name != NO_QUORUM and name not in self._witnesses and name not in self._groups:
            raise FormatError(f"quorum: expected a witness or group defined on an earlier line, found {_shown(name)[:80]!r}")
        self._quorum = name

    def _check_new_name(self, name: str) -> None:
        if name == NO_QUORUM:
            raise FormatError(f"expected another name than the predefined {NO_QUORUM!r}")
        if name in self._witnesses or name in self._groups:
            raise FormatError(f"expected every name to be defined once, found {_shown(name)!r} again")

    def _check_new_key(self, key: VerifierKey, known: Iterable[VerifierKey]) -> None:
        for other in known:
            if other.public == key.public:
                raise FormatError(f"expected every public key once, found that of {other.name!r} again")
            # Four bytes of id can be made to collide; then nobody could say whose signature a line is.
            if (other.name, other.key_id) == (key.name, key.key_id):
                raise FormatError(f"expected key name and id together to name one key, found two keys for {key.name!r}")
