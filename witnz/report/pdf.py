"""The report as a PDF: page 1 with the fingerprints, the figures as charts, then a section for each part of the evidence.

The bytes depend on the evidence, the language, the fonts and reportlab's version only, so they can be made again; the signature
comes behind them (:mod:`witnz.report.pdf_sign`) and leaves them as they are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from types import SimpleNamespace
from typing import Any, Final

from witnz.core.timestamp import parse_time
from witnz.report.mapping import Standard, in_language
from witnz.report.pdf_charts import OPS, VERDICTS, bars, coverage_chart
from witnz.report.pdf_sections import Page, continuity_text, minute, sections
from witnz.report.pdf_style import ACCENT, BAD, GOOD, GREY, MARGIN_MM, RULE, WIDTH_MM, Style, make_style
from witnz.report.wording import Words, load_words

QR_PREFIX: Final = "witnz:checkpoint:sha256:"


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """What page 1 shows of the keys and of the attachment; hex SHA-256 all."""

    root_certificate: str
    public_key: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Pdf:
    """The unsigned file, and how many pages it has."""

    data: bytes
    pages: int


def make_pdf(evidence: Mapping[str, Any], fingerprints: Fingerprints, standard: Standard, lang: str) -> Pdf:
    """The unsigned report of the predicate ``evidence``.  Raises UsageError where the language's font is not there."""
    words, style = load_words(lang), make_style(lang)
    page = Page(evidence, words, style, standard, lang)
    pages = _build(page, fingerprints, total=0).pages
    return _build(page, fingerprints, total=pages)


def _build(page: Page, fingerprints: Fingerprints, total: int) -> Pdf:
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.units import mm
    from reportlab.platypus import BaseDocTemplate, Frame, PageTemplate

    about, out = page.evidence["report"], BytesIO()
    title = f"{page.words('title')}: {in_language(page.standard.title, page.lang)}"
    doc = BaseDocTemplate(
        out, pagesize=A4, invariant=1, title=title, author=page.evidence["cluster"]["name"], creator=about["tool"],
        subject=f"{about['from']} – {about['to']}", lang="ja-JP" if page.lang == "ja" else "en", producer="witnz",
        initialFontName=page.style.body,
    )  # fmt: skip
    frame = Frame(MARGIN_MM * mm, 18 * mm, WIDTH_MM * mm, 297 * mm - 18 * mm - 20 * mm, 0, 0, 0, 0)
    made_at = parse_time(about["created"]) // 1_000_000

    def on_page(canvas: Any, document: Any) -> None:
        canvas._doc._timeStamp = _moment(made_at)  # the one way to date a reproducible file without an environment variable
        _furniture(canvas, page, document.page, total)

    doc.addPageTemplates([PageTemplate("page", [frame], onPage=on_page)])
    doc.afterFlowable = lambda flowable: _outline(doc, flowable)
    doc.build([*_front(page, fingerprints), *_charts(page), *sections(page)])
    return Pdf(out.getvalue(), doc.page)


def _moment(seconds: int) -> Any:
    """A time as reportlab's documents hold one (reportlab.lib.utils.TimeStamp), in UTC."""
    broken = tuple(time.gmtime(seconds))
    return SimpleNamespace(t=seconds, lt=broken, YMDhms=broken[:6], dhh=0, dmm=0, tzname="UTC")


def _outline(doc: Any, flowable: Any) -> None:
    """A bookmark for each heading of a section."""
    name = getattr(flowable, "witnz_section", None)
    if name is not None:
        doc.canv.bookmarkPage(name)
        doc.canv.addOutlineEntry(flowable.getPlainText(), name, 0, 0)


def _furniture(canvas: Any, page: Page, number: int, total: int) -> None:
    from reportlab.lib.colors import HexColor
    from reportlab.lib.units import mm

    left, right = MARGIN_MM * mm, (MARGIN_MM + WIDTH_MM) * mm
    cluster = page.evidence["cluster"]["name"]
    shown = cluster if page.style.cjk or cluster.isascii() else cluster.encode("ascii", "backslashreplace").decode()
    canvas.saveState()
    canvas.setStrokeColor(HexColor(RULE))
    canvas.setLineWidth(0.5)
    canvas.line(left, 14 * mm, right, 14 * mm)
    canvas.setFillColor(HexColor(GREY))
    canvas.setFont(page.style.body, 7)
    canvas.drawString(left, 10 * mm, f"{shown[:60]}   {page.words('title')}   {page.evidence['report']['from'][:10]} – "
                      f"{page.evidence['report']['to'][:10]}")  # fmt: skip
    canvas.drawRightString(right, 10 * mm, page.words("page", page=number, pages=total))
    canvas.restoreState()


# -- page 1 -------------------------------------------------------------------------------------------------------------------


