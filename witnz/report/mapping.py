"""Control mappings: which artefacts of a report support which control, as data under ``mappings/`` (one file a standard).

The wording is witnz's own.  A mapping says *supports* and never *satisfies*; each control names artefacts, the checks with
which an auditor re-performs them, and what is out of its reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

from witnz.errors import FormatError, UsageError

STANDARDS: Final = ("soc2", "iso27001", "pcidss4", "hipaa", "sec17a4", "cfr11", "jsox")
LANGUAGES: Final = ("en", "ja")

Text = Mapping[str, str]
"""By language; English is always there."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """A part of a report: ``section`` names its member of the evidence, ``populations`` its lists."""

    id: str
    title: Text
    section: str
    populations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Control:
    id: str
    title: Text
    artefacts: tuple[str, ...]
    supports: Text
    checks: tuple[str, ...]
    limits: Text


@dataclass(frozen=True, slots=True)
class Standard:
    id: str
    title: Text
    source: str
    controls: tuple[Control, ...]


def in_language(text: Text, lang: str) -> str:
    """The text in a language, in English where there is none in it."""
    return text.get(lang) or text["en"]


@cache
def artefacts() -> Mapping[str, Artefact]:
    """Every artefact by its short name."""
    return {
        name: Artefact(name, _text({one: value[one] for one in LANGUAGES}, name), value["section"], tuple(value["populations"]))
        for name, value in _load("artefacts")["artefacts"].items()
    }


@cache
def checks() -> Mapping[str, Text]:
    """What an auditor can do, by name."""
    return {name: _text(value, name) for name, value in _load("artefacts")["checks"].items()}


@cache
def load_standard(name: str) -> Standard:
    """The mapping of a standard.  Raises UsageError for one that there is none for, FormatError for a file that is none."""
    if name not in STANDARDS:
        raise UsageError(f"--standard: expected {', '.join(STANDARDS)}, found {name[:40]!r}")
    document = _load(name)
    if document["standard"] != name:
        raise FormatError(f"mapping {name}: expected standard {name}, found {document['standard']!r}")
    controls = tuple(_control(value, name) for value in document["controls"])
    return Standard(name, _text(document["title"], name), document["source"], controls)


def _control(value: Mapping[str, Any], standard: str) -> Control:
    name = str(value["id"])
    where = f"mapping {standard}, {name}"
    unknown = [one for one in value["artefacts"] if one not in artefacts()] + [
        one for one in value["checks"] if one not in checks()
    ]
    if unknown or not value["artefacts"] or not value["checks"]:
        raise FormatError(f"{where}: expected known artefacts and checks, found {unknown}")
    texts = [_text(value[member], where) for member in ("title", "supports", "limits")]
    return Control(name, texts[0], tuple(value["artefacts"]), texts[1], tuple(value["checks"]), texts[2])


def _text(value: Mapping[str, Any], where: str) -> Text:
    found = {language: str(value[language]) for language in LANGUAGES if language in value}
    if not found.get("en") or len(found) < len(value):  # a comma in a text that is not quoted ends it
        raise FormatError(f"{where}: expected a text in English, and in no language but {' and '.join(LANGUAGES)}")
    return found


def _load(name: str) -> Mapping[str, Any]:
    import yaml

    document = yaml.safe_load((resources.files(__package__) / "mappings" / f"{name}.yaml").read_text("utf-8"))
    if not isinstance(document, dict):
        raise FormatError(f"mapping {name}: expected an object")
    return document
