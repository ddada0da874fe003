"""What somebody who trusts nobody here can check: bundles, offline, in processes that know nothing of node or database.

One byte of the root is changed twice: as it is, where the file's own digest catches it, and with that digest made anew, where
only the signature does.  The foreign policy has the same names and other keys, as an impostor's would.
"""

from __future__ import annotations

import base64
import json
import secrets
from hashlib import sha256
from pathlib import Path
from typing import Any

from witnz.core.canonical import canonical
from witnz.core.keys import COSIGNATURE, ED25519, Ed25519Signer, format_verifier_key, verifier_key
from witnz.core.policy import format_policy
from witnz.demo.play import INCONCLUSIVE, REFUSED, TAMPERED, VERIFIED, Play
from witnz.demo.stage import AUDIT, CLUSTER, wait_for
from witnz.demo.tampering import UPDATED

POLICY, FOREIGN = "policy.txt", "foreign-policy.txt"
ROW, CHECKPOINT = "row.witnz.json", "checkpoint.witnz.json"
CHANGED, FORGED = "root-changed.witnz.json", "root-forged.witnz.json"


def verify_all(play: Play, scene: str) -> None:
    """Every row of both tables is as recorded."""
    play.begin("verify", "Verifying both tables, while the application writes")
    play.expect_command(scene, play.run("verify", "--all"), verdict="VERIFIED", detector="scan")


def export(play: Play) -> None:
    """The policy, a checkpoint bundle, and the bundle of one row."""
    play.begin("evidence", "Evidence that leaves the house")
    status = play.stage.client.status()

    def final_since() -> bool:
        newest = play.stage.client.status()["checkpoint"]
        return bool(newest["final"] and newest["at"] > status["at"])

    wait_for(final_since, play.patience_s)
    for scene, words in {
        "export.policy": ("keys", "policy", "-o", POLICY),
        "export.checkpoint": ("checkpoint", "export", "-o", CHECKPOINT),
        "export.row": ("prove", AUDIT, "--key", str(UPDATED), "--with-row", "-o", ROW),
    }.items():
        play.expect_command(scene, play.run(*words))


def verify_offline(play: Play) -> None:
    """The row's bundle and the checkpoint's under the policy; then everything that must not pass."""
    folder = play.stage.directory / "auditor"
    folder.mkdir()
    for name in (POLICY, ROW, CHECKPOINT):
        (folder / name).write_bytes((play.stage.directory / name).read_bytes())
    (folder / FOREIGN).write_text(foreign_policy(), encoding="utf-8")
    bundle = (folder / ROW).read_bytes()
    (folder / CHANGED).write_bytes(change_root(bundle, digest_anew=False))
    (folder / FORGED).write_bytes(change_root(bundle, digest_anew=True))
    for scene, name, policy, code in (
        ("offline.row", ROW, POLICY, VERIFIED),
        ("offline.checkpoint", CHECKPOINT, POLICY, VERIFIED),
        ("offline.without-policy", ROW, None, INCONCLUSIVE),
        ("offline.foreign-policy", ROW, FOREIGN, TAMPERED),
        ("offline.root-changed", CHANGED, POLICY, REFUSED),
        ("offline.root-forged", FORGED, POLICY, TAMPERED),
    ):
        _verify(play, folder, scene, name, policy, code)


def _verify(play: Play, folder: Path, scene: str, name: str, policy: str | None, code: int) -> None:
    words = ["verify", "--checkpoint", name, *(["--policy", policy] if policy else [])]
    play.narrator.say("auditor$ witnz " + " ".join(words))
    ran = play.stage.command(*words, folder=folder)
    verdict = {VERIFIED: "VERIFIED", TAMPERED: "TAMPERED", INCONCLUSIVE: "INCONCLUSIVE"}.get(code)
    play.expect_command(scene, ran, code=code, verdict=verdict, detector="offline")


def foreign_policy() -> str:
    """A policy that names the same log and node, with keys of somebody else."""
    log = Ed25519Signer(CLUSTER, secrets.token_bytes(32))
    node = Ed25519Signer(f"{CLUSTER}/nodes/node1", secrets.token_bytes(32))
    log_key = format_verifier_key(verifier_key(log.name, ED25519, log.public))
    cosigner = format_verifier_key(verifier_key(node.name, COSIGNATURE, node.public))
    return format_policy(log_key, [("node1", cosigner)], 1)


def change_root(bundle: bytes, *, digest_anew: bool) -> bytes:
    """The bundle with one bit of its checkpoint's root changed; with the file's own digest made to fit, or not."""
    document: dict[str, Any] = json.loads(bundle)
    origin, size, root, *rest = document["checkpoint"].split("\n")
    raw = bytearray(base64.b64decode(root))
    raw[0] ^= 1
    document["checkpoint"] = "\n".join([origin, size, base64.b64encode(raw).decode(), *rest])
    if digest_anew:
        del document["sha256"]
        document["sha256"] = sha256(canonical(document)).hexdigest()
    return canonical(document) + b"\n"
