"""One receipt of each anchor that lies outside the cluster: well formed and worth nothing, or one that holds."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from tests.support.evm_paper import receipt_for
from tests.support.time_authority import authority
from witnz.core.opentimestamps import MAGIC, PENDING

RECEIPTS: dict[str, dict[str, Any]] = {
    "s3": {
        "type": "s3",
        "digest": "0" * 64,
        "size": 2,
        "bucket": "witnz-evidence",
        "key": "vectors.example/app/2.witnz.json",
        "version_id": "3sL4kqtJlcpXroDTDmJ",
        "etag": '"d41d8cd98f00b204e9800998ecf8427e"',
        "sha256": "1" * 64,
        "mode": "COMPLIANCE",
        "retain_until": "2027-11-21T18:10:00.000000Z",
        "date": "Sat, 21 Nov 2026 18:10:00 GMT",
        "endpoint": "https://s3.eu-central-1.amazonaws.com",
    },
    "evm": {
        "type": "evm",
        "digest": "0" * 64,
        "size": 2,
        "chain_id": 1,
        "from": "2" * 40,
        "tx": "3" * 64,
        "block_hash": "4" * 64,
        "block_number": 21_000_000,
        "block_time": 1_795_284_600,
        "header": "f90200",
        "tx_index": 0,
        "proof": ["f851", "f8b1"],
    },
    "rfc3161": {
        "type": "rfc3161",
        "digest": "0" * 64,
        "size": 2,
        "url": "https://tsa.example/tsr",
        "response": "MAMCAQA=",
        "roots": ["-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"],
    },
    "opentimestamps": {
        "type": "opentimestamps",
        "digest": "0" * 64,
        "size": 2,
        "proof": b64encode(MAGIC + b"\x01\x08" + bytes(32) + b"\x00" + PENDING + b"\x01\x00").decode(),
    },
}


def receipt_over(kind: str, digest: bytes, size: int) -> dict[str, Any]:
    """A receipt of a checkpoint that proves what it says, as far as its type can."""
    if kind == "evm":
        return receipt_for(digest, size)
    members = dict(RECEIPTS.get(kind, {"type": kind}))
    if kind == "rfc3161":
        members |= {"response": b64encode(authority().response(digest)).decode(), "roots": [authority().root_pem]}
    if kind == "opentimestamps":
        proof = MAGIC + b"\x01\x08" + digest + b"\x00" + PENDING + b"\x19\x18https://calendar.example"
        members["proof"] = b64encode(proof).decode()
    return {**members, "digest": digest.hex(), "size": size}
