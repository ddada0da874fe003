"""The words of the pages, by language: ``texts/en.yaml`` and ``texts/ja.yaml`` have the same members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from witnz.errors import UsageError
from witnz.report.mapping import LANGUAGES


@dataclass(frozen=True, slots=True)
class Words:
    """``words("intro.scope", n=3)`` is the text of a member, its places filled."""

    lang: str
    texts: Mapping[str, Any]

    def __call__(self, name: str, **places: object) -> str:
        value: Any = self.texts
        for part in name.split("."):
            value = value[part]
        return str(value).format(**places) if places else str(value)

    def listed(self, name: str, english: list[str]) -> list[str]:
        """A list in this language; the English one where it is written elsewhere."""
        return [str(item) for item in self.texts[name]] or english

    def exception(self, kind: str, english: str) -> str:
        """What a kind of exception is, in this language."""
        return str(self.texts["exceptions"].get(kind, english))


@cache
def load_words(lang: str) -> Words:
    """Raises UsageError for a language that there is none in."""
    import yaml

    if lang not in LANGUAGES:
        raise UsageError(f"--lang: expected {' or '.join(LANGUAGES)}, found {lang[:20]!r}")
    return Words(lang, yaml.safe_load((resources.files(__package__) / "texts" / f"{lang}.yaml").read_text("utf-8")))
