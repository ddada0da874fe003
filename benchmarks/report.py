"""A report over a long period, verified again: ``python -m benchmarks --only report`` (30 days of five-second seals with
``--large``, else three days), or ``python -m benchmarks.report [--days 30] [--entries 1000000] [--json FILE]``.

The store is made by a simulated clock: a seal and a checkpoint every five seconds, a verification every five minutes, an anchor
every hour, a finding and its decision now and then.  Journal, tree, checkpoints and entries are real and hang together; what no
report reads is left out: signatures of most checkpoints, votes, the roots of the table log in its seals.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.browser import verify_html
from benchmarks.setting import machine
from witnz.core.checkpoint import Checkpoint, cosign, format_checkpoint
from witnz.core.entry import entry_suffix, schema_hint
from witnz.core.finding import finding_id
from witnz.core.journal_view import JournalView
from witnz.core.keys import COSIGNATURE, ED25519, Ed25519Signer, format_verifier_key, verifier_key
from witnz.core.lsn import format_lsn
from witnz.core.note import Note, format_note, sign_note
from witnz.core.periods import periods_of
from witnz.core.record import NO_PREVIOUS, Record, format_record, parse_record, record_hash
from witnz.core.timestamp import format_time
from witnz.report import package
from witnz.report.evidence import Request
from witnz.report.key import ReportKey, create, key_body
from witnz.report.mapping import load_standard
from witnz.report.period import Period
from witnz.store import checkpoints, journal, logs, meta, tablelog
from witnz.store.database import Database

CLUSTER, CLUSTER_ID, TABLE = "bench.example/app", "00" * 16, "public.orders"
START_US = 1_793_491_200_000_000  # 2026-11-01, or near it: midnight UTC
SEAL_S, VERIFY_S, ANCHOR_S, FINDING_S = 5, 300, 3600, 86_400
READ_JOURNAL = (
    "import sys; from pathlib import Path; from witnz.store import journal; from witnz.store.database import Database\n"
    "with Database.open(Path(sys.argv[1]), read_only=True).read() as conn: journal.load_state(conn)"
)
"""What a node does with its journal when it starts."""
ZERO = b64encode(bytes(32)).decode()
SIGNED_EVERY = 720
"""Checkpoints that are really signed: one an hour; the last one of the period always is."""


class Maker:
    """Fills a store as time goes by."""

    def __init__(self, directory: Path) -> None:
        self.db = Database.create(directory / "witnz.db")
        self.log = Ed25519Signer(CLUSTER, hashlib.sha256(b"log").digest())
        self.cosigner = Ed25519Signer(f"{CLUSTER}/nodes/node1", hashlib.sha256(b"cosigner").digest())
        self.key: ReportKey = create(CLUSTER, "node1", START_US)
        self.at, self.n, self.prev, self.lsn = START_US, 0, NO_PREVIOUS, 0x1949850
        self.stale = ""
        self.first: list[Record] = []
        with self.db.write() as conn:
            for name, value in (("cluster", CLUSTER), ("cluster_id", CLUSTER_ID), ("node", "node1")):
                meta.save_value(conn, name, value)
            self.head = journal.load_head(conn)

    def add(self, conn: Any, record_type: str, body: Mapping[str, Any]) -> Record:
        self.n += 1
        record = Record(self.at, body, CLUSTER_ID, self.n, "node1", self.prev, self.head.size + 1, bytes(64), record_type)
        journal.append_record(conn, self.head, format_record(record))
        self.prev = record_hash(record)
        return record

    def checkpoint(self, conn: Any, *, signed: bool) -> str:
        text = format_checkpoint(Checkpoint(CLUSTER, self.head.size, self.head.root()))
        if signed or not self.stale:
            note = sign_note(text, [self.log])
            fresh = format_note(Note(text, (*note.signatures, cosign(text, self.cosigner, self.at // 1_000_000))))
            self.stale = fresh.split("\n\n", 1)[1]
        made = f"{text}\n{self.stale}"
        checkpoints.save_checkpoint(conn, self.head.size, made, self.at, final=True)
        return made

    def open(self, conn: Any, entries: int) -> None:
        """Genesis, one table with its entries, the report key."""
        cosigner = format_verifier_key(verifier_key(self.cosigner.name, COSIGNATURE, self.cosigner.public))
        member = {"id": "node1", "addr": "node1:7000", "identity": ZERO, "cosigner": cosigner}
        genesis = {
            "cluster": CLUSTER, "members": [member], "operators": [{"name": "alice", "key": ZERO}], "quorum": 1,
            "log_key": format_verifier_key(verifier_key(CLUSTER, ED25519, self.log.public)),
            "database": {"system": "1", "timeline": 1, "name": "app"},
        }  # fmt: skip
        table = {
            "table": TABLE, "generation": 1, "mode": "append_only", "on_change": "alert", "oid": 1, "snapshot": "1:1:",
            "rules": {"inserts_only": False, "require_intent": False, "retain": False}, "lsn": "0/1", "previous": None,
            "keys": {"columns": ["id"], "form": "plain"}, "secret_sha256": "0" * 64, "reason": "protected",
            "votes": {"node1": b64encode(bytes(64)).decode()},
        }  # fmt: skip
        auth = {"auth": {"operator": "alice", "sig": b64encode(bytes(64)).decode()}, "nonce": "0" * 32}
        self.first = [self.add(conn, "genesis", genesis), self.add(conn, "table", table)]
        self.first.append(self.add(conn, "key", {**key_body(self.key, "node1", "0/0"), **auth}))
        head = tablelog.create_log(
            conn, table=TABLE, generation=1, origin=f"{CLUSTER}/{TABLE}/1", oid=1, secret=bytes(32), key_columns=["id"]
        )
        hint = schema_hint([], "d", 1)
        tablelog.append(conn, head, [b"schema"], [b"\\N"], [None], [entry_suffix(1, 0, self.at, None, hint, None)])
        logs.set_schema(conn, head.id, hint, 1)
        self.per_second = 0.0
        self._entries(conn, head, entries)

    def _entries(self, conn: Any, head: Any, entries: int) -> None:
        """Spread evenly over the period, in blocks of one commit time."""
        block = 5_000
        for first in range(0, entries, block):
            count = min(block, entries - first)
            at = START_US + self.span_us * first // max(entries, 1)
            suffix = entry_suffix(0x1949850 + first, 741, at, None, None, None)
            ops = [b"update" if i % 11 == 7 else b"insert" for i in range(count)]
            keys = [b"%d" % (first + i) for i in range(count)]
            tablelog.append(conn, head, ops, keys, [hashlib.sha256(key).digest() for key in keys], [suffix] * count)

    span_us = 0

    def live(self, days: int, entries: int) -> None:
        """Everything else, a commit an hour of simulated time."""
        self.span_us = days * 86_400_000_000
        seals = days * 86_400 // SEAL_S
        with self.db.write() as conn:
            self.open(conn, entries)
        for hour in range(days * 24):
            with self.db.write() as conn:
                for tick in range(hour * 720, (hour + 1) * 720):
                    self._tick(conn, tick, seals, entries)

    def _tick(self, conn: Any, tick: int, seals: int, entries: int) -> None:
        self.at = START_US + tick * SEAL_S * 1_000_000
        self.lsn += 400
        size = 2 + (entries - 1) * (tick + 1) // seals
        digest = hashlib.sha256(b"%d" % size)
        log = {
            "table": TABLE,
            "generation": 1,
            "size": size,
            "root": b64encode(digest.digest()).decode(),
            "chain": digest.hexdigest(),
        }
        votes = {"votes": {"node1": b64encode(bytes(64)).decode()}}
        self.add(conn, "seal", {"lsn": format_lsn(self.lsn), "tables": [log], **votes})
        seconds = tick * SEAL_S
        if seconds % VERIFY_S == 0:
            self.add(conn, "verify", _verify(size, self.head.size) | votes)
        if seconds % FINDING_S == 0:
            self._finding(conn, tick)
        if seconds % ANCHOR_S == 0 and self.head.size > 1000:
            self._anchor(conn)
        self.checkpoint(conn, signed=tick % SIGNED_EVERY == SIGNED_EVERY - 1)

    def _finding(self, conn: Any, tick: int) -> None:
        name = finding_id(CLUSTER_ID, "violation.update", 1, f"{tick}", 0, 2, TABLE)
        nothing = dict.fromkeys(("lsn", "xid", "recorded", "found", "explained_by"))
        body = {
            "id": name,
            "class": "violation.update",
            "severity": "critical",
            "table": TABLE,
            "generation": 1,
            "key": f"{tick}",
            "seq": 2,
        }
        self.add(conn, "finding", {**body, **nothing, "window": {"last_good": None, "first_bad": None}})
        self.at += 1_000_000
        self.add(conn, "ack", {"finding": name, "reason": "seen"})

    def _anchor(self, conn: Any) -> None:
        saved = checkpoints.latest(conn)
        if saved is not None:
            digest = hashlib.sha256(saved.note.split("\n\n")[0].encode() + b"\n").hexdigest()
            receipt = {"type": "basic", "digest": digest, "size": saved.size, "note": saved.note}
            self.add(conn, "anchor", {"type": "basic", "digest": digest, "size": saved.size, "receipt": receipt})


def _verify(size: int, journal_size: int) -> dict[str, Any]:
    return {
        "table": TABLE, "generation": 1, "size": size, "journal_size": journal_size, "snapshot": "1:1:", "lsn": "0/1",
        "rows": size, "unresolved": 0, "state_expected": ZERO, "state_found": ZERO, "verdict": "VERIFIED", "findings": [],
        "not_checked": [], "mode": "snapshot", "range": None, "seconds": 1,
    }  # fmt: skip


def measure(directory: Path, days: int, entries: int) -> dict[str, Any]:
    """Make the store, the report, and verify it."""
    maker = Maker(directory)
    begun = time.monotonic()
    maker.live(days, entries)
    state = JournalView()
    state.cluster, state.cluster_id, state.log_key = CLUSTER, CLUSTER_ID, maker.first[0].body["log_key"]
    state.periods = periods_of([parse_record(format_record(record)) for record in maker.first])
    state.members, state.quorum = dict(state.periods.now.members), 1
    made_s = time.monotonic() - begun
    target = directory / "evidence"
    target.mkdir()
    created = START_US + maker.span_us + 60_000_000
    request = Request(load_standard("soc2"), Period(START_US, START_US + maker.span_us), created, "node1")
    begun = time.monotonic()
    with maker.db.read() as conn:
        built = package.build(conn, state, maker.key, request, target)
    maker.at = created
    with maker.db.write() as conn:
        record = maker.add(conn, "report", built.body)
        note = maker.checkpoint(conn, signed=True)
    with maker.db.read() as conn:
        made = package.finish(conn, state, built, note, (3, record.seq or 0), created)
    report_s = time.monotonic() - begun
    (directory / "policy.txt").write_text(state.periods.now.policy())
    figures: dict[str, Any] = {
        "days": days, "seals": made["counts"]["seals"], "entries": entries, "records": made["period"]["records"],
        "store_bytes": maker.db.path.stat().st_size, "store_made_s": round(made_s, 1), "report_s": round(report_s, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "pages": made["pages"],
        "package_bytes": sum(file["bytes"] for file in made["files"]), "pdf_bytes": (target / "report.pdf").stat().st_size,
        "verified": {},
    }  # fmt: skip
    maker.db.close()
    figures["start"] = _run([sys.executable, "-c", READ_JOURNAL, str(maker.db.path)])
    witnz = [sys.executable, "-m", "witnz", "verify", "--report", str(target), "--policy", str(directory / "policy.txt")]
    alone = [sys.executable, "-I", str(target / "verify.py"), "--policy", str(directory / "policy.txt"), str(target)]
    for name, command in (("witnz verify --report", witnz), ("verify.py", alone)):
        figures["verified"][name] = _run(command)
    figures["verified"]["verify.html"] = verify_html(target, directory / "policy.txt")
    return figures


def report(bench: Bench) -> dict[str, Any]:
    """The figures of the catalogue."""
    days, entries = (30, 1_000_000) if bench.large else (3, 100_000)
    with tempfile.TemporaryDirectory(prefix="witnz-bench-") as folder:
        return measure(Path(folder), days, entries)


def _run(command: list[str]) -> dict[str, Any]:
    """Exit code, seconds and peak memory of a process."""
    code = (
        "import json, resource, subprocess, sys, time\n"
        "begun = time.monotonic()\n"
        "done = subprocess.run(sys.argv[1:], capture_output=True)\n"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024\n"
        "print(json.dumps({'code': done.returncode, 'seconds': round(time.monotonic() - begun, 1), 'peak_mb': peak}))"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="also write the document to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="witnz-bench-") as folder:
        taken = {
            "schema": "witnz.benchmarks/1",
            "machine": machine(),
            "from": format_time(START_US),
            "report": measure(Path(folder), arguments.days, arguments.entries),
        }
    text = json.dumps(taken, indent=2)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
