"""The PDF: valid in two readers, the evidence attached, every page written in a font that is in the file."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pyhanko.keys import load_cert_from_pemder
from pyhanko.pdf_utils.reader import PdfFileReader
from pyhanko.sign.validation import validate_pdf_signature
from pyhanko_certvalidator import ValidationContext

from tests.support.evidence import PaperStore, make_package, request
from witnz.config import AnchorConfig
from witnz.demo.authority import Authority
from witnz.errors import Inconclusive, UsageError
from witnz.node.reporting import ask_authority
from witnz.report import pdf_style
from witnz.report.pdf_sign import NO_ANSWER
from witnz.report.wording import load_words

needs_poppler = pytest.mark.skipif(shutil.which("pdfsig") is None, reason="poppler-utils (pdfsig, pdftotext) is not installed")
needs_font = pytest.mark.skipif(pdf_style.japanese_font() is None, reason="no Japanese font; `make test` installs one")


def status_of(package: Path, data: bytes | None = None, stamps: ValidationContext | None = None) -> Any:
    """What pyHanko says of the one signature, under the root of the package."""
    reader = PdfFileReader(io.BytesIO(data or (package / "report.pdf").read_bytes()))
    (signature,) = reader.embedded_signatures
    text = (package / "report-certificates.pem").read_text().split("-----BEGIN CERTIFICATE-----")
    root = package.parent / "root.pem"
    root.write_text("-----BEGIN CERTIFICATE-----" + text[2])
    context = ValidationContext(trust_roots=[load_cert_from_pemder(str(root))], allow_fetching=False)
    return validate_pdf_signature(signature, signer_validation_context=context, ts_validation_context=stamps)


def test_the_signature_is_valid_trusted_and_over_the_whole_file(package: Path, store: PaperStore) -> None:
    status = status_of(package)
    assert (status.intact, status.valid, status.trusted, status.bottom_line) == (True, True, True, True)
    assert status.coverage.name == "ENTIRE_FILE"
    assert status.signing_cert.public_key.dump() == store.key.public_der


def test_a_changed_byte_anywhere_spoils_it(package: Path) -> None:
    data = (package / "report.pdf").read_bytes()
    start, end = (int(part) for part in re.search(rb"/ByteRange \[0 (\d+) (\d+)", data).groups())
    for at in [*range(20, len(data), len(data) // 24), start - 2, end + 2]:
        if start <= at < end:
            continue  # the signature's own bytes: another test
        spoilt = bytearray(data)
        spoilt[at] ^= 1
        try:
            status = status_of(package, bytes(spoilt))
        except Exception:  # noqa: BLE001  a file that cannot even be read is refused as well
            continue
        assert not status.bottom_line, at


def test_the_evidence_is_attached_byte_for_byte(package: Path) -> None:
    reader = PdfFileReader(io.BytesIO((package / "report.pdf").read_bytes()))
    names = reader.root["/Names"]["/EmbeddedFiles"]["/Names"]
    assert str(names[0]) == "evidence.json"
    stream = names[1].get_object()["/EF"]["/F"]
    assert stream.data == (package / "evidence.json").read_bytes()


@needs_poppler
@pytest.mark.parametrize("name", ["package", "japanese"])
def test_poppler_calls_the_signature_valid(name: str, request: pytest.FixtureRequest) -> None:
    package = request.getfixturevalue(name)
    said = subprocess.run(["pdfsig", package / "report.pdf"], capture_output=True, text=True, check=False).stdout
    assert "Signature is Valid" in said
    assert "Total document signed" in said
    assert "Digest Mismatch" not in said


@needs_poppler
def test_page_one_shows_the_fingerprints_and_every_page_its_number(package: Path, store: PaperStore) -> None:
    text = subprocess.run(
        ["pdftotext", "-layout", package / "report.pdf", "-"], capture_output=True, text=True, check=True
    ).stdout
    pages = text.split("\f")[:-1]
    for shown in (store.key.root_fingerprint, store.key.key_id, "SOC 2", "7 kinds of exceptions", store.cluster.log_key):
        assert shown in pages[0]
    for number, page in enumerate(pages, 1):
        assert f"Page {number} of {len(pages)}" in page
    assert "What this does not prove" in pages[-1]
    assert "Management assertion" in text


@needs_poppler
@pytest.mark.parametrize(("name", "lang"), [("package", "en"), ("japanese", "ja")])
def test_every_section_says_what_it_does_not_show_and_none_shows_json(
    name: str, lang: str, request: pytest.FixtureRequest
) -> None:
    package, words = request.getfixturevalue(name), load_words(lang)
    text = subprocess.run(
        ["pdftotext", "-layout", package / "report.pdf", "-"], capture_output=True, text=True, check=True
    ).stdout
    sections = words.texts["sections"].keys() - {"limits"}
    assert words.texts["not_shown"].keys() == sections
    assert text.count(words("not_shown_word")) == len(sections)
    assert "{" not in text
    assert "findings.ack" in text and "bob" in text


@needs_poppler
@needs_font
def test_a_japanese_report_embeds_its_font(japanese: Path) -> None:
    fonts = subprocess.run(["pdffonts", japanese / "report.pdf"], capture_output=True, text=True, check=True).stdout
    embedded = [line for line in fonts.splitlines()[2:] if "ipaex" in line.lower() or "IPA" in line]
    assert embedded
    assert all(line.split()[-5:-2] == ["yes", "yes", "yes"] for line in embedded)
    text = subprocess.run(["pdftotext", japanese / "report.pdf", "-"], capture_output=True, text=True, check=True).stdout
    text = "".join(text.split())  # a cell breaks Japanese anywhere
    for shown in ("証跡報告書", "例外事項", "経営者の言明", "本書が証明しないこと", "電子"):
        assert shown in text


def test_without_a_font_a_japanese_report_is_refused_with_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(pdf_style.FONT_VARIABLE, "/nowhere/font.ttf")
    with pytest.raises(UsageError, match="Japanese font") as refused:
        pdf_style.make_style("ja")
    assert "fonts-ipaexfont-gothic" in refused.value.hint


def test_a_real_authority_stamps_the_pdf(store: PaperStore, tmp_path: Path) -> None:
    with Authority.start(tmp_path / "authority") as authority:
        section = AnchorConfig.model_validate({"type": "rfc3161", "url": authority.url})
        built = make_package(store, tmp_path / "made", request("sec17a4"), time_stamp=ask_authority(section))
        trusted = ValidationContext(trust_roots=[load_cert_from_pemder(str(authority.root))], allow_fetching=False)
    assert built.time_stamp == "by the configured authority"
    status = status_of(tmp_path / "made", stamps=trusted)
    assert status.bottom_line and status.timestamp_validity.valid and status.timestamp_validity.trusted


def test_an_authority_that_is_not_there_gives_no_answer(tmp_path: Path) -> None:
    section = AnchorConfig.model_validate({"type": "rfc3161", "url": "http://127.0.0.1:9/tsr"})
    with pytest.raises(Inconclusive, match="cannot be reached") as silent:
        ask_authority(section)(b"")
    assert silent.value.code == NO_ANSWER


def test_an_authority_that_does_not_answer_does_not_keep_the_report_from_being_made(store: PaperStore, tmp_path: Path) -> None:
    def silent(query: bytes) -> bytes:
        raise Inconclusive("the authority is on holiday", code=NO_ANSWER)

    built = make_package(store, tmp_path / "made", request("cfr11"), time_stamp=silent)
    assert built.time_stamp == "none: the authority is on holiday"
    assert status_of(tmp_path / "made").bottom_line


def test_a_long_name_breaks_behind_a_dot_or_dash_and_never_runs_out_of_its_cell() -> None:
    name = "demo.example/a_table_with_a_name_that_is-as-long-as-any"
    assert pdf_style.fold("demo.example/shop", lambda part: len(part) <= 16) == ["demo.example/", "shop"]
    for room in range(2, 60):
        parts = pdf_style.fold(name, lambda part, room=room: len(part) <= room)  # type: ignore[misc]
        assert "".join(parts) == name
        assert max(map(len, parts)) <= room
        assert room < 16 or all(part[-1] in "._/-" for part in parts[:-1])
    assert pdf_style.fold("x" * 10, lambda part: len(part) <= 4) == ["xxxx", "xxxx", "xx"]
    assert pdf_style.fold("", lambda part: True) == [""]
    assert pdf_style.fold("xy", lambda part: False) == ["x", "y"], "where nothing fits, a character a line"
