"""Writing witnz.yaml, and editing its list of protected tables without touching anything else in it.

An edit is made on the text, so that comments, order and layout stay, and is believed only after the new text was parsed: it
must list exactly the tables that were meant and say the same as before otherwise.  Where that does not come out (a layout that
nobody thought of) nothing is written and the person is told what to write.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from witnz.errors import ConfigError, KeyProblem, StoreFull, WitnzError
from witnz.store.datadir import sync_directory

if TYPE_CHECKING:
    from witnz.config import Config

LIST: Final = "protected_tables"
DEFAULT_MODE: Final = "state_integrity"

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_WORDS_OF_YAML = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
_PART = re.compile(r'[^".%$\x00-\x1f\x7f]+')


@dataclass(frozen=True, slots=True)
class NewTable:
    """An item to be added.  ``schema`` and ``table`` are raw identifiers; ``rules`` further keys with their text."""

    schema: str
    table: str
    rules: Mapping[str, str]

    @property
    def name(self) -> str:
        """The canonical name of formats.md."""
        from witnz.core.names import format_table_name

        return format_table_name(self.schema, self.table)

    def item(self) -> str:
        """The item as it is written: ``{name: billing.prices, mode: append_only}``."""
        written = {"name": self._reference(), **self.rules}
        return "{" + ", ".join(f"{key}: {scalar(value)}" for key, value in written.items()) + "}"

    def _reference(self) -> str:
        """What :func:`witnz.config.parse_table_reference` reads back; encoded where plain text could be taken otherwise."""
        if any(char in self.schema + self.table for char in "%$"):
            return self.name
        parts = [self.table] if self.schema == "public" else [self.schema, self.table]
        return ".".join(part if _PART.fullmatch(part) else '"' + part.replace('"', '""') + '"' for part in parts)


def scalar(text: str) -> str:
    """A text as YAML: plain where that is safe, else double-quoted, with ``$${`` for a literal ``${``."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS_OF_YAML:
        return text
    if re.fullmatch(r"[0-9]{1,9}", text) or re.fullmatch(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}", text):
        return text
    return json.dumps(text.replace("${", "$${"), ensure_ascii=False)


# -- editing ------------------------------------------------------------------------------------------------------------------


def add_tables(text: str, tables: Sequence[NewTable]) -> str:
    """``text`` with items at the end of the list, which is begun where there is none."""
    items = [table.item() for table in tables]
    found = _find(text)
    if found is None:
        start = text if text.endswith("\n") or not text else text + "\n"
        return start + f"{LIST}:\n" + "".join(f"  - {item}\n" for item in items)
    key, value = found
    if not hasattr(value, "value") or isinstance(value.value, str):  # nothing, or null
        emptied = text[: value.start_mark.index] + text[value.end_mark.index :]
        return _insert_lines(emptied, key.end_mark.index, [f"  - {item}" for item in items])
    if value.flow_style:
        return _into_flow(text, value, items)
    indent = " " * value.start_mark.column
    at = _content_end(value.value[-1])
    return _insert_lines(text, at, [f"{indent}- {item}" for item in items])


def remove_tables(text: str, places: Sequence[int]) -> str:
    """``text`` without the items at these places (from 0); comments above an item stay."""
    for place in sorted(places, reverse=True):
        found = _find(text)
        if found is None or not isinstance(found[1].value, list) or place >= len(found[1].value):
            return text
        key, value = found
        node = value.value[place]
        if value.flow_style:
            text = _out_of_flow(text, value, place)
            continue
        start = text.rfind("\n", 0, text.rfind("-", 0, node.start_mark.index) + 1) + 1
        end = _line_end(text, _content_end(node))
        text = text[:start] + text[end:]
        if len(value.value) == 1:
            colon = text.index(":", key.end_mark.index) + 1
            text = f"{text[:colon]} []{text[colon:]}"
    return text


def _find(text: str) -> tuple[Any, Any] | None:
    """The nodes of the list's key and value."""
    import yaml

    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for key, value in getattr(root, "value", ()) if isinstance(root, yaml.MappingNode) else ():
        if key.value == LIST:
            return key, value
    return None


def _content_end(node: Any) -> int:
    """Where the last character of a node is; a block's own end mark stands behind the comments that follow it."""
    if isinstance(node.value, str):
        return int(node.end_mark.index) - (1 if node.style in ("|", ">") else 0)
    if node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    if isinstance(last, tuple):
        return max(_content_end(last[0]), _content_end(last[1]))
    return _content_end(last)


def _line_end(text: str, at: int) -> int:
    """Behind the newline of the line that ``at`` is in."""
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1


def _insert_lines(text: str, at: int, lines: Sequence[str]) -> str:
    """``lines`` below the line that ``at`` is in."""
    end = _line_end(text, at)
    before = text[:end] if text[:end].endswith("\n") else text[:end] + "\n"
    return before + "".join(f"{line}\n" for line in lines) + text[end:]


def _into_flow(text: str, value: Any, items: Sequence[str]) -> str:
    close = value.end_mark.index - 1
    before = text[:close].rstrip()
    comma = "" if before.endswith(("[", ",")) else ","
    space = "" if before.endswith("[") else " "
    return before + comma + space + ", ".join(items) + text[close:]


def _out_of_flow(text: str, value: Any, place: int) -> str:
    nodes = value.value
    if place + 1 < len(nodes):
        return text[: nodes[place].start_mark.index] + text[nodes[place + 1].start_mark.index :]
    start = nodes[place - 1].end_mark.index if place else nodes[0].start_mark.index
    return text[:start] + text[value.end_mark.index - 1 :]


# -- believing and writing ----------------------------------------------------------------------------------------------------


def by_hand(tables: Sequence[NewTable]) -> str:
    """What to write where the file is not edited automatically."""
    return f"add below {LIST} by hand:\n" + "\n".join(f"  - {table.item()}" for table in tables)


def read_text(path: Path) -> str:
    """The file as it is, with its line ends."""
    with path.open(encoding="utf-8", newline="") as stream:
        return stream.read()


def load_edited(before: Config, text: str, names: Sequence[str], otherwise: str) -> Config:
    """What ``text`` says in the place of the file that ``before`` was read from.

    Raises ConfigError, with ``otherwise`` as its hint, unless it lists exactly the tables ``names`` and else says the same;
    KeyProblem with it where the file is another user's, as one below /etc is.
    """
    from witnz.config import config_to_public_dict, load_config

    if before.path is None:
        raise ConfigError("the configuration was not read from a file")
    trial = before.path.resolve().with_name(f".{before.path.name}.{secrets.token_hex(8)}")
    try:
        _write_private(trial, text)
        edited = load_config(trial, os.environ)
    except OSError as error:
        raise _cannot_write(before.path, error, otherwise) from None
    finally:
        trial.unlink(missing_ok=True)
    old, new = config_to_public_dict(before), config_to_public_dict(edited)
    kept = {table["name"]: table for table in old.pop(LIST)}
    listed = new.pop(LIST)
    unchanged = all(kept[table["name"]] == table for table in listed if table["name"] in kept)
    if old != new or [table["name"] for table in listed] != list(names) or not unchanged:
        raise ConfigError(
            f"{before.path}: {LIST} is laid out in a way that is not edited automatically", hint=otherwise, code="config.layout"
        )
    return edited


def replace_file(path: Path, text: str) -> None:
    """Put ``text`` in the place of a file, whole or not at all; its permissions and owner stay.

    Raises KeyProblem where it may not be written, StoreFull where it cannot.
    """
    target = path.resolve()
    new = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        _write_private(new, text)
        if target.exists():
            shutil.copymode(target, new)
            status = target.stat()
            with suppress(PermissionError):  # only root gives files away
                os.chown(new, status.st_uid, status.st_gid)
        new.replace(target)
        sync_directory(target.parent)
    except OSError as error:
        raise _cannot_write(path, error) from None
    finally:
        new.unlink(missing_ok=True)


def _write_private(path: Path, text: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(file, "w", encoding="utf-8", newline="") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


_ANOTHER_USER: Final = "run it as the user that may write there, or name another file with --config"


def _cannot_write(path: Path, error: OSError, otherwise: str = "") -> WitnzError:
    text = f"configuration {path} cannot be written: {error.strerror}"
    if isinstance(error, PermissionError):
        hint = f"as whoever may write it: {otherwise}\nthen run this command again" if otherwise else _ANOTHER_USER
        return KeyProblem(text, hint=hint, code="config.permission")
    return StoreFull(text, hint="make room, or have the volume mounted for writing")
