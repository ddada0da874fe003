"""Configurations for the tests of the configuration."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from witnz.config import Config, load_config
from witnz.errors import ConfigError

MINIMAL = "database: {host: db, database: app, user: witnz}\nnode: {id: node1, data_dir: /var/lib/witnz}\n"
SECRET = "hunter2-never-shown"

Load = Callable[..., Config]


def loader(folder: Path) -> Load:
    """``load(text, env)``: the configuration of ``text`` as a private witnz.yaml in ``folder``."""

    def load_text(text: str, env: Mapping[str, str] | None = None) -> Config:
        path = folder / "witnz.yaml"
        path.write_text(text)
        path.chmod(0o600)
        return load_config(path, env or {})

    return load_text


def refusal(load: Load, text: str, env: Mapping[str, str] | None = None) -> ConfigError:
    """The error that ``text`` gives; neither it nor its traceback may hold :data:`SECRET`."""
    with pytest.raises(ConfigError) as caught:
        load(text, env)
    assert caught.value.exit_code == 2
    shown = "".join(traceback.format_exception(caught.value)) + caught.value.hint
    assert SECRET not in shown
    return caught.value


def nested(pattern: str, value: str) -> str:
    """A config whose key ``pattern`` has ``value``."""
    others: dict[str, Any] = {
        "protected_tables": {"name": "t"},
        "webhooks": {"url": "https://h/"},
        "anchors": {"type": "of-another-package"},
    }
    others["operators"] = {"name": "alice", "key": "vGZHmcl5HW/mYCXlB2mcwIsTClVxfhuqfhqA6OQ9Vbo="}
    document: dict[str, Any] = {"database": {"host": "db", "database": "app", "user": "w"}}
    place = document
    *sections, last = pattern.split(".")
    for section in sections:
        name = section.removesuffix("[]")
        inner = dict(others.get(name, {}) if (name, last.removesuffix("_file")) != ("webhooks", "url") else {})
        if section.endswith("[]"):
            place[name] = [inner]
        else:
            inner = place.setdefault(name, inner)
        place = inner
    place[last] = value
    return yaml.safe_dump(document)
