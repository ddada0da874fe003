"""From bytes to a plain tree: the file found, read as YAML within strict bounds, ``${VAR}`` and ``*_file`` filled in.

    bytes -> read_document -> Document(tree of dict, list, str and None; the line of every path)
          -> expand        -> the same tree with ${VAR} replaced, and one Problem for every variable that is not set
          -> read_secret   -> a Secret out of a file

What is refused before anything is built: more than 1 MiB, nesting deeper than 32, more than 20,000 values, aliases (a small
file can otherwise stand for a huge one), tags, merge keys, keys that are no text, a key given twice.  Nothing is ever resolved
to a number or a boolean here: text stays text until its key says what it is.  No message repeats a line of the file, which may
hold a password; PyYAML's own messages would.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from witnz.config.types import Secret
from witnz.errors import ConfigError

MAX_CONFIG_BYTES: Final = 1 << 20
MAX_SECRET_BYTES: Final = 64 << 10
MAX_DEPTH: Final = 32
MAX_VALUES: Final = 20_000
SEARCH: Final = (Path("witnz.yaml"), Path("/etc/witnz/witnz.yaml"))
ENVIRONMENT_VARIABLE: Final = "WITNZ_CONFIG"

PathKey = tuple[str | int, ...]
Tree = dict[str, "Tree"] | list["Tree"] | str | Secret | None

_VARIABLE = re.compile(r"\$(\$)?\{([^}]*)(\}?)")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LITERAL_TAGS = frozenset({"!", None})


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration.  ``message`` completes "<path> …" and never holds a secret."""

    path: PathKey
    message: str
    value: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: its values as text, and for every path the line (from 1) it starts on."""

    path: Path
    tree: dict[str, Any]
    lines: dict[PathKey, int] = field(default_factory=dict)


def find_config(path: Path | None, env: Mapping[str, str]) -> Path:
    """The file to read: ``path``, else WITNZ_CONFIG, else the first of ./witnz.yaml and /etc/witnz/witnz.yaml that exists.

    Raises :class:`ConfigError` where there is none; a file that was named and is missing is never replaced by another.
    """
    if path is not None:
        return path
    if named := env.get(ENVIRONMENT_VARIABLE):
        return Path(named)
    for candidate in SEARCH:
        if candidate.exists():
            return candidate
    searched = ", ".join(str(candidate) for candidate in SEARCH)
    raise ConfigError(
        f"no configuration found: neither --config nor {ENVIRONMENT_VARIABLE} is given, and there is none of {searched}",
        hint="run `witnz init` to write one, or name it with --config",
        code="config.missing",
    )


def read_document(path: Path) -> Document:
    """Read and parse the file at ``path``.  Raises :class:`ConfigError` for anything but one YAML mapping within the bounds."""
    try:
        data = _read_bounded(path, MAX_CONFIG_BYTES)
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror or 'cannot be read'}", hint="the file must be readable by this user"
        ) from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8, found another byte at offset {error.start}") from None
    return parse_document(text, path)


def parse_document(text: str, path: Path) -> Document:
    """The document in ``text``; ``path`` is what messages call it."""
    builder = _Builder(path)
    failure = ""
    try:
        builder.check_bounds(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        failure = _describe(error)
    if failure:  # outside the handler, so that no traceback carries the parser's excerpt of the file
        raise ConfigError(
            f"{path}: not valid YAML: {failure}",
            hint="the mistake is there or just before: brackets, quotes, or a tab as indentation",
        )
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(
            f"{path}: expected keys and values (cluster: …), found {'nothing' if node is None else 'something else'}"
        )
    tree = builder.build(node, ())
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected keys and values (cluster: …)")
    return Document(path, tree, builder.lines)


class _Builder:
    """Turns YAML nodes into a plain tree, remembering lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lines: dict[PathKey, int] = {}

    def check_bounds(self, text: str) -> None:
        """Depth, number and sort of the parser's events, before any of them becomes an object.

        Events come out of a state machine, so no depth of nesting can exhaust the interpreter's stack here.
        """
        depth = count = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            line = event.start_mark.line + 1 if event.start_mark else 0
            if isinstance(event, yaml.AliasEvent):
                self._refuse(line, "aliases (*name) are not supported; write the value out")
            if isinstance(event, yaml.NodeEvent):
                count += 1
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > MAX_DEPTH:
                self._refuse(line, f"expected at most {MAX_DEPTH} levels of nesting")
            if count > MAX_VALUES:
                self._refuse(line, f"expected at most {MAX_VALUES} values")
            if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag not in _LITERAL_TAGS:
                self._refuse(line, "tags (!name) are not supported")

    def build(self, node: yaml.Node, path: PathKey) -> Any:
        self.lines[path] = node.start_mark.line + 1
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return dict(self._items(node, path))
        return None if node.tag == "tag:yaml.org,2002:null" else str(node.value)

    def _items(self, node: yaml.MappingNode, path: PathKey) -> Iterator[tuple[str, Any]]:
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                self._refuse(line, "expected a plain key (no merge key, list or mapping)")
            key = key_node.value
            if key in seen:
                self._refuse(line, f"{format_path((*path, key))} is given twice, first in line {seen[key]}")
            seen[key] = line
            yield key, self.build(value_node, (*path, key))
            self.lines[(*path, key)] = line

    def _refuse(self, line: int, reason: str) -> None:
        raise ConfigError(f"{self._path}: line {line}: {reason}")


