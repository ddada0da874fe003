"""Every key of witnz.yaml in one table, read off the models: for ``witnz config explain``, the reference, and the loader.

:data:`KEYS` is derived, not written: a key that a model has is in it, with the model's own default and description.  A key is
addressed by its pattern, ``protected_tables[].mode``; secrets have a second key, ``<name>_file``, that no model has, because
the loader turns it into the first.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from witnz.config.schema import HISTORICAL, Config
from witnz.config.sources import PathKey
from witnz.config.types import Kind, format_duration, format_size
from witnz.errors import UsageError

_ONE = re.compile(r"\[\d+\]")
_DERIVED: Final = {
    "cluster": "local/<database>",
    "socket_path": "<node.data_dir>/witnz.sock",
    "slot_name": "witnz_<node>_<hash>",
    "publication": "witnz_<cluster>_<hash>",
    "alerts.webhooks[].name": "webhook, webhook2, …",
}


@dataclass(frozen=True, slots=True)
class Key:
    """One key.  ``default`` is text as the file would have it, "required", or "" (nothing); ``allowed`` completes "must be"."""

    pattern: str
    attribute: str
    form: Literal["section", "list", "value"]
    type: str
    allowed: str
    default: str
    meaning: str
    example: str
    secret: bool = False
    open: bool = False
    historical: bool = False
    also: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The last part, as it stands in the file."""
        return self.pattern.rpartition(".")[2].removesuffix("[]")


def pattern_of(path: PathKey) -> str:
    """``protected_tables[].mode`` for ("protected_tables", 1, "mode")."""
    return "".join("[]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _walk(model: type[BaseModel], prefix: str) -> Iterator[Key]:
    for attribute, field in model.model_fields.items():
        names = _names(attribute, field)
        pattern = prefix + names[0]
        historical = any(pattern == old or pattern.startswith(f"{old}.") for old in HISTORICAL)
        nested, many = _nested(field.annotation)
        if nested is not None:
            meaning = field.description or " ".join((nested.__doc__ or "").split())
            extra = nested.model_config.get("extra") == "allow"
            form: Literal["list", "section"] = "list" if many else "section"
            words = "a list, each with keys of its own" if many else "keys with values"
            example = (field.examples or [""])[0]
            yield Key(pattern, attribute, form, form, words, "[]" if many else "", meaning, example, False, extra, historical)
            yield from _walk(nested, f"{pattern}[]." if many else f"{pattern}.")
            continue
        kind = _kind(field)
        secret = kind.name.startswith("secret")
        also = tuple(prefix + name for name in names[1:])
        yield Key(
            pattern,
            attribute,
            "value",
            kind.name,
            kind.allowed,
            _DERIVED.get(pattern, _default(field)),
            str(field.description),
            str((field.examples or [""])[0]),
            secret,
            historical=historical,
            also=also,
        )
        if secret:
            yield _file_key(pattern, attribute, names[0])


def _file_key(pattern: str, attribute: str, name: str) -> Key:
    return Key(
        f"{pattern}_file",
        attribute,
        "value",
        "path",
        "a path; a relative one counts from the config file's folder",
        "",
        f"File that holds {name}, mode 0600; instead of {name}.",
        f"/run/secrets/{name}",
    )


def _names(attribute: str, field: FieldInfo) -> tuple[str, ...]:
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return tuple(str(choice) for choice in alias.choices)
    return (str(alias or attribute),)


def _nested(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The section model behind a field, and whether the field is a list of them."""
    many = bool(get_args(annotation))
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate, many
    return None, False


def _kind(field: FieldInfo) -> Kind:
    """The reader of a field, wherever pydantic keeps it: beside the type, or inside ``Annotated[…] | None``."""
    for item in (
        *field.metadata,
        *(part for choice in get_args(field.annotation) for part in getattr(choice, "__metadata__", ())),
    ):
        if isinstance(item, Kind):
            return item
    raise TypeError(f"{field!r} has no kind")


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[]"
    return format_value(_kind(field), value)


def format_value(kind_or_type: Kind | str, value: Any) -> str:
    """``value`` as text of the file: durations and sizes with their unit."""
    name = kind_or_type if isinstance(kind_or_type, str) else kind_or_type.name
    if name == "duration":
        return format_duration(value)
    return format_size(value) if name == "size" else str(value)


KEYS: Final[tuple[Key, ...]] = tuple(_walk(Config, ""))
KEY_OF: Final[dict[str, Key]] = {name: key for key in KEYS for name in (key.pattern, *key.also)}


def children(pattern: str) -> dict[str, Key]:
    """The keys directly under a section (``database``), a list's items (``nodes[]``) or the top (""), by name."""
    prefix = f"{pattern}." if pattern else ""
    names = ((name.removeprefix(prefix), key) for name, key in KEY_OF.items() if name.startswith(prefix))
    return {name: key for name, key in names if "." not in name}


def nearest(word: str, words: list[str]) -> str | None:
    """The one of ``words`` that ``word`` most likely meant, if any."""
    found = difflib.get_close_matches(word.lower().replace("-", "_"), words, n=1, cutoff=0.6)
    return found[0] if found else None


def explain_keys(text: str) -> list[Key]:
    """The keys that ``text`` names: one (``node.id``, ``protected_tables[0].mode``), a section with everything under it, or
    every key of that last part (``verify_interval``).

    Raises :class:`UsageError` with the nearest name where there is none.
    """
    wanted = _ONE.sub("[]", text.strip())
    loose = {name.replace("[]", ""): key for name, key in KEY_OF.items()}
    key = KEY_OF.get(wanted) or loose.get(wanted.replace("[]", ""))
    if key is not None and key.form == "value":
        return [key]
    if key is not None:
        return [key, *(other for other in KEYS if other.pattern.startswith((f"{key.pattern}.", f"{key.pattern}[].")))]
    named = [other for other in KEYS if other.name == wanted]
    if named:
        return named
    close = nearest(wanted, list(loose))
    raise UsageError(
        f"there is no key {text[:60]!r} in witnz.yaml",
        hint=f"did you mean {close}?" if close else "`witnz config show` lists every key",
    )
