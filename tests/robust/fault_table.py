"""Every durable write of witnz, and what its two faults lead to: the table that ``docs/faults.md`` shows and the tests run.

*failed*: the step was refused and nothing of it is there.  *failed but persisted*: it was done, and reported as failed all the
same, as a disk does whose answer is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FILES: Final = "tests/robust/test_faulty_files.py"
REPORTS: Final = "tests/robust/test_faulty_reports.py"
COMMITS: Final = "tests/robust/test_failing_commits.py"
LINKS: Final = "../"


@dataclass(frozen=True, slots=True)
class DurableWrite:
    """``where``: the modules that write it; ``test``: the file in which both faults are put in."""

    name: str
    where: tuple[str, ...]
    failed: str
    persisted: str
    test: str


_ALL_OR_NOTHING = "the old file, or none, stands as it was; the command or the node says why (`store.full`)"
_WHOLE = "the new file stands whole; what reported the fault is simply done again"

TABLE: Final = (
    DurableWrite(
        "A key file that is made (`init`, `keys new`, `keys rotate`)", ("witnz/store/datadir.py",),
        "no file under its name; the command says why and can be repeated",
        "the key stands whole and is used; asked for again, the command says that it exists and overwrites nothing",
        FILES,
    ),
    DurableWrite("A key file in the place of another", ("witnz/store/datadir.py",), _ALL_OR_NOTHING, _WHOLE, FILES),
    DurableWrite(
        "A waiting key that comes into force", ("witnz/node/keyring.py",),
        "it waits on and the node says which key it lacks; the next change, or start, puts it in its place",
        "the node signs with it at once: file, memory and journal name the same key", FILES,
    ),
    DurableWrite("`witnz.yaml`", ("witnz/cli/configfile.py",), _ALL_OR_NOTHING, _WHOLE, FILES),
    DurableWrite(
        "What a command writes for a person (`-o`): bundles, proofs, policies, report packages file by file",
        ("witnz/cli/files.py",), "what stood there stands as it was; the command says why, exit code 2", _WHOLE, FILES,
    ),
    DurableWrite(
        "The folder of a `report` or `report sample`, in the node (of a report's files a quarter each way) and where `-o` says",
        ("witnz/node/reporting.py", "witnz/cli/report.py", "witnz/report/bundles.py", "witnz/report/package.py",
         "witnz/report/populations.py", "witnz/report/sample.py"),
        "no folder in the node, an empty one at whoever asked; the command says why, and the same can be asked once more",
        "the same: what was reported as failed is taken away, and SHA256SUMS is the last file of the node's folder", REPORTS,
    ),
    DurableWrite(
        "A checkpoint in a folder or git work tree (anchor `basic`)", ("witnz/anchor/basic.py",),
        "no half file under its name, no receipt; it is tried again after a pause",
        "the file stands whole; the next try finds it there and gives the one receipt", FILES,
    ),
    DurableWrite(
        "What is set aside in `evidence/`: divergent tails, entries beyond an epoch, forks", ("witnz/store/datadir.py",),
        "no half file; the entries stay in the log, or the fork is shown again, and it is tried again",
        "the file stands whole, and is written again, the same, before the entries leave the log", FILES,
    ),
    DurableWrite(
        "A new store", ("witnz/store/database.py",), "no store under its name; `init` says why and can be repeated",
        "the store is complete, and the next `init` goes on with it", FILES,
    ),
    DurableWrite(
        "The engine's journal: entries, term and vote, the other members' journals, its rewriting",
        ("witnz/cluster/raft/file.py",),
        "the engine stops before it has promised anything; the next start reads all that was promised before",
        "the engine stops as well; the next start may find more than was promised, never less and nothing twice", FILES,
    ),
    DurableWrite(
        "Entries, live state and the position in the stream", ("witnz/node/recorder.py",),
        "nothing is acknowledged to the database; what was received comes again and is recorded once",
        "what comes again is skipped by its position", COMMITS,
    ),
    DurableWrite(
        "Records of the journal", ("witnz/store/journal.py",),
        "no leaf, and what was to be journalled is still owed", "the record stands once, by its number and hash", COMMITS,
    ),
    DurableWrite(
        "Checkpoints and the cosigner's memory", ("witnz/store/checkpoints.py",),
        "no signature has left the node; the next checkpoint is signed instead",
        "the memory names what was signed: that size is signed again with the same root only", COMMITS,
    ),
    DurableWrite(
        "Findings and the alerts that they owe", ("witnz/store/findings.py", "witnz/store/outbox.py"),
        "neither is there: both come again with what led to them", "both are there; what comes again has the same id", COMMITS,
    ),
    DurableWrite(
        "The mark that an alert was delivered", ("witnz/store/outbox.py",),
        "remembered in memory, sent once; only a crash in between sends it again, under the same delivery id",
        "sent once", COMMITS,
    ),
    DurableWrite(
        "What an anchor has under way, and its receipt", ("witnz/store/anchors.py",),
        "the publication is gone on with where it stood, and its receipt journalled once", "the same", COMMITS,
    ),
)  # fmt: skip

NO_EVIDENCE: Final = {
    "witnz/node/evidence.py": "a package in a temporary folder, copied out from there",
    "witnz/node/export.py": "an export into a new folder: repeated into another",
    "witnz/store/export.py": "an export into a new folder: repeated into another",
    "witnz/cli/table.py": "an export into a new file: repeated into another",
}
"""What also writes files, and why nothing is lost with one that failed: what it was made from is still there."""


def markdown() -> str:
    """The two tables of the page."""
    lines = ["| what is written | when it fails | when it fails but persisted | tested in |", "|---|---|---|---|"]
    for row in TABLE:
        lines.append(f"| {row.name} | {row.failed} | {row.persisted} | [{row.test.rpartition('/')[2]}]({LINKS}{row.test}) |")
    lines += ["", "| written as well | when it fails |", "|---|---|"]
    lines += [f"| `{path}` | {why} |" for path, why in NO_EVIDENCE.items()]
    return "\n".join(lines) + "\n"
