"""The keys that live on a node, and those that people keep (architecture.md 3, Keys).

    keys/identity.key   Ed25519 identity: journal records, votes and, between nodes, TLS
    keys/cosigner.key   Ed25519 cosigner (C2SP type 0x04): checkpoints, under <cluster>/nodes/<node id>
    keys/log.key        Ed25519 log key of the cluster: checkpoints, under the cluster's name
    keys/retain.key     AES-256 key of this node's row images
    operator-NAME.key   a person's; made here, to be moved to that person's own machine

All but retain.key are C2SP private-key lines.  They differ because their signatures mean different things.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from witnz.core.journal_facts import Member
from witnz.core.keys import (
    COSIGNATURE,
    ED25519,
    Ed25519Signer,
    Signer,
    format_private_key,
    format_verifier_key,
    parse_private_key,
    parse_verifier_key,
    verifier_key,
)
from witnz.errors import KeyProblem
from witnz.store.datadir import load_key_file, save_key_file, sync_directory

_RETAIN_PREFIX = "witnz-retain-key-1 "


class KeptSigner:
    """A signer whose key is a file of this node, ``NAME.key``, and may be replaced while the node runs.

    A key that is to follow waits in ``NAME.next.key`` until the journal has brought it into force; then :meth:`promote` lets it
    take the place of the one before, in the file and in everything that signs with this object.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self.name = path, name
        self._signer: Signer = _load(path, name)

    def __repr__(self) -> str:
        return f"KeptSigner({self.name!r})"

    @property
    def public(self) -> bytes:
        """The 32-byte public key that signs now."""
        return self._signer.public

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of ``message``."""
        return self._signer.sign(message)

    @property
    def directory(self) -> Path:
        return self._path.parent

    @property
    def next_path(self) -> Path:
        return next_file(self._path)

    def lines(self) -> list[str]:
        """The private keys, that in force and the one that waits: for another member, never for showing."""
        return [load_key_file(path) for path in (self._path, self.next_path) if path.exists()]

    def promote(self, public: bytes) -> bool:
        """Sign with the waiting key if that is the one of ``public``; False if it is not, none waits, or the disk refuses."""
        if self.next_path.exists() and _load(self.next_path, self.name).public == public:
            with suppress(OSError):  # what became of it, the file says
                self.next_path.replace(self._path)
        in_place = _load(self._path, self.name)
        if in_place.public != public:
            return False
        self._signer = in_place
        with suppress(OSError):  # where the power takes the new name back, the next start gives it again
            sync_directory(self._path.parent)
        return True


@dataclass(frozen=True, slots=True)
class Keyring:
    """The signers of one node.  ``retain``: 32 bytes."""

    identity: KeptSigner
    cosigner: KeptSigner
    log: KeptSigner
    retain: bytes

    @property
    def log_key(self) -> str:
        """The cluster's verifier key, as policies name it."""
        return format_verifier_key(verifier_key(self.log.name, ED25519, self.log.public))

    @property
    def cosigner_key(self) -> str:
        return _cosigner_key(self.cosigner)

    @property
    def identity_b64(self) -> str:
        return base64.b64encode(self.identity.public).decode()

    def follow(self, node_id: str, members: Mapping[str, Member], log_key: str) -> list[str]:
        """Take the keys into use that the journal says are in force; the names of those that it names and that are not here.

        A node that is no member has no keys in force, so nothing changes.
        """
        missing = []
        member = members.get(node_id)
        if member is not None:
            if self.identity.public != member.identity and not self.identity.promote(member.identity):
                missing.append("identity")
            if self.cosigner_key != member.cosigner and not self.cosigner.promote(parse_verifier_key(member.cosigner).public):
                missing.append("cosigner")
        if self.log_key != log_key and not self.log.promote(parse_verifier_key(log_key).public):
            missing.append("log")
        return missing


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """What a node has before it belongs to a cluster: its own identity and cosigner."""

    identity: KeptSigner
    cosigner: KeptSigner

    @property
    def cosigner_key(self) -> str:
        return _cosigner_key(self.cosigner)

    @property
    def identity_b64(self) -> str:
        return base64.b64encode(self.identity.public).decode()


def _cosigner_key(signer: Signer) -> str:
    return format_verifier_key(verifier_key(signer.name, COSIGNATURE, signer.public))


def next_file(path: Path) -> Path:
    """Where the key waits that is to follow the one in ``path``."""
    return path.with_name(f"{path.stem}.next.key")


