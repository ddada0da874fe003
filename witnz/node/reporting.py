"""Reports and samples of a node: built beside its work, kept below the data directory until they are fetched.

The report key stays here.  ``witnz init`` makes it and has the operator sign the ``key`` record that puts it into force; that
record is journalled with the first report.  A finished report is fetched file by file; the newest few are kept.
"""

from __future__ import annotations

import json
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from witnz.core.record import parse_record
from witnz.errors import FormatError, Inconclusive, KeyProblem, NoQuorum, StoreFull, UsageError
from witnz.report import key as report_key
from witnz.report.evidence import Request
from witnz.report.key import ReportKey
from witnz.report.mapping import load_standard
from witnz.report.period import parse_period
from witnz.store import checkpoints
from witnz.store import journal as stored
from witnz.store.database import Database
from witnz.store.datadir import DataDir, load_key_file

if TYPE_CHECKING:
    from witnz.config import AnchorConfig, Config
    from witnz.node.journal import Journal
    from witnz.report.pdf_sign import TimeStamp

log = structlog.get_logger(__name__)

FOLDER: Final = "reports"
KEPT: Final = 4
FINAL_S: Final = 60.0
"""How long a checkpoint over the report may take to become final."""
POLL_S: Final = 0.1
NOT_FOUND: Final = "not-found"
MAX_TIME_STAMP_BYTES: Final = 1 << 20

