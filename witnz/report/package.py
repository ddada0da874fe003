"""An evidence package, made in the order of formats.md 8 so that nothing is circular.

populations, bundles, policy, certificates  →  evidence.json  →  report.pdf with it attached, signed  →  oscal.json, README.txt,
verifiers, MANIFEST.json  →  report.json, signed over every file so far                                        (:func:`build`)
… the ``report`` record with the digest of report.json is journalled, and a checkpoint covers it …
→  bundles/report.witnz.json  →  SHA256SUMS                                                                    (:func:`finish`)
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any, Final

from witnz import __version__
from witnz.core.canonical import canonical
from witnz.core.checkpoint import parse_checkpoint
from witnz.core.journal_view import JournalView
from witnz.core.note import parse_note
from witnz.core.timestamp import format_time
from witnz.errors import Inconclusive
from witnz.report import bundles, statement
from witnz.report.evidence import Collected, Request, collect
from witnz.report.key import ReportKey
from witnz.report.mapping import in_language
from witnz.report.oscal import assessment_results
from witnz.report.pdf import Fingerprints, make_pdf
from witnz.report.pdf_sign import NO_ANSWER, TimeStamp, attach, sign_pdf

EVIDENCE, PDF, REPORT, OSCAL = "evidence.json", "report.pdf", "report.json", "oscal.json"
POLICY, CERTIFICATES, MANIFEST, README, SUMS = (
    "policy.txt",
    "report-certificates.pem",
    "MANIFEST.json",
    "README.txt",
    "SHA256SUMS",
)
VERIFIERS: Final = ("verify.py", "verify.html")
STANDALONE: Final = "standalone"
"""The folder of :mod:`witnz.verify` with the verifiers that stand alone."""

_ABOUT: Final[Mapping[str, str]] = {
    EVIDENCE: "the evidence: every figure of the report (in-toto statement)",
    PDF: "the report for people, signed; evidence.json is attached",
    OSCAL: "the evidence for GRC tools (OSCAL assessment-results)",
    POLICY: "the policy as claimed by the maker; never trusted",
    CERTIFICATES: "certificate of the report key and its root",
    README: "what this folder is and how to check it",
    "verify.py": "a verifier in one file, for Python without anything installed",
    "verify.html": "a verifier in one page, for a browser without a network",
    bundles.PERIOD: "the closing checkpoint with tables, seals, earlier checkpoints and receipts",
    bundles.SEALS: "every seal of the period, and those that say how large the logs were before it",
    bundles.CHECKPOINTS: "every final checkpoint of the period but the closing one",
}

STAMPED, NOT_STAMPED = "by the configured authority", "none: no rfc3161 authority is configured"

Tell = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Built:
    """A package that lacks only what comes after its ``report`` record.

    ``digest``: hex SHA-256 of report.json; ``time_stamp``: whether the PDF has one, or why not.
    """

    package: Path
    digest: str
    pages: int
    time_stamp: str
    collected: Collected

    @property
    def body(self) -> dict[str, str]:
        """The body of the ``report`` record."""
        about = self.collected.predicate["report"]
        return {"standard": about["standard"], "from": about["from"], "to": about["to"], "sha256": self.digest}


def build(
    connection: sqlite3.Connection,
    state: JournalView,
    key: ReportKey,
    request: Request,
    package: Path,
    *,
    lang: str = "en",
    time_stamp: TimeStamp | None = None,
    tell: Tell = lambda step: None,
) -> Built:
    """Everything up to report.json, in the empty directory ``package``.

    Raises UsageError for a period before the journal began and for a language without its font, Inconclusive for a period in
    which nothing was recorded.
    """
    collected = collect(connection, state, request, package)
    tell(1)
    (package / POLICY).write_text(bundles.policy_of(state), encoding="utf-8")
    (package / CERTIFICATES).write_bytes(key.certificates_pem)
    subjects = statement.digests(package, [*collected.files, POLICY, CERTIFICATES])
    evidence = canonical(statement.statement(subjects, statement.EVIDENCE_TYPE, collected.predicate)) + b"\n"
    (package / EVIDENCE).write_bytes(evidence)
    digest = sha256(evidence).hexdigest()
    pages, stamped = _write_pdf(package, collected, key, request, lang, evidence, time_stamp)
    tell(2)
    (package / OSCAL).write_bytes(assessment_results(collected.predicate, digest))
    _write_readme(package, collected, request, lang)
    for name in VERIFIERS:
        found = resources.files("witnz.verify") / STANDALONE / name
        if found.is_file():
            (package / name).write_bytes(found.read_bytes())
    _write_manifest(package, request)
    signed = _sign(package, collected.predicate, digest, key)
    (package / REPORT).write_bytes(signed)
    return Built(package, sha256(signed).hexdigest(), pages, stamped, collected)


def _write_pdf(
    package: Path,
    collected: Collected,
    key: ReportKey,
    request: Request,
    lang: str,
    evidence: bytes,
    time_stamp: TimeStamp | None,
) -> tuple[int, str]:
    """(pages, whether the file is time-stamped).  The report is made even where the authority does not answer."""
    fingerprints = Fingerprints(key.root_fingerprint, key.key_id, sha256(evidence).hexdigest())
    made = make_pdf(collected.predicate, fingerprints, request.standard, lang)
    about = collected.predicate["report"]
    reason = f"witnz evidence report {about['standard']} {about['from'][:10]} {about['to'][:10]}"
    attached = attach(made.data, evidence, request.created)
    stamped = NOT_STAMPED if time_stamp is None else STAMPED
    try:
        signed = sign_pdf(attached, key, reason=reason, time_stamp=time_stamp)
    except Inconclusive as error:
        if error.code != NO_ANSWER:
            raise
        signed, stamped = sign_pdf(attached, key, reason=reason), f"none: {error.message}"
    (package / PDF).write_bytes(signed)
    return made.pages, stamped


def _write_readme(package: Path, collected: Collected, request: Request, lang: str) -> None:
    about = collected.predicate["report"]
    texts = resources.files("witnz.report") / "texts"
    filled = [
        (texts / f"README.{language}.txt").read_text("utf-8").format(
            title=in_language(request.standard.title, language), cluster=collected.predicate["cluster"]["name"],
            begin=about["from"], end=about["to"], created=about["created"], tool=about["tool"],
        )
        for language in (("ja", "en") if lang == "ja" else ("en",))
    ]  # fmt: skip
    (package / README).write_text("\n".join(filled), encoding="utf-8")


def _write_manifest(package: Path, request: Request) -> None:
    names = sorted(_files(package))
    digests = statement.digests(package, names)
    files = [
        {"name": name, "about": _about(name), "bytes": (package / name).stat().st_size, "sha256": digests[name]}
        for name in names
    ]
    document = {
        "schema": "witnz.manifest/1",
        "created": format_time(request.created),
        "tool": f"witnz {__version__}",
        "files": files,
    }
    (package / MANIFEST).write_bytes(canonical(document) + b"\n")


def _about(name: str) -> str:
    if name in _ABOUT:
        return _ABOUT[name]
    return "journal records with their proofs" if name.startswith(bundles.FOLDER) else "a population: a complete list"


def _sign(package: Path, predicate: Mapping[str, Any], evidence_sha256: str, key: ReportKey) -> bytes:
    subjects = statement.digests(package, _files(package))
    about, cluster = predicate["report"], predicate["cluster"]
    summary = {
        "cluster": cluster["name"],
        "cluster_id": cluster["id"],
        **{name: about[name] for name in ("standard", "from", "to", "created", "tool")},
        "evidence_sha256": evidence_sha256,
        "files": len(subjects),
    }
    return statement.sign(statement.statement(subjects, statement.REPORT_TYPE, summary), key)


def finish(
    connection: sqlite3.Connection, state: JournalView, built: Built, note: str, seqs: tuple[int, ...], created: int
) -> dict[str, Any]:
    """The last two files; what to tell whoever asked.

    ``note``: a final checkpoint over the ``report`` record; ``seqs``: of that record and of the report key's.
    """
    prover = bundles.Prover(connection, note, bundles.policy_of(state), created)
    closing = built.collected.bounds.closing
    older = [closing.note] if closing.size < prover.size else []
    predicate = built.collected.predicate
    previous = predicate["continuity"]["previous"]
    followed = () if previous is None else (previous["seq"],)
    (built.package / bundles.REPORT).write_bytes(prover.build({1, *seqs, *followed}, older=older))
    write_sums(built.package)
    return {
        "report": predicate["report"],
        "conclusion": predicate["conclusion"],
        "exceptions": [item for item in predicate["exceptions"] if item["count"]],
        "counts": predicate["counts"],
        "period": {name: predicate["period"][name] for name in ("opening", "closing", "records")},
        "continuity": predicate["continuity"]["status"],
        "sha256": built.digest,
        "journal_seq": max(seqs),
        "checkpoint_size": parse_checkpoint(parse_note(note).text).size,
        "pages": built.pages,
        "time_stamp": built.time_stamp,
        "files": [{"name": name, "bytes": (built.package / name).stat().st_size} for name in sorted(_files(built.package))],
    }


def write_sums(package: Path) -> None:
    """SHA256SUMS over every other file, as ``sha256sum -c`` reads it."""
    names = sorted(name for name in _files(package) if name != SUMS)
    lines = [f"{digest}  {name}\n" for name, digest in statement.digests(package, names).items()]
    (package / SUMS).write_text("".join(lines), encoding="utf-8")


def _files(package: Path) -> Iterator[str]:
    return (path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file())
