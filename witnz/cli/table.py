"""``witnz table``: the rows of a protected table as canonical lines, for auditors (formats.md 1)."""

from __future__ import annotations

import os
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from witnz.cli.access import open_store, running_client, table_name
from witnz.cli.command import LOOK, add_command, add_group
from witnz.cli.invocation import invocation
from witnz.cli.text import count, printable
from witnz.errors import Inconclusive, UsageError

if TYPE_CHECKING:
    import sqlite3

    import psycopg

    from witnz.config import Config
    from witnz.core.record import Record
    from witnz.store.logs import LogRow


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    group = add_group(
        app, "table", "The rows of a protected table: export.", "witnz table export audit_logs -o rows.tsv", section=LOOK
    )
    add_command(
        group,
        "export",
        "witnz table export audit_logs -o rows.tsv",
        "witnz table export audit_logs -o rows.tsv --verify-id 412",
        "witnz table export audit_logs -o rows.tsv --psql",
    )(export)


def export(
    context: typer.Context,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="schema.table, or table for public.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="A new file.")],
    verify_id: Annotated[
        int | None,
        typer.Option("--verify-id", min=1, metavar="N", help="The journal record of the verification whose state it must be."),
    ] = None,
    psql: Annotated[
        bool, typer.Option("--psql", help="Print the psql command that writes the same bytes, and do nothing.")
    ] = False,
) -> int:
    """Write a table's rows as canonical lines, and say of which journalled verification they are the state.

    A running node verifies the table in the very snapshot that is read, so whatever is written meanwhile does not matter.
    Beside a stopped node, or with --verify-id, the rows are those of now; if no verification had just these, an auditor's
    check of them stays INCONCLUSIVE, and so does this (exit code 4).
    """
    call, name = invocation(context), table_name(table)
    config = call.startable_config()
    with open_store(config) as db, db.read() as conn:
        log, columns = _log_of(conn, name)
        if verify_id is not None:
            list(_verifications(conn, log, verify_id))  # refuses one that there is not, before anything is read
    from witnz.node.setup import conninfo_of
    from witnz.postgres import catalog
    from witnz.postgres.handshake import accept
    from witnz.postgres.scan import SnapshotScan, psql_command
    from witnz.postgres.session import connect

    with connect(conninfo_of(config), scan=True, application_name="witnz table export") as database:
        info = catalog.table_by_oid(database, log.oid)
        if info is None:
            raise Inconclusive(f"{name} does not exist any more under the recorded OID {log.oid}")
        if psql:
            line = psql_command(info, columns, str(output))
            call.output.answer({"schema": "witnz.table-export/1", "table": name, "command": line}, [line])
            return 0
        with (
            _verifying(config, database, name, alone=verify_id is not None) as (shared, looked),
            SnapshotScan(database, info, columns=columns, import_snapshot=shared) as scan,
        ):
            if shared is not None:
                accept(scan, looked.token)
            rows, root = _write(scan.blocks(), output, log.secret)
        if changed := scan.changed_during():
            raise Inconclusive(f"the definition of {name} changed during the scan ({', '.join(changed)}); export it again")
    with open_store(config) as db, db.read() as conn:
        verifications = list(_verifications(conn, log, verify_id))
    found = next((record for record in verifications if b64decode(record.body["state_found"]) == root), None)
    document: dict[str, Any] = {
        "schema": "witnz.table-export/1",
        "table": name,
        "generation": log.generation,
        "file": str(output),
        "rows": rows,
        "snapshot": scan.snapshot_text,
        "verify_id": found.seq if found else None,
    }
    lines = [f"wrote {output}: {count(rows, 'row')} of {printable(name)}"]
    if found is not None:
        lines.append(f"they are the table as verified at {found.body['lsn']}, record {found.seq} of the journal")
        call.output.answer(document, lines)
        return 0
    wanted = "the verification asked for" if verify_id is not None else "any verification that is journalled"
    call.output.answer(document, [*lines, f"{call.output.word('INCONCLUSIVE')}: they are not the state of {wanted}"])
    for reason in looked.not_checked:
        call.output.note(f"the verification in their snapshot: {printable(reason)}")
    call.output.note(f"`witnz verify {printable(name)}` says more; beside a running node an export needs nothing else")
    return 4


