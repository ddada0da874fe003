"""``witnz verify --checkpoint`` and ``--report``: evidence against a policy, by anybody, with the base install.

The verdict comes first, then each check with OK, FAIL or NOT CHECKED.  No network is used unless ``--online`` asks for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from witnz.cli.access import table_name
from witnz.cli.checks_text import check_lines, not_checked_lines, summary
from witnz.cli.files import read_bounded
from witnz.cli.invocation import Invocation
from witnz.cli.output import Output
from witnz.cli.text import count, printable
from witnz.errors import FormatError, UsageError

if TYPE_CHECKING:
    from witnz.core.policy import Policy
    from witnz.core.trust import Trust
    from witnz.verify.bundle import BundleResult
    from witnz.verify.receipts import Online

ENVIRONMENT_VARIABLE: Final = "WITNZ_CONFIG"
STATUS_WORDS: Final = {"ok": "OK", "fail": "FAIL", "skip": "NOT CHECKED", "n/a": "NOT CHECKED"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the verifier brings and insists on.

    ``policy`` and ``trust``: files with the keys, and with the accounts, blocks and authorities, that the verifier knows;
    ``anchors``: types of which one receipt must be checked in full; ``table_data``: TABLE=FILE, row lines to compare, and
    ``log`` the auditor package that they are compared with; ``online``: the places of the receipts may be asked.
    """

    policy: Path | None
    trust: Path | None = None
    anchors: tuple[str, ...] = ()
    table_data: tuple[str, ...] = ()
    log: Path | None = None
    online: bool = False

    def read_policy(self) -> Policy | None:
        """Raises FormatError for a file that is no policy."""
        from witnz.core.policy import MAX_POLICY_BYTES, parse_policy

        if self.policy is None:
            return None
        with _hint(f"{self.policy} is no policy; `witnz keys policy -o FILE` writes one, on a node"):
            return parse_policy(read_bounded(str(self.policy), MAX_POLICY_BYTES, "policy"))

    def read_trust(self) -> Trust:
        """Raises FormatError for a file that is none of trust."""
        from witnz.core.trust import MAX_TRUST_BYTES, Trust, parse_trust

        now_us = time.time_ns() // 1000
        if self.trust is None:
            return Trust(now_us=now_us)
        return parse_trust(read_bounded(str(self.trust), MAX_TRUST_BYTES, "trust file"), now_us=now_us)

    def verifier(self, call: Invocation) -> Callable[[bytes, Sequence[str]], BundleResult]:
        """How a bundle is verified: its bytes, and the anchors that it must have been checked for."""
        from witnz.verify.bundle import verify_bundle

        policy, trust = self.read_policy(), self.read_trust()
        online = _online(call) if self.online else None
        return lambda data, required: verify_bundle(data, policy, trust=trust, online=online, required=required)


@contextmanager
def _hint(text: str) -> Iterator[None]:
    """Give a refusal of bytes this hint, where it has none: parsers do not know which file they read."""
    try:
        yield
    except FormatError as error:
        error.hint = error.hint or text
        raise


def _online(call: Invocation) -> Online:
    """Looks through the anchors of a configuration, where there is one; else as the receipts say."""
    from witnz.anchor.online import OnlineLooks
    from witnz.config.sources import SEARCH

    def clock() -> int:
        return time.time_ns() // 1000

    given = call.config_path is not None or ENVIRONMENT_VARIABLE in os.environ or any(path.exists() for path in SEARCH)
    if not given:
        return OnlineLooks((), "", clock)
    config = call.load_config()
    return OnlineLooks(config.anchors, config.cluster, clock)


def verify_file(call: Invocation, name: str, asked: Asked) -> int:
    """A bundle, under the policy that the verifier brings, and with what the verifier knows of accounts and authorities."""
    from witnz.core.bundle_document import MAX_BUNDLE_BYTES

    data = read_bounded(name, MAX_BUNDLE_BYTES, "bundle")
    verify = asked.verifier(call)
    with _hint(f"is {printable(name)} whole, and a bundle? `witnz checkpoint export` and `witnz prove` write them"):
        result = verify(data, asked.anchors)
    if asked.table_data:
        result = _with_table_data(result, data, asked)
    document: dict[str, Any] = {"schema": "witnz.verify/1", "file": name, **result.to_json()}
    call.output.answer(document, _bundle_lines(call.output, document))
    return result.exit_code


def _with_table_data(result: BundleResult, data: bytes, asked: Asked) -> BundleResult:
    """The answer, and a check of each file of rows; of none where the bundle itself does not hold."""
    import tempfile
    from dataclasses import replace

    from witnz.core.bundle import parse_bundle
    from witnz.core.verdict import CheckStatus, Verdict
    from witnz.verify.bundle import verdict_of
    from witnz.verify.bundle_rows import skip
    from witnz.verify.table_data import check_table_data

    bundle, checks = parse_bundle(data), list(result.checks)
    with tempfile.TemporaryDirectory(prefix="witnz-") as spill:
        for given in asked.table_data:
            table, equals, file = given.partition("=")
            if not equals or not file:
                raise UsageError(f"--table-data: expected TABLE=FILE, found {given[:80]!r}")
            table = table_name(table)
            if result.verdict is Verdict.TAMPERED:
                checks.append(skip(f"table-data[{table}]", "the bundle does not hold, so there is nothing to compare with"))
                continue
            try:
                with Path(file).open("rb") as stream:
                    checks.append(check_table_data(bundle, table, stream, asked.log, Path(spill)))
            except OSError as error:
                raise UsageError(f"{file} cannot be read: {error.strerror}", hint="name a file of row lines") from error
    missing = [f"{one.name}: {one.detail}" for one in checks[len(result.checks) :] if one.status is CheckStatus.SKIP]
    return replace(result, checks=tuple(checks), verdict=verdict_of(checks), not_checked=(*result.not_checked, *missing))


