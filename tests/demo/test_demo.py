"""``witnz demo`` as a user runs it: once whole, once with deeds left undone, once interrupted and once killed."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from witnz.core.canonical import canonical
from witnz.core.policy import parse_policy
from witnz.core.verdict import Verdict
from witnz.demo.installation import server_account, temporary_root
from witnz.demo.proving import foreign_policy
from witnz.errors import FormatError
from witnz.verify.bundle import verify_bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TIMEOUT_S = 580
END_S = 90  # a machine with better things to do takes its time to stop a node and a server
AUDIT, PRICES = "public.audit_logs", "billing.prices"

FOUND = {
    "sql.update": ("stream", "violation.update", AUDIT, "117"),
    "sql.delete": ("stream", "violation.delete", AUDIT, "231"),
    "sql.unsigned": ("stream", "change.unapproved", PRICES, "SKU-055"),
    "sql.truncate": ("stream", "violation.truncate", AUDIT, None),
    "publication.touched": ("catalog", "publication.changed", AUDIT, None),
    "publication.update": ("scan", "row.modified", AUDIT, "118"),
    "publication.delete": ("scan", "row.deleted", AUDIT, "232"),
    "publication.insert": ("scan", "row.inserted", AUDIT, "900001"),
    "file.update": ("scan", "row.modified", AUDIT, "119"),
    "members.seal": ("members", "node.misbehaved", None, "node3 seal"),
    "members.liar": ("members", "node.diverged", AUDIT, "node3"),
    "members.approval": ("members", "node.misbehaved", None, "node3 accept"),
    "members.store": ("members", "node.diverged", AUDIT, "node2"),
    "members.audit": ("store audit", "node.store-tampered", None, None),
}
"""Scene -> detector, class, table, key."""

COMMANDS = {
    **dict.fromkeys(("setup.init", "setup.intent-key", "approve.sql.unsigned", "approve.publication.touched"), "exit code 0"),
    **dict.fromkeys((f"approve.members.{name}" for name in ("seal", "liar", "approval", "audit")), "exit code 0"),
    "repair.members.store": "exit code 0",
    "members.killed": "another leader",
    **dict.fromkeys(("members.nothing-lost", "members.outvoted"), "the same entries on all nodes"),
    "members.votes": "refused by 2 of 2",
    "members.still-open": "open",
    **dict.fromkeys(("store.node2", "store.node3"), "exit code 0, VERIFIED"),
    **dict.fromkeys(("export.policy", "export.checkpoint", "export.row", "node.stop"), "exit code 0"),
    **dict.fromkeys(
        ("verify.baseline", "verify.repaired", "offline.row", "offline.checkpoint", "store"), "exit code 0, VERIFIED"
    ),
    **dict.fromkeys(("report.key", "report.make", "report.sample", "report.verify.py"), "exit code 0"),
    "report.verify": "exit code 0, VERIFIED",
    "report.spoilt": "exit code 3, TAMPERED",
    "report.spoilt.py": "exit code 3",
    "storage.online": "exit code 0, VERIFIED",
    **dict.fromkeys(("storage.check", "storage.online-after"), "exit code 3, TAMPERED"),
    "offline.without-policy": "exit code 4, INCONCLUSIVE",
    "offline.foreign-policy": "exit code 3, TAMPERED",
    "offline.root-changed": "exit code 2",
    "offline.root-forged": "exit code 3, TAMPERED",
    "anchors.now": "exit code 0",
    "anchors.check": "exit code 0",
    "anchors.receipts": "evm, rfc3161, s3",
    "offline.anchored": "exit code 0, VERIFIED",
    "offline.foreign-account": "exit code 3, TAMPERED",
    "setup.start": "recording",
    "no-false-alarm": "no other finding",
    "workload": "rows and signed changes",
}
REPAIRED = ("sql.truncate", "publication.update", "publication.delete", "publication.insert", "file.update")


@dataclass(frozen=True, slots=True)
class Played:
    """A run that ended."""

    code: int
    document: dict[str, Any]
    stderr: str
    directory: Path

    def scene(self, name: str) -> dict[str, Any]:
        (found,) = [scene for scene in self.document["scenes"] if scene["scene"] == name]
        return dict(found)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that also the server's account may enter, to see what is left in it."""
    root = os.environ.get("PYTEST_DEBUG_TEMPROOT", temporary_root(server_account()))
    directory = Path(tempfile.mkdtemp(prefix="witnz-test-", dir=root))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def played(place: Path) -> Played:
    """The whole demo, on three nodes, once for all tests."""
    keep = place / "kept"
    done = subprocess.run(command("--json", "--keep", keep), env=environment(place), check=False, **PIPES)
    assert done.stdout.count(b"\n{") == 0, "one document"
    return Played(done.returncode, json.loads(done.stdout), done.stderr.decode(), keep)


