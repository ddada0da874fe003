"""One receipt of each anchor that lies outside the cluster, well formed and worth nothing."""

from __future__ import annotations

from typing import Any

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
}
