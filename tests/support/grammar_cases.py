"""Thousands of small changes of records, receipts and entries, so that programs which read them can be held against each other.

Nobody lists what each must answer: what is a value of its format is said by the grammar of each program, and they agree or not.
So every limit is tried from both sides: lengths in bytes and characters, days of months, ranges, spellings, members too many.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any

from tests.support.journal_cases import key_under
from tests.support.journal_maker import CLUSTER, TABLE, PaperCluster, PaperLog, b64
from tests.support.receipts import RECEIPTS
from tests.support.record_cases import BODIES, PAPER, RECEIPT
from witnz.core.canonical import canonical
from witnz.core.entry import MAX_HINT, parse_entry
from witnz.core.finding import FindingClass
from witnz.core.keys import cosigner_key, format_verifier_key, parse_verifier_key
from witnz.core.record import record_to_json
from witnz.errors import FormatError

Spoilt = tuple[str, str]
"""What was changed, and the canonical JSON (or the line) that came of it."""

LENGTHS = (1, 31, 32, 33, 64, 65, 255, 256, 257, 1024, 1025, 2048, 2049, 4096, 4097)
YEARS = ("0000", "0001", "1900", "2000", "2023", "2024", "2100", "9999")
DAYS = [
    *[f"2026-{month:02}-{day:02}" for month in range(14) for day in (0, 1, 28, 29, 30, 31, 32)],
    *[f"{year}-02-{day}" for year in YEARS for day in (28, 29, 30)],
    "2026-1-01", "2026-01-1", "26-01-01", "2026-01-011", "2026/01/01", "２０２６-01-01",
]  # fmt: skip
CLOCKS = (
    "00:00:00.000000Z", "23:59:59.999999Z", "24:00:00.000000Z", "23:60:00.000000Z", "23:59:60.000000Z", "12:00:00.00000Z",
    "12:00:00.0000000Z", "12:00:00Z", "12:00:00.000000z", "12:00:00.000000+00:00", "12:00:00,000000Z", "1:00:00.000000Z",
)  # fmt: skip
TIMES = [
    *[f"{day}T12:00:00.000000Z" for day in DAYS],
    *[f"2026-01-01T{clock}" for clock in CLOCKS],
    "2026-01-01 12:00:00.000000Z",
]
NUMBERS = (
    "0", "00", "01", "1", "-1", "+1", " 1", "1.0", "9", "4294967295", "4294967296", "9007199254740991", "9007199254740992",
    "9" * 19, "18446744073709551615", "18446744073709551616", "9" * 20, "1" * 21, "１",
)  # fmt: skip
PLACES = (
    "0/0", "00/0", "0/00", "0/FFFFFFFF", "0/100000000", "FFFFFFFF/0", "100000000/0", "0/a", "0/G", "0", "/", "0/", "/0",
    "0/0/0",
)  # fmt: skip
TABLES = (
    "a.b", "a", "a.", ".b", "a.b.c", "A_-9.b", "%41.b", "%61.b", "%5F.b", "%2D.b", "%39.b", "%2E.b", "%20.b", "%7F.b", "%00.b",
    "%2e.b", "%C3%A9.b", "%c3%a9.b", "%C3.b", "%A9.b", "%C0%80.b", "%C1%BF.b", "%C2%80.b", "%DF%BF.b", "%E0%9F%BF.b",
    "%E0%A0%80.b", "%ED%9F%BF.b", "%ED%A0%80.b", "%EE%80%80.b", "%EF%BF%BF.b", "%F0%8F%BF%BF.b", "%F0%90%80%80.b",
    "%F4%8F%BF%BF.b", "%F4%90%80%80.b", "%F5%80%80%80.b", "%F0%9F%98.b", "%F0%9F%98%80.b", "a.%", "a.%4", "é.b", "a b.c",
    "a.b\n", "a." + "b" * 1022, "a." + "b" * 1023, "b" * 1022 + ".a", "b" * 1023 + ".a",
)  # fmt: skip
SNAPSHOTS = (
    "10:10:", "10:20:", "10:9:", "9:10:", "0:1:", "010:20:", "10:020:", "10:20", "10:20:10", "10:20:9", "10:20:15", "10:20:19",
    "10:20:20", "10:20:21", "10:20:15,15", "10:20:15,16", "10:20:16,15", "10:20:15,", "10:20:,15", "10:20:0", "10:20:1٣",
    "9" * 20 + ":" + "9" * 20 + ":", "1:" + "9" * 21 + ":",
)  # fmt: skip
CLUSTERS = (
    "a", "a/b", "a/", "/a", "a//b", ".", "..", "a/.", "a/..", "../a", "./a", "a/../b", "...", "a/...", ".a", "a.", "A", "a b",
    "a+b", "a" * 255, "a" * 256, "é", "a\n", "_", "-", "a%b",
)  # fmt: skip
WORDS = (
    "__proto__", "constructor", "toString", "hasOwnProperty", "true", "null", "add", "Add", "remove", "intent", "log", "report",
    "hidden", "record", "rolling", "critical", "basic", "evm", "a\tb", "a\nb", 'a"b', "a\\b", "\x7f", "\x85", "\u2028", "😀",
    "é", " a", "a ", "a/b",
)  # fmt: skip
BASE64 = (
    "A", "AA", "AAA", "AA=", "AA==", "AAA=", "AB==", "AAB=", "AAAA", "AA==AA==", "AAA\n", "AA-_", "AAAA=", "====", "=AAA",
    "A===",
    *[b64encode(bytes(size)).decode() for size in (0, 1, 31, 32, 33, 63, 64, 65, 72, 80, 81, 3071, 3072, 3073)],
    "A" * 42 + "B=", "A" * 85 + "B==",
)  # fmt: skip
HEX = tuple(digit * count for digit in "0aAg" for count in (12, 31, 32, 33, 39, 40, 41, 63, 64, 65))


def _keys() -> list[str]:
    """Verifier keys: of both kinds, under odd names, with a wrong id, of small order, cut."""
    log, cosigner = PAPER.log_key, PAPER.member_body("node2")["cosigner"]
    names = (
        CLUSTER,
        "a b",
        "a\u2028b",
        "é",
        "a" * 900,
        "a" * 960,
        "a" * 1025,
        "a\x01b",
        "\x85",
        "x/nodes/node4",
        f"{CLUSTER}/nodes/node4",
    )
    named = [key_under(name, key) for name in names for key in (log, cosigner) if _can(name, key)]
    name, _, encoded = log.split("+", 2)
    wrong = [
        log + "=",
        log[:-1],
        f"{name}+{encoded}",
        f"+{log}",
        log.replace("+", " ", 1),
        f"{name}+00000000+{encoded}",
        log.upper(),
    ]
    turned = format_verifier_key(cosigner_key(parse_verifier_key(log)))
    return [log, cosigner, turned, *named, *wrong]


def _can(name: str, key: str) -> bool:
    try:
        key_under(name, key)
    except FormatError:
        return False
    return True


KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"\d{4}-\d\d-\d\d(T.*)?", (*TIMES, *DAYS)),
    (r"[0-9A-F]+/[0-9A-F]+", PLACES),
    (r"[a-z]+\.[a-z_]+", (*TABLES, *[name.value for name in FindingClass])),
    (r"\d+:\d+:.*", SNAPSHOTS),
    (r"\d+", NUMBERS),
    (r"[A-Za-z0-9+/]{4,}={0,2}", BASE64),
    (r"[0-9a-f-]{12,}|F-.*", HEX),
    (r".+\+.+\+.+", tuple(_keys())),
    (r"[a-z.]+/[a-z]+", CLUSTERS),
)
"""What a text looks like, and others of its kind; of every other kind it is given a few."""


def _texts(old: str, number: int) -> Iterator[str]:
    yield from (
        "",
        old + "\n",
        old + " ",
        " " + old,
        old + "0",
        old[:-1],
        old[1:],
        old.upper(),
        old.lower(),
        old + old,
        "x" + old,
    )
    yield from (old.replace("-", "_"), old.replace(".", ""), old.replace("=", ""), old.replace("/", "_"), old[::-1])
    for length in LENGTHS:  # in characters of one byte, and of two, or of one that JSON escapes
        yield from ("a" * length, "é" * (length // 2 + 1) if number % 2 else "\n" * length)
    yield from WORDS[number % 3 :: 3]
    for pattern, values in KINDS:
        if re.fullmatch(pattern, old, re.DOTALL):
            yield from values
        else:
            yield from values[number % 11 :: 11]


def _others(old: Any, number: int) -> Iterator[Any]:
    yield from (None, True, False, 0, 1, -1, 2, "", "x", [], {}, [None], {"x": 1})
    if isinstance(old, str):
        yield from _texts(old, number)
    elif isinstance(old, bool) or old is None:
        yield from ("true", "0" * 64, TABLE, "1", 3, 4294967296)
    elif isinstance(old, int):
        yield from (
            old + 1,
            old - 1,
            str(old),
            64,
            65,
            65_535,
            65_536,
            (1 << 31) - 1,
            1 << 31,
            (1 << 32) - 1,
            1 << 32,
            -(1 << 31),
        )
        yield from (-(1 << 31) - 1, (1 << 53) - 1, -(1 << 53) + 1, 2.5)
    elif isinstance(old, list):
        yield from (old[1:], old[:1] * 2, [*old, None], [*old, "x"], old[::-1], [old])
        if old and isinstance(old[0], str):
            yield from ([f"{old[0][:-4]}{n:04x}" for n in range(count)] for count in (64, 65, 256, 257, 1600, 1601))
    else:
        yield from ({**old, "zz": 1}, {**old, "__proto__": 1}, {**old, "constructor": {}}, [old])
        for name in old:
            yield {other: item for other, item in old.items() if other != name}
            yield {**{other: item for other, item in old.items() if other != name}, name + "_": old[name]}
        first = next(iter(old), "x")
        for name in (
            "",
            "a" * 32,
            "a" * 33,
            "a" * 255,
            "a" * 256,
            "a" * 257,
            "é" * 128,
            "é" * 129,
            "Node1",
            "__proto__",
            "a\nb",
        ):
            yield {**{other: item for other, item in old.items() if other != first}, name: old.get(first)}
        for count in (64, 65, 256, 257):
            yield {f"n{number}": old.get(first) for number in range(count)}


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value within a JSON value with its path; of a list the first and the last."""
    if at:
        yield at, value
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _places(item, (*at, name))
    elif isinstance(value, list):
        for index in sorted({0, len(value) - 1} if value else set()):
            yield from _places(value[index], (*at, index))