PIPES: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": TIMEOUT_S}


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "witnz", "demo", *map(str, words)]


def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(place), "PYTHONWARNINGS": "error"}


# -- the whole demo -----------------------------------------------------------------------------------------------------------


def test_everything_that_was_expected_was_seen(played: Played) -> None:
    assert played.document["missed"] == []
    assert played.code == 0
    assert (played.document["schema"], played.document["ok"], played.document["tamper"]) == ("witnz.demo/1", True, "all")
    assert played.document["nodes"] == 3
    names = [scene["scene"] for scene in played.document["scenes"]]
    assert sorted(names) == sorted(
        ["storage.removed", *FOUND, *COMMANDS, *(f"repair.{name}" for name in REPAIRED), "repair.closed"]
    )


@pytest.mark.parametrize("scene", FOUND)
def test_each_tampering_is_caught_with_its_row_named(played: Played, scene: str) -> None:
    seen = played.scene(scene)
    detector, cls, table, key = FOUND[scene]
    assert (seen["ok"], seen["detector"], seen["seen"]) == (True, detector, " ".join(filter(None, (cls, table, key))))
    (finding,) = seen["findings"]
    assert (finding["class"], finding["table"], finding["key"]) == (cls, table, key)
    assert finding["recorded"] != finding["found"] or finding["recorded"] is None
    assert (finding["explained_by"] is None) == (detector != "stream")


def test_a_leader_that_is_killed_is_followed_by_another(played: Played) -> None:
    assert played.scene("members.killed")["seconds"] > 0
    told = re.search(r"kill -9 (node\d).*?(node\d) leads after", played.stderr, re.DOTALL)
    assert told is not None and told[1] != told[2]


def test_who_leads_publishes_and_every_node_holds_the_receipts(played: Played) -> None:
    receipts = {folder: anchored(played.directory / folder) for folder in (".", "node2", "node3")}
    assert receipts["."] == receipts["node2"] == receipts["node3"]
    assert {kind for kind, _, _ in receipts["."]} == {"evm", "rfc3161", "s3"}
    asked = re.search(r"(node\d)\$ witnz anchor now", played.stderr)
    assert asked is not None
    assert asked[1] in {record["node"] for record in journal(played.directory) if record["type"] == "anchor"}


def test_a_report_may_be_asked_of_any_node_and_rests_on_a_quorum(played: Played) -> None:
    assert "node3$ witnz report" in played.stderr
    (made,) = [record for record in journal(played.directory) if record["type"] == "report"]
    assert made["node"] == "node3"
    assert "group members 2 node1 node2 node3" in (played.directory / "policy.txt").read_text()
    assert "group members 2 node1 node2 node3" in (played.directory / "evidence" / "policy.txt").read_text()


def anchored(folder: Path) -> set[tuple[str, int, int]]:
    """(type, size, journal record) of every receipt that the node in a folder has."""
    listed = json.loads(witnz(folder, "anchor", "list", "--json").stdout)
    return {(one["type"], one["size"], one["journal_seq"]) for one in listed["receipts"]}


