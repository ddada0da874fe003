"""Write the vectors of whole packages anew: ``python -m tests.vectors.packages`` from the root of the repository.

``packages/good`` is a package as ``witnz report`` makes it, but for the verifiers, which it lacks; ``packages/cases.json`` says
of every other what differs from it, and what a verifier must answer.  The report key is a new one at each run (ECDSA
signatures differ anyway), so the files are committed as they are and no test makes them again.

    {name: {"code": 0 | 2 | 3 | 4, "anchors": [types asked for],
            "of": the case that it differs from, where that is not the good one,
            "policy": "none" | "foreign" | "two-logs", where it is not the good one,
            "files": {name: null: left out | {"text"} | {"base64"} | {"edits": [[position, bytes left out, "text"]]}}}}

Texts stand for bytes, a character each (Latin-1).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from tests.support.bundle_lies import OTHER_LOG
from tests.support.evidence import DAY_US, FIRST_DAY_US, HOUR_US, PaperStore, make_package, policy_of, request
from tests.support.journal_maker import PaperCluster
from tests.vectors.generate import foreign_policy
from witnz.core.bundle import build_bundle, parse_bundle
from witnz.core.canonical import canonical
from witnz.core.checkpoint import Checkpoint, checkpoint_digest, cosign, format_checkpoint
from witnz.core.keys import ED25519, format_verifier_key, verifier_key
from witnz.core.merkle import root_of
from witnz.core.note import format_note, parse_note, sign_note
from witnz.core.record import format_record, record_leaf_hash
from witnz.core.timestamp import format_time
from witnz.report import bundles, package, statement
from witnz.report.package import Built
from witnz.store import checkpoints, journal

HERE = Path(__file__).parent / "packages"
STANDARD = "cfr11"
"""The one with the fewest controls: the package is small."""
NEXT = "good-of-the-next-period"

Files = dict[str, bytes]


def quiet() -> PaperStore:
    """Genesis, a table, some rows, a verification, receipts, two more seals, all on one day."""
    store = PaperStore(Path(tempfile.mkdtemp()) / "store", nodes=2).start()
    store.change([(b"insert", b"%d" % key) for key in range(1, 5)])
    store.seal()
    store.verify(rows=4)
    store.anchor("s3")
    store.at += HOUR_US
    store.change([(b"update", b"1")])
    store.seal()
    return store


def next_day(store: PaperStore) -> None:
    """The day after: a checkpoint whose note is kept outside, one whose receipt is from a bucket, and one more."""
    store.at = FIRST_DAY_US + DAY_US + 8 * HOUR_US
    store.change([(b"insert", b"5")])
    store.seal()
    with store.db.read() as conn:
        saved = checkpoints.latest(conn)
    assert saved is not None
    digest = checkpoint_digest(parse_note(saved.note).text).hex()
    receipt = {"type": "basic", "digest": digest, "size": saved.size, "note": saved.note}
    store.add("anchor", {"type": "basic", "digest": digest, "size": saved.size, "receipt": receipt})
    store.at += HOUR_US
    store.change([(b"update", b"5")])
    store.seal()
    store.anchor("s3")
    store.verify(rows=5)
    store.at += HOUR_US
    store.change([(b"insert", b"6")])
    store.seal()


def gap(store: PaperStore) -> None:
    """One more day, on which something was not recorded."""
    store.at = FIRST_DAY_US + 2 * DAY_US + 8 * HOUR_US
    lost = {"from_lsn": "0/194A000", "to_lsn": "0/194B000", "reason": "slot was recreated", "tables": ["public.lost"]}
    store.add("gap", lost)
    store.change([(b"insert", b"7")])
    store.seal()


@dataclass
class Maker:
    """Signs packages that say something else than a good one: a maker who has the keys, and lies."""

    store: PaperStore
    built: Built
    good: Files

    def signed(
        self,
        spoil: Callable[[Files], None],
        *,
        by: OtherKey | None = None,
        recorded: Mapping[str, str] | None = None,
        show_key: bool = True,
        **about: Any,
    ) -> Files:
        """The good files after ``spoil``, with all digests and signatures made again; ``about``: members of the signed summary.

        ``by``: signed by that key instead.
        ``recorded``: what the journal's ``report`` record says otherwise.
        ``show_key``: the report's bundle shows the key's record.
        """
        files = dict(self.good)
        spoil(files)
        folder = Path(tempfile.mkdtemp()) / "package"
        for name in ("report.json", "bundles/report.witnz.json", "SHA256SUMS"):
            files.pop(name, None)
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        data = files["evidence.json"]
        subjects = statement.digests(folder, files)
        told = self.good_summary() | {"evidence_sha256": sha256(data).hexdigest(), "files": len(subjects)} | about
        sealed = statement.sign(statement.statement(subjects, statement.REPORT_TYPE, told), by or self.store.key)  # type: ignore[arg-type]
        (folder / "report.json").write_bytes(sealed)
        built = replace(self.built, package=folder, digest=sha256(sealed).hexdigest())
        self.store.at += 1_000_000
        body = {name: told[name] for name in ("standard", "from", "to")} | {"sha256": built.digest} | dict(recorded or {})
        if by is None:
            keys = [next(one.seq or 0 for one in self.store.cluster.records if one.type == "key")]
        else:
            keys = [] if by.late or by.never else [self.put(by.public_der)]
        record = self.store.add("report", body)
        keys += [self.put(by.public_der)] if by is not None and by.late else []
        keys += [self.put(by.public_der, "remove")] if by is not None and by.removed else []
        note = self.store.checkpoint()
        with self.store.db.read() as conn:
            shown = keys if show_key else []
            package.finish(conn, self.store.cluster.state, built, note, (*shown, record.seq or 0), self.store.at)
        return read(folder)

    def put(self, public: bytes, action: str = "add") -> int:
        """The number of one more ``key`` record."""
        body = {"action": action, "kind": "report", "name": "other", "key": b64encode(public).decode(), "from_lsn": "0/0"}
        return self.force("key", body)

    def force(self, record_type: str, body: Mapping[str, Any], **keywords: Any) -> int:
        """The number of one more record, though the rules of the journal may refuse it: a lying quorum signs what it likes."""
        record = self.store.cluster.force(record_type, body, at=self.store.at, **keywords)
        with self.store.db.write() as conn:
            journal.append_record(conn, self.store.head, format_record(record))
        return record.seq or 0

    def shown(self, *seqs: int) -> bytes:
        """A bundle of these records, under a checkpoint of now."""
        note, policy = self.store.checkpoint(), policy_of(self.store)
        with self.store.db.read() as conn:
            return bundles.Prover(conn, note, policy, self.store.at).build(seqs)

    def good_summary(self) -> dict[str, Any]:
        envelope = statement.parse_envelope(self.good["report.json"])
        summary: dict[str, Any] = json.loads(envelope.payload)["predicate"]
        return summary


@dataclass
class OtherKey:
    """A report key that no verifier may take.  ``late``: journalled behind the report; ``removed``: and removed again;
    ``never``: not journalled at all."""

    public_der: bytes
    sign: Callable[[bytes], bytes]
    late: bool = False
    removed: bool = False
    never: bool = False

    @property
    def key_id(self) -> str:
        return sha256(self.public_der).hexdigest()


_SHA256 = ec.ECDSA(hashes.SHA256())


def _der(public: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def own_key(**how: bool) -> OtherKey:
    """A good key, journalled in a wrong way."""
    private = ec.generate_private_key(ec.SECP256R1())
    return OtherKey(_der(private.public_key()), lambda message: private.sign(message, _SHA256), **how)


def key_beside_its_curve() -> OtherKey:
    private = ec.generate_private_key(ec.SECP256R1())
    public = _der(private.public_key())
    return OtherKey(public[:-1] + bytes([public[-1] ^ 1]), lambda message: private.sign(message, _SHA256))


def key_of_another_curve() -> OtherKey:
    private = ec.generate_private_key(ec.SECP256K1())
    return OtherKey(_der(private.public_key()), lambda message: private.sign(message, _SHA256))


def key_of_another_kind() -> OtherKey:
    private = ed25519.Ed25519PrivateKey.generate()
    return OtherKey(_der(private.public_key()), private.sign)


def key_in_another_spelling() -> OtherKey:
    """A good key as a compressed point: the same key under another digest, so there would be two names for it."""
    private = ec.generate_private_key(ec.SECP256R1())
    point = private.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    public = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point
    assert load_der_public_key(public) == private.public_key()
    return OtherKey(public, lambda message: private.sign(message, _SHA256))


KEYS: Mapping[str, Callable[[], OtherKey]] = {
    "signed-by-a-key-that-was-removed": lambda: own_key(removed=True),
    "signed-and-journalled-before-its-key": lambda: own_key(late=True),
    "signed-by-a-key-that-was-never-journalled": lambda: own_key(never=True),
    "signed-by-a-key-beside-its-curve": key_beside_its_curve,
    "signed-by-a-key-of-another-curve": key_of_another_curve,
    "signed-by-a-key-of-another-kind": key_of_another_kind,
    "signed-by-a-key-in-another-spelling": key_in_another_spelling,
}
"""Keys with which somebody could sign."""


def bundle_of_another_log(store: PaperStore) -> bytes:
    """Good under a policy of two logs, and nothing of this report's journal."""
    cluster = PaperCluster(2)
    record = cluster.make("operator", {"action": "said", "detail": "elsewhere"})
    text = format_checkpoint(Checkpoint(OTHER_LOG.name, 1, root_of([record_leaf_hash(record)])))
    cosigned = [cosign(text, cluster.cosigner(node), store.at // 1_000_000) for node in cluster.nodes]
    note = format_note(sign_note(text, [OTHER_LOG]).with_signatures(*cosigned))
    return build_bundle(
        checkpoint=note, records=[(record, [])], policy=policy_of(store), created=store.at, tool="witnz vectors",
        rows=[], tables=[], consistency=[], anchors=[],
    )  # fmt: skip


def read(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def sums(files: Files) -> Files:
    """The same files, their digests listed anew."""
    listed = sorted((name, sha256(data).hexdigest()) for name, data in files.items() if name != "SHA256SUMS")
    return {**files, "SHA256SUMS": "".join(f"{digest}  {name}\n" for name, digest in listed).encode()}


def document(name: str, path: tuple[Any, ...], value: Any) -> Callable[[Files], None]:
    """Changes one member of a canonical document of a package, and of a bundle its digest too."""

    if isinstance(value, dict):
        value = {member: item for member, item in value.items() if item is not ...}

    def spoil(files: Files) -> None:
        whole = json.loads(files[name])
        inner = whole
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value
        if "sha256" in whole:
            rest = {member: item for member, item in whole.items() if member != "sha256"}
            whole["sha256"] = sha256(canonical(rest)).hexdigest()
        files[name] = canonical(whole) + b"\n"

    return spoil


def evidence(*path: Any) -> Callable[[Files], None]:
    """Changes a member of the predicate of evidence.json; the last argument is its new value."""
    return document("evidence.json", ("predicate", *path[:-1]), path[-1])


def text(name: str, old: bytes, new: bytes) -> Callable[[Files], None]:
    def spoil(files: Files) -> None:
        assert old in files[name], (name, old)
        files[name] = files[name].replace(old, new, 1)

    return spoil


def without(*names: str) -> Callable[[Files], None]:
    def spoil(files: Files) -> None:
        for name in names:
            del files[name]

    return spoil


def put(name: str, data: bytes) -> Callable[[Files], None]:
    def spoil(files: Files) -> None:
        files[name] = data

    return spoil


def both(*spoils: Callable[[Files], None]) -> Callable[[Files], None]:
    def spoil(files: Files) -> None:
        for one in spoils:
            one(files)

    return spoil


def cut(name: str) -> Callable[[Files], None]:
    return lambda files: files.update({name: files[name][: len(files[name]) // 2]})


def raw(name: str, change: Callable[[bytes], bytes]) -> Callable[[Files], None]:
    return lambda files: files.update({name: change(files[name])})


def flip_signature(data: bytes) -> bytes:
    whole = json.loads(data)
    sig = whole["signatures"][0]["sig"]
    whole["signatures"][0]["sig"] = sig[:40] + ("A" if sig[40] != "A" else "B") + sig[41:]
    return canonical(whole) + b"\n"


def other_key(data: bytes) -> bytes:
    whole = json.loads(data)
    whole["signatures"][0]["keyid"] = "0" * 64
    return canonical(whole) + b"\n"


def longer_number(data: bytes) -> bytes:
    """The same signature with a zero before its first number: BER, and not the one spelling that DER has."""
    whole = json.loads(data)
    sig = b64decode(whole["signatures"][0]["sig"])
    body = b"\x02" + bytes([sig[3] + 1]) + b"\0" + sig[4:]
    whole["signatures"][0]["sig"] = b64encode(b"\x30" + bytes([len(body)]) + body).decode()
    return canonical(whole) + b"\n"


def other_length(data: bytes) -> bytes:
    """The same two numbers, under a length that is not theirs."""
    whole = json.loads(data)
    sig = b64decode(whole["signatures"][0]["sig"])
    whole["signatures"][0]["sig"] = b64encode(sig[:1] + bytes([sig[1] - 1]) + sig[2:]).decode()
    return canonical(whole) + b"\n"


def said(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    """What is signed changed, the signature left as it is."""

    def spoil(data: bytes) -> bytes:
        whole = json.loads(data)
        inner = json.loads(b64decode(whole["payload"]))
        change(inner)
        whole["payload"] = b64encode(canonical(inner)).decode()
        return canonical(whole) + b"\n"

    return spoil


EARLY = format_time(FIRST_DAY_US + 12 * HOUR_US)
"""Before the first checkpoint."""
NEVER = {"seq": 4, "standard": STANDARD, "from": "2020-01-01", "to": "2020-02-01", "sha256": "0" * 64}
PERIOD, OWN, MORE = "bundles/period.witnz.json", "bundles/report.witnz.json", "bundles/more.witnz.json"
DEEP = b'{"payload":' + b"[" * 40 + b"]" * 40 + b',"payloadType":"application/vnd.in-toto+json","signatures":[]}\n'

STRANGER: Mapping[str, tuple[int, Callable[[Files], None]]] = {
    "report-json-cut": (2, cut("report.json")),
    "report-json-empty": (2, put("report.json", b"")),
    "report-json-nested-too-deep": (2, put("report.json", DEEP)),
    "report-json-nested-deeper-than-parsers-go": (2, put("report.json", b"[" * 1_500 + b"]" * 1_500 + b"\n")),
    "report-json-not-canonical": (2, raw("report.json", lambda data: data.replace(b'{"payload"', b'{ "payload"', 1))),
    "report-json-without-its-newline": (2, raw("report.json", lambda data: data[:-1])),
    "report-json-with-a-key-twice": (2, raw("report.json", lambda data: data.replace(b'{"pay', b'{"payload":"","pay', 1))),
    "report-json-with-one-member-more": (2, document("report.json", ("zzz",), 1)),
    "report-json-of-another-payload-type": (2, document("report.json", ("payloadType",), "application/json")),
    "report-json-without-signatures": (2, document("report.json", ("signatures",), [])),
    "report-json-payload-is-no-base64": (2, document("report.json", ("payload",), "?")),
    "report-json-names-a-file-twice": (2, raw("report.json", said(lambda inner: inner["subject"].append(inner["subject"][0])))),
    "report-json-says-no-period": (2, raw("report.json", said(lambda inner: inner["predicate"].pop("to")))),
    "report-json-of-no-such-day": (2, raw("report.json", said(lambda inner: inner["predicate"].update({"from": "yesterday"})))),
    "report-json-of-a-day-that-is-none": (
        2, raw("report.json", said(lambda inner: inner["predicate"].update(to="2026-02-30"))),
    ),
    "evidence-json-cut": (2, cut("evidence.json")),
    "evidence-json-of-another-version": (2, text("evidence.json", b"witnz.dev/evidence/v1", b"witnz.dev/evidence/v2")),
    "evidence-json-with-a-key-twice": (2, text("evidence.json", b'{"_type":', b'{"_type":"","_type":')),
    "evidence-json-with-a-fraction": (2, text("evidence.json", b'"records":', b'"records":1.5,"records_":')),
    "evidence-json-that-says-nothing": (2, document("evidence.json", ("predicate",), [])),
    "report-json-that-says-nothing": (2, raw("report.json", said(lambda inner: inner.update(predicate=[])))),
    "period-bundle-cut": (2, cut(PERIOD)),
    "period-bundle-of-another-version": (2, document(PERIOD, ("format",), "witnz-bundle/2")),
    "period-bundle-with-a-wrong-digest": (2, text(PERIOD, b'"sha256":"', b'"sha256":"0')),
    "without-report-json": (2, without("report.json")),
    "without-evidence-json": (2, without("evidence.json")),
    "without-the-report-bundle": (2, without(OWN)),
    "without-the-sums": (3, without("SHA256SUMS")),
    "without-the-period-bundle": (3, without(PERIOD)),
    "without-the-records-bundle": (3, without("bundles/records-0001.witnz.json")),
    "without-the-pdf": (3, without("report.pdf")),
    "without-a-population": (3, without("populations/keys.csv")),
    "with-one-file-more": (3, put("notes.txt", b"nothing\n")),
    "with-one-bundle-more": (3, lambda files: files.update({"bundles/extra.witnz.json": files[PERIOD]})),
    "empty-population": (3, put("populations/configuration.csv", b"")),
    "row-of-a-population-changed": (3, text("populations/configuration.csv", b"genesis", b"genesiz")),
    "certificate-changed": (3, put("report-certificates.pem", b"")),
    "signature-of-the-report-changed": (3, raw("report.json", flip_signature)),
    "signature-of-the-report-in-another-spelling": (3, raw("report.json", longer_number)),
    "signature-of-the-report-under-another-length": (3, raw("report.json", other_length)),
    "key-id-of-another-key": (3, raw("report.json", other_key)),
    "wrong-digest-in-the-sums": (3, raw("SHA256SUMS", lambda data: b"0" * 64 + data[64:])),
    "sums-in-another-order": (3, raw("SHA256SUMS", lambda data: b"".join(reversed(data.splitlines(keepends=True))))),
    "period-bundle-of-a-changed-record": (3, document(PERIOD, ("records", 0, "record", "at"), "2020-01-01T00:00:00.000000Z")),
    "receipt-of-another-checkpoint": (3, document(PERIOD, ("anchors", 0, "digest"), "0" * 64)),
}  # fmt: skip
"""What people without keys do to a package; each is listed as it is and, where it holds no less, with the sums made anew."""


LIAR: Mapping[str, tuple[Callable[[Files], None], dict[str, Any]]] = {
    "signed-one-file-too-many": (without("README.txt"), {"files": 99}),
    "signed-evidence-of-another-standard": (evidence("report", "standard", "soc2"), {}),
    "signed-evidence-of-another-period": (evidence("report", "from", "2020-01-01"), {}),
    "signed-evidence-of-another-cluster": (evidence("cluster", "id", "f" * 32), {}),
    "signed-report-of-another-cluster": (without(), {"cluster_id": "f" * 32}),
    "signed-report-of-another-name": (without(), {"cluster": "vectors.example/other"}),
    "signed-evidence-of-another-digest": (without(), {"evidence_sha256": "0" * 64}),
    "signed-closing-checkpoint-of-another-size": (evidence("period", "closing", "size", 3), {}),
    "signed-closing-checkpoint-of-another-root": (evidence("period", "closing", "root", "A" * 43 + "="), {}),
    "signed-opening-checkpoint-that-is-not-shown": (evidence("period", "opening", {"root": "A" * 43 + "=", "size": 2}), {}),
    "signed-without-a-closing-checkpoint": (evidence("period", {}), {}),
    "signed-evidence-that-lists-other-digests": (
        document("evidence.json", ("subject", 0, "digest", "sha256"), "0" * 64), {},
    ),
    "signed-without-the-pdf": (without("report.pdf"), {}),
    "signed-without-the-period-bundle": (without(PERIOD), {}),
    "signed-and-journalled-for-another-standard": (without(), {"recorded": {"standard": "soc2"}}),
    "signed-and-journalled-for-another-beginning": (without(), {"recorded": {"from": "2020-01-01"}}),
    "signed-and-journalled-for-another-end": (without(), {"recorded": {"to": "2030-01-01"}}),
    "signed-by-a-key-that-only-another-bundle-shows": (without(), {"show_key": False}),
    "signed-after-a-report-that-never-was": (evidence("continuity", "previous", NEVER), {}),
    "signed-with-a-closing-checkpoint-of-after-the-period": (evidence("report", "to", EARLY), {"to": EARLY}),
}  # fmt: skip
"""What a maker could sign."""


def later_lies(good: Files) -> Mapping[str, Callable[[Files], None]]:
    """What a maker could sign about a period that has an opening checkpoint."""
    told = json.loads(good["evidence.json"])["predicate"]["period"]
    return {
        "signed-opening-checkpoint-of-another-size": evidence("period", "opening", "size", told["opening"]["size"] + 1),
        "signed-opening-checkpoint-of-another-root": evidence("period", "opening", "root", told["closing"]["root"]),
        "signed-opening-checkpoint-that-is-the-closing-one": evidence("period", "opening", told["closing"]),
        "signed-opening-checkpoint-of-within-the-period": evidence("period", "opening", later_head(good)),
        "signed-after-a-report-of-another-digest": evidence("continuity", "previous", "sha256", "0" * 64),
        "signed-after-a-report-of-another-record": evidence("continuity", "previous", "seq", 1),
        "signed-without-a-word-on-the-opening-checkpoint": evidence("period", {**told, "opening": ...}),
    }


def later_head(good: Files) -> dict[str, Any]:
    """A checkpoint of within the period that its bundle shows: with it as the opening one, what came before would be hidden."""
    bundle = parse_bundle(good[PERIOD])
    older = max((one.checkpoint for one in bundle.consistency), key=lambda one: one.size)
    return {"size": older.size, "root": b64encode(older.root).decode()}


def of_two(good: Files, following: Files, first: Files, second: Files) -> Iterator[tuple[str, int, str | None, Files]]:
    """(name, exit code, the case that it differs from, files) of packages put together out of two good ones.

    ``first``, ``second``: two reports of one period.  The bundle of the report that follows proves the record of the one before
    it too, under a later checkpoint: in its place it is as good.
    """
    signed = {name: good[name] for name in ("report.json", OWN)}
    yield "evidence-of-one-report-under-the-signature-of-another", 3, NEXT, sums({**following, **signed})
    yield "good-with-the-journal-of-the-next-report", 0, None, sums({**good, OWN: following[OWN]})
    yield "report-with-the-journal-of-another-of-the-same-period", 3, None, sums({**first, OWN: second[OWN]})


def forgotten(files: Files) -> None:
    """A verification left out of its list, and of every figure that counts it."""
    name = "populations/verifications.csv"
    files[name] = files[name].splitlines(keepends=True)[0]
    digest = sha256(files[name]).hexdigest()
    whole = json.loads(files["evidence.json"])
    told = whole["predicate"]
    told["counts"]["verifications"] = told["verifications"]["count"] = 0
    told["verifications"]["by_verdict"], told["verifications"]["tables"] = {}, []
    next(item for item in told["populations"] if item["file"] == name).update(rows=0, sha256=digest)
    next(item for item in whole["subject"] if item["name"] == name)["digest"]["sha256"] = digest
    files["evidence.json"] = canonical(whole) + b"\n"


def differences(good: Files, files: Files) -> dict[str, Any]:
    """What turns the good files into these."""
    changed: dict[str, Any] = {name: None for name in good if name not in files}
    for name, data in files.items():
        if good.get(name) != data:
            changed[name] = _difference(name, good.get(name), data)
    return changed


def _difference(name: str, before: bytes | None, after: bytes) -> dict[str, Any]:
    if name.endswith(".pdf"):
        return {"base64": b64encode(after).decode()}
    old, new = "" if before is None else before.decode("latin-1"), after.decode("latin-1")
    matcher = SequenceMatcher(None, old, new, autojunk=len(old) > 12_000)
    edits = [[a, b - a, new[c:d]] for tag, a, b, c, d in matcher.get_opcodes() if tag != "equal"]
    size = sum(len(str(edit[2])) + 12 for edit in edits)
    return {"edits": edits} if before is not None and size < len(new) else {"text": new}


def more_bundles(maker: Maker) -> Iterator[tuple[str, bytes]]:
    """Bundles that are good by themselves, and none of this report's business or against it; made one after the other."""
    yield "signed-with-a-bundle-of-another-log", bundle_of_another_log(maker.store)
    public = b64decode(next(one.body["key"] for one in maker.store.cluster.records if one.type == "key"))
    yield "signed-with-a-bundle-that-shows-the-removal-of-the-key", maker.shown(1, maker.put(public, "remove"))
    stray = maker.force("operator", {"action": "said", "detail": "elsewhere"}, cluster="f" * 32)
    yield "signed-with-records-of-another-cluster", maker.shown(stray)
    yield "signed-with-records-of-two-clusters", maker.shown(1, stray)


def main() -> None:
    package.VERIFIERS = ()  # type: ignore[misc]
    store = quiet()
    folder = Path(tempfile.mkdtemp()) / "good"
    built = make_package(store, folder, request(STANDARD, 0, 1))
    good = read(folder)
    next_day(store)
    later = folder.parent / "later"
    built_later = make_package(store, later, request(STANDARD, 1, 2))
    following = read(later)
    gap(store)
    gaping = folder.parent / "gap"
    make_package(store, gaping, request(STANDARD, 2, 3))
    maker = Maker(store, built, good)
    shutil.rmtree(HERE, ignore_errors=True)
    shutil.copytree(folder, HERE / "good")
    (HERE / "policy.txt").write_text(policy_of(store))
    (HERE / "policy-foreign.txt").write_text(foreign_policy(PaperCluster(2)))
    other = format_verifier_key(verifier_key(OTHER_LOG.name, ED25519, OTHER_LOG.public))
    (HERE / "policy-two-logs.txt").write_text(f"log {other}\n{policy_of(store)}")
    cases: dict[str, Any] = {
        "good": {"code": 0, "files": {}},
        "good-without-a-policy": {"code": 4, "policy": "none", "files": {}},
        "good-under-the-policy-of-others": {"code": 3, "policy": "foreign", "files": {}},
        "good-under-a-policy-of-two-logs": {"code": 0, "policy": "two-logs", "files": {}},
        "good-with-an-anchor-that-is-not-checked": {"code": 4, "anchors": ["s3"], "files": {}},
        "good-with-an-anchor-that-is-not-there": {"code": 4, "anchors": ["evm"], "files": {}},
    }
    cases |= {
        NEXT: {"code": 0, "files": differences(good, following)},
        "good-with-a-gap-that-is-open": {"code": 4, "files": differences(good, read(gaping))},
        f"{NEXT}-with-an-anchor-that-is-checked": {"code": 0, "anchors": ["basic"], "of": NEXT, "files": {}},
        f"{NEXT}-with-an-anchor-that-is-and-one-that-is-not": {"code": 4, "anchors": ["basic", "s3"], "of": NEXT, "files": {}},
    }
    for name, (code, spoil) in STRANGER.items():
        files = dict(good)
        spoil(files)
        cases[name] = {"code": code, "files": differences(good, files)}
        if code == 3 and "sums" not in name:
            cases[f"{name}-in-the-sums-too"] = {"code": code, "files": differences(good, sums(files))}
    for name, (spoil, about) in LIAR.items():
        cases[name] = {"code": 3, "files": differences(good, maker.signed(spoil, **about))}
    for name, spoil in later_lies(following).items():
        files = Maker(store, built_later, following).signed(spoil)
        cases[name] = {"code": 3, "of": NEXT, "files": differences(following, files)}
    first, second = maker.signed(without()), maker.signed(without())
    for name, code, of, files in of_two(good, following, first, second):
        base = good if of is None else following
        cases[name] = {"code": code, "files": differences(base, files)} | ({} if of is None else {"of": of})
    files = dict(good)
    forgotten(files)
    cases["verification-left-out-of-its-list-the-evidence-and-the-sums"] = {"code": 3, "files": differences(good, sums(files))}
    for name, key in KEYS.items():
        cases[name] = {"code": 3, "files": differences(good, maker.signed(without(), by=key()))}
    for name, bundle in more_bundles(maker):
        cases[name] = {"code": 3, "policy": "two-logs", "files": differences(good, maker.signed(put(MORE, bundle)))}
    lines = [f"{json.dumps(name)}: {json.dumps(case, separators=(',', ':'))}" for name, case in sorted(cases.items())]
    (HERE / "cases.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(sum(path.stat().st_size for path in HERE.rglob("*") if path.is_file()), "bytes", len(cases), "cases")


if __name__ == "__main__":
    main()
