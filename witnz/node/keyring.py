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
from dataclasses import dataclass
from pathlib import Path

from witnz.core.keys import (
    COSIGNATURE,
    ED25519,
    Ed25519Signer,
    Signer,
    format_private_key,
    format_verifier_key,
    parse_private_key,
    verifier_key,
)
from witnz.errors import KeyProblem
from witnz.store.datadir import load_key_file, save_key_file

_RETAIN_PREFIX = "witnz-retain-key-1 "


@dataclass(frozen=True, slots=True)
class Keyring:
    """The signers of one node.  ``retain``: 32 bytes."""

    identity: Signer
    cosigner: Signer
    log: Signer
    retain: bytes

    @property
    def log_key(self) -> str:
        """The cluster's verifier key, as policies name it."""
        return format_verifier_key(verifier_key(self.log.name, ED25519, self.log.public))

    @property
    def cosigner_key(self) -> str:
        return format_verifier_key(verifier_key(self.cosigner.name, COSIGNATURE, self.cosigner.public))

    @property
    def identity_b64(self) -> str:
        return base64.b64encode(self.identity.public).decode()


def create_keyring(directory: Path, cluster: str, node_id: str) -> Keyring:
    """Make the node's keys; those that exist already stay (so that ``init`` can be run again)."""
    for name, key_name, key_type in (
        ("identity.key", f"{cluster}/identity/{node_id}", ED25519),
        ("cosigner.key", f"{cluster}/nodes/{node_id}", COSIGNATURE),
        ("log.key", cluster, ED25519),
    ):
        if not (directory / name).exists():
            save_key_file(directory / name, format_private_key(key_name, key_type, os.urandom(32)))
    retain = directory / "retain.key"
    if not retain.exists():
        save_key_file(retain, _RETAIN_PREFIX + base64.b64encode(os.urandom(32)).decode())
    return load_keyring(directory, cluster, node_id)


def load_keyring(directory: Path, cluster: str, node_id: str) -> Keyring:
    """Read the node's keys.  Raises KeyProblem for a key that is missing, damaged or of another cluster or node."""
    return Keyring(
        identity=_load(directory / "identity.key", f"{cluster}/identity/{node_id}"),
        cosigner=_load(directory / "cosigner.key", f"{cluster}/nodes/{node_id}"),
        log=_load(directory / "log.key", cluster),
        retain=_load_retain(directory / "retain.key"),
    )


def _load(path: Path, expected_name: str) -> Signer:
    key = _parse(path)
    if key.name != expected_name:
        raise KeyProblem(
            f"{path}: expected the key {expected_name!r}, found one of {key.name!r}",
            hint="the key belongs to another cluster or node; restore this node's own keys directory",
        )
    return Ed25519Signer(key.name, key.seed)


def _load_retain(path: Path) -> bytes:
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
    """(name, signer) of an operator's or intent key file."""
    key = _parse(path)
    prefix = f"{kind}/"
    if not key.name.startswith(prefix):
        raise KeyProblem(f"{path}: expected a key of kind {kind!r}, found {key.name!r}", hint=f"give the file of an {kind} key")
    return key.name.removeprefix(prefix), Ed25519Signer(key.name, key.seed)


def _parse(path: Path):  # type: ignore[no-untyped-def]
    try:
        return parse_private_key(load_key_file(path))
    except KeyProblem as error:
        raise KeyProblem(f"{path}: {error.message}", hint=error.hint) from None