def journal(folder: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(folder / "node/witnz.db")) as conn:
        return [json.loads(leaf) for (leaf,) in conn.execute("SELECT leaf FROM journal ORDER BY seq")]


def test_what_the_storage_administrator_removed_is_missing(played: Played) -> None:
    seen = played.scene("storage.removed")
    (finding,) = seen["findings"]
    assert (seen["ok"], seen["detector"], finding["class"]) == (True, "anchor", "anchor.missing")
    assert finding["key"].startswith("s3 evidence http://127.0.0.1:")


@pytest.mark.parametrize("scene", COMMANDS)
def test_each_command_gives_its_exit_code_and_verdict(played: Played, scene: str) -> None:
    seen = played.scene(scene)
    assert (seen["ok"], seen["expected"]) == (True, COMMANDS[scene])
    assert seen["seen"].startswith(COMMANDS[scene])


@pytest.mark.parametrize("scene", REPAIRED)
def test_each_row_is_put_back(played: Played, scene: str) -> None:
    assert played.scene(f"repair.{scene}")["seen"] == "repaired"


def test_the_application_wrote_all_the_while_and_nothing_of_it_was_found(played: Played) -> None:
    work = played.document["workload"]
    assert work["rows"] > 100 and work["signed"] > 10 and work["rolled_back"] > 10
    assert work["interrupted"] == 1, "the server was stopped once, for its file to be edited"


def test_progress_goes_to_stderr_without_colours(played: Played) -> None:
    assert "UPDATE audit_logs SET" in played.stderr and "$ witnz verify --all" in played.stderr
    assert "\x1b" not in played.stderr and "Traceback" not in played.stderr


def test_what_is_kept_can_be_looked_at_without_node_or_database(played: Played) -> None:
    for path in played.document["kept"].values():
        assert Path(path).exists(), path
    for name in ("witnz.password", "pgpass", "operator-demo.key", "intent-shop.key"):
        assert (played.directory / name).stat().st_mode & 0o077 == 0, name
    assert (played.directory / "postgres" / "PG_VERSION").read_text() == "16\n"
    listed = witnz(played.directory, "findings", "list", "--json")
    states = {(one["class"], one["key"]): one["state"] for one in json.loads(listed.stdout)["findings"]}
    removed = [key for cls, key in states if cls == "anchor.missing"]
    assert [states.pop(("anchor.missing", key)) for key in removed] == ["open"], "nobody can put the object back"
    assert set(states) == {(cls, key) for _, cls, _, key in FOUND.values()}
    assert set(states.values()) == {"repaired", "approved"}


def test_nothing_runs_and_nothing_else_is_left_behind(played: Played, place: Path) -> None:
    assert [path.name for path in place.iterdir()] == ["kept"]
    assert processes_in(place) == []


# -- its bundle: the third of the checks that a half-done slice would fail ----------------------------------------------------


def test_the_bundle_passes_under_its_policy_and_fails_under_a_foreign_one(played: Played, tmp_path: Path) -> None:
    words = ("verify", "--checkpoint", played.directory / "row.witnz.json", "--policy")
    assert witnz(tmp_path, *words, played.directory / "policy.txt").returncode == 0
    (tmp_path / "foreign.txt").write_text(foreign_policy())
    foreign = witnz(tmp_path, *words, tmp_path / "foreign.txt", "--json")
    assert (foreign.returncode, json.loads(foreign.stdout)["verdict"]) == (3, "TAMPERED")


@pytest.mark.parametrize("name", ["row.witnz.json", "checkpoint.witnz.json"])
def test_the_bundle_is_inconclusive_without_a_policy(played: Played, tmp_path: Path, name: str) -> None:
    done = witnz(tmp_path, "verify", "--checkpoint", played.directory / name, "--json")
    assert (done.returncode, json.loads(done.stdout)["verdict"]) == (4, "INCONCLUSIVE")