def format_path(path: PathKey) -> str:
    """``protected_tables[1].mode`` for ("protected_tables", 1, "mode"); a key longer than 60 characters is cut."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{_short(part)}"
    return text.removeprefix(".")


def _short(key: str) -> str:
    printable = "".join(char if char.isprintable() else "?" for char in key)
    return printable if len(printable) <= 60 else printable[:57] + "..."


def _describe(error: yaml.YAMLError) -> str:
    """Where and what, without the excerpt of the file that str(error) carries."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        # The parser's sentences quote single tokens of the file; everything in quotes may be part of a value.
        return where + re.sub(r"'[^']*'", "…", error.problem or error.context or "unreadable")
    if isinstance(error, yaml.reader.ReaderError):
        return f"a character that YAML does not allow, at offset {error.position}"
    return "unreadable"


def expand(tree: Any, env: Mapping[str, str]) -> tuple[Any, list[Problem]]:
    """``tree`` with every ``${VAR}`` in its texts replaced from ``env``, once; ``$${`` stands for a literal ``${``.

    A variable that is not set, or a ``${`` that is not a variable, is a Problem that names it and the path; the text then
    stays as it is, so that everything else can still be checked.
    """
    problems: list[Problem] = []
    return _expand(tree, (), env, problems), problems


def _expand(value: Any, path: PathKey, env: Mapping[str, str], problems: list[Problem]) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item, (*path, key), env, problems) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, (*path, index), env, problems) for index, item in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value

    def replace(match: re.Match[str]) -> str:
        escaped, name, closed = match.groups()
        if escaped:
            return match[0][1:]
        if not closed or _VARIABLE_NAME.fullmatch(name) is None:
            problems.append(Problem(path, "holds a ${ that names no variable; write ${NAME}, or $${ for a literal ${"))
        elif name not in env:
            problems.append(Problem(path, f"the environment variable {name} is not set"))
        else:
            return env[name]
        return match[0]

    return _VARIABLE.sub(replace, value)


def read_secret(path: Path, source: str) -> tuple[Secret, str]:
    """The secret in the file at ``path`` without its final newline, and a remark ("" or that others can read the file too).

    A file that this user may not read gives a Secret that says so when it is revealed: an auditor can use the configuration
    without the operator's secrets.  Raises :class:`ConfigError` for a file that is missing, empty, no file, over 64 KiB or
    not UTF-8; the message never holds any of its content.
    """
    try:
        mode = path.stat().st_mode
        data = _read_bounded(path, MAX_SECRET_BYTES)
    except PermissionError:
        return Secret("", source=source, problem=f"{source}: cannot read {path}: permission denied"), ""
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or 'failed'}") from None
    try:
        text = data.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None
    if not text:
        raise ConfigError(f"{path} is empty")
    loose = bool(mode & (stat.S_IRGRP | stat.S_IROTH))
    return Secret(text, source=f"{source} {path}"), f"{path} can be read by others: chmod 600 {path}" if loose else ""


def _read_bounded(path: Path, limit: int) -> bytes:
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: expected a regular file")  # a FIFO or device would block or never end
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file", hint="is the path right? `witnz init` writes a new one", code="config.missing"
        ) from None
    if len(data) > limit:
        raise ConfigError(f"{path}: expected at most {limit} bytes")
    return data
