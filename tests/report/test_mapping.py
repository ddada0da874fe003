"""The control mappings: complete, in own words, with artefacts, checks and limits, and without the word that auditors own."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from witnz.errors import FormatError, UsageError
from witnz.report import mapping
from witnz.report.mapping import STANDARDS, artefacts, checks, load_standard
from witnz.report.populations import COUNTED
from witnz.report.wording import load_words

CORE = {
    "soc2": {"CC6.1", "CC6.8", "CC7.1", "CC7.2", "CC7.3", "CC7.4", "CC7.5", "CC8.1", "PI1.2", "PI1.4", "PI1.5", "A1.2", "A1.3"},
    "iso27001": {"A.5.28", "A.5.33", "A.8.9", "A.8.13", "A.8.15", "A.8.16", "A.8.17", "A.8.24", "A.8.32"},
}


@pytest.mark.parametrize("name", STANDARDS)
def test_each_control_names_artefacts_checks_and_limits(name: str) -> None:
    standard = load_standard(name)
    ids = [control.id for control in standard.controls]
    assert len(set(ids)) == len(ids) >= 4
    assert CORE.get(name, set()) <= set(ids)
    for control in standard.controls:
        assert set(control.artefacts) <= artefacts().keys()
        assert set(control.checks) <= checks().keys()
        assert control.limits["en"]
        if name in ("soc2", "iso27001", "jsox"):
            assert all(text.get("ja") for text in (control.title, control.supports, control.limits)), control.id


def test_the_artefacts_are_sections_and_populations_that_there_are() -> None:
    assert set(artefacts()) == {f"E{number}" for number in range(1, 17)}
    for artefact in artefacts().values():
        assert set(artefact.populations) <= set(COUNTED), artefact.id


def test_no_mapping_promises_that_a_control_is_met() -> None:
    for name in STANDARDS:
        text = (resources.files("witnz.report") / "mappings" / f"{name}.yaml").read_text("utf-8")
        assert not re.search(r"satisf|complian(t|ce) with|certif|fulfil", text, re.IGNORECASE), name


def test_an_unknown_standard_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="soc2, iso27001, pcidss4"):
        load_standard("../../etc/passwd")


def test_both_languages_have_the_same_words() -> None:
    def shape(value: object) -> object:
        return {name: shape(inner) for name, inner in value.items()} if isinstance(value, dict) else None

    english, japanese = dict(load_words("en").texts), dict(load_words("ja").texts)
    english.pop("exceptions"), japanese.pop("exceptions")
    assert shape(english) == shape(japanese)


def test_every_kind_of_exception_has_its_words_in_japanese() -> None:
    from witnz.report.exceptions import KINDS

    assert load_words("ja").texts["exceptions"].keys() == KINDS.keys()


def test_the_lists_of_limits_are_as_long_in_both_languages() -> None:
    from witnz.report.sections import EXCLUSIONS, LIMITS

    words = load_words("ja").texts
    assert (len(words["limits"]), len(words["exclusion_list"])) == (len(LIMITS), len(EXCLUSIONS))


def test_a_text_that_a_comma_cut_is_refused() -> None:
    """In YAML ``{en: not seen (reading, for instance)}`` is a text and another member."""
    with pytest.raises(FormatError, match="no language but"):
        mapping._text({"en": "not seen (reading", "for instance)": None}, "mapping x")
