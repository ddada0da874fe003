"""OSCAL assessment-results (NIST, version 1.1.2) of the evidence, for tools that collect such documents.

Every control is an observation with its figures; none is declared met: OSCAL wants a target state for findings, so there are
no findings here, only observations, methods and where the evidence is.  Ids are version 5 UUIDs of what they name, so that the
same evidence gives the same document.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any, Final

from witnz.core.canonical import canonical

VERSION: Final = "1.1.2"
NAMESPACE: Final = "https://witnz.dev/ns/oscal"
_TREE: Final = uuid.uuid5(uuid.NAMESPACE_URL, NAMESPACE)
_TOKEN: Final = re.compile(r"[^A-Za-z0-9_.-]+")


def assessment_results(evidence: Mapping[str, Any], evidence_sha256: str) -> bytes:
    """The file.  ``evidence`` is the predicate of ``evidence.json``, whose hex SHA-256 is given."""
    about, cluster = evidence["report"], evidence["cluster"]
    scope = f"{cluster['id']}/{about['standard']}/{about['from']}/{about['to']}"
    exceptions = [item for item in evidence["exceptions"] if item["count"]]
    result = {
        "uuid": _uuid(scope, "result"),
        "title": f"Integrity of protected tables of {cluster['name']}",
        "description": f"Measured by {about['tool']}; {len(exceptions)} kinds of exceptions. Supports controls; satisfies none",
        "start": about["from"],
        "end": about["to"],
        "reviewed-controls": {
            "control-selections": [
                {
                    "description": about["title"],
                    "include-controls": [{"control-id": _token(control["id"])} for control in evidence["controls"]],
                }
            ]
        },
        "observations": [
            *(_control(scope, control, about["created"]) for control in evidence["controls"]),
            *(_exception(scope, item, about["created"]) for item in evidence["exceptions"]),
        ],
    }
    document = {
        "assessment-results": {
            "uuid": _uuid(scope, "document"),
            "metadata": {
                "title": f"witnz evidence, {about['title']}",
                "last-modified": about["created"],
                "version": about["created"],
                "oscal-version": VERSION,
                "roles": [{"id": "tool", "title": "The tool that measured"}],
                "parties": [{"uuid": _uuid(scope, "party"), "type": "organization", "name": cluster["name"]}],
                "responsible-parties": [{"role-id": "tool", "party-uuids": [_uuid(scope, "party")]}],
            },
            "import-ap": {"href": f"#{_uuid(scope, 'plan')}"},
            "results": [result],
            "back-matter": {"resources": _resources(scope, evidence_sha256)},
        }
    }
    return canonical(document) + b"\n"


def _control(scope: str, control: Mapping[str, Any], collected: str) -> dict[str, Any]:
    return {
        "uuid": _uuid(scope, "control", control["id"]),
        "title": f"{control['id']}: {control['title']}",
        "description": control["supports"],
        "methods": ["TEST", "EXAMINE"],
        "types": ["control-objective"],
        "props": [_prop("artefacts", " ".join(control["artefacts"])), *(_prop(*item) for item in control["figures"].items())],
        "relevant-evidence": [{"href": f"#{_uuid(scope, 'evidence')}", "description": "evidence.json of the package"}],
        "collected": collected,
        "remarks": f"Limits: {control['limits']}",
    }


def _exception(scope: str, item: Mapping[str, Any], collected: str) -> dict[str, Any]:
    return {
        "uuid": _uuid(scope, "exception", item["kind"]),
        "title": f"Exception: {item['kind']}",
        "description": f"{item['count']}: {item['text']}" + (f" ({item['detail']})" if item["detail"] else ""),
        "methods": ["TEST"],
        "types": ["finding" if item["count"] else "control-objective"],
        "props": [_prop("count", item["count"])],
        "collected": collected,
    }


def _prop(name: str, value: object) -> dict[str, str]:
    return {"name": _token(name), "ns": NAMESPACE, "value": str(value)}


def _resources(scope: str, evidence_sha256: str) -> list[dict[str, Any]]:
    hashed = {"algorithm": "SHA-256", "value": evidence_sha256}
    return [
        {
            "uuid": _uuid(scope, "evidence"),
            "title": "Evidence",
            "rlinks": [{"href": "evidence.json", "media-type": "application/json", "hashes": [hashed]}],
        },
        {
            "uuid": _uuid(scope, "plan"),
            "title": "What is assessed: the protected tables and their rules, as the journal records them",
            "rlinks": [{"href": "populations/configuration.csv", "media-type": "text/csv"}],
        },
    ]


def _token(text: str) -> str:
    """A name as OSCAL wants tokens: letters, digits, . _ -, a letter or _ first."""
    token = _TOKEN.sub("-", text).strip("-").lower()
    return token if token[:1].isalpha() or token[:1] == "_" else f"_{token}"


def _uuid(*parts: str) -> str:
    return str(uuid.uuid5(_TREE, "\n".join(parts)))
