"""witnz.yaml: :func:`load_config` and everything about the configuration that the rest of witnz uses.

    find the file -> parse it within bounds -> ${VAR} -> *_file, older names, relative paths -> rules and models -> Config

Every problem is found before any is reported: one :class:`~witnz.errors.ConfigError` lists them all, each with its line, path,
value (never of a secret, never what a variable expanded to) and what would be allowed.  Of the parts, ``sources`` reads,
``types`` knows the values, ``sections`` and ``schema`` the keys, ``rules`` what must hold between
them, ``keys`` the documentation.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from witnz.config.anchors import COMMON_KEYS, KEYS_OF, AnchorConfig
from witnz.config.keys import KEY_OF, KEYS, Key, children, explain_keys, format_value, nearest, pattern_of
from witnz.config.rules import check_rules
from witnz.config.schema import HISTORICAL, Config, default_cluster, default_publication, default_slot
from witnz.config.sections import (
    AlertsConfig,
    DatabaseConfig,
    EtcdConfig,
    LogConfig,
    MemberConfig,
    NodeConfig,
    OperatorConfig,
    TableConfig,
    WebhookConfig,
    WitnessConfig,
)
from witnz.config.sources import Document, PathKey, Problem, expand, find_config, format_path, read_document, read_secret
from witnz.config.types import MASK, Secret, check_http_url, parse_duration, parse_size, parse_table_reference, redact_url
from witnz.errors import ConfigError, FormatError

__all__ = [
    "KEYS",
    "MASK",
    "AlertsConfig",
    "AnchorConfig",
    "Config",
    "DatabaseConfig",
    "EtcdConfig",
    "Key",
    "LogConfig",
    "MemberConfig",
    "NodeConfig",
    "OperatorConfig",
    "Secret",
    "TableConfig",
    "WebhookConfig",
    "WitnessConfig",
    "config_to_public_dict",
    "default_cluster",
    "default_publication",
    "default_slot",
    "explain_keys",
    "find_config",
    "load_config",
    "parse_duration",
    "parse_size",
    "parse_table_reference",
]

_SECRET_OPTION: Final = re.compile(r"(?:pass|secret|token|credential|(?:^|_)key(?!_(?:id|file)$))")


def load_config(path: Path | None, env: Mapping[str, str]) -> Config:
    """The configuration in the file at ``path``, else in WITNZ_CONFIG, ./witnz.yaml or /etc/witnz/witnz.yaml.

    ``env`` is where ``${VAR}`` and WITNZ_CONFIG are looked up.  Relative paths in the file count from the file's folder.
    Raises :class:`ConfigError` with every problem there is.
    """
    document = read_document(find_config(path, env))
    tree, problems = expand(document.tree, env)
    filling = _Filling(document.path.absolute().parent)
    prepared: dict[str, Any] = filling.fill(tree, ())
    problems += filling.problems + check_rules(prepared)
    prepared.setdefault("cluster", default_cluster(str(_get(prepared, ("database", "database")))))
    config = None
    try:
        config = Config.model_validate(prepared)
    except ValidationError as error:
        found = [_problem(item, prepared, filling.moved) for item in error.errors(include_url=False, include_input=False)]
        told = {problem.path for problem in problems}
        problems += [problem for problem in found if problem.path not in told]
    # Raised outside the handler: a traceback of the ValidationError would carry the values of the file.
    if config is None or problems:
        raise _error(document, problems)
    config._path = document.path
    config._notices = tuple(filling.notices + _without_effect(prepared) + _open_secrets(document))
    return config


class _Filling:
    """One walk over the tree: secrets out of their files, older names to newer ones, paths made absolute, nulls left out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.problems: list[Problem] = []
        self.notices: list[str] = []
        #: Where a value stood in the file, for values that the walk put under another key.
        self.moved: dict[PathKey, PathKey] = {}

    def fill(self, value: Any, path: PathKey) -> Any:
        if isinstance(value, list):
            return [self.fill(item, (*path, place)) for place, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        known = children(pattern_of(path))
        filled: dict[str, Any] = {}
        for name, item in value.items():
            key = known.get(name)
            if key is None:
                filled[name] = item  # left for the model to refuse, or an anchor's own option
            elif item is not None:
                self._put(filled, key, (*path, name), item)
        return filled

    def _put(self, filled: dict[str, Any], key: Key, path: PathKey, item: Any) -> None:
        stem = key.name.removesuffix("_file")
        from_file = stem != key.name and KEY_OF.get(key.pattern.removesuffix("_file"), key).secret
        name = stem if from_file else key.name
        value = self._value(key, path, item, from_file=from_file)
        if value is None:
            return
        if name in filled and filled[name] != value:
            other = self.moved.get((*path[:-1], name), (*path[:-1], name))
            self.problems.append(Problem(path, f"is given beside {format_path(other)}; give one of them"))
            return
        filled[name] = value
        if name != path[-1]:
            self.moved[(*path[:-1], name)] = path

    def _value(self, key: Key, path: PathKey, item: Any, *, from_file: bool) -> Any:
        if from_file:
            return self._from_file(path, item)
        if key.secret and item == "":
            self.notices.append(f"{format_path(path)} is empty and counts as not set")
            return None
        if key.type == "path" and isinstance(item, str) and item:
            return str(self._folder / item)
        return self.fill(item, path)

    def _from_file(self, path: PathKey, item: Any) -> Secret | None:
        if not isinstance(item, str) or not item:
            self.problems.append(Problem(path, "must be a path"))
            return None
        try:
            secret, remark = read_secret(self._folder / item, format_path(path))
        except ConfigError as error:
            self.problems.append(Problem(path, f"names a file that cannot be used: {error.message}"))
            return None
        self.notices += [f"{format_path(path)}: {remark}"] if remark else []
        return secret


def _get(tree: Any, path: PathKey) -> Any:
    for part in path:
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            return None
    return tree


def _problem(item: Any, prepared: dict[str, Any], moved: dict[PathKey, PathKey]) -> Problem:
    """One of pydantic's errors as a Problem, at the place where the value stands in the file."""
    path: PathKey = tuple(item["loc"])
    section = path[:-1]
    if item["type"] == "extra_forbidden":
        words = list(children(pattern_of(section)))
        close = nearest(str(path[-1]), words)
        return Problem(path, f"unknown key; did you mean {close}?" if close else f"unknown key; here go {', '.join(words)}")
    key = KEY_OF.get(pattern_of(path))
    place = moved.get(path, path)
    if item["type"] == "missing":
        return Problem(place, f"is required: {key.meaning if key else 'it has no default'}")
    if item["type"] == "value":
        return Problem(place, item["ctx"]["reason"])
    found = _get(prepared, path)
    what = "a list" if isinstance(found, list) else "keys with values" if isinstance(found, dict) else "a single value"
    return Problem(place, f"must be {'a list' if key and key.form == 'list' else 'keys with values'}, found {what}")


def _error(document: Document, problems: list[Problem]) -> ConfigError:
    def line_of(problem: Problem) -> int:
        path = problem.path
        while path not in document.lines:  # a missing key: its section's line
            path = path[:-1]
        return document.lines[path]

    ordered = sorted(problems, key=line_of)
    lines = [f"  line {line_of(problem)}: {_format(problem, document)}" for problem in ordered]
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    known = [key for problem in ordered if (key := KEY_OF.get(pattern_of(problem.path)))]
    hint = f"`witnz config explain {known[0].pattern}` says more" if known else "`witnz config explain KEY` describes every key"
    return ConfigError(f"{document.path}: {count}\n" + "\n".join(lines), hint=hint)


def _format(problem: Problem, document: Document) -> str:
    """``path = "value": message``; the value as it stands in the file, and only of keys known to hold no secret."""
    key = KEY_OF.get(pattern_of(problem.path))
    written = _get(document.tree, problem.path)
    if key is None or key.secret or key.form != "value" or not isinstance(written, str):
        return f"{format_path(problem.path)}: {problem.message}"
    shown = redact_url(written if len(written) <= 60 else written[:57] + "...")
    printable = "".join(char if char.isprintable() else "?" for char in shown)
    return f'{format_path(problem.path)} = "{printable}": {problem.message}'


def _without_effect(prepared: dict[str, Any]) -> list[str]:
    present = [name for name in HISTORICAL if _get(prepared, tuple(name.split("."))) not in (None, [], {})]
    return [f"{name} has no effect: {HISTORICAL[name]}" for name in present]


def _open_secrets(document: Document) -> list[str]:
    """A notice where secrets are written out in a file that others can read."""
    written = [path for path in document.lines if (key := KEY_OF.get(pattern_of(path))) and key.secret]
    literal = [format_path(path) for path in written if "${" not in str(_get(document.tree, path) or "${")]
    if not literal or not document.path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        return []
    return [f"{document.path} can be read by others and holds {', '.join(literal)}: use ${{VAR}} or the _file key instead"]


def config_to_public_dict(config: Config) -> dict[str, Any]:
    """The effective configuration under the file's own keys, derived names filled in, every secret as ``********``.

    Durations and sizes are texts as in the file.  Keys without effect are left out.
    """
    public = _public(config, "")
    public["publication"] = config.publication
    if config.node.id:
        public["slot_name"] = config.slot_name
    if config.node.data_dir:
        public["socket_path"] = str(config.socket_path)
    return public


def _public(section: BaseModel, pattern: str) -> dict[str, Any]:
    public: dict[str, Any] = {}
    for name, key in children(pattern).items():
        is_file = key.name.endswith("_file") and key.attribute != key.name
        if name != key.name or is_file or key.historical or not _belongs(section, name):
            continue
        value = getattr(section, key.attribute)
        if key.form == "section":
            public[name] = _public(value, key.pattern)
        elif key.form == "list":
            public[name] = [_public(item, f"{key.pattern}[]") for item in value]
        else:
            public[name] = _public_value(key, value)
    if isinstance(section, AnchorConfig):
        public |= {name: _public_option(name, value) for name, value in section.options.items()}
    if isinstance(section, TableConfig):
        public |= {"name": section.name, "schema": None}  # the name says it
    return public


def _belongs(section: BaseModel, name: str) -> bool:
    """Whether a key says anything there: of an anchor, only those of its type."""
    if not isinstance(section, AnchorConfig):
        return True
    return name in COMMON_KEYS or name in KEYS_OF.get(section.type, ())


def _public_value(key: Key, value: Any) -> Any:
    if value is None:
        return None
    if key.secret:
        return MASK
    if key.type == "addresses":
        return dict(value) if all(node for node, _ in value) else [address for _, address in value]
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, bool | int) and key.type != "size" else format_value(key.type, value)


def _public_option(name: str, value: Any) -> Any:
    """An anchor's option: its sort is known only to the anchor, so what may be a credential is masked, paths of URLs too."""
    if isinstance(value, dict):
        return {str(inner): _public_option(str(inner), item) for inner, item in value.items()}
    if _SECRET_OPTION.search(name.lower()):
        return MASK
    if isinstance(value, list):
        return [_public_option(name, item) for item in value]
    try:
        parts = urlsplit(check_http_url(str(value)))
    except FormatError:
        return redact_url(str(value))
    origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return f"{origin}/{MASK}" if parts.path.strip("/") or parts.query else origin
