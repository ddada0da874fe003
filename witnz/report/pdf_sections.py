"""The numbered sections of the report: a heading, a sentence on what it is, one on what it does not show, and tables that
name the list with all of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from witnz.report.mapping import Standard, artefacts, checks, in_language
from witnz.report.pdf_style import Style
from witnz.report.wording import Words

MAX_ROWS: Final = 40
"""Rows of one table; the list in the package has all."""

LEAST_ROOM_MM: Final = 42
ROOM_MM: Final = {"assertion": 95, "limits": 60, "independence": 80, "software": 75}
"""What a section needs on the page where it begins."""

Cells = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Page:
    """What the pages are made from."""

    evidence: Mapping[str, Any]
    words: Words
    style: Style
    standard: Standard
    lang: str

    def head(self, *names: str) -> list[str]:
        return [self.words(f"row.{name}") for name in names]

    def table(self, head: Sequence[str], rows: Sequence[Cells], widths: Sequence[float], file: str | None = None) -> list[Any]:
        """A table of at most MAX_ROWS rows, the newest, and where the others are; a word where there are none."""
        from reportlab.platypus import Spacer

        if not rows:
            return [self.style.plain(self.words("none"), 8.5, color="#5a6270")]
        out = [self.style.table(self.head(*head), rows[-MAX_ROWS:], widths), Spacer(1, 3)]
        hidden = len(rows) - MAX_ROWS
        if file is not None:
            name = f"populations/{file}.csv"
            said = self.words("more", n=f"{hidden:,}", file=name) if hidden > 0 else self.words("all_in", file=name)
            out.append(self.style.plain(said, 7.4, color="#5a6270"))
        return out

    def gap(self) -> Any:
        from reportlab.platypus import Spacer

        return Spacer(1, 6)

    def facts(self, pairs: Iterable[tuple[str, Any]]) -> Any:
        """Names and values beside each other."""
        return self.style.table((), [[name, value] for name, value in pairs], (34, 66), 8)

    def bullets(self, texts: Iterable[str]) -> list[Any]:
        return [self.style.bullet(text, 8.5) for text in texts]

    def seconds(self, value: int | None) -> str:
        return self.words("unknown") if value is None else self.words("seconds", n=f"{value:,}")


def sections(page: Page) -> list[Any]:
    """All sections, numbered; none begins where only its heading would fit."""
    from reportlab.lib.units import mm
    from reportlab.platypus import CondPageBreak

    story: list[Any] = []
    for number, (name, make) in enumerate(_SECTIONS.items(), 1):
        heading = page.style.heading(f"{number}. {page.words(f'sections.{name}')}")
        heading.witnz_section = name
        room = ROOM_MM.get(name, LEAST_ROOM_MM)
        story += [CondPageBreak(room * mm), heading, page.style.plain(_intro(page, name), 8.5, spaceAfter=1.5)]
        if name in page.words.texts["not_shown"]:
            said = f"{page.words('not_shown_word')} {page.words(f'not_shown.{name}')}"
            story.append(page.style.plain(said, 7.6, color="#5a6270", spaceAfter=4))
        story += make(page)
    return story


def _intro(page: Page, name: str) -> str:
    cluster = page.evidence["cluster"]
    places = {"quorum": cluster["quorum"], "members": len(cluster["members"])} if name == "independence" else {}
    return page.words(f"intro.{name}", **places)


def _when(text: str | None) -> str:
    return "–" if not text else text[:19].replace("T", " ")


def _exceptions(page: Page) -> list[Any]:
    rows = [
        [item["count"], page.words.exception(item["kind"], item["text"]), _detail(page, item)]
        for item in page.evidence["exceptions"]
    ]
    return [page.style.table(page.head("count", "kind", "detail"), rows, (9, 45, 46))]


def _detail(page: Page, item: Mapping[str, Any]) -> str:
    """What is said of an exception; in the language of the page where it is witnz that says it."""
    if item["kind"] == "period.uncovered":
        return _uncovered(page)
    if item["kind"] == "continuity":
        return continuity_text(page.words, page.evidence["continuity"])
    return str(item["detail"])[:600]


def _uncovered(page: Page) -> str:
    spans = page.evidence["coverage"]["uncovered"]
    return "; ".join(
        f"{_when(span['from'])} – {_when(span['to'])}: {page.words('uncovered.' + span['kind'])}" for span in spans
    )


def continuity_text(words: Words, continuity: Mapping[str, Any]) -> str:
    """How the period fits to that of the report before it."""
    previous = continuity["previous"] or {"to": "", "seq": ""}
    return words(f"continuity_{continuity['status']}", previous=previous["seq"], end=minute(previous["to"]))


def minute(text: str) -> str:
    """A time without its microseconds; seconds only where there are some."""
    return text[:16].replace("T", " ") if text[16:].startswith(":00.0") else text[:19].replace("T", " ")


def _scope(page: Page) -> list[Any]:
    scope = page.evidence["scope"]
    rows = [
        [
            f"{table['table']} ({table['generation']})", f"{table['mode']}, {table['on_change']}",
            _when(table["protected_since"]), table["entries_sealed"], table["verifications"], _when(table["last_verified_at"]),
        ]
        for table in scope["tables"]
    ]  # fmt: skip
    story = page.table(("table", "mode", "since", "entries", "runs", "last"), rows, (28, 20, 16, 11, 9, 16), "configuration")
    story.append(page.style.heading(page.words("exclusions"), 2))
    return [*story, *page.bullets(page.words.listed("exclusion_list", scope["exclusions"]))]


def _checkpoints(page: Page) -> list[Any]:
    found, words = page.evidence["checkpoints"], page.words
    pairs = [
        (words("row.count"), f"{found['count']:,}"),
        (words("row.size"), f"{found['first_size']:,} – {found['last_size']:,}"),
        (words("row.first"), _when(found["first_at"])),
        (words("row.newest"), _when(found["last_at"])),
        (words("row.longest"), page.seconds(found["longest_interval_s"])),
        (words("row.cosigned"), ", ".join(found["cosigned_by"])),
    ]
    said = page.style.plain(words("all_in", file="populations/checkpoints.csv"), 7.4, color="#5a6270")
    return [page.facts(pairs), said]


def _coverage(page: Page) -> list[Any]:
    found, words = page.evidence["coverage"], page.words
    ops = ", ".join(f"{words(f'op.{op}')} {number:,}" for op, number in found["entries_by_op"].items())
    pairs = [
        (words("row.seals"), f"{found['seals']['count']:,}"),
        (words("row.longest"), page.seconds(found["seals"]["longest_interval_s"])),
        (words("row.entries"), f"{found['entries']:,} ({ops})" if ops else "0"),
        (words("coverage"), _uncovered(page) or words("coverage_whole")),
        (words("row.open_gaps"), " ".join(found["open_gaps"]) or words("none")),
    ]
    rows = [
        [
            _when(gap["at"]),
            gap["type"],
            " – ".join(lsn for lsn in (gap["from_lsn"], gap["to_lsn"]) if lsn),
            " ".join(gap["tables"]),
            gap["reason"],
        ]
        for gap in found["gaps"]
    ]
    return [
        page.facts(pairs),
        page.gap(),
        *page.table(("at", "type", "lsn", "tables", "reason"), rows, (16, 9, 22, 23, 30), "gaps"),
    ]


def _verifications(page: Page) -> list[Any]:
    rows = [
        [
            table["table"], table["runs"], ", ".join(f"{name} {number:,}" for name, number in table["verdicts"].items()),
            _when(table["last_at"]), table["last_rows"], " ".join(table["nodes"]),
        ]
        for table in page.evidence["verifications"]["tables"]
    ]  # fmt: skip
    return page.table(("table", "runs", "verdicts", "newest", "rows", "node"), rows, (26, 9, 25, 17, 10, 13), "verifications")


def _findings(page: Page) -> list[Any]:
    found, words = page.evidence["findings"], page.words
    seen = found["time_to_acknowledge_s"]
    spread = f"{page.seconds(seen['median'])} / {page.seconds(seen['longest'])}" if seen["count"] else words("none")
    pairs = [
        (words("row.count"), f"{found['count']:,}"),
        (words("row.state"), ", ".join(f"{name} {number:,}" for name, number in found["by_state"].items()) or "–"),
        (words("row.severity"), ", ".join(f"{name} {number:,}" for name, number in found["by_severity"].items()) or "–"),
        (words("row.ack_spread"), spread),
    ]
    rows = [
        [
            page.style.mono(one["id"], 6.2), f"{one['class']}, {one['severity']}", _place(one), _when(one["opened_at"]),
            page.seconds(one["acknowledged_s"]) if one["acknowledged_s"] is not None else "–",
            *_settled(page, one),
        ]
        for one in found["items"]
    ]  # fmt: skip
    head = ("id", "class", "table", "opened", "ack", "state", "reason")
    return [page.facts(pairs), page.gap(), *page.table(head, rows, (16, 17, 18, 12, 9, 12, 16), "findings")]


def _settled(page: Page, finding: Mapping[str, Any]) -> tuple[str, str]:
    """State and reason; a repair has none of its own, and its record says what was run."""
    if finding["state"] == "repaired":
        return "repaired", page.words("repaired")
    return finding["state"] + (f" ({finding['settled_by']})" if finding["settled_by"] else ""), (finding["reason"] or "")[:300]


def _place(finding: Mapping[str, Any]) -> str:
    table = finding["table"] or "–"
    return table if finding["key"] is None else f"{table} [{finding['key'][:80]}]"


def _anchors(page: Page) -> list[Any]:
    rows = [
        [one["type"], one["count"], _when(one["first_at"]), _when(one["last_at"]), one["last_size"]]
        for one in page.evidence["anchors"]["types"]
    ]
    return page.table(("type", "count", "first", "newest", "size"), rows, (20, 15, 25, 25, 15), "anchors")


def _keys(page: Page) -> list[Any]:
    rows = [
        [
            one["kind"],
            one["name"],
            page.style.mono(one["sha256"], 5.5),
            _when(one["since"]),
            _when(one["until"]),
            one["put_into_force_by"],
        ]
        for one in page.evidence["keys"]
    ]
    return page.table(("type", "name", "fingerprint", "in_force", "until", "put_by"), rows, (8, 15, 46, 11, 9, 11), "keys")


def _configuration(page: Page) -> list[Any]:
    rows = [
        [_when(one["at"]), one["type"], one["about"], one["operator"] or "–", one["reason"][:300]]
        for one in page.evidence["configuration"]["items"]
    ]
    return page.table(("at", "type", "about", "operator", "reason"), rows, (17, 12, 28, 15, 28), "configuration")


def _operator_actions(page: Page) -> list[Any]:
    rows = []
    for one in page.evidence["operator_actions"]["items"]:
        who, what = _told(one["detail"])
        rows.append([_when(one["at"]), one["node"], one["action"], who, what])
    return page.table(("at", "node", "action", "asked_by", "detail"), rows, (17, 11, 17, 17, 38), "operator_actions")


def _told(detail: str) -> tuple[str, str]:
    """Who asked, and the rest of what a node wrote down as JSON, in words; long digests are cut, the list has all of them."""
    try:
        told = json.loads(detail)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        return "–", detail[:300]
    who = f"{told.pop('by', '–')}"
    told.pop("uid", None)  # stands in ``by``
    parts = []
    for name, value in told.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        text = f"{text[:12]}…" if len(text) == 64 and text.isalnum() else text
        parts.append(f"{name.replace('_', ' ')}: {text}")
    return who[:120], "; ".join(parts)[:300]


def _authorised(page: Page) -> list[Any]:
    rows = [
        [
            _when(one["at"]),
            one["type"],
            one["operator"],
            one["table"] or "–",
            one["rows"],
            one["finding"] or "–",
            one["reason"][:300],
        ]
        for one in page.evidence["authorised_changes"]["items"]
    ]
    head = ("at", "type", "operator", "table", "rows", "id", "reason")
    return page.table(head, rows, (15, 10, 11, 20, 7, 15, 22), "decisions")


def _independence(page: Page) -> list[Any]:
    found, words = page.evidence["independence"], page.words
    story = page.table(("node", "address"), [[one["id"], one["addr"]] for one in found["members"]], (30, 70))
    asked = words.listed("to_be_stated", found["to_be_stated"])
    types = ", ".join(found["anchor_types"]) or words("none")
    story.append(page.gap())
    story.append(page.facts([(words("sections.anchors"), types), (words("row.operator"), ", ".join(found["operators"]))]))
    form = page.style.table(page.head("statement", "name"), [[text, ""] for text in asked], (45, 55), 8.5)
    return [*story, page.gap(), form]


def _clock(page: Page) -> list[Any]:
    found = page.evidence["clock"]
    said = page.words(
        "clock_text", findings=found["findings"], receipts=found["receipts_with_time"],
        difference=page.seconds(found["largest_difference_s"]), cosigners=page.seconds(found["cosigners_differ_s"]),
    )  # fmt: skip
    return [page.style.plain(said, 8.5)]


def _drills(page: Page) -> list[Any]:
    rows = [
        [_when(one["at"]), one["attack"][:200], page.seconds(one["detected_s"]), one["result"][:300]]
        for one in page.evidence["drills"]
    ]
    return page.table(("at", "what", "detected", "result"), rows, (17, 35, 13, 35), "drills")


def _software(page: Page) -> list[Any]:
    found = page.evidence["software"]
    rows: list[Cells] = [["witnz", found["witnz"]], ["Python", found["python"]]]
    rows += [[name, version or "–"] for name, version in found["libraries"].items()]
    digest = page.facts([("SHA-256", page.style.mono(found["source_sha256"]))])
    return [digest, page.gap(), page.style.table(page.head("library", "version"), rows, (50, 50))]


def _controls(page: Page) -> list[Any]:
    figures = {one["id"]: one["figures"] for one in page.evidence["controls"]}
    rows = []
    for control in page.standard.controls:
        titles = [f"{name} {in_language(artefacts()[name].title, page.lang)}" for name in control.artefacts]
        counted = ", ".join(f"{name} {number:,}" for name, number in figures[control.id].items())
        what = [
            page.style.plain(in_language(control.title, page.lang), 7.6, fontName=page.style.bold),
            page.style.plain(in_language(control.supports, page.lang), 7.6),
            page.style.plain(f"{page.words('row.limits')}: {in_language(control.limits, page.lang)}", 7.2, color="#5a6270"),
        ]
        seen = [page.style.plain("; ".join(titles), 7.2), page.style.plain(counted, 6.8, color="#5a6270", wordWrap="CJK")]
        rows.append([control.id, what, seen, ", ".join(control.checks)])
    used = sorted({name for control in page.standard.controls for name in control.checks})
    steps = [[name, in_language(checks()[name], page.lang)] for name in used]
    story = [page.style.table(page.head("control", "what", "artefacts", "checks"), rows, (12, 48, 28, 12))]
    return [*story, page.style.heading(page.words("row.checks"), 2), page.style.table((), steps, (14, 86))]


def _populations(page: Page) -> list[Any]:
    rows = [[one["file"], one["rows"], page.style.mono(one["sha256"], 6)] for one in page.evidence["populations"]]
    return [page.style.table(page.head("file", "rows", "fingerprint"), rows, (34, 10, 56))]


def _assertion(page: Page) -> list[Any]:
    from reportlab.platypus import KeepTogether, Spacer

    words = page.words
    text = str(words.texts["assertion_text"]) or page.evidence["assertion"]["text"]
    lines = [[words(f"signature_fields.{name}"), Spacer(1, 20)] for name in page.evidence["assertion"]["fields"]]
    return [KeepTogether([page.style.plain(text, 9, spaceAfter=6), page.style.table((), lines, (22, 78), 9)])]


def _limits(page: Page) -> list[Any]:
    return page.bullets(page.words.listed("limits", page.evidence["limits"]))


_SECTIONS: Final[Mapping[str, Callable[[Page], list[Any]]]] = {
    "exceptions": _exceptions,
    "scope": _scope,
    "checkpoints": _checkpoints,
    "coverage": _coverage,
    "verifications": _verifications,
    "findings": _findings,
    "anchors": _anchors,
    "keys": _keys,
    "configuration": _configuration,
    "operator_actions": _operator_actions,
    "authorised_changes": _authorised,
    "independence": _independence,
    "clock": _clock,
    "drills": _drills,
    "software": _software,
    "controls": _controls,
    "populations": _populations,
    "assertion": _assertion,
    "limits": _limits,
}