def _canonical(value: Any) -> str:
    """RFC 8785, of values whose names are sorted alike in every encoding; this is most of the time that the cases take."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """``value`` with another one at the path; it shares the rest."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _changed(value[path[0]], path[1:], new)
    return copy


def _spoilt(name: str, good: Any, known: set[tuple[Any, ...]] | None = None) -> Iterator[Spoilt]:
    """Every change of every member; a few where a member of the same name in the same kind of object is ``known`` already."""
    known = set() if known is None else known
    for number, (path, old) in enumerate(_places(good)):
        named = tuple(step for step in path if isinstance(step, str))[-2:]
        step = 7 if named[-1:] in known and named in known else 3 if named[-1:] in known else 1
        known |= {named, named[-1:]}
        seen = set()
        for place, other in enumerate(_others(old, number)):
            if (place + number) % step:
                continue
            text = _canonical(_changed(good, path, other))
            if text not in seen:
                seen.add(text)
                yield f"{name} {path} {str(other)[:60]!r}", text


def records() -> Iterator[Spoilt]:
    """Records: all members that may be there are, then one of them is another."""
    allowed = {name: _made("accept", BODIES["accept"])["body"][name] for name in ("auth", "nonce")}
    split = {"part": 1, "parts": 2}
    rolling = {"mode": "rolling", "range": {"from": "a", "to": None}, "findings": ["F-0123456789ab"], "not_checked": ["x"]}
    more: list[tuple[str, dict[str, Any]]] = [
        ("table", {**allowed, "previous": {"size": 1, "root": b64(bytes(32)), "chain": "0" * 64}}),
        ("seal", split),
        ("epoch", split),
        ("verify", rolling),
        ("report", {"from": "2026-01-01T00:00:00.000000Z"}),
        *[
            ("anchor", {**{name: one[name] for name in ("type", "digest", "size")}, "receipt": one})
            for one in RECEIPTS.values()
        ],
    ]
    known: set[tuple[Any, ...]] = set()
    for number, (kind, changes) in enumerate([*((kind, {}) for kind in BODIES), *more]):
        record = _made(kind, BODIES[kind])
        body = {**record["body"], **changes}
        head = {name: item for name, item in record.items() if name != "body"} if number == 0 else {}
        for what, text in _spoilt(kind, {**head, "body": body}, known):
            yield what, _canonical({**record, **json.loads(text)})
    for name in (*BODIES, "receipt", "record", "__proto__", "constructor", ""):
        yield f"type {name}", canonical(_made("ack", BODIES["ack"]) | {"type": name}).decode()
    good = _made("config", BODIES["config"])
    changes = {f"n{number}": {"from": "a" * 4000, "to": "a" * 3900} for number in range(8)}
    good["body"]["changes"] = changes
    spare = 65_535 - len(canonical(good))
    for size in (spare - 1, spare, spare + 1):
        changes["n0"]["to"] = "a" * (3900 + size)
        yield f"size {size - spare}", canonical(good).decode()


