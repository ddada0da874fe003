"""What an evidence package states, derived again from what its own bundles show, cell by cell and member by member.

    lists         every row of the lists of records, in order, from the records that the bundles prove
    findings      every row of their list, from those records and the ones of before that the period's bundle shows
    changes       a log's rows add up to what its seals say that it gained
    sections      the members of evidence.json that :func:`witnz.report.derived.derive` makes; figures of the controls
    continuity    the report before this one stands in the journal

:mod:`witnz.verify.figures` has checked by then that the records shown are those of the period, and the lists of seals and
checkpoints.  Nothing here looks at a signature.  What was settled before the period and is not named in it, is not shown and
not asked for: that the earlier report is its witness, stands in ``continuity``.
"""

from __future__ import annotations

import csv
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO, TextIOWrapper
from typing import Any, Final

from witnz.core.bundle import Bundle, SignedCheckpoint
from witnz.core.entry import OPS
from witnz.core.note import format_note
from witnz.core.record import Record
from witnz.core.timestamp import format_time, parse_time
from witnz.core.verdict import Check, CheckStatus
from witnz.errors import FormatError
from witnz.report import bundles, changes, lifecycle
from witnz.report.coverage import Pace
from witnz.report.derived import Counted, derive
from witnz.report.facts import Facts, Rec
from witnz.report.period import Bounds, Period
from witnz.report.populations import FOLDER, RECORDS, cell
from witnz.store.checkpoints import StoredCheckpoint
from witnz.verify.bundle_rows import fail, ok

_MAX_CELL: Final = 1 << 20


class _Differs(Exception):
    """Something is not as the records say; the text says what."""


def recount(predicate: Mapping[str, Any], files: Mapping[str, bytes], shown: Mapping[str, Bundle], name: str) -> list[Check]:
    """A check named ``name``, and one on what of the list of changes no bundle shows.

    What is not of the form that a report has fails like what does not add up.
    """
    try:
        facts, bounds = _facts(predicate, shown), _bounds(predicate, files, shown)
        found = lifecycle.lives(facts)
        _check_lists(files, facts, found)
        counted = Counted(_paces(files), _not_final(files), _changed(files, facts, shown))
        report = predicate["report"]
        period = Period(parse_time(report["from"]), parse_time(report["to"]))
        derived = derive(facts, bounds, period, report["standard"], found, counted)
        for member, value in derived.items():
            _compare(member, predicate[member], value)
        _check_controls(predicate)
        _check_cluster(predicate["cluster"], facts.genesis)
    except _Differs as differs:
        return [fail(name, str(differs))]
    except (FormatError, KeyError, TypeError, ValueError, AttributeError, IndexError, csv.Error, StopIteration) as error:
        return [fail(name, f"the package does not state its figures as it should: {type(error).__name__} {str(error)[:80]}")]
    checks = [ok(name, f"{len(derived)} parts of evidence.json and {len(RECORDS) + 1} lists follow from the records shown")]
    if counted.changed:
        detail = "changes by day and kind are as told: their entries are not in the package (witnz report sample shows some)"
        checks.append(Check(f"{name}.changes", CheckStatus.NOT_APPLICABLE, detail))
    return checks


# -- what the bundles show ----------------------------------------------------------------------------------------------------


def _facts(predicate: Mapping[str, Any], shown: Mapping[str, Bundle]) -> Facts:
    first, last = _size(predicate["period"]["opening"]) + 1, _size(predicate["period"]["closing"])
    of_period, seals, before, later = {}, {}, {}, []
    for name, bundle in shown.items():
        for record in (_rec(proven.record) for proven in bundle.records):
            if record.type == "seal":
                seals[record.seq] = record
            elif record.seq < first:
                before[record.seq] = record
            elif record.seq <= last:
                of_period[record.seq] = record
            elif record.type == "report" and name == bundles.REPORT:
                later.append(record)
    if 1 not in before | of_period:
        raise _Differs("no bundle shows the genesis record")
    facts = Facts((before | of_period)[1], [before[seq] for seq in sorted(before)])
    facts.records += [of_period[seq] for seq in sorted(of_period)]
    facts.by_type.update(record.type for record in facts.records)
    if len(of_period) <= last - first:
        facts.by_type["seal"] = last - first + 1 - len(of_period)
    facts.later_reports += later
    facts.sizes = _sizes(seal for seq, seal in seals.items() if seq <= last)
    facts.sizes_before = _sizes(seal for seq, seal in seals.items() if seq < first)
    return facts


