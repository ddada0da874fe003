"""How the pages look: fonts, paragraph styles, tables.

Japanese needs an embedded TrueType font: reportlab refuses PostScript outlines (most Noto CJK files), and its built-in CJK
fonts embed nothing, so that a reader without them shows empty pages.  IPAex Gothic may be embedded under its licence; it is
looked for in the places of :data:`FONT_PLACES`, and no other font stands in silently.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from witnz.errors import UsageError

FONT_VARIABLE: Final = "WITNZ_FONT_JA"
FONT_PLACES: Final = (
    "matplotlib_fontja/fonts/ipaexg.ttf",  # below the environment's site-packages: only the file is used
    "/usr/share/fonts/opentype/ipaexfont-gothic/ipaexg.ttf",
    "/usr/share/fonts/opentype/ipafont-gothic/ipag.ttf",
    "/usr/share/fonts/truetype/ipaexfont-gothic/ipaexg.ttf",
)
JAPANESE: Final = "WitnzJapanese"
MONO: Final = "Courier"
ACCENT, GREY, RULE, GOOD, WARN, BAD = "#1f3a5f", "#5a6270", "#c9ced6", "#2b7a4b", "#c98a1b", "#b3261e"

MARGIN_MM: Final = 18
PADDING: Final = 3
"""Between a cell's text and its sides, in points."""
WIDTH_MM: Final = 210 - 2 * MARGIN_MM


@dataclass(frozen=True, slots=True)
class Style:
    """Makes what stands on a page.  ``fallback``: a font for text that the page's own cannot write, None if there is none."""

    body: str
    bold: str
    cjk: bool
    fallback: str | None

    def text(self, value: object) -> str:
        """The markup of a text: escaped, and every character either printable or spelled out."""
        plain = "" if value is None else str(value)
        if self.cjk or plain.isascii() or _western(plain):
            return escape(_printable(plain))
        if self.fallback is not None:
            return f'<font name="{self.fallback}">{escape(_printable(plain))}</font>'
        return escape(plain.encode("ascii", "backslashreplace").decode())

    def paragraph(self, markup: str, size: float = 9, **extra: Any) -> Any:
        """A paragraph of markup."""
        from reportlab.lib.colors import HexColor
        from reportlab.lib.styles import ParagraphStyle
        from reportlab.platypus import Paragraph

        color = HexColor(extra.pop("color", "#1b1f24"))
        options: dict[str, Any] = {"fontName": self.body, "fontSize": size, "leading": size * 1.42, "textColor": color}
        if self.cjk:  # a character that may not begin a line hangs over its end: leave it room within the cell
            options |= {"wordWrap": "CJK", "rightIndent": size}
        bullet = extra.pop("bulletText", None)
        return Paragraph(markup, ParagraphStyle("witnz", **(options | extra)), bulletText=bullet)

    def plain(self, value: object, size: float = 9, **extra: Any) -> Any:
        """A paragraph of text."""
        return self.paragraph(self.text(value), size, **extra)

    def bullet(self, value: object, size: float) -> Any:
        """An item of a list."""
        style = {"leftIndent": 10, "bulletIndent": 2, "bulletFontName": self.body, "bulletFontSize": size}
        return self.plain(value, size, bulletText="•", spaceAfter=2, **style)

    def mono(self, value: object, size: float = 7.2) -> Any:
        """Hashes and keys: a fixed width, broken anywhere so that nothing runs out of its cell."""
        plain = "" if value is None else str(value)
        if not plain.isascii():
            return self.plain(plain, size, wordWrap="CJK")
        return self.paragraph(escape(plain), size, fontName=MONO, wordWrap="CJK", rightIndent=0, leading=size * 1.3)

    def heading(self, value: str, level: int = 1) -> Any:
        """A heading that stays with what follows it."""
        size = {0: 22.0, 1: 13.0, 2: 10.5}[level]
        space = {0: 0, 1: 12, 2: 7}[level]
        return self.plain(value, size, fontName=self.bold, color=ACCENT, spaceBefore=space, spaceAfter=4, keepWithNext=1)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[Any]], widths: Sequence[float], size: float = 7.6) -> Any:
        """A table over the whole width: ``widths`` are shares; texts become paragraphs, so that long ones wrap."""
        from reportlab.lib.colors import HexColor
        from reportlab.lib.units import mm
        from reportlab.platypus import Table, TableStyle

        right = [bool(rows) and type(cell) is int for cell in (rows[0] if rows else ())] or [False] * len(head)
        cells = (
            [
                [
                    self.plain(title, size, fontName=self.bold, color="#ffffff", alignment=2 * numeric)
                    for title, numeric in zip(head, right, strict=True)
                ]
            ]
            if head
            else []
        )
        total = sum(widths)
        columns = [WIDTH_MM * mm * share / total for share in widths]
        cells += [
            [
                cell if _is_flowable(cell) else self._cell(cell, size, width - 2 * PADDING)
                for cell, width in zip(row, columns, strict=True)
            ]
            for row in rows
        ]
        made = Table(cells, colWidths=columns, repeatRows=1 if head else 0)
        style: list[Any] = [
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("LINEBELOW", (0, 0), (-1, -1), 0.4, HexColor(RULE)),
            ("TOPPADDING", (0, 0), (-1, -1), 2.2),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 2.6),
            ("LEFTPADDING", (0, 0), (-1, -1), PADDING),
            ("RIGHTPADDING", (0, 0), (-1, -1), PADDING),
        ]
        if head:
            style.append(("BACKGROUND", (0, 0), (-1, 0), HexColor(ACCENT)))
            style.append(("ROWBACKGROUNDS", (0, 1), (-1, -1), [HexColor("#ffffff"), HexColor("#f4f6f9")]))
        made.setStyle(TableStyle(style))
        return made

    def _cell(self, value: object, size: float, width: float) -> Any:
        if isinstance(value, bool):
            value = "✓" if value else "–"
        if isinstance(value, int):
            return self.plain(f"{value:,}", size, alignment=2)
        text = str(value)
        if text.isascii() and "\n" not in text:  # lines end between words, and within a long one behind a dot, slash or dash
            words = (fold(word, lambda part: self._width(part, size) <= width) for word in text.split(" "))
            markup = " ".join("<br/>".join(self.text(part) for part in parts) for parts in words)
            return self.paragraph(markup, size, wordWrap=None, rightIndent=0)
        words_only = not _unbroken(text) and not self.cjk
        return self.plain(value, size, **({"wordWrap": None, "rightIndent": 0} if words_only else {"wordWrap": "CJK"}))

    def _width(self, text: str, size: float) -> float:
        from reportlab.pdfbase.pdfmetrics import stringWidth

        return float(stringWidth(_printable(text), self.body, size))