@pytest.mark.parametrize("name", ["row.witnz.json", "checkpoint.witnz.json"])
def test_the_bundle_fails_with_any_one_byte_of_any_root_changed(played: Played, name: str) -> None:
    data = (played.directory / name).read_bytes()
    policy = parse_policy((played.directory / "policy.txt").read_bytes())
    assert verify_bundle(data, policy).verdict is Verdict.VERIFIED
    roots = roots_of(json.loads(data))
    assert len(roots) >= 3
    for root in roots:
        for at in range(32):
            raw = bytearray(base64.b64decode(root))
            raw[at] ^= 0x40
            changed = data.replace(root.encode(), base64.b64encode(raw))
            assert changed != data
            with pytest.raises(FormatError, match="sha256"):
                verify_bundle(changed, policy)
            assert verify_bundle(digest_anew(changed), policy).verdict is Verdict.TAMPERED, f"byte {at} of {root}"


def roots_of(document: dict[str, Any]) -> set[str]:
    """The checkpoint's root, those of the table logs in the seals, and the state roots."""
    found = {document["checkpoint"].split("\n")[2]}
    for record in (proven["record"] for proven in document["records"]):
        found |= {head["root"] for head in record["body"].get("tables", ())} if record["type"] == "seal" else set()
        found |= {record["body"]["state_found"]} if record["type"] == "verify" else set()
    return found


def digest_anew(data: bytes) -> bytes:
    document = json.loads(data)
    del document["sha256"]
    return canonical({**document, "sha256": sha256(canonical(document)).hexdigest()}) + b"\n"


# -- when something is missed, or somebody has enough -------------------------------------------------------------------------


def test_deeds_that_are_left_undone_are_missed_named_and_make_it_fail(place: Path) -> None:
    undone = ("sql.delete", "publication", "file.update")
    words = [word for deed in undone for word in ("--leave-out", deed)]
    done = subprocess.run(
        command("--json", "--no-cluster", "--patience", "2", *words), env=environment(place), check=False, **PIPES
    )
    document = json.loads(done.stdout)
    assert done.returncode == 1, done.stderr.decode()
    publication = ["publication.touched", "publication.update", "publication.delete", "publication.insert"]
    assert document["missed"] == ["sql.delete", *publication, "file.update"]
    assert document["nodes"] == 1
    assert document["ok"] is False and document["seen"] == document["expected"] - len(document["missed"])
    assert "FAIL  expected violation.delete public.audit_logs 231, seen: nothing" in done.stderr.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_whoever_ends_it_early_leaves_nothing_behind(place: Path, number: signal.Signals) -> None:
    own = place / number.name
    own.mkdir(mode=0o755)
    started = subprocess.Popen(
        command(), env=environment(own), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert started.stdout is not None and started.stderr is not None
    with started.stdout, started.stderr:
        for line in started.stdout:
            if line.startswith(b"The leader is killed"):
                break
        assert len([line for line in processes_in(own) if "witnz start" in line]) >= 2, "nodes and server run"
        started.send_signal(number)
        assert started.wait(END_S) == (130 if number is signal.SIGINT else -number), started.stderr.read()
    assert wait_until(lambda: not processes_in(own) and not list(own.iterdir())), (processes_in(own), list(own.iterdir()))


def test_a_directory_with_something_in_it_is_not_taken_and_an_unknown_deed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for words in (("--keep", tmp_path), ("--leave-out", "nothing")):
        done = subprocess.run(command("--json", *words), check=False, **PIPES)
        assert (done.returncode, json.loads(done.stderr)["schema"]) == (2, "witnz.error/1")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def witnz(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "witnz", *map(str, words)], cwd=folder, check=False, **PIPES)


def processes_in(directory: Path) -> list[str]:
    """Processes whose command line or working directory lies in ``directory``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            works_in = str((process / "cwd").readlink())
        except OSError:
            continue
        if line and (str(directory) in line or works_in.startswith(str(directory))):
            found.append(line)
    return found


def wait_until(condition: Callable[[], bool], timeout_s: float = END_S) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
