"""Recounting an evidence package: every figure that it states against the records that its own bundles prove (formats.md 8).

    populations   each file has the rows, the columns and the digest that evidence.json states; ``counts`` are those rows
    period        its records by type are as many as between the two checkpoints, and the bundles show every one but the seals
    lists         a file whose columns begin with ``seq at node type`` lists all records shown, each once
    findings      those that opened in the period are as many as its ``finding`` records; seals likewise
    seals         where the package shows the seals (``bundles/seals.witnz.json``): with the other records they are all records
                  of the period, so none is hidden, and every row of their list follows from them
    checkpoints   the register has no hole and ends with the closing one; where the package shows their notes
                  (``bundles/checkpoints.witnz.json``), every root and cosigner follows from them

Nothing here looks at a signature: that the records and checkpoints are the journal's is checked with each bundle.
"""

from __future__ import annotations

import csv
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO, TextIOWrapper
from typing import Any, Final

from witnz.core.bundle import Bundle
from witnz.core.record import Record
from witnz.core.timestamp import format_time
from witnz.core.verdict import Check, CheckStatus
from witnz.errors import FormatError
from witnz.verify.bundle_rows import fail, ok

_FOLDER: Final = "populations/"
_RECORDS: Final = "bundles/records-"
_PERIOD: Final = "bundles/period.witnz.json"
_SEALS: Final = "bundles/seals.witnz.json"
_CHECKPOINTS: Final = "bundles/checkpoints.witnz.json"
_HEAD: Final = ("seq", "at", "node", "type")
_MAX_CELL: Final = 1 << 20


class _Differs(Exception):
    """A figure is not what a recount gives; the text says which."""


@dataclass(frozen=True, slots=True)
class _Table:
    """A population: its columns, the number of its rows, and its file, from which they are read anew each time.

    A month has half a million seals and as many checkpoints: all of their cells at once would take most of a gigabyte.
    """

    columns: tuple[str, ...]
    count: int
    data: bytes

    def rows(self) -> Iterator[tuple[str, ...]]:
        """The rows, in their order."""
        lines = _lines(self.data)
        next(lines)
        return lines


def check_figures(
    predicate: Mapping[str, Any], files: Mapping[str, bytes], bundles: Mapping[str, Bundle], name: str
) -> list[Check]:
    """A check named ``name`` of all figures in the predicate of evidence.json, and one more of each list that is not shown.

    What is not of the expected form fails like what does not add up: whoever signed it signed what cannot be recounted.
    """
    try:
        tables = dict(_tables(predicate, files))
        records = _records(bundles)
        _check_period(predicate, records)
        _check_lists(tables, records)
        _check_counted(predicate, tables)
        if _SEALS in bundles:
            _check_seals(predicate, tables["seals"], records, bundles[_SEALS])
        left_out = _check_register(predicate, tables["checkpoints"], bundles)
    except _Differs as found:
        return [fail(name, str(found))]
    except (FormatError, KeyError, TypeError, ValueError, AttributeError, csv.Error) as error:
        detail = f"evidence.json does not state its figures as it should: {type(error).__name__} {str(error)[:80]}"
        return [fail(name, detail)]
    rows = sum(table.count for table in tables.values())
    shown = len(records) + (predicate["period"]["by_type"].get("seal", 0) if _SEALS in bundles else 0)
    checks = [ok(name, f"recounted: {rows} rows in {len(tables)} populations, {shown} records shown one by one")]
    seals = predicate["period"]["by_type"].get("seal", 0)
    if seals and _SEALS not in bundles:
        detail = f"{seals} seals are too many to be shown here: their list, and that each of those records is one, is as told"
        checks.append(Check(f"{name}.seals", CheckStatus.NOT_APPLICABLE, detail))
    if left_out:
        detail = (
            f"roots and cosigners of {left_out} checkpoints are as told: their notes are not shown, or they were never final"
        )
        checks.append(Check(f"{name}.checkpoints", CheckStatus.NOT_APPLICABLE, detail))
    return checks


def _differ(*, what: str, said: object, found: object) -> None:
    if said != found:
        raise _Differs(f"{what}: evidence.json says {str(said)[:60]}, a recount gives {str(found)[:60]}")


def _tables(predicate: Mapping[str, Any], files: Mapping[str, bytes]) -> Iterator[tuple[str, _Table]]:
    """Every population by its name, its own figures checked."""
    stated = {item["file"]: item for item in predicate["populations"]}
    here = sorted(name for name in files if name.startswith(_FOLDER))
    _differ(what="files of populations", said=sorted(stated), found=here)
    counts = {}
    for file in here:
        item, data = stated[file], files[file]
        table = _parse(data)
        _differ(what=f"digest of {file}", said=item["sha256"], found=sha256(data).hexdigest())
        _differ(what=f"columns of {file}", said=tuple(item["columns"]), found=table.columns)
        _differ(what=f"rows of {file}", said=item["rows"], found=table.count)
        name = file.removeprefix(_FOLDER).removesuffix(".csv")
        counts[name] = table.count
        yield name, table
    _differ(what="counts", said=dict(predicate["counts"]), found=counts)


def _lines(data: bytes) -> Iterator[tuple[str, ...]]:
    csv.field_size_limit(_MAX_CELL)
    return (tuple(row) for row in csv.reader(TextIOWrapper(BytesIO(data), "utf-8", newline=""), strict=True))


def _parse(data: bytes) -> _Table:
    lines = _lines(data)
    columns = next(lines, None)
    lengths = [len(row) for row in lines]
    if columns is None or any(length != len(columns) for length in lengths):
        raise _Differs("a population is no table of rows as long as its header")
    return _Table(columns, len(lengths), data)