Tell = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks for; texts as they came."""

    standard: str
    begin: str
    end: str
    lang: str


class Reports:
    """Makes reports one at a time.  ``seal``: seals what moved and signs the journal; ``path``: the data directory."""

    def __init__(
        self,
        db: Database,
        journal: Journal,
        config: Config,
        path: Path,
        keys_dir: Path,
        clock: Callable[[], int],
        seal: Callable[[], Any],
    ) -> None:
        self._db, self._journal, self._config, self._clock, self._seal = db, journal, config, clock, seal
        self._folder, self._keys = DataDir(path).spill_dir / FOLDER, keys_dir
        self._turn = threading.Lock()

    def make(self, asked: Asked, tell: Tell = lambda step: None) -> dict[str, Any]:
        """``witnz.report/1``: a whole package in a folder of its own, ``id``.

        Raises UsageError for what cannot be asked, KeyProblem without a report key in force, Inconclusive for a period in which
        nothing was recorded, NoQuorum where no final checkpoint over the report comes about.
        """
        from witnz.report import package

        standard, period = load_standard(asked.standard), parse_period(asked.begin, asked.end)
        with self._turn:
            key, key_seq = self._key_in_force()
            self._seal()
            with self._new_folder() as (name, folder):
                request = Request(standard, period, self._clock(), self._config.node_id)
                with self._db.read() as conn:
                    built = package.build(
                        conn,
                        self._journal.state,
                        key,
                        request,
                        folder,
                        lang=asked.lang,
                        time_stamp=self._time_stamp(),
                        tell=tell,
                    )
                seq = self._journal.propose("report", built.body)
                note = self._final(seq)
                with self._db.read() as conn:
                    made = package.finish(conn, self._journal.state, built, note, (key_seq, seq), self._clock())
        tell(3)
        log.info("report was made", standard=standard.id, seq=seq, exceptions=made["conclusion"]["exceptions"])
        return {"schema": "witnz.report/1", "id": name, **made}

    def sample(self, population: str, n: int, seed: str, begin: str, end: str) -> dict[str, Any]:
        """``witnz.report-sample/1``: a sample in a folder of its own, ``id``."""
        from witnz.report.sample import Wanted, check_wanted, write_sample

        check_wanted(population, n, seed)
        wanted = Wanted(population, n, seed, parse_period(begin, end), self._clock())
        with self._turn, self._new_folder() as (name, folder), self._db.read() as conn:
            made = write_sample(conn, self._journal.state, wanted, folder)
        files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        sizes = [{"name": file, "bytes": (folder / file).stat().st_size} for file in files]
        return {"schema": "witnz.report-sample/1", "id": name, **made, "files": sizes}

    def file(self, name: str, file: str) -> Path:
        """A file of a report or sample that was made.  Raises UsageError (404) for any other name."""
        folder = self._folder / name
        known = (
            {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()} if _is_id(name) else {}
        )
        if file not in known:
            raise UsageError(
                f"there is no file {file[:80]!r} of report {name[:40]!r}", hint="make the report again", code=NOT_FOUND
            )
        return known[file]

    # -- parts ----------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _new_folder(self) -> Iterator[tuple[str, Path]]:
        """A new empty folder, gone again unless what is written into it is complete; of those before only the newest stay.

        Raises StoreFull where it cannot be written.
        """
        name = secrets.token_hex(16)
        folder = self._folder / name
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            known = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime)
            for old in known[: max(0, len(known) - KEPT + 1)]:
                shutil.rmtree(old, ignore_errors=True)
            folder.mkdir(mode=0o700)
            yield name, folder
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError):
                hint = "make room, or have the volume mounted for writing, and ask again"
                raise StoreFull(
                    f"what was asked for cannot be written below {self._folder}: {error.strerror}", hint=hint
                ) from None
            raise

    def _key_in_force(self) -> tuple[ReportKey, int]:
        """The report key, and the seq of the record that put it into force."""
        path = self._keys / report_key.FILE
        hint = f"make one: witnz keys new report {self._config.node_id} --operator-key FILE -o {path}"
        if not path.exists():
            raise KeyProblem("this node has no report key, so nobody could sign a report here", hint=hint)
        key = report_key.load(path)
        if key.public_der not in self._journal.state.keys_in_force("report").values():
            self._put_into_force(key, hint)
        return key, self._key_seq(key)

    def _put_into_force(self, key: ReportKey, hint: str) -> None:
        """Journal what an operator signed at ``witnz init``.  Raises KeyProblem where nothing is there that still counts."""
        path = self._keys / report_key.AUTHORISATION
        if not path.exists():
            raise KeyProblem("no operator has put this node's report key into force", hint=hint)
        try:
            body = json.loads(load_key_file(path))
            body.get("auth")
        except (ValueError, AttributeError):
            raise KeyProblem(f"{path} is damaged: expected JSON", hint=hint) from None
        signer = body["auth"]["operator"] if isinstance(body.get("auth"), dict) else None
        if self._journal.state.operator_key(str(signer)) is None:
            new = f"report-{self._config.node_id}.key"
            raise KeyProblem(
                f"the operator {str(signer)[:60]!r}, who put this node's report key into force, has no key in force any more",
                hint=f"make another: witnz keys new report {self._config.node_id} --operator-key FILE -o {new}; "
                f"then: mv {new} {self._keys / report_key.FILE}",
            )
        self._journal.propose("key", body)
        path.unlink()
        log.info("report key was put into force", key=key.key_id)

    def _key_seq(self, key: ReportKey) -> int:
        from base64 import b64encode

        wanted, found = b64encode(key.public_der).decode(), 0
        with self._db.read() as conn:
            for seq, leaf in stored.records_of(conn, "key", naming=wanted):
                record = parse_record(leaf)
                found = seq if (record.body["action"], record.body["key"]) == ("add", wanted) else found
        return found

    def _final(self, seq: int) -> str:
        """A final checkpoint that covers a record."""
        deadline = time.monotonic() + FINAL_S
        while True:
            self._seal()
            with self._db.read() as conn:
                newest = checkpoints.latest(conn, final=True)
            if newest is not None and newest.size >= seq:
                return newest.note
            if time.monotonic() > deadline:
                raise NoQuorum(
                    f"no checkpoint over the report's record {seq} became final within {FINAL_S:.0f} s",
                    hint="bring enough members back and ask again; `witnz cluster status` shows them",
                )
            time.sleep(POLL_S)

    def _time_stamp(self) -> TimeStamp | None:
        """How to have the PDF stamped: by the first authority that is configured."""
        section = next((one for one in self._config.anchors if one.type == "rfc3161" and one.url is not None), None)
        return None if section is None else ask_authority(section)


def ask_authority(section: AnchorConfig) -> TimeStamp:
    """Asks the authority of a section for a time stamp; Inconclusive where it gives no answer."""

    def ask(request: bytes) -> bytes:
        import httpx

        assert section.url is not None
        user = section.user or ""
        auth = (user, section.password.reveal()) if section.password is not None else None
        try:
            answer = httpx.post(
                section.url.reveal(),
                content=request,
                headers={"content-type": "application/timestamp-query"},
                auth=auth,
                timeout=section.timeout_s,
                verify=str(section.ca) if section.ca is not None else True,
            )
        except (httpx.HTTPError, OSError) as error:
            raise Inconclusive(f"the time-stamping authority cannot be reached: {error}", code="report.time-stamp") from None
        if answer.status_code != 200 or len(answer.content) > MAX_TIME_STAMP_BYTES:
            raise Inconclusive(f"the time-stamping authority answered {answer.status_code}", code="report.time-stamp")
        return answer.content

    return ask


def _is_id(name: str) -> bool:
    return len(name) == 32 and all(char in "0123456789abcdef" for char in name)


def asked_from(document: Mapping[str, Any]) -> Asked:
    """What a client sent.  Raises FormatError for members that are no texts."""
    texts = {name: document.get(name, "en" if name == "lang" else None) for name in ("standard", "from", "to", "lang")}
    for name, value in texts.items():
        if not isinstance(value, str) or len(value) > 64:
            raise FormatError(f"{name}: expected text")
    return Asked(texts["standard"], texts["from"], texts["to"], texts["lang"])


def prepare_key(
    keys_dir: Path, cluster: str, node_id: str, now_us: int, authorise: Callable[[Mapping[str, str]], Mapping[str, Any]]
) -> bool:
    """Make a report key and have its record signed, where there is none yet; True if one was made.

    ``authorise``: the body of the ``key`` record -> the same as an operator signed it.
    """
    from witnz.core.canonical import canonical
    from witnz.store.datadir import save_key_file

    path = keys_dir / report_key.FILE
    if path.exists():
        return False
    key = report_key.create(cluster, node_id, now_us)
    body = authorise(report_key.key_body(key, node_id, "0/0"))
    save_key_file(keys_dir / report_key.AUTHORISATION, canonical(body).decode(), replace=True)
    report_key.save(path, key)
    return True