def _front(page: Page, fingerprints: Fingerprints) -> list[Any]:
    from reportlab.lib.units import mm
    from reportlab.platypus import Spacer

    evidence, words, style = page.evidence, page.words, page.style
    about = evidence["report"]
    story = [
        style.heading(words("title"), 0),
        Spacer(1, 3 * mm),
        style.plain(in_language(page.standard.title, page.lang), 12.5, color=ACCENT),
        style.plain(words("subtitle"), 10, color=GREY, spaceAfter=8),
    ]
    rows = [
        [words("period"), words("period_value", **{"from": minute(about["from"]), "to": minute(about["to"])})],
        [words("cluster"), f"{evidence['cluster']['name']}  ({evidence['cluster']['id']})"],
        [words("created"), f"{minute(about['created'])} UTC"],
        [words("tool"), about["tool"]],
        [words("coverage"), words(f"coverage_{evidence['conclusion']['coverage'].replace(' ', '_')}")],
        [words("continuity"), continuity_text(words, evidence["continuity"])],
    ]
    story += [style.table((), rows, (22, 78), 9), Spacer(1, 4 * mm), _verdict(words, style, evidence["conclusion"])]
    story += [style.plain(words("not_an_opinion"), 8.5, color=GREY, spaceBefore=5)]
    story += [style.heading(words("fingerprints")), style.plain(words("fingerprints_note"), 8.5, spaceAfter=4)]
    story += [_fingerprints(page, fingerprints)]
    story += [style.heading(words("how")), style.plain(words("how_text"), 8.5)]
    return story


def _verdict(words: Words, style: Style, conclusion: Mapping[str, Any]) -> Any:
    """The box that says how many kinds of exceptions there are."""
    from reportlab.lib.colors import HexColor
    from reportlab.lib.units import mm
    from reportlab.platypus import Table, TableStyle

    number = conclusion["exceptions"]
    said = words("exceptions_some", n=number) if number else words("exceptions_none")
    color = BAD if conclusion["coverage"] == "open gap" else ACCENT if number else GOOD
    cell = [
        style.plain(said, 13, fontName=style.bold, color="#ffffff"),
        style.plain(words("exceptions_note"), 8.5, color="#ffffff"),
    ]
    box = Table([[cell]], colWidths=[WIDTH_MM * mm])
    padding = [(side, (0, 0), (-1, -1), 8) for side in ("LEFTPADDING", "RIGHTPADDING", "TOPPADDING", "BOTTOMPADDING")]
    box.setStyle(TableStyle([("BACKGROUND", (0, 0), (-1, -1), HexColor(color)), *padding]))
    return box


def _fingerprints(page: Page, fingerprints: Fingerprints) -> Any:
    from reportlab.lib.units import mm
    from reportlab.platypus import Table, TableStyle

    words, style, period = page.words, page.style, page.evidence["period"]
    closing, opening = period["closing"], period["opening"]
    lines = [
        ("fp_closing", closing["digest"]),
        ("fp_size", f"{closing['size']}  {closing['root']}"),
        ("fp_opening", opening["digest"] if opening is not None else words("fp_opening_none")),
        ("fp_evidence", fingerprints.evidence),
        ("fp_root", fingerprints.root_certificate),
        ("fp_key", fingerprints.public_key),
        ("fp_log", page.evidence["cluster"]["log_key"]),
    ]
    left: list[Any] = []
    for name, value in lines:
        left += [style.plain(words(name), 7.4, color=GREY, spaceBefore=1.5), style.mono(value, 7.6)]
    side = 36
    right = [_qr(QR_PREFIX + closing["digest"], side), style.plain(words("qr"), 7, color=GREY, alignment=1)]
    box = Table([[left, right]], colWidths=[(WIDTH_MM - side - 4) * mm, (side + 4) * mm])
    none = [(edge, (0, 0), (-1, -1), 0) for edge in ("LEFTPADDING", "RIGHTPADDING", "TOPPADDING", "BOTTOMPADDING")]
    box.setStyle(TableStyle([("VALIGN", (0, 0), (-1, -1), "TOP"), *none]))
    return box


def _qr(text: str, side_mm: float) -> Any:
    from reportlab.graphics.barcode.qr import QrCodeWidget
    from reportlab.graphics.shapes import Drawing
    from reportlab.lib.units import mm

    widget = QrCodeWidget(text, barLevel="M")
    x0, y0, x1, y1 = widget.getBounds()
    side = side_mm * mm
    drawing = Drawing(side, side, transform=[side / (x1 - x0), 0, 0, side / (y1 - y0), 0, 0])
    drawing.hAlign = "CENTER"
    drawing.add(widget)
    return drawing


# -- charts -------------------------------------------------------------------------------------------------------------------


def _charts(page: Page) -> list[Any]:
    from reportlab.platypus import KeepTogether, PageBreak

    evidence, words, style = page.evidence, page.words, page.style
    days = evidence["coverage"]["days"]
    names = [day["day"] for day in days]
    gaps = {gap["at"][:10] for gap in evidence["coverage"]["gaps"]}
    labels = (words("legend_covered"), words("legend_none"), words("legend_gap"))
    runs = [(verdict, color, [day["verdicts"].get(verdict, 0) for day in days]) for verdict, color in VERDICTS]
    changes = [(words(f"op.{op}"), color, [day["changes"].get(op, 0) for day in days]) for op, color in OPS]
    story: list[Any] = [PageBreak(), style.heading(words("figures"))]
    for title, chart in (
        ("chart_coverage", coverage_chart(style, days, gaps, labels)),
        ("chart_verifications", bars(style, names, runs)),
        ("chart_changes", bars(style, names, changes)),
    ):
        story.append(KeepTogether([style.heading(words(title), 2), chart]))
    return story
