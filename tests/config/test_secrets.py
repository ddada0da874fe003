"""Secrets of witnz.yaml: from the file, from files of their own, from the environment; shown nowhere."""

from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from tests.support.config_files import MINIMAL, SECRET, Load, loader, nested, refusal
from witnz import config
from witnz.config import Config, Secret, config_to_public_dict, load_config
from witnz.errors import ConfigError


@pytest.fixture
def load(tmp_path: Path) -> Load:
    return loader(tmp_path)


SECRET_KEYS = [key for key in config.KEYS if key.secret]


def test_every_secret_has_a_file_key_and_none_else_has() -> None:
    names = {key.pattern for key in SECRET_KEYS}
    assert {key.pattern for key in config.KEYS if key.pattern.endswith("_file")} == {f"{name}_file" for name in names}
    assert {
        "database.password",
        "alerts.slack_webhook",
        "alerts.pagerduty_key",
        "alerts.webhooks[].secret",
        "repair_url",
    } <= names


def revealed(loaded: BaseModel, pattern: str) -> str:
    value: Any = loaded
    for part in pattern.split("."):
        value = getattr(value, part.removesuffix("[]"))
        value = value[0] if part.endswith("[]") else value
    assert isinstance(value, Secret)
    return value.reveal()


@pytest.mark.parametrize("pattern", [key.pattern for key in SECRET_KEYS])
def test_each_secret_is_read_from_its_file_and_shown_nowhere(load: Load, tmp_path: Path, pattern: str) -> None:
    secret = f"https://hooks.example.com/{SECRET}"
    (tmp_path / "secret").write_text(secret + "\n")
    (tmp_path / "secret").chmod(0o600)
    for loaded in (load(nested(f"{pattern}_file", "secret")), load(nested(pattern, secret))):
        assert revealed(loaded, pattern) == secret
        shown = (
            repr(loaded)
            + str(loaded)
            + json.dumps(config_to_public_dict(loaded))
            + str(loaded.model_dump())
            + repr(loaded.secrets())
        )
        assert SECRET not in shown
        assert "********" in shown
        assert [entry.reveal() for entry in loaded.secrets()].count(secret) == 1
        assert loaded.notices == ()


@pytest.mark.parametrize("pattern", [key.pattern for key in SECRET_KEYS])
def test_a_secret_given_twice_is_refused(load: Load, tmp_path: Path, pattern: str) -> None:
    (tmp_path / "secret").write_text(f"https://x/{SECRET}")
    document = yaml.safe_load(nested(pattern, f"https://y/{SECRET}"))
    place: Any = document
    *sections, last = pattern.split(".")
    for part in sections:
        place = place[part.removesuffix("[]")]
        place = place[0] if part.endswith("[]") else place
    place[f"{last}_file"] = "secret"
    assert "is given beside" in str(refusal(load, yaml.safe_dump(document)))


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "no such file"), (b"", "is empty"), (b"\xff\xfe", "not UTF-8"), (b"x" * 70_000, "at most 65536 bytes")],
    ids=["missing", "empty", "binary", "huge"],
)
def test_a_secret_file_that_cannot_be_used_is_refused(load: Load, tmp_path: Path, content: bytes | None, expected: str) -> None:
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    error = refusal(load, nested("database.password_file", "secret"))
    assert 'database.password_file = "secret": names a file that cannot be used' in str(error)
    assert expected in str(error).lower() or expected in str(error)


def test_a_fifo_as_secret_file_does_not_block(load: Load, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "secret")
    assert "expected a regular file" in str(refusal(load, nested("database.password_file", "secret")))


def test_a_secret_that_this_user_may_not_read_fails_only_when_asked_for() -> None:
    secret = Secret("", problem="database.password_file: cannot read /x: permission denied")
    loaded = Config.model_validate(
        {"cluster": "c", "database": {"host": "h", "database": "d", "user": "u", "password": secret}}
    )
    assert secret.problem in loaded.missing_for_start()
    with pytest.raises(ConfigError, match="permission denied"):
        loaded.database.connection_params()


def test_a_secret_is_never_copied_out_serialised_or_compared_by_text() -> None:
    secret = Secret(SECRET, source="test")
    assert copy.deepcopy(secret) is secret
    assert f"{secret} {secret!r} {[secret]}".count("********") == 3
    assert secret == Secret(SECRET)
    assert secret != SECRET
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def test_an_empty_secret_counts_as_not_set_and_is_noticed(load: Load) -> None:
    loaded = load(MINIMAL + "alerts: {slack_webhook: '${SLACK}'}\n", {"SLACK": ""})
    assert loaded.alerts.slack_webhook is None
    assert loaded.notices == ("alerts.slack_webhook is empty and counts as not set",)


def test_secrets_that_others_can_read_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "witnz.yaml"
    path.write_text(nested("database.password", SECRET))
    path.chmod(0o644)
    (notice,) = load_config(path, {}).notices
    assert "database.password" in notice
    assert SECRET not in notice
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o644)
    path.write_text(nested("database.password_file", "secret"))
    (notice,) = load_config(path, {}).notices
    assert "chmod 600" in notice
