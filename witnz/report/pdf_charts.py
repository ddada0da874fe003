"""The charts: coverage, verification runs and changes, a bar or cell a day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from witnz.report.pdf_style import ACCENT, BAD, GOOD, GREY, RULE, WARN, WIDTH_MM, Style

Series = Sequence[tuple[str, str, Sequence[int]]]
"""(name, colour, a value a day), stacked in this order."""

VERDICTS: Final = (("VERIFIED", GOOD), ("INCONCLUSIVE", WARN), ("TAMPERED", BAD))
OPS: Final = (
    ("insert", GOOD),
    ("update", WARN),
    ("delete", BAD),
    ("truncate", "#6b1410"),
    ("baseline", "#8aa0bd"),
    ("schema", GREY),
)
MAX_DAYS: Final = 400
_LEFT, _HEIGHT, _PLOT, _BASE = 38, 118, 72, 30  # points


def coverage_chart(style: Style, days: Sequence[Mapping[str, Any]], gaps: set[str], labels: tuple[str, str, str]) -> Any:
    """A cell a day: sealed, not sealed, or with a gap on record."""
    drawing, step = _canvas(len(days)), _step(len(days))
    for index, day in enumerate(days):
        color = WARN if day["day"] in gaps else GOOD if day["seals"] else RULE
        _rect(drawing, _LEFT + index * step, _BASE + 8, max(step - 0.6, 0.4), 26, color)
    _days(style, drawing, [day["day"] for day in days], step)
    _legend(style, drawing, tuple(zip(labels, (GOOD, RULE, WARN), strict=True)), _BASE + 44)
    drawing.height = _BASE + 60
    return drawing


def bars(style: Style, days: Sequence[str], series: Series) -> Any:
    """Stacked bars, a bar a day, with the highest total as the scale."""
    drawing, step = _canvas(len(days)), _step(len(days))
    totals = [sum(values[index] for _, _, values in series) for index in range(len(days))]
    top = _round_up(max(totals, default=0))
    for share in (0.0, 0.5, 1.0):
        _line(drawing, _BASE + share * _PLOT)
        _label(style, drawing, _LEFT - 4, _BASE + share * _PLOT - 2.5, f"{int(top * share):,}", anchor="end")
    for index in range(len(days)):
        base = float(_BASE)
        for _, color, values in series:
            height = values[index] / top * _PLOT if top else 0
            if height:
                width = min(max(step - 0.8, 0.4), 46)
                _rect(drawing, _LEFT + index * step + (step - width) / 2, base, width, max(height, 0.5), color)
            base += height
    _days(style, drawing, days, step)
    shown = [(name, color) for name, color, values in series if any(values)]
    _legend(style, drawing, shown, _BASE + _PLOT + 8)
    return drawing


def _canvas(days: int) -> Any:
    from reportlab.graphics.shapes import Drawing
    from reportlab.lib.units import mm

    return Drawing(WIDTH_MM * mm, _HEIGHT)


def _step(days: int) -> float:
    from reportlab.lib.units import mm

    return float(WIDTH_MM * mm - _LEFT) / max(days, 1)


def _rect(drawing: Any, x: float, y: float, width: float, height: float, color: str) -> None:
    from reportlab.graphics.shapes import Rect
    from reportlab.lib.colors import HexColor

    drawing.add(Rect(x, y, width, height, fillColor=HexColor(color), strokeColor=None, strokeWidth=0))


def _line(drawing: Any, y: float) -> None:
    from reportlab.graphics.shapes import Line
    from reportlab.lib.colors import HexColor

    drawing.add(Line(_LEFT, y, drawing.width, y, strokeColor=HexColor(RULE), strokeWidth=0.4))


def _label(style: Style, drawing: Any, x: float, y: float, text: str, anchor: str = "start", color: str = GREY) -> None:
    from reportlab.graphics.shapes import String
    from reportlab.lib.colors import HexColor

    drawing.add(String(x, y, text, fontName=style.body, fontSize=6.8, textAnchor=anchor, fillColor=HexColor(color)))


def _days(style: Style, drawing: Any, days: Sequence[str], step: float) -> None:
    """At most ten dates below the axis."""
    every = max(1, -(-len(days) // 10))
    for index in range(0, len(days), every):
        _label(style, drawing, _LEFT + (index + 0.5) * step, _BASE - 10, days[index], anchor="middle", color=ACCENT)


def _legend(style: Style, drawing: Any, items: Sequence[tuple[str, str]], y: float) -> None:
    from reportlab.pdfbase.pdfmetrics import stringWidth

    x = float(_LEFT)
    for name, color in items:
        _rect(drawing, x, y, 7, 7, color)
        _label(style, drawing, x + 10, y + 1, name)
        x += 24 + stringWidth(name, style.body, 6.8)


def _round_up(value: int) -> int:
    """The next 1, 2 or 5 times a power of ten, even so that half of it is a whole number."""
    if value <= 2:
        return 2
    unit = 1
    while True:
        for factor in (2, 4, 6, 8, 10):
            if value <= factor * unit:
                return factor * unit
        unit *= 10
