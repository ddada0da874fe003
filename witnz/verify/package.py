"""Offline verification of an evidence package by anybody: its folder, and nothing else (formats.md 8).

    report.sums        SHA256SUMS lists exactly the files that are there
    report.files       the files are those that report.json signs, and no other is there
    report.log         every bundle is of the journal that report.json names, whatever other logs the policy trusts
    report.key         the key that signed stands in the journal, under the checkpoint of bundles/report.witnz.json, and no
                       bundle shows that it was removed
    report.signature   DSSE, ECDSA P-256 with SHA-256, by that key
    report.record      the journal holds the digest of report.json, for this standard and period, behind the key
    report.evidence    evidence.json is of this report and of these files
    report.period      its opening and closing checkpoints are those of bundles/period.witnz.json, cosigned before the period
                       began and ended (else a later opening one would hide what came before it)
    report.coverage    no gap is open (else INCONCLUSIVE)
    report.continuity  the report that it says it follows stands in the journal
    report.figures     every count is recounted: :mod:`witnz.verify.figures`, and what else whoever verifies has derived again
    report.pdf         PAdES by the same key, evidence.json attached: :mod:`witnz.verify.pdf_signature`, with witnz[report]

and each bundle under its name, as :mod:`witnz.verify.bundle` checks it.  The signature is authorship only: what is believed, is
what stands under the verifier's policy.  Files that are not of their format raise :class:`FormatError` (exit code 2).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final

from witnz.core.bundle import Bundle, SignedCheckpoint, parse_bundle
from witnz.core.canonical import parse_canonical
from witnz.core.note import cosignature_time
from witnz.core.record import Record
from witnz.core.record_bodies import day_or_time
from witnz.core.shape import Shape, base64_bytes, decode_base64, hex_bytes, integer, list_of, members, one_of, spelled, text
from witnz.core.timestamp import format_time, parse_time
from witnz.core.verdict import Check, CheckStatus
from witnz.errors import FormatError
from witnz.verify.bundle import BundleResult, check_required, verdict_of
from witnz.verify.bundle_rows import fail, ok, skip
from witnz.verify.figures import check_figures
from witnz.verify.pdf_signature import check_pdf

REPORT: Final = "report.json"
EVIDENCE: Final = "evidence.json"
PDF: Final = "report.pdf"
SUMS: Final = "SHA256SUMS"
OWN: Final = "bundles/report.witnz.json"
PERIOD: Final = "bundles/period.witnz.json"
BUNDLE_SUFFIX: Final = ".witnz.json"
UNSIGNED: Final = frozenset({REPORT, OWN, SUMS})
"""What the signed list of files cannot hold: itself, and what was made after it."""

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
MAX_DOCUMENT_BYTES: Final = 64 << 20
MAX_FILES: Final = 10_000
MAX_PACKAGE_BYTES: Final = 1 << 30
CLOCKS_S: Final = 60
"""By how many seconds the clock of whoever cosigned may be ahead of that of whoever noted the checkpoint."""
END_OF_TIME_S: Final = 253_402_300_799
"""The last second of the year 9999, beyond which no time is written."""

Recount = Callable[[Mapping[str, Any], Mapping[str, bytes], Mapping[str, Bundle], str], list[Check]]
"""(predicate of evidence.json, files, bundles, name of the check) -> checks."""

_HASH = hex_bytes(32)
_NAME = text(1024, min_bytes=1)
_STANDARD = text(64, min_bytes=1)


def _an_object(value: Any, path: str) -> None:
    if not isinstance(value, dict):
        raise FormatError(f"{path}: expected an object, found {type(value).__name__}")


_ENVELOPE = members(
    {
        "payload": base64_bytes(max_bytes=MAX_DOCUMENT_BYTES),
        "payloadType": one_of(PAYLOAD_TYPE),
        "signatures": list_of(members({"keyid": _HASH, "sig": base64_bytes(max_bytes=80)}), low=1, high=1),
    }
)
_PREDICATE = members(
    {
        "cluster": text(),
        "cluster_id": hex_bytes(16),
        "created": spelled(parse_time),
        "evidence_sha256": _HASH,
        "files": integer(),
        "from": day_or_time,
        "standard": _STANDARD,
        "to": day_or_time,
        "tool": text(256),
    }
)


def _statement(kind: str) -> Shape:
    subject = members({"name": _NAME, "digest": members({"sha256": _HASH})})
    return members(
        {
            "_type": one_of("https://in-toto.io/Statement/v1"),
            "predicateType": one_of(f"https://witnz.dev/{kind}/v1"),
            "predicate": _an_object,
            "subject": list_of(subject, high=MAX_FILES, unique=lambda item: item["name"]),
        }
    )


@dataclass(frozen=True, slots=True)
class Envelope:
    """report.json, its grammar checked and nothing believed: what is signed, by which key, and the statement in it."""

    payload: bytes
    key_id: str
    signature: bytes
    statement: Mapping[str, Any]

    @property
    def about(self) -> Mapping[str, Any]:
        """Which report, over which period, of which cluster."""
        found: Mapping[str, Any] = self.statement["predicate"]
        return found

    @property
    def signed(self) -> dict[str, str]:
        """The hex SHA-256 of each file, by name."""
        return _subjects(self.statement)


@dataclass(frozen=True, slots=True)
class PackageResult:
    """The answer about a package.  ``bundles``: that about each of its bundles, by name."""

    checks: tuple[Check, ...]
    bundles: Mapping[str, BundleResult]
    about: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The members of ``witnz.verify/1`` for a package, without ``schema``."""
        missing = [
            f"{one.name}: {one.detail}" for one in self.checks if one.status in (CheckStatus.SKIP, CheckStatus.NOT_APPLICABLE)
        ]
        return {
            "verdict": verdict_of(self.checks).value,
            "checks": [check.to_json() for check in self.checks],
            "findings": [],
            "not_checked": missing,
            "report": dict(self.about),
            "bundles": {
                name: {"verdict": one.verdict.value, "size": one.size, "cosigned_by": list(one.cosigned_by)}
                for name, one in self.bundles.items()
            },
        }