def _sizes(seals: Iterable[Rec]) -> dict[tuple[str, int], int]:
    sizes: dict[tuple[str, int], int] = {}
    for seal in sorted(seals, key=lambda one: one.seq):
        sizes |= {(head["table"], head["generation"]): head["size"] for head in seal.body["tables"]}
    return sizes


def _rec(record: Record) -> Rec:
    return Rec(record.seq or 0, record.at, format_time(record.at), record.node, record.type, record.body)


def _size(checkpoint: Mapping[str, Any] | None) -> int:
    return 0 if checkpoint is None else int(checkpoint["size"])


def _bounds(predicate: Mapping[str, Any], files: Mapping[str, bytes], shown: Mapping[str, Bundle]) -> Bounds:
    """The checkpoints at both ends: their notes are shown; when they were noted is told, of the closing one by the register."""
    period, bundle = predicate["period"], shown[bundles.PERIOD]
    newest = deque(_rows(files, "checkpoints"), maxlen=1)
    closing = _stored(bundle.head, parse_time(newest[0][3]))
    if period["opening"] is None:
        return Bounds(None, closing)
    at = parse_time(period["opening"]["at"])
    return Bounds(
        next(_stored(one, at) for one in bundle.consistency if one.checkpoint.size == _size(period["opening"])), closing
    )


def _stored(head: SignedCheckpoint, at: int) -> StoredCheckpoint:
    return StoredCheckpoint(head.checkpoint.size, format_note(head.note), at, True)


# -- lists --------------------------------------------------------------------------------------------------------------------


def _rows(files: Mapping[str, bytes], name: str) -> Iterator[list[str]]:
    """The rows of a list, in their order, read anew each time: a month has half a million seals and as many checkpoints."""
    lines = _lines(files, name)
    next(lines)
    return lines


def _header(files: Mapping[str, bytes], name: str) -> tuple[str, ...]:
    return tuple(next(_lines(files, name)))


def _lines(files: Mapping[str, bytes], name: str) -> Iterator[list[str]]:
    csv.field_size_limit(_MAX_CELL)
    return csv.reader(TextIOWrapper(BytesIO(files[f"{FOLDER}/{name}.csv"]), "utf-8", newline=""), strict=True)


def _check_lists(files: Mapping[str, bytes], facts: Facts, found: Sequence[lifecycle.Life]) -> None:
    bundle_of = bundles.bundle_of(facts)
    for name, kind in RECORDS.items():
        rows = (
            [record.seq, record.at_text, record.node, record.type, *kind.cells(record.body), bundle_of(record.seq)]
            for record in facts.of(*kind.types)
        )
        _check_list(files, name, ("seq", "at", "node", "type", *kind.columns, "bundle"), rows)
    _check_list(files, "findings", lifecycle.COLUMNS, (life.row(bundle_of(life.opened.seq)) for life in found))