def fold(word: str, fits: Callable[[str], bool]) -> list[str]:
    """A word in parts of which each fits a line; they end behind ``. _ / - , :`` where one stands near its end."""
    parts = []
    while len(word) > 1 and not fits(word):
        most = next((end for end in range(len(word) - 1, 1, -1) if fits(word[:end])), 1)
        ends = [end for end in range(most // 3 + 1, most + 1) if word[end - 1] in "._/-,:"]
        parts.append(word[: max(ends, default=most)])
        word = word[len(parts[-1]) :]
    return [*parts, word]


def make_style(lang: str) -> Style:
    """The style of a language.  Raises UsageError where it needs a font that is not installed."""
    font = japanese_font()
    if font is not None:
        _register(font)
    if lang != "ja":
        return Style("Helvetica", "Helvetica-Bold", cjk=False, fallback=JAPANESE if font is not None else None)
    if font is None:
        raise UsageError(
            "a Japanese report needs a Japanese font that may be embedded, and none was found",
            hint="pip install --no-deps matplotlib-fontja, or apt install fonts-ipaexfont-gothic, or name a TrueType file in"
            f" {FONT_VARIABLE}; the node's machine needs it",
            code="report.font",
        )
    return Style(JAPANESE, JAPANESE, cjk=True, fallback=JAPANESE)


def japanese_font() -> Path | None:
    """The first font of the variable and the places that is there."""
    named = os.environ.get(FONT_VARIABLE)
    places = [Path(named)] if named else [Path(sysconfig.get_path("purelib")) / place for place in FONT_PLACES]
    return next((place for place in places if place.is_file()), None)


@cache
def _register(path: Path) -> None:
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFError, TTFont

    try:
        font = TTFont(JAPANESE, str(path))
    except TTFError as error:
        raise UsageError(f"font {path}: expected TrueType outlines: {error}", hint="IPAex Gothic has them") from None
    pdfmetrics.registerFont(font)
    pdfmetrics.registerFontFamily(JAPANESE, normal=JAPANESE, bold=JAPANESE, italic=JAPANESE, boldItalic=JAPANESE)


def _is_flowable(cell: object) -> bool:
    return hasattr(cell, "wrapOn") or isinstance(cell, list)


def _unbroken(text: str) -> bool:
    """Whether a text has a word that may not fit its cell."""
    return any(len(word) > 18 for word in text.split())


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in text)


def _western(text: str) -> bool:
    try:
        text.encode("cp1252")
    except UnicodeEncodeError:
        return False
    return True