def parse_envelope(data: bytes) -> Envelope:
    """report.json.  Raises FormatError for any other bytes."""
    value = _document(data, REPORT, _ENVELOPE)
    signature = value["signatures"][0]
    payload = decode_base64(value["payload"], "report.json: payload")
    statement = parse_canonical(payload, what="report.json: payload", max_bytes=MAX_DOCUMENT_BYTES)
    _statement("report")(statement, "report.json: payload")
    _PREDICATE(statement["predicate"], "report.json: predicate")
    return Envelope(payload, signature["keyid"], decode_base64(signature["sig"], "report.json: sig"), statement)


def verify_package(
    files: Mapping[str, bytes],
    verify: Callable[[bytes], BundleResult],
    *,
    recount: Recount | None = None,
    required: Sequence[str] = (),
) -> PackageResult:
    """The answer about the files of a package, by their names relative to its folder.

    ``verify``: how each bundle is verified, under the policy of whoever verifies.  ``recount``: derives again, from the records
    shown, what the evidence states (:func:`witnz.report.recount.recount`).  ``required``: types of anchors of which one receipt
    in the package must have been checked in full.  Raises FormatError for a package whose report.json, evidence.json
    or bundles are not of their format.
    """
    for name in (REPORT, EVIDENCE, OWN):
        if name not in files:
            raise FormatError(f"package: expected {REPORT}, {EVIDENCE} and {OWN}, found no {name}")
    envelope = parse_envelope(files[REPORT])
    evidence = _document(files[EVIDENCE], EVIDENCE, _statement("evidence"))
    bundles = {name: _bundle(name, files[name]) for name in sorted(files) if name.endswith(BUNDLE_SUFFIX)}
    digests = {name: sha256(data).hexdigest() for name, data in files.items()}
    key = _key_record(envelope, bundles[OWN])
    checks = [
        _check_sums(files, digests),
        _check_files(envelope, digests),
        _check_log(envelope, bundles),
        *_check_signature(envelope, key, bundles),
        _check_record(envelope, key, bundles[OWN], digests[REPORT]),
        _check_evidence(envelope, evidence, digests),
        _check_period(envelope, evidence["predicate"], bundles.get(PERIOD)),
        _check_coverage(evidence["predicate"]),
        _check_continuity(evidence["predicate"], bundles[OWN]),
        *_check_figures(evidence["predicate"], files, bundles, recount),
        check_pdf(files.get(PDF), files[EVIDENCE], None if key is None else _public(key), "report.pdf"),
    ]
    results = {name: verify(files[name]) for name in bundles}
    for name, result in results.items():
        checks += [replace(check, name=f"{name}: {check.name}") for check in result.checks]
    shown = [(bundles[name].anchors, result.checks) for name, result in results.items()]
    checks += [check_required(kind, shown) for kind in required]
    return PackageResult(tuple(checks), results, envelope.about)


def verify_envelope(data: bytes) -> PackageResult:
    """The answer about report.json alone, without the folder it belongs to: well formed, and nothing else could be checked."""
    envelope = parse_envelope(data)
    missing = "the files that it signs, and the journal that holds its key, are in its folder; name that"
    return PackageResult((skip("report.signature", missing), skip("report.files", missing)), {}, envelope.about)


def _document(data: bytes, name: str, shape: Shape) -> dict[str, Any]:
    if not data.endswith(b"}\n"):
        raise FormatError(f"{name}: expected a JSON object and one newline")
    value = parse_canonical(data[:-1], what=name, max_bytes=MAX_DOCUMENT_BYTES)
    _refuse_fractions(value, name)
    shape(value, name)
    return dict(value)