def create_node_keys(directory: Path, cluster: str, node_id: str) -> NodeKeys:
    """Make the keys that are the node's own; those that exist already stay (so that ``init`` can be run again)."""
    for name, key_name, key_type in (
        ("identity.key", identity_name(cluster, node_id), ED25519),
        ("cosigner.key", cosigner_name(cluster, node_id), COSIGNATURE),
    ):
        if not (directory / name).exists():
            save_key_file(directory / name, format_private_key(key_name, key_type, os.urandom(32)))
    retain = directory / "retain.key"
    if not retain.exists():
        save_key_file(retain, _RETAIN_PREFIX + base64.b64encode(os.urandom(32)).decode())
    return load_node_keys(directory, cluster, node_id)


def create_keyring(directory: Path, cluster: str, node_id: str) -> Keyring:
    """The same and the cluster's log key: what the node that founds a cluster has."""
    create_node_keys(directory, cluster, node_id)
    if not (directory / "log.key").exists():
        save_key_file(directory / "log.key", format_private_key(cluster, ED25519, os.urandom(32)))
    return load_keyring(directory, cluster, node_id)


def load_node_keys(directory: Path, cluster: str, node_id: str) -> NodeKeys:
    """Read the node's own keys.  Raises KeyProblem for a key that is missing, damaged or of another cluster or node."""
    return NodeKeys(
        identity=KeptSigner(directory / "identity.key", identity_name(cluster, node_id)),
        cosigner=KeptSigner(directory / "cosigner.key", cosigner_name(cluster, node_id)),
    )


def load_keyring(directory: Path, cluster: str, node_id: str) -> Keyring:
    """Read all of the node's keys.  Raises KeyProblem for a key that is missing, damaged or of another cluster or node."""
    own = load_node_keys(directory, cluster, node_id)
    retain = load_retain_key(directory)
    return Keyring(own.identity, own.cosigner, KeptSigner(directory / "log.key", cluster), retain)


def identity_name(cluster: str, node_id: str) -> str:
    return f"{cluster}/identity/{node_id}"


def cosigner_name(cluster: str, node_id: str) -> str:
    return f"{cluster}/nodes/{node_id}"


def _load(path: Path, expected_name: str) -> Signer:
    key = _parse(path)
    if key.name != expected_name:
        raise KeyProblem(
            f"{path}: expected the key {expected_name!r}, found one of {key.name!r}",
            hint="the key belongs to another cluster or node; restore this node's own keys directory",
        )
    return Ed25519Signer(key.name, key.seed)


def load_retain_key(directory: Path) -> bytes:
    """The key of this node's row images, 32 bytes.  Raises KeyProblem."""
    path = directory / "retain.key"
    text = load_key_file(path)
    try:
        key = base64.b64decode(text.removeprefix(_RETAIN_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not text.startswith(_RETAIN_PREFIX) or len(key) != 32:
        raise KeyProblem(f"{path}: not a witnz retain key", hint="restore the file from a backup of this node")
    return key


def create_person_key(path: Path, kind: str, name: str) -> Ed25519Signer:
    """Make the key of an operator, or one that signs intents.  Refuses to overwrite a file."""
    if path.exists():
        raise KeyProblem(f"{path} exists already", hint="choose another name or move the old key away")
    seed = os.urandom(32)
    save_key_file(path, format_private_key(f"{kind}/{name}", ED25519, seed))
    return Ed25519Signer(f"{kind}/{name}", seed)


def load_person_key(path: Path, kind: str) -> tuple[str, Signer]:
    """(name, signer) of an operator's or intent key file.  Raises KeyProblem."""
    if not path.exists():
        raise KeyProblem(
            f"{kind} key {path}: no such file", hint=f"name the file that holds the {kind} key; is the path right?"
        )
    key = _parse(path)
    prefix = f"{kind}/"
    if not key.name.startswith(prefix):
        raise KeyProblem(
            f"{path}: expected a key of kind {kind!r}, found {key.name!r}", hint=f"name the file of the {kind} key"
        )
    return key.name.removeprefix(prefix), Ed25519Signer(key.name, key.seed)


def _parse(path: Path):  # type: ignore[no-untyped-def]
    try:
        return parse_private_key(load_key_file(path))
    except KeyProblem as error:
        raise KeyProblem(f"{path}: {error.message}", hint=error.hint) from None