def _made(kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """A record of a cluster of its own, with what its type demands besides: votes, or an operator's signature."""
    return record_to_json(PaperCluster().make(kind, body))


def receipts() -> Iterator[Spoilt]:
    """Receipts of every type."""
    known: set[tuple[Any, ...]] = set()
    for kind, receipt in (
        *RECEIPTS.items(),
        ("basic", {**RECEIPT, "type": "basic", "note": PAPER.note()}),
        ("x", {**RECEIPT, "more": 1}),
    ):
        yield from _spoilt(kind, receipt, known)


def _in_lines(name: str, good: str, words: tuple[str, ...]) -> Iterator[Spoilt]:
    """A text line by line and word by word: left out, twice, in another order, others in its place, other white space."""
    lines = good.split("\n")
    for number, line in enumerate(lines):
        before, after = lines[:number], lines[number + 1 :]
        others = [
            [],
            [line, line],
            ["", line],
            [line, ""],
            [" " + line],
            [line + " "],
            [line + "\t"],
            ["\t" + line],
            [line + "\r"],
        ]
        others += [[line.replace(" ", other)] for other in ("", "  ", "\t", " \t ", "\x0b", "\u00a0")] + [
            ["#" + line],
            ["# é\x01"],
        ]
        parts = line.split(" ")
        for place, part in enumerate(parts):
            for word in (
                *words,
                part + "0",
                part[:-1],
                part.upper(),
                part.replace("=", ""),
                "x" + part,
                *_keys()[number % 4 :: 4],
            ):
                others.append([" ".join([*parts[:place], word, *parts[place + 1 :]])])
                others.append([" ".join([*parts[:place], part, word, *parts[place + 1 :]])])
            others.append([" ".join([*parts[:place], *parts[place + 1 :]])])
        for other in others:
            yield f"{name} line {number} {other!r:.80}", "\n".join([*before, *other, *after])
        if after:
            yield f"{name} lines {number} and the next", "\n".join([*before, after[0], line, *after[1:]])
    for extra in ("", "\n", "\n\n", "x", "x\n", " \n", "\x00\n", "\x7f\n", "\x85\n", "\u2028\n"):
        yield f"{name} then {extra!r}", good + extra
        yield f"{name} after {extra!r}", extra + good
        yield f"{name} is {extra!r}", extra
    yield f"{name} cut", good[:-1]


def policies() -> Iterator[Spoilt]:
    """Policies with groups and groups of groups."""
    policy = PAPER.policy.split("\n")
    keys = [line for line in policy if line.startswith(("log ", "witness "))]
    words = (
        "",
        "none",
        "all",
        "any",
        "0",
        "1",
        "2",
        "3",
        "4",
        "00",
        "01",
        "+1",
        "99999",
        "100000",
        "node1",
        "node2",
        "a",
        "g",
        "z",
        "log",
        "é",
    )
    for name, rest in (
        ("group", ["group g 2 node1 node2 node3", "quorum g", ""]),
        ("groups", ["group a any node1 node2", "group g all a node3", "quorum g", ""]),
        ("none", ["quorum none", ""]),
    ):
        yield from _in_lines(name, "\n".join([*keys, *rest]), words)
    whole = "\n".join([*keys, "quorum none", ""])
    for size in (65_535, 65_536, 65_537):
        yield f"of {size} bytes", "#" * (size - len(whole.encode()) - 1) + "\n" + whole
    yield "group of itself", "\n".join([*keys, "group g any g", "quorum g", ""])
    yield "group of nobody", "\n".join([*keys, "group g 1", "quorum g", ""])
    yield "twice in groups", "\n".join([*keys, "group a any node1 node2", "group g any node1 a", "quorum g", ""])


def notes() -> Iterator[Spoilt]:
    """Checkpoints with their signatures."""
    note = PAPER.note()
    words = (
        "",
        "—",
        "-",
        "0",
        "00",
        "01",
        "1",
        "18446744073709551615",
        "18446744073709551616",
        "é",
        "AAAAAA==",
        "AAAAAAA=",
        *BASE64[:16],
    )
    yield from _in_lines("note", note, words)
    text, _, signatures = note.partition("\n\n")
    one = signatures.split("\n")[0]
    for count in (0, 1, 100, 101):
        yield f"{count} signatures", "\n".join([text, "", *[one] * count, ""])
    yield "two blank lines", f"{text}\n\n\n{signatures}"
    yield "blank line within", f"a\n\n{text}\n\n{signatures}"


INTENT = {"by": "alice", "hint": "h", "key": "k", "nonce": "0" * 32, "sig": b64(bytes(64)), "tables": [TABLE], "xid": "741"}


def entries() -> Iterator[Spoilt]:
    """Lines of a table log."""
    log = PaperLog()
    cells = {"schema": log.lines[0].decode()}
    for op in ("baseline", "insert", "update", "delete"):
        cells[op] = log.add(op, b"2\tx", key=b"2").decode()
    cells["truncate"] = log.add("truncate").decode()
    signed = cells["insert"].split("\t")
    cells["signed"] = "\t".join([*signed[:8], "alice", "h", canonical(INTENT).decode()])
    for name, line in cells.items():
        parse_entry(line.encode())
        parts = line.split("\t")
        for number, old in enumerate(parts):
            for other in list(dict.fromkeys(_cells(old, number)))[:: 1 if name == "signed" else 5]:
                yield f"{name} {number} {other[:60]!r}", "\t".join([*parts[:number], other, *parts[number + 1 :]])
        yield f"{name} short", "\t".join(parts[:-1])
        yield f"{name} long", line + "\t\\N"
        yield f"{name} empty", ""
    for what, text in _spoilt("intent", INTENT):
        yield what, "\t".join([*signed[:10], text.replace("\\", "\\\\")])
    schema = cells["schema"].split("\t")
    hint = json.loads(schema[9].replace("\\\\", "\\"))
    for what, text in _spoilt("schema", hint):
        yield what, "\t".join([*schema[:9], text.replace("\\", "\\\\"), schema[10]])
    rest = 65_535 - len(cells["schema"].encode()) - len(hint["columns"][0]["name"])
    for size in (rest // 4 - 1, rest // 4, rest // 4 + 1):  # a backslash is four bytes there, and two of the 60,000
        described = {**hint, "columns": [{**hint["columns"][0], "name": "\\" * size}, *hint["columns"][1:]]}
        yield f"schema line {size}", "\t".join([*schema[:9], canonical(described).decode().replace("\\", "\\\\"), schema[10]])
    for digest in ("0" * 64, "0" * 63, "A" * 64):
        yield f"schema {digest}", "\t".join([*schema[:9], canonical({"sha256": digest}).decode(), schema[10]])


def _cells(old: str, number: int) -> Iterator[str]:
    if len(old) < 100:
        yield from (text for text in _texts(old, number) if "\t" not in text and "\n" not in text)
    yield from (
        "\\N",
        "\\n",
        "\\t",
        "\\\\",
        "\\",
        "\\x",
        "\\N\\N",
        "a\\tb",
        "a\\tb\\\\N",
        "\\\\N",
        "\\\\\\\\N",
        "\\\\x",
        "a\\nb",
        "\x08",
        "\x0b",
        "\r",
    )
    yield from ("\x01", "\x7f", "\\b\\f\\v\\r", "\\H" + "0" * 64, "\\H" + "A" * 64, "\\H" + "0" * 63, "\\H" + "0" * 65, "\\H")
    yield from ("schema", "baseline", "insert", "update", "delete", "truncate", "INSERT", "2", "1 ")
    for most in (256, 1024, MAX_HINT, 8192, 60_000) if number in (3, 8, 9, 10) else ():
        yield from ("a" * most, "a" * (most + 1), "é" * (most // 2 + 1), "\\n" * most, "\\n" * (most + 1))
