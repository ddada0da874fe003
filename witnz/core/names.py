"""Names of clusters, tables, nodes and logs (formats.md, "Names").

    cluster   [a-z0-9._-]+(/[a-z0-9._-]+)*      prod.example.com/app          at most 255 characters
    node      [a-z0-9-]{1,32}                   node1
    table     <schema>.<table>                  public.audit_logs             each part percent-encoded outside [A-Za-z0-9_-]
    log       <cluster>/<table>/<generation>    prod.example.com/app/public.audit_logs/1

A table's name is fixed when its protection begins.  Cluster segments ``.`` and ``..`` are refused as well, because origins
become paths: of tiles in an export, of the HTTP interface.
"""

from __future__ import annotations

import re
from typing import Final

from witnz.errors import FormatError

MAX_CLUSTER_NAME: Final = 255
MAX_TABLE_NAME: Final = 1024

_CLUSTER = re.compile(r"[a-z0-9._-]+(?:/[a-z0-9._-]+)*")
_NODE = re.compile(r"[a-z0-9-]{1,32}")
_PART = r"((?:[A-Za-z0-9_-]|%[0-9A-F]{2})+)"
_TABLE = re.compile(_PART + r"\." + _PART)
_ENCODED = re.compile(rb"[^A-Za-z0-9_-]")
_ESCAPE = re.compile(r"%([0-9A-F]{2})")


def check_cluster_name(name: str) -> str:
    """``name`` itself.  Raises :class:`FormatError` where it is no cluster name."""
    if len(name) > MAX_CLUSTER_NAME:
        raise FormatError(f"cluster name: expected at most {MAX_CLUSTER_NAME} characters, found {len(name)}")
    if _CLUSTER.fullmatch(name) is None or not {".", ".."}.isdisjoint(name.split("/")):
        raise FormatError(f"cluster name: expected a-z 0-9 . _ - in parts joined by /, found {name[:60]!r}")
    return name


def check_node_id(node_id: str) -> str:
    """``node_id`` itself.  Raises :class:`FormatError` where it is no node id."""
    if _NODE.fullmatch(node_id) is None:
        raise FormatError(f"node id: expected 1 to 32 of a-z 0-9 -, found {node_id[:60]!r}")
    return node_id


def format_table_name(schema: str, table: str) -> str:
    """The name of PostgreSQL's relation ``schema``.``table`` (raw identifiers, unquoted) in every witnz format.

    Raises :class:`FormatError` for an empty part, U+0000, a lone surrogate, or a result over 1,024 characters.
    """
    name = f"{_encode_part(schema)}.{_encode_part(table)}"
    if len(name) > MAX_TABLE_NAME:
        raise FormatError(f"table name: expected at most {MAX_TABLE_NAME} characters, found {len(name)}")
    return name


def parse_table_name(name: str) -> tuple[str, str]:
    """The raw identifiers ``(schema, table)`` of a table's name; the inverse of :func:`format_table_name`.

    Raises :class:`FormatError` for anything that :func:`format_table_name` does not write: one part, lower-case digits, an
    encoded letter, bytes that are not UTF-8.
    """
    if len(name) > MAX_TABLE_NAME:
        raise FormatError(f"table name: expected at most {MAX_TABLE_NAME} characters, found {len(name)}")
    match = _TABLE.fullmatch(name)
    if match is None:
        raise FormatError(f"table name: expected <schema>.<table>, percent-encoded, found {name[:60]!r}")
    schema, table = (_decode_part(part) for part in match.groups())
    if format_table_name(schema, table) != name:
        raise FormatError(f"table name: expected only what needs it percent-encoded, found {name[:60]!r}")
    return schema, table


def log_origin(cluster: str, table: str, generation: int) -> str:
    """The origin of one generation of a table log.  ``table`` is a formatted name, ``generation`` counts from 1."""
    check_cluster_name(cluster)
    parse_table_name(table)
    if generation < 1:
        raise FormatError(f"generation: expected a number from 1, found {generation}")
    return f"{cluster}/{table}/{generation}"


def _encode_part(part: str) -> str:
    if not part or "\0" in part:
        raise FormatError("table name: expected two identifiers that are not empty and hold no U+0000")
    try:
        raw = part.encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError("table name: expected Unicode text, found a lone surrogate") from None
    return _ENCODED.sub(lambda match: b"%%%02X" % match[0][0], raw).decode("ascii")


def _decode_part(part: str) -> str:
    raw = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), part).encode("latin-1")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"table name: expected percent-encoded UTF-8, found {part[:60]!r}") from None
