"""What `witnz verify --report` says of the signature inside report.pdf, where somebody made the pages anew."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pyhanko.pdf_utils import generic
from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter

from tests.support.evidence import DAY_US, FIRST_DAY_US, PaperStore
from tests.support.journal_maker import CLUSTER
from witnz.core.verdict import CheckStatus
from witnz.report.key import ReportKey, create
from witnz.report.pdf_sign import attach, sign_pdf
from witnz.verify.pdf_signature import check_pdf


def public_of(key: ReportKey) -> bytes:
    return key.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def pages(package: Path) -> bytes:
    """The pages of the good report with a figure changed, unsigned, nothing attached."""
    data = (package / "report.pdf").read_bytes()
    unsigned = data[: data.index(b"%%EOF") + len(b"%%EOF\n")]
    writer = IncrementalPdfFileWriter(BytesIO(unsigned))
    page = writer.root["/Pages"]["/Kids"][0].get_object()
    page["/Contents"] = writer.add_object(generic.StreamObject(stream_data=b"BT (0 kinds of exceptions) Tj ET"))
    writer.update_container(page)
    out = BytesIO()
    writer.write(out)  # type: ignore[no-untyped-call]
    return out.getvalue()


def said(pdf: bytes | None, evidence: bytes, key: ReportKey) -> tuple[CheckStatus, str]:
    found = check_pdf(pdf, evidence, public_of(key), "pdf")
    return found.status, found.detail


def test_the_good_one_is_the_report_keys(package: Path, store: PaperStore) -> None:
    evidence, pdf = ((package / name).read_bytes() for name in ("evidence.json", "report.pdf"))
    assert said(pdf, evidence, store.key)[0] is CheckStatus.OK
    assert said(pdf, evidence + b"\n", store.key) == (CheckStatus.FAIL, "what is attached to report.pdf is not evidence.json")


def test_other_pages_need_another_key_and_it_is_named(package: Path, store: PaperStore, pages: bytes) -> None:
    """Its certificate names the same node and cluster: a PDF reader shows the same words beside a valid signature."""
    evidence = (package / "evidence.json").read_bytes()
    other = create(CLUSTER, "node1", FIRST_DAY_US + DAY_US)
    forged = sign_pdf(attach(pages, evidence, FIRST_DAY_US), other, reason="witnz evidence report")
    status, detail = said(forged, evidence, store.key)
    assert (status, detail) == (CheckStatus.FAIL, "report.pdf is signed with another key than the report key of the journal")
    assert said(forged, evidence, other)[0] is CheckStatus.OK


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (
            lambda pages, evidence, key: attach(pages, evidence, FIRST_DAY_US),
            "expected one signature inside report.pdf, found 0",
        ),
        (lambda pages, evidence, key: sign_pdf(pages, key, reason="x"), "cannot be read: KeyError"),
        (lambda pages, evidence, key: sign_pdf(attach(pages, b"{}\n", FIRST_DAY_US), key, reason="x"), "is not evidence.json"),
        (lambda pages, evidence, key: b"%PDF-1.7\n", "cannot be read"),
        (lambda pages, evidence, key: b"", "cannot be read"),
    ],
)
def test_pages_unsigned_or_without_the_evidence_are_refused(
    package: Path, store: PaperStore, pages: bytes, make: Any, why: str
) -> None:
    evidence = (package / "evidence.json").read_bytes()
    status, detail = said(make(pages, evidence, store.key), evidence, store.key)
    assert (status, why in detail) == (CheckStatus.FAIL, True), detail


def test_pages_changed_behind_the_signature_are_refused(package: Path, store: PaperStore) -> None:
    """An incremental update leaves every signed byte as it was, and shows other pages."""
    evidence, pdf = ((package / name).read_bytes() for name in ("evidence.json", "report.pdf"))
    writer = IncrementalPdfFileWriter(BytesIO(pdf))
    page = writer.root["/Pages"]["/Kids"][0].get_object()
    page["/Contents"] = writer.add_object(generic.StreamObject(stream_data=b"BT (0 kinds of exceptions) Tj ET"))
    writer.update_container(page)
    out = BytesIO()
    writer.write(out)  # type: ignore[no-untyped-call]
    assert out.getvalue().startswith(pdf)
    status, detail = said(out.getvalue(), evidence, store.key)
    assert (status, detail) == (CheckStatus.FAIL, "the signature inside report.pdf does not cover the whole file")
    assert said(None, evidence, store.key) == (CheckStatus.FAIL, "there is no report.pdf")