def _records(bundles: Mapping[str, Bundle]) -> dict[int, Record]:
    """The records that the bundles of the period show, by seq."""
    found: dict[int, Record] = {}
    for name, bundle in bundles.items():
        if name.startswith(_RECORDS):
            for proven in bundle.records:
                seq = proven.record.seq or 0
                if seq in found:
                    raise _Differs(f"record {seq} is shown twice")
                found[seq] = proven.record
    return found


def _bounds(predicate: Mapping[str, Any]) -> tuple[int, int]:
    """The journal's size at the beginning and at the end of the period."""
    opening, closing = predicate["period"]["opening"], predicate["period"]["closing"]
    return 0 if opening is None else int(opening["size"]), int(closing["size"])


def _check_period(predicate: Mapping[str, Any], records: Mapping[int, Record]) -> None:
    first, last = _bounds(predicate)
    by_type = dict(predicate["period"]["by_type"])
    _differ(what="records of the period", said=predicate["period"]["records"], found=last - first)
    _differ(what="records by type, summed", said=sum(by_type.values()), found=last - first)
    by_type.pop("seal", None)
    _differ(what="records by type", said=by_type, found=dict(Counter(record.type for record in records.values())))
    outside = [seq for seq in records if not first < seq <= last]
    if outside:
        raise _Differs(f"record {outside[0]} is shown and is not of the period")


def _check_lists(tables: Mapping[str, _Table], records: Mapping[int, Record]) -> None:
    listed: dict[int, str] = {}
    for name, table in tables.items():
        if table.columns[: len(_HEAD)] != _HEAD:
            continue
        for row in table.rows():
            seq = int(row[0])
            record = records.get(seq)
            if record is None or row[:4] != (str(seq), format_time(record.at), record.node, record.type):
                raise _Differs(f"populations/{name}.csv: record {seq} is not as the bundles show it")
            if seq in listed:
                raise _Differs(f"record {seq} stands in {listed[seq]} and in {name}")
            listed[seq] = name
    missing = [seq for seq, record in records.items() if seq not in listed and record.type not in ("finding", "seal")]
    if missing:
        raise _Differs(f"record {missing[0]} ({records[missing[0]].type}) stands in no population")


def _check_counted(predicate: Mapping[str, Any], tables: Mapping[str, _Table]) -> None:
    first, last = _bounds(predicate)
    by_type = predicate["period"]["by_type"]
    findings = tables["findings"]
    place = findings.columns.index("opened_seq")
    opened = sum(first < int(row[place]) <= last for row in findings.rows())
    _differ(what="findings opened in the period", said=by_type.get("finding", 0), found=opened)
    _differ(what="seals of the period", said=by_type.get("seal", 0), found=tables["seals"].count)


def _cell(value: str) -> str:
    """As a list holds a text: an apostrophe before what a spreadsheet would take for a formula."""
    return f"'{value}" if value[:1] in ("=", "+", "-", "@") else value


def _check_seals(predicate: Mapping[str, Any], table: _Table, records: Mapping[int, Record], shown: Bundle) -> None:
    """The list of seals from the seals themselves, which with the other records are all that the period has."""
    first, last = _bounds(predicate)
    seals = sorted((one.record for one in shown.records if one.record.type == "seal"), key=lambda record: record.seq or 0)
    present = sorted([*records, *(seal.seq or 0 for seal in seals if (seal.seq or 0) > first)])
    if present != list(range(first + 1, last + 1)):
        raise _Differs(f"the records shown are not all from {first + 1} to {last}, each once")
    sizes: dict[tuple[str, int], int] = {}
    rows = []
    for seal in seals:
        heads = {(head["table"], head["generation"]): head["size"] for head in seal.body["tables"]}
        entries = sum(size - sizes.get(log, 0) for log, size in heads.items())
        sizes |= heads
        if (seal.seq or 0) > first:
            values = (seal.seq, format_time(seal.at), _cell(seal.node), seal.body["lsn"], len(heads), entries)
            rows.append(tuple(map(str, values)))
    odd = next((row for row, told in zip(rows, table.rows(), strict=False) if row != told), None)
    if odd is not None or len(rows) != table.count:
        where = "at its end" if odd is None else f"from record {odd[0]} on"
        raise _Differs(f"populations/seals.csv is not the list of the seals shown, {where}")


def _check_register(predicate: Mapping[str, Any], table: _Table, bundles: Mapping[str, Bundle]) -> int:
    """The register of checkpoints; of how many of them no note is shown."""
    period, shown = bundles[_PERIOD], bundles.get(_CHECKPOINTS)
    heads = {one.checkpoint.size: one for one in (*(shown.consistency if shown else ()), period.head)}
    names = {key.name: name for name, key in period.policy.witnesses.items()}
    before, last = _bounds(predicate)
    left_out = 0
    for number, row in enumerate(table.rows(), 1):
        size = int(row[1])
        if row[0] != str(number) or size <= before or row[2] != str(size - before):
            raise _Differs(f"populations/checkpoints.csv: row {number} does not continue the one before")
        before, head = size, heads.pop(size, None)
        if head is None:
            if shown is not None and row[5] == "true":
                raise _Differs(f"populations/checkpoints.csv: the final checkpoint of size {size} is not shown")
            left_out += 1
            continue
        cosigners = " ".join(names[one.name] for one in head.note.signatures if one.name in names)
        root = b64encode(head.checkpoint.root).decode()
        if (row[4], row[5], row[6]) != (_cell(root), "true", _cell(cosigners)):
            raise _Differs(f"populations/checkpoints.csv: the checkpoint of size {size} is not as its note says")
    if before != last or heads:
        raise _Differs("populations/checkpoints.csv does not list every checkpoint shown, up to the closing one")
    return left_out
