"""Write witnz's own vectors anew: ``python -m tests.vectors.generate`` from the root of the repository.

Everything is derived from fixed seeds, so a second run changes nothing; a test compares.  See README.md here.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.support import anchor_cases, bundle_lies, journal_cases
from tests.support.bundle_maker import PaperBundle
from tests.support.journal_maker import PaperCluster, seed
from tests.support.record_cases import BODIES, WRONG, changed
from witnz.core.keys import ED25519, Ed25519Signer, format_verifier_key, verifier_key
from witnz.core.policy import format_policy
from witnz.core.record import format_record, record_to_json

HERE = Path(__file__).parent


def bundles() -> tuple[dict[str, bytes], dict[str, int]]:
    """Files and exit codes of the bundles, and of the good one under other policies."""
    files: dict[str, bytes] = {}
    codes: dict[str, int] = {}
    for name, (make, code, _) in bundle_lies.CASES.items():
        path = f"bundles/{name}{'_fail' if code else ''}.witnz.json"
        files[path] = make(PaperBundle())
        codes[path] = code
    paper = PaperBundle()
    files["bundles/policy.txt"] = paper.parts["policy"].encode()
    files["bundles/policy-foreign.txt"] = foreign_policy(paper.cluster).encode()
    codes["bundles/good.witnz.json without a policy"] = 4
    codes["bundles/good.witnz.json with bundles/policy-foreign.txt"] = 3
    files["bundles/policy-two-logs.txt"] = bundle_lies.TWO_LOGS.encode()
    codes["bundles/good.witnz.json with bundles/policy-two-logs.txt"] = 0
    only_another = "bundles/checkpoint-signed-by-another-log-only_fail.witnz.json"
    codes[f"{only_another} with bundles/policy-two-logs.txt"] = 3  # that log is trusted, and for its own checkpoints only
    for name, (text, by_two, by_one) in bundle_lies.QUORUMS.items():
        policy = f"bundles/policy-quorum-{name}.txt"
        files[policy] = text.encode()
        codes[f"bundles/good.witnz.json with {policy}"] = by_two
        codes[f"bundles/checkpoint-with-one-cosignature_fail.witnz.json with {policy}"] = by_one
    return files, codes


def foreign_policy(cluster: PaperCluster) -> str:
    """The same names and witnesses, but the log key of somebody else."""
    log = Ed25519Signer(cluster.log.name, seed("foreign log"))
    key = format_verifier_key(verifier_key(log.name, ED25519, log.public))
    return format_policy(key, [(node, cluster.member_body(node)["cosigner"]) for node in cluster.nodes], cluster.quorum)


def anchored() -> tuple[dict[str, bytes], dict[str, int]]:
    """Bundles with receipts, and the exit codes that they give under the policy and the trust file beside them."""
    files: dict[str, bytes] = {}
    codes: dict[str, int] = {}
    paper = PaperBundle()
    for name, (make, code, _) in anchor_cases.CASES.items():
        path = f"anchored/{name}{'_fail' if code else ''}.witnz.json"
        files[path] = make(paper)
        codes[path] = code
    files["anchored/policy.txt"] = paper.parts["policy"].encode()
    files["anchored/trust.txt"] = anchor_cases.trust_file().encode()
    return files, codes


def journals() -> tuple[dict[str, bytes], dict[str, int]]:
    """One leaf a line; all but the last are valid, the code is that of the last."""
    files: dict[str, bytes] = {}
    codes: dict[str, int] = {}
    for name, (prepare, refused_for) in journal_cases.CASES.items():
        cluster = PaperCluster().start()
        last = prepare(cluster)
        path = f"journals/{name}{'' if refused_for is None else '_fail'}.jsonl"
        files[path] = b"".join(format_record(record) + b"\n" for record in (*cluster.records, last))
        codes[path] = 0 if refused_for is None else 3
    return files, codes


def records() -> tuple[dict[str, bytes], dict[str, int]]:
    """One leaf a file: a good one of every type, and bodies that are not of their type."""
    files: dict[str, bytes] = {}
    codes: dict[str, int] = {}
    counts: dict[str, int] = {}
    for record_type, body in BODIES.items():
        path = f"records/{record_type}.json"
        files[path] = format_record(PaperCluster().start().make(record_type, body))
        codes[path] = 0
    for record_type, path_in_body, value in WRONG:
        record = record_to_json(PaperCluster().start().make(record_type, BODIES[record_type]))
        member = "-".join(str(step) for step in path_in_body)
        stem = f"{record_type}-{member}"
        counts[stem] = counts.get(stem, 0) + 1
        number = "" if counts[stem] == 1 else f"-{counts[stem]}"
        path = f"records/{stem}{number}_fail.json"
        document = {**record, "body": changed(record["body"], path_in_body, value)}
        # Not RFC 8785: that would refuse, or mend, some of the values that must be refused.
        files[path] = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        codes[path] = 2
    return files, codes


def every_vector() -> dict[str, bytes]:
    """All files by their path below this folder, ``exit-codes.json`` among them."""
    files: dict[str, bytes] = {}
    codes: dict[str, int] = {}
    for made, expected in (bundles(), anchored(), journals(), records()):
        files |= made
        codes |= expected
    files["exit-codes.json"] = json.dumps(codes, indent=1, sort_keys=True).encode() + b"\n"
    return files


def main() -> None:
    for path, data in every_vector().items():
        target = HERE / path
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)


if __name__ == "__main__":
    main()