def _refuse_fractions(value: Any, name: str) -> None:
    """Counts, sizes and seconds are integers; a fraction has more than one spelling for people, and no figure needs one."""
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(item, float):
            raise FormatError(f"{name}: expected integers, found the fraction {item}")
        _refuse_fractions(item, name)


def _bundle(name: str, data: bytes) -> Bundle:
    try:
        return parse_bundle(data)
    except FormatError as error:
        raise FormatError(f"{name}: {error.message}") from None


def _subjects(statement: Mapping[str, Any]) -> dict[str, str]:
    return {item["name"]: item["digest"]["sha256"] for item in statement["subject"]}


def _check_sums(files: Mapping[str, bytes], digests: Mapping[str, str]) -> Check:
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()) if name != SUMS)
    if files.get(SUMS) != lines.encode():
        return fail("report.sums", f"{SUMS} does not list exactly the files that are here, with their digests")
    return ok("report.sums", f"{SUMS} lists exactly these {len(files) - 1} files")


def _check_files(envelope: Envelope, digests: Mapping[str, str]) -> Check:
    signed, here = envelope.signed, {name: digest for name, digest in digests.items() if name not in UNSIGNED}
    odd = sorted(name for name in {*signed, *here} if signed.get(name) != here.get(name))
    if odd:
        first = odd[0]
        how = "is missing" if first not in digests else "was never signed" if first not in signed else "is not the one signed"
        more = f", and {len(odd) - 1} more" if len(odd) > 1 else ""
        return fail("report.files", f"{first} {how}{more}")
    return ok("report.files", f"{len(signed)} files are those that were signed, and no other is here")


def _public(record: Record) -> bytes:
    return decode_base64(record.body["key"], "report key", max_bytes=3072)


def _key_record(envelope: Envelope, own: Bundle) -> Record | None:
    """The first ``key`` record of the key that the envelope names."""
    for proven in own.records:
        record = proven.record
        if _is_report_key(record) and sha256(_public(record)).hexdigest() == envelope.key_id:
            return record
    return None


def _is_report_key(record: Record) -> bool:
    return record.type == "key" and bool(record.body["kind"] == "report")


def _check_log(envelope: Envelope, bundles: Mapping[str, Bundle]) -> Check:
    """A policy may trust several logs; a proof under another of them says nothing about this report's journal."""
    about, name = envelope.about, "report.log"
    for file, bundle in bundles.items():
        if bundle.head.checkpoint.origin != about["cluster"]:
            return fail(name, f"{file} is of the log {bundle.head.checkpoint.origin}, the report of {about['cluster']}")
        if any(proven.record.cluster != about["cluster_id"] for proven in bundle.records):
            return fail(name, f"{file} has records of another cluster than the report's, {about['cluster_id']}")
    return ok(name, f"all {len(bundles)} bundles are of the log {about['cluster']}")


def _check_signature(envelope: Envelope, key: Record | None, bundles: Mapping[str, Bundle]) -> list[Check]:
    """The key is in force, and it signed."""
    if key is None:
        no_key = fail("report.key", f"no journal record shown here names the report key {envelope.key_id}")
        return [no_key, fail("report.signature", "there is no key to check the signature with")]
    shown = [proven.record for bundle in bundles.values() for proven in bundle.records if _is_report_key(proven.record)]
    removed = any(one.body["key"] == key.body["key"] and one.body["action"] == "remove" for one in shown)
    named = f"report key {envelope.key_id}, record {key.seq} of the journal"
    status = fail("report.key", f"{named}, was removed") if removed else ok("report.key", named)
    payload_type = PAYLOAD_TYPE.encode()
    message = b"DSSEv1 %d %s %d %s" % (len(payload_type), payload_type, len(envelope.payload), envelope.payload)
    if not _is_signed(_public(key), envelope.signature, message):
        return [status, fail("report.signature", "report.json is not signed by that key")]
    return [status, ok("report.signature", "report.json is signed by that key (DSSE, ECDSA P-256)")]


