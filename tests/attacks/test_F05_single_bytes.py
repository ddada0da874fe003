"""F05: every single-byte change of a bundle, of a report's JSON and of its PDF is refused, by each of the three verifiers.

A bundle is changed at every position, in the browser at every fifth; of a package's files a sample is, all else as it was.
Which of the 255 other values a byte takes depends on its position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support import standalone
from tests.support.browser import VerifierPage, open_verifier
from tests.support.evidence import eventful, make_package, policy_of, request
from witnz.core.policy import parse_policy
from witnz.errors import FormatError
from witnz.verify.bundle import verify_bundle
from witnz.verify.package import verify_package
from witnz.verify.pdf_signature import check_pdf

VECTORS = Path(__file__).parent.parent / "vectors"
BUNDLE = (VECTORS / "bundle-good.witnz.json").read_bytes()
POLICY = (VECTORS / "policy.txt").read_bytes()
REFUSED = {2, 3}
FILES = ("report.json", "evidence.json", "report.pdf", "bundles/report.witnz.json", "bundles/period.witnz.json", "SHA256SUMS")
SAMPLE = 12
"""Positions of each of a package's files, beside its first and last byte."""


def aside(work: Callable[..., Any], *arguments: Any) -> Any:
    """In a thread of its own: pyHanko runs event loops, and in this one playwright's may be running."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(work, *arguments).result()


def other(position: int, byte: int) -> int:
    return (byte + 1 + position * 7 % 255) % 256


def changes(data: bytes, sample: int | None = None) -> list[tuple[int, int]]:
    """(position, another byte) at every position, or at so many spread over the file and at its ends."""
    places = range(len(data)) if sample is None else sorted({*range(0, len(data), max(1, len(data) // sample)), len(data) - 1})
    return [(place, other(place, data[place])) for place in places]


def changed(data: bytes, change: tuple[int, int]) -> bytes:
    position, byte = change
    return data[:position] + bytes([byte]) + data[position + 1 :]


@pytest.fixture(scope="module")
def page() -> Iterator[VerifierPage]:
    with open_verifier(standalone.VERIFY_HTML) as opened:
        yield opened


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, bytes], bytes]]:
    """The files of a package without gaps, by name, and the policy of whoever verifies it."""
    folder = tmp_path_factory.mktemp("F05")
    store = eventful(folder / "store", days=1)  # nothing that a verifier could not check happens on the first
    aside(make_package, store, folder / "package", request(end=3))
    files = {
        path.relative_to(folder / "package").as_posix(): path.read_bytes()
        for path in (folder / "package").rglob("*")
        if path.is_file()
    }
    yield files, policy_of(store).encode()
    store.close()


def code_of_package(files: Mapping[str, bytes], policy: bytes) -> int:
    trusted = parse_policy(policy)
    try:
        result = aside(verify_package, files, lambda data: verify_bundle(data, trusted))
    except FormatError as error:
        return error.exit_code
    return {"VERIFIED": 0, "TAMPERED": 3, "INCONCLUSIVE": 4}[result.to_json()["verdict"]]


def test_every_changed_byte_of_a_bundle_is_refused_by_verify_py() -> None:
    codes = {standalone.verify(changed(BUNDLE, change), POLICY)[0] for change in changes(BUNDLE)}
    assert codes <= REFUSED
    assert standalone.verify(BUNDLE, POLICY)[0] == 0


def test_every_changed_byte_of_a_bundle_is_refused_by_verify_html(page: VerifierPage) -> None:
    assert set(page.changed(BUNDLE, POLICY, changes(BUNDLE)[::5])) <= REFUSED
    assert page.verify([(BUNDLE, POLICY)])[0][0] == 0


def test_the_package_itself_is_verified_by_all_three(package: tuple[dict[str, bytes], bytes], page: VerifierPage) -> None:
    files, policy = package
    assert code_of_package(files, policy) == 0
    assert standalone.verify(files, policy)[0] == 0
    assert page.verify([(files, policy)])[0][0] == 0


@pytest.mark.parametrize("name", FILES)
def test_changed_bytes_of_a_package_are_refused_by_witnz_and_by_verify_py(
    package: tuple[dict[str, bytes], bytes], name: str
) -> None:
    files, policy = package
    for change in changes(files[name], SAMPLE):
        spoilt = {**files, name: changed(files[name], change)}
        assert code_of_package(spoilt, policy) in REFUSED, change
        assert standalone.verify(spoilt, policy)[0] in REFUSED, change


@pytest.mark.parametrize("name", FILES)
def test_changed_bytes_of_a_package_are_refused_by_verify_html(
    package: tuple[dict[str, bytes], bytes], name: str, page: VerifierPage
) -> None:
    files, policy = package
    assert set(page.changed(files[name], policy, changes(files[name], SAMPLE), (name, files))) <= REFUSED


def test_files_that_are_missing_added_or_swapped_are_refused(
    package: tuple[dict[str, bytes], bytes], page: VerifierPage
) -> None:
    files, policy = package
    csv = "populations/seals.csv"
    spoilt = [
        {name: data for name, data in files.items() if name != csv},
        {**files, "populations/more.csv": b"seq\n"},
        {**files, csv: files["populations/keys.csv"], "populations/keys.csv": files[csv]},
        {**files, "bundles/period.witnz.json": files["bundles/report.witnz.json"]},
        {name: data for name, data in files.items() if name != "evidence.json"},
    ]
    for one in spoilt:
        assert code_of_package(one, policy) in REFUSED
        assert standalone.verify(one, policy)[0] in REFUSED
    assert {code for code, _, _ in page.verify([(one, policy) for one in spoilt])} <= REFUSED


def test_a_changed_pdf_fails_by_its_own_signature_too(package: tuple[dict[str, bytes], bytes]) -> None:
    pytest.importorskip("pyhanko", reason="the extra [report] is not installed")
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    files, _ = package
    certificate = x509.load_pem_x509_certificates(files["report-certificates.pem"])[0]
    public = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pdf, evidence = files["report.pdf"], files["evidence.json"]
    assert aside(check_pdf, pdf, evidence, public, "report.pdf").status == "ok"
    signature = pdf.rindex(b"/Contents <")
    for change in changes(pdf, 40):
        if change[0] < signature:  # the signature's own hex text is covered by the signed list of files only
            assert aside(check_pdf, changed(pdf, change), evidence, public, "report.pdf").status == "fail", change
    assert aside(check_pdf, pdf, evidence + b" ", public, "report.pdf").status == "fail"
