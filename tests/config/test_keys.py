"""The table of keys: complete, explained, and what `config show` makes of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from tests.support.config_files import MINIMAL, SECRET, Load, loader, nested
from witnz import config
from witnz.config import Config, config_to_public_dict, explain_keys
from witnz.config.anchors import KEYS_OF
from witnz.errors import UsageError


@pytest.fixture
def load(tmp_path: Path) -> Load:
    return loader(tmp_path)


def test_the_public_dict_loads_again_to_the_same_configuration(load: Load) -> None:
    first = load(MINIMAL + "protected_tables: [{name: '\"a.b\"', verify_interval: 90s, alert: log}]\nmax_retained_wal: 512MB\n")
    public = config_to_public_dict(first)
    assert public["publication"] == first.publication
    second = load(yaml.safe_dump(public))
    assert config_to_public_dict(second) == public


def test_the_public_dict_masks_what_may_be_a_credential_of_an_anchor(load: Load) -> None:
    anchor = {
        "type": "custom", "endpoint_url": f"https://u:{SECRET}@rpc.example/v3/{SECRET}", "secret_access_key": SECRET,
        "signing_key": SECRET, "nested": {"token": SECRET}, "list": [f"https://x/{SECRET}"], "container": "b",
    }  # fmt: skip
    loaded = load(MINIMAL + yaml.safe_dump({"anchors": [anchor]}))
    shown = config_to_public_dict(loaded)["anchors"][0]
    assert SECRET not in json.dumps(shown) + repr(loaded)
    assert (shown["endpoint_url"], shown["signing_key"], shown["container"]) == (
        "https://rpc.example/********",
        "********",
        "b",
    )


def test_the_public_dict_of_a_known_anchor_has_the_keys_of_its_type_only(load: Load) -> None:
    anchor = {"type": "evm", "rpc_url": f"https://rpc.example/{SECRET}", "chain_id": "1", "key": SECRET}
    loaded = load(MINIMAL + yaml.safe_dump({"anchors": [anchor]}))
    shown = config_to_public_dict(loaded)["anchors"][0]
    assert SECRET not in json.dumps(shown) + repr(loaded)
    assert {"bucket", "directory", "calendars"}.isdisjoint(shown)
    assert (shown["chain_id"], shown["rpc_url"], shown["key"]) == (1, "********", "********")
    assert {secret.reveal() for secret in loaded.secrets()} == {SECRET, anchor["rpc_url"]}


def models() -> list[type[BaseModel]]:
    found = [Config]
    for model in found:
        for field in model.model_fields.values():
            names = re.findall(r"(\w+Config)\b", str(field.annotation))
            found += [inner for name in names if (inner := getattr(config, name, None)) and inner not in found]
    return found


def test_keys_are_complete_against_the_models() -> None:
    attributes = {
        (model, name)
        for model in models()
        for name in model.model_fields
        if model is not Config or name not in {"raft", "hash"}
    }
    assert len(attributes) > 60
    known = {key.attribute for key in config.KEYS}
    assert {name for _, name in attributes} <= known
    assert len({key.pattern for key in config.KEYS}) == len(config.KEYS)


@pytest.mark.parametrize("key", config.KEYS, ids=lambda key: key.pattern)
def test_every_key_has_meaning_what_is_allowed_and_an_example(key: config.Key) -> None:
    assert len(key.meaning) > 3
    assert key.meaning.endswith(".")
    assert key.allowed
    if key.form == "value":
        assert key.type
        assert key.example


ANCHORS: dict[str, dict[str, Any]] = {
    "basic": {"type": "basic"},
    "witness": {"type": "witness", "url": "https://w.example", "witness_key": "w+00000000+AA"},
    "s3": {"type": "s3", "bucket": "b"},
    "evm": {"type": "evm", "rpc_url": "https://rpc.example", "chain_id": "1", "key": "01"},
    "rfc3161": {"type": "rfc3161", "url": "https://tsa.example"},
    "opentimestamps": {"type": "opentimestamps"},
}

PLAIN_KEYS = [key for key in config.KEYS if key.form == "value" and not key.secret and not key.pattern.endswith("_file")]


@pytest.mark.parametrize("key", PLAIN_KEYS, ids=lambda key: key.pattern)
def test_every_example_is_a_value_that_its_key_takes(load: Load, key: config.Key) -> None:
    value = yaml.safe_load(key.example) if key.example[0] in "[{" else key.example
    document = yaml.safe_load(nested(key.pattern, "x"))
    place: Any = document
    *sections, last = key.pattern.split(".")
    for part in sections:
        place = place[part.removesuffix("[]")]
        place = place[0] if part.endswith("[]") else place
    place[last] = value
    if key.name == "on_tamper":
        place["retain"] = "rows"
        document["repair_url"] = "x"
    if key.pattern.startswith("anchors[]."):
        place |= ANCHORS[next((kind for kind, keys in KEYS_OF.items() if last in keys), "s3")] | {last: value}
    place.pop("name", None) if key.name == "schema" else None
    if key.name == "schema":
        place["name"] = "prices"
    load(yaml.safe_dump(document))


@pytest.mark.parametrize(
    ("asked", "patterns"),
    [
        ("node.id", ["node.id"]),
        ("protected_tables.mode", ["protected_tables[].mode"]),
        ("protected_tables[0].table", ["protected_tables[].name"]),
        ("verify_interval", ["protected_tables[].verify_interval"]),
        ("log", ["log", "log.level", "log.format"]),
    ],
)
def test_explain_finds_keys_as_people_write_them(asked: str, patterns: list[str]) -> None:
    assert [key.pattern for key in explain_keys(asked)] == patterns


def test_explain_of_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        explain_keys("node.idd")
    assert "node.id" in caught.value.hint