@dataclass(slots=True)
class _Looked:
    """What the running node says of the table in the snapshot that is read; ``not_checked``: why it is not VERIFIED."""

    token: str = field(default_factory=lambda: os.urandom(8).hex())
    not_checked: list[str] = field(default_factory=list)


@contextmanager
def _verifying(
    config: Config, database: psycopg.Connection[Any], name: str, *, alone: bool
) -> Iterator[tuple[str | None, _Looked]]:
    """The snapshot in which the running node, if there is one, verifies the table; at the end, when it has verified it.

    The node takes the snapshot, because it must keep, from before then on, what later transactions replace.
    """
    from witnz.postgres.handshake import await_offer

    looked = _Looked()
    with running_client(config) as client, ThreadPoolExecutor(1) as aside:
        if client is None or alone:
            yield None, looked
            return
        future = aside.submit(client.verify, name, share=looked.token)
        shared = await_offer(database, looked.token, future.done)
        if shared is None:
            future.result()
            raise Inconclusive(f"the running node could not read {name}", hint=f"`witnz verify {name}` says why")
        yield shared, looked
        looked.not_checked += future.result()["not_checked"]


def _log_of(conn: sqlite3.Connection, name: str) -> tuple[LogRow, list[str]]:
    """The newest recorded generation of a table, and its columns as recorded."""
    from witnz.core.entry import parse_entry, parse_schema_hint
    from witnz.node.evidence import schema_seq_before
    from witnz.store import entries, logs

    found = [row for row in logs.list_logs(conn) if row.table == name and row.status not in ("open", "ended")]
    if not found:
        raise UsageError(f"{name} is not protected", hint="`witnz status` lists the protected tables")
    log = max(found, key=lambda row: row.generation)
    seq = schema_seq_before(conn, log.id, log.size + 1)
    schema = parse_schema_hint(parse_entry(entries.entry_at(conn, log.id, seq)).hint or "")
    if schema.sha256 is not None:
        raise UsageError(f"{name} has too many columns to be described in its log, so they cannot be exported by name")
    return log, [column.name for column in schema.columns]


def _verifications(conn: sqlite3.Connection, log: LogRow, verify_id: int | None) -> Iterator[Record]:
    """The verifications of this generation that found nothing, newest first; or the one that was asked for."""
    from witnz.core.record import parse_record
    from witnz.store import journal

    found = []
    for _, leaf in journal.records_of(conn, "verify", naming=log.table, newest_first=True):
        record = parse_record(leaf)
        own = (record.body["table"], record.body["generation"]) == (log.table, log.generation)
        if own and record.body["verdict"] == "VERIFIED" and verify_id in (None, record.seq):
            found.append(record)
    if verify_id is not None and not found:
        raise UsageError(
            f"record {verify_id} is no verification of {log.table}, generation {log.generation}, that found nothing",
            hint="`witnz verify TABLE --json` shows the journal_seq of a verification",
        )
    yield from found


def _write(blocks: Iterator[bytes], output: Path, secret: bytes) -> tuple[int, bytes]:
    """Write the lines to a new file; how many, and their state root."""
    from witnz.core import hashing
    from witnz.verify.partition import Partitions, state_tree

    hashes = Partitions(output.parent)
    try:
        with output.open("xb") as stream:
            output.chmod(0o600)
            for lines in blocks:
                stream.write(lines)
                hashes.add(hashing.packed_row_hashes(secret, lines))
        return hashes.rows, state_tree(hashes).root()
    except FileExistsError:
        raise UsageError(f"{output} exists already", hint="name a new file; nothing is overwritten") from None
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}", hint="name a file that can be made") from error
    finally:
        hashes.close()