def _is_signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """ECDSA P-256 with SHA-256 by a DER SubjectPublicKeyInfo in its one spelling; False for any other key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

    try:
        key = load_der_public_key(public)
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            return False
        if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != public:  # a compressed point, a longer length
            return False
        key.verify(signature, message, ec.ECDSA(SHA256()))
    except (ValueError, InvalidSignature):
        return False
    return True


def _check_record(envelope: Envelope, key: Record | None, own: Bundle, digest: str) -> Check:
    about, name = envelope.about, "report.record"
    said = {"standard": about["standard"], "from": about["from"], "to": about["to"], "sha256": digest}
    record = next((one.record for one in own.records if one.record.type == "report" and one.record.body == said), None)
    if record is None:
        return fail(name, "no journal record shown here holds the digest of report.json for its standard and period")
    if key is not None and (record.seq or 0) <= (key.seq or 0):
        return fail(name, f"record {record.seq} of the report stands before its key's")
    return ok(name, f"record {record.seq} of the journal holds the digest of report.json")


def _check_evidence(envelope: Envelope, evidence: Mapping[str, Any], digests: Mapping[str, str]) -> Check:
    about, name, inner = envelope.about, "report.evidence", evidence["predicate"]
    told, cluster = _part(inner, "report"), _part(inner, "cluster")
    if any(told.get(member) != about[member] for member in ("standard", "from", "to")):
        return fail(name, "evidence.json is of another standard or period than report.json says")
    if (cluster.get("id"), about["evidence_sha256"]) != (about["cluster_id"], digests[EVIDENCE]):
        return fail(name, "evidence.json is not the one, or not of the cluster, that report.json names")
    signed, listed = envelope.signed, _subjects(evidence)
    if about["files"] != len(signed) or any(signed.get(file) != digest for file, digest in listed.items()):
        return fail(name, "evidence.json and report.json name different files")
    return ok(name, f"evidence.json is of this report, over {len(listed)} of these files")


def _part(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A member that should be an object; an empty one where it is not, which then agrees with nothing."""
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _check_period(envelope: Envelope, predicate: Mapping[str, Any], period: Bundle | None) -> Check:
    name, told, about = "report.period", _part(predicate, "period"), envelope.about
    if period is None:
        return fail(name, f"there is no {PERIOD}")
    if not _is_head(told.get("closing"), period.head):
        return fail(name, f"the closing checkpoint that evidence.json names is not that of {PERIOD}")
    opening = told.get("opening", ...)
    opened = [older for older in period.consistency if _is_head(opening, older)]
    if opening is not None and not opened:
        return fail(name, f"the opening checkpoint that evidence.json names is not in {PERIOD}")
    for end, heads in (("from", opened), ("to", [period.head])):
        if any(_is_after(head, about[end]) for head in heads):
            which = "opening" if end == "from" else "closing"
            return fail(name, f"the {which} checkpoint was cosigned later than {about[end]}: it is not that of this period")
    first = 0 if opening is None else opening["size"]
    return ok(name, f"the period is journal records {first + 1} to {period.head.checkpoint.size}")


def _is_head(told: Any, head: SignedCheckpoint) -> bool:
    if not isinstance(told, dict):
        return False
    return bool((told.get("size"), told.get("root")) == (head.checkpoint.size, b64encode(head.checkpoint.root).decode()))


def _is_after(head: SignedCheckpoint, moment: str) -> bool:
    """Whether every cosignature is later than a day or time of UTC, by more than clocks may differ."""
    times = [when for signature in head.note.signatures if (when := cosignature_time(signature)) is not None]
    first = min(max(min(times, default=0) - CLOCKS_S, 0), END_OF_TIME_S)
    return format_time(first * 1_000_000) >= moment


def _check_continuity(predicate: Mapping[str, Any], own: Bundle) -> Check:
    """Nobody can name a report that never was; that one was left out, only the journal itself can show."""
    name, previous = "report.continuity", _part(predicate, "continuity").get("previous")
    if previous is None:
        return ok(name, "it says that no report of this standard is before it")
    told = previous if isinstance(previous, dict) else {}
    body = {member: told.get(member) for member in ("standard", "from", "to", "sha256")}
    for proven in own.records:
        record = proven.record
        if (record.type, record.seq, record.body) == ("report", told.get("seq"), body):
            return ok(name, f"it follows the report of {told['from']} to {told['to']}, record {record.seq} of the journal")
    return fail(name, f"the report before it that evidence.json names is not in {OWN}")


def _check_figures(
    predicate: Mapping[str, Any], files: Mapping[str, bytes], bundles: Mapping[str, Bundle], recount: Recount | None
) -> list[Check]:
    checks = check_figures(predicate, files, bundles, "report.figures")
    if recount is None:
        detail = "what else evidence.json and the lists state was not derived again"
        return [*checks, Check("report.figures.derived", CheckStatus.NOT_APPLICABLE, detail)]
    failed = any(check.status is CheckStatus.FAIL for check in checks)
    return checks if failed else [*checks, *recount(predicate, files, bundles, "report.figures.derived")]


def _check_coverage(predicate: Mapping[str, Any]) -> Check:
    gaps = _part(predicate, "coverage").get("open_gaps")
    if gaps == []:
        return ok("report.coverage", "no gap is open")
    named = ", ".join(str(table) for table in gaps) if isinstance(gaps, list) else "not said"
    return skip("report.coverage", f"what happened in gaps that nobody has closed was not recorded; tables: {named}"[:1000])
