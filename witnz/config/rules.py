"""What must hold between keys, checked on the plain tree, so that it is reported together with everything else.

pydantic looks at a model as a whole only once all of its fields are good; these rules do not wait for that.  Each skips what
it cannot read, because that is reported where it stands.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Any, Final

from witnz.config.anchors import COMMON_KEYS, KEYS_OF, REQUIRED_OF
from witnz.config.sections import BUILT_IN_SINKS, default_webhook_name
from witnz.config.sources import Problem
from witnz.config.types import parse_table_reference
from witnz.core.names import format_table_name
from witnz.errors import FormatError

Rule = Callable[[dict[str, Any]], Iterator[Problem]]


def check_rules(tree: dict[str, Any]) -> list[Problem]:
    """Every rule's problems in the prepared ``tree`` (see :mod:`witnz.config`), in the order of :data:`RULES`."""
    return [problem for rule in RULES for problem in rule(tree)]


def _items(tree: dict[str, Any], *path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    value: Any = tree
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    for place, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, dict):
            yield place, item


def _tables_once(tree: dict[str, Any]) -> Iterator[Problem]:
    """A table is listed once, and its schema is said once."""
    seen: dict[str, int] = {}
    for place, table in _items(tree, "protected_tables"):
        written = "name" if "name" in table else "table"
        try:
            schema, name = parse_table_reference(table.get(written) or "")
            given = table.get("schema")
            canonical = format_table_name(given if isinstance(given, str) else schema or "public", name)
        except (FormatError, TypeError):
            continue
        if schema is not None and given is not None:
            yield Problem(("protected_tables", place, "schema"), f"is given beside {written}, which already says {schema}")
        elif canonical in seen:
            message = f"is {canonical}, which protected_tables[{seen[canonical]}] already lists"
            yield Problem(("protected_tables", place, written), message)
        seen.setdefault(canonical, place)


def _sinks_exist(tree: dict[str, Any]) -> Iterator[Problem]:
    """Webhooks have names of their own, and tables name only places that findings can be sent to."""
    names = list(BUILT_IN_SINKS)
    for place, hook in _items(tree, "alerts", "webhooks"):
        name = hook.get("name") or default_webhook_name(place)
        if name in names:
            yield Problem(("alerts", "webhooks", place, "name"), f"is {name}, which is taken; give this webhook another name")
        elif isinstance(name, str):
            names.append(name)
    for place, table in _items(tree, "protected_tables"):
        alert = table.get("alert")
        for name in [alert] if isinstance(alert, str) else alert if isinstance(alert, list) else []:
            if isinstance(name, str) and name not in names:
                yield Problem(("protected_tables", place, "alert"), f"names {name[:40]!r}; there is {', '.join(names)}")


def _repair_can_work(tree: dict[str, Any]) -> Iterator[Problem]:
    """Repairing needs the recorded rows and a connection that may write."""
    for place, table in _items(tree, "protected_tables"):
        if table.get("on_tamper") != "repair":
            continue
        path = ("protected_tables", place, "on_tamper")
        if table.get("retain") != "rows":
            yield Problem(path, "is repair, which needs retain: rows (images of the rows to restore)")
        if not (table.get("repair_url") or tree.get("repair_url")):
            yield Problem(path, "is repair, which needs repair_url_file (a connection that may write)")


def _members_once(tree: dict[str, Any]) -> Iterator[Problem]:
    """A member is listed once and has one address."""
    seen: dict[str, int] = {}
    for place, member in _items(tree, "nodes"):
        if "addr" in member and "host" in member:
            yield Problem(("nodes", place, "host"), "is given beside addr; give one of them")
        node = member.get("id")
        if isinstance(node, str):
            if node in seen:
                yield Problem(("nodes", place, "id"), f"is {node[:40]}, which nodes[{seen[node]}] already is")
            seen.setdefault(node, place)


def _anchor_keys(tree: dict[str, Any]) -> Iterator[Problem]:
    """An anchor of witnz's own types has the keys of its type, and all that the type needs; names are given once."""
    named: dict[str, int] = {}
    for place, anchor in _items(tree, "anchors"):
        kind, name = anchor.get("type"), anchor.get("name")
        if isinstance(name, str) and named.setdefault(name, place) != place:
            yield Problem(("anchors", place, "name"), f"is {name[:40]}, which anchors[{named[name]}] is called already")
        known = KEYS_OF.get(kind) if isinstance(kind, str) else None
        if known is None:
            continue
        for key in anchor:
            if key not in known | COMMON_KEYS:
                others = [other for other, keys in KEYS_OF.items() if key in keys]
                close = difflib.get_close_matches(str(key), sorted(known | COMMON_KEYS), n=1)
                message = f"belongs to anchors of type {' and '.join(others)}, not {kind}" if others else "unknown key"
                yield Problem(
                    ("anchors", place, key), message + (f"; did you mean {close[0]}?" if close and not others else "")
                )
        for key in REQUIRED_OF.get(str(kind), ()):
            if key not in anchor:
                yield Problem(("anchors", place, key), f"is required for type {kind}")


def _basic_anchor_goes_somewhere(tree: dict[str, Any]) -> Iterator[Problem]:
    for place, anchor in _items(tree, "anchors"):
        if anchor.get("type") == "basic" and ("directory" in anchor) == ("git" in anchor):
            yield Problem(("anchors", place), "of type basic needs either directory or git")


RULES: Final[tuple[Rule, ...]] = (
    _tables_once,
    _sinks_exist,
    _repair_can_work,
    _members_once,
    _anchor_keys,
    _basic_anchor_goes_somewhere,
)