def _check_list(files: Mapping[str, bytes], name: str, columns: Sequence[str], expected: Iterable[Sequence[object]]) -> None:
    told, wanted = _rows(files, name), ([str(cell(value)) for value in row] for row in expected)
    if _header(files, name) != tuple(columns):
        raise _Differs(f"{FOLDER}/{name}.csv: expected the columns {' '.join(columns)}")
    number = 0
    for number, row in enumerate(wanted, 1):
        other = next(told, None)
        if other is None:
            raise _Differs(f"{FOLDER}/{name}.csv: {name} {row[0]} is missing, which the bundles show")
        if other != row:
            column = next(column for column, one, two in zip(columns, row, other, strict=False) if one != two)
            cells = dict(zip(columns, zip(row, other, strict=False), strict=False))[column]
            raise _Differs(
                f"{FOLDER}/{name}.csv, row {number}, {column}: expected {cells[0][:60]!r} by the records shown, found"
                f" {cells[1][:60]!r}"
            )
    more = next(told, None)
    if more is not None:
        raise _Differs(f"{FOLDER}/{name}.csv, row {number + 1}: {more[0][:60]!r} follows from no record shown")


def _paces(files: Mapping[str, bytes]) -> dict[str, Pace]:
    """When checkpoints and seals came, as their lists say."""
    paces = {}
    for name, column in (("checkpoints", 3), ("seals", 1)):
        paces[name] = Pace()
        for row in _rows(files, name):
            paces[name].note(parse_time(row[column]), row[column][:10])
    return paces


def _not_final(files: Mapping[str, bytes]) -> int:
    return sum(row[5] != "true" for row in _rows(files, "checkpoints"))


def _changed(files: Mapping[str, bytes], facts: Facts, shown: Mapping[str, Bundle]) -> Counter[tuple[str, str]]:
    """Entries by (day, op) as the list says; where the seals are shown, as many of each log as they say."""
    total: Counter[tuple[str, str]] = Counter()
    gained: Counter[tuple[str, int]] = Counter()
    if _header(files, "changes") != changes.COLUMNS:
        raise _Differs(f"{FOLDER}/changes.csv: expected the columns {' '.join(changes.COLUMNS)}")
    for row in _rows(files, "changes"):
        item, table, generation, day = row[:4]
        *by_op, entries, _, _ = (int(value) for value in row[4:])
        if item != f"{table}/{generation}/{day}" or (sum(by_op) != entries if day != changes.PRUNED else any(by_op)):
            raise _Differs(f"{FOLDER}/changes.csv: {item[:120]} does not add up")
        gained[table, int(generation)] += entries
        total.update({(day, op): number for op, number in zip(OPS, by_op, strict=True) if number})
    if bundles.SEALS in shown:
        for log in sorted({*gained, *facts.sizes}):
            sealed = facts.sizes.get(log, 0) - facts.sizes_before.get(log, 0)
            if gained[log] != sealed:
                raise _Differs(
                    f"{FOLDER}/changes.csv: {log[0]}/{log[1]} gained {sealed} by the seals shown, here {gained[log]}"
                )
    return total


# -- evidence.json ------------------------------------------------------------------------------------------------------------


def _compare(where: str, said: Any, found: Any) -> None:
    """Refuse the first place in which two documents differ."""
    if isinstance(said, dict) and isinstance(found, dict) and said.keys() == found.keys():
        for name in found:
            _compare(f"{where}.{name}", said[name], found[name])
    elif isinstance(said, list) and isinstance(found, list | tuple) and len(said) == len(found):
        for index, (one, two) in enumerate(zip(said, found, strict=True)):
            _compare(f"{where}[{index}]", one, two)
    elif type(said) is not type(found) or said != found:
        raise _Differs(f"{where}: evidence.json says {str(said)[:60]}, a recount gives {str(found)[:60]}")


def _check_controls(predicate: Mapping[str, Any]) -> None:
    for control in predicate["controls"]:
        for name, number in control["figures"].items():
            _compare(f"controls {control['id']}: {name}", number, predicate["counts"][name])


def _check_cluster(cluster: Mapping[str, Any], genesis: Rec) -> None:
    for member, value in (
        ("name", genesis.body["cluster"]),
        ("genesis_at", genesis.at_text),
        ("database", genesis.body["database"]),
    ):
        _compare(f"cluster.{member}", cluster[member], value)