def _bundle_lines(output: Output, document: dict[str, Any]) -> list[str]:
    checkpoint, claims = document["checkpoint"], document["claims"]
    lines = [
        f"{output.word(document['verdict'])}: {printable(document['file'])}",
        f"  checkpoint of {checkpoint['origin']}, {count(checkpoint['size'], 'record')}",
        f"  root {checkpoint['root']}",
        f"  made {claims['created']} by {printable(claims['tool'])}, as the file itself says",
        *check_lines(output, document["checks"], words=STATUS_WORDS),
    ]
    lines += [f"  row   {printable(row['table'])}: {printable(row['statement'])}" for row in document["rows"]]
    lines += not_checked_lines(document["not_checked"])
    return [*lines, f"{output.word(document['verdict'])}: {summary(document['checks'])}"]


# -- packages -----------------------------------------------------------------------------------------------------------------


def verify_report(call: Invocation, name: str, asked: Asked) -> int:
    """An evidence package by its folder or any file in it that names the whole; or report.json without its folder."""
    from witnz.core.verdict import Verdict, exit_code
    from witnz.report.recount import recount
    from witnz.verify.package import REPORT, verify_envelope, verify_package

    verify, path = asked.verifier(call), Path(name)
    folder = (
        path if path.is_dir() else path.parent if path.name == REPORT and (path.parent / "evidence.json").is_file() else None
    )
    with _hint(f"is {printable(name)} whole, and a package or its report.json? bundles are verified with --checkpoint"):
        if folder is None:
            from witnz.verify.package import MAX_DOCUMENT_BYTES

            result = verify_envelope(read_bounded(name, MAX_DOCUMENT_BYTES, "report"))
        else:
            files = read_package(folder)
            result = verify_package(files, lambda data: verify(data, ()), recount=recount, required=asked.anchors)
    document: dict[str, Any] = {"schema": "witnz.verify/1", "file": name, **result.to_json()}
    call.output.answer(document, _report_lines(call.output, document))
    return exit_code(Verdict(document["verdict"]))


def read_package(folder: Path) -> dict[str, bytes]:
    """The files of a package by their names relative to its folder.

    Raises FormatError for more files or bytes than a package has, for anything but files and folders and for names that are no
    UTF-8; UsageError for what cannot be read.
    """
    from witnz.verify.package import MAX_FILES, MAX_PACKAGE_BYTES

    files: dict[str, bytes] = {}
    total = 0
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        if name.encode("utf-8", "replace").decode() != name:  # other bytes come as lone surrogates
            raise FormatError(f"package: expected names of files in UTF-8, found {name!a}")
        try:
            total += path.stat().st_size
            if len(files) >= MAX_FILES or total > MAX_PACKAGE_BYTES:
                raise FormatError(f"package: expected at most {MAX_FILES} files and {MAX_PACKAGE_BYTES} bytes, found more")
            files[name] = path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"{path} cannot be read: {error.strerror}", hint="name the folder of an evidence package"
            ) from error
    return files


def _files(folder: Path) -> Iterator[Path]:
    """Every file below a folder; refuses links and devices, which show something else to everybody."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise FormatError(f"package: expected files and folders only, found {printable(path.name)}")
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _report_lines(output: Output, document: Mapping[str, Any]) -> Iterator[str]:
    about = document["report"]
    yield f"{output.word(document['verdict'])}: {printable(document['file'])}"
    yield f"  {printable(about['standard'])} report on {printable(about['cluster'])}"
    yield f"  period {about['from']} to {about['to']}; made {about['created']} by {printable(about['tool'])}"
    own = [check for check in document["checks"] if check["name"].startswith(("report.", "require."))]
    yield from check_lines(output, own, words=STATUS_WORDS)
    for name, bundle in document["bundles"].items():
        cosigned = ", ".join(bundle["cosigned_by"]) or "nobody"
        checks = [check for check in document["checks"] if check["name"].startswith(f"{name}: ")]
        verdict = output.word(bundle["verdict"])
        yield (
            f"  {verdict}  {printable(name)}: under the checkpoint of size {bundle['size']:,}, cosigned by {cosigned};"
            f" {summary(checks)}"
        )
        yield from check_lines(
            output, [check for check in checks if check["status"] in ("fail", "skip")], indent="    ", words=STATUS_WORDS
        )
    yield from not_checked_lines(document["not_checked"])
    yield f"{output.word(document['verdict'])}: {summary(document['checks'])}"
