"""``docs/benchmarks.md`` from a document of a run: the same text for the same document, so that a check can compare them.

Nothing but the standard library is imported: the page can be made and checked where no benchmark can run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

SCHEMA: Final = "witnz.benchmarks/2"
RESULTS: Final = Path(__file__).parent / "results" / "latest.json"
"""The run that the page was made from."""

_REMARKS: Final = """
## How to read this

- Timings hold as ratios within one run on one machine; that is why each peer is measured in the same run. Everything shares
  the machine's cores: the server, the peers, and up to three nodes. In a real installation each has a machine of its own, so
  the latencies of P7 and the rates of three nodes at once are worse here than there.
- The server runs with `fsync=off`. That makes the *peers* faster, not witnz, whose own store is always synchronised; and it
  takes the disk out of the latencies under pgbench, so a relative p95 is stricter than on a real disk.
- **P3** begins when the change is sent, not when its commit returns: the reader often has it before that. It ends when the
  finding is durable in the stores of all three, with files synchronised; the bare reader keeps nothing.
- **P4** is the seal interval (5 s by default) and little else: a commit waits for the next seal, which is signed and cosigned
  at once.
- **journal** is what a while of a table that changes in every seal interval made, scaled to a day; a cluster in which nothing
  changes seals nothing. Verifications come on top, one record each.
- **P7** protects the tables that pgbench's `simple-update` writes to, at scale 1, all rows in memory. Hardly any transaction
  that is worth protecting is cheaper, so the walsenders' share is an upper bound. Every walsender decodes all WAL of the
  server, whichever tables are protected: PostgreSQL's own price of a slot, whoever reads it. What that price is says the same
  run with three programs `pg_recvlogical` on the same publications instead of the nodes (bare readers): the floor for any
  three readers here. What a node adds for the server are ten small acknowledgements a second and the other sessions' queries.
  Nodes belong on other machines than the database; here they take cores that a transaction waits for. `p95 ratio nodes idle
  class` is the same load while the kernel gives the nodes only what is left over (`SCHED_IDLE`).
- **P9** takes 1,000,000 entries by default; `--large` takes 10,000,000 for P5 and P9.
- **report** makes its store by a simulated clock: three days, or with `--large` thirty days and 1,000,000 entries. Time is
  that of the whole process (of verify.html: from choosing the folder to the verdict), memory its peak (of verify.html: the
  page's). A period with more than a thousand seals has no bundle of each, so a package grows with its lists, not with proofs.
  **start** in it is what a node reads of that journal before it records: its time grows with the number of seals.

## What limits capture and verification

`pg_recvlogical` and `psql` throw away what they read: they show the server's own speed. A node takes every row apart, hashes
it (SHA-256 five times: blind, row, leaf, tree, chain, the last in strict sequence) and writes it to its store, synchronised:
entry, hash, tree, live key. The compiled functions (decision [0007](decisions/0007-compiled-twins.md)) work on blocks of rows;
what is left to the interpreter is some microseconds a row.

A verification takes blocks of rows from libpq, hashes every row twice, 8 or 16 rows at a time in vector registers, while the
server sends the next ones, and keeps the hashes as bytes: no row and no hash is an object of Python's (decision
[0018](decisions/0018-verification-without-objects.md)). That costs about as much CPU as the server's COPY does. What
is left comes after the scan: the state in the store is read and sorted, and both sides compared, since only then it is known
which transactions the scan saw. Without a C compiler at install the plain functions do the same, in two processes, at about
four times the cost.
""".strip()


def told(figure: Mapping[str, Any]) -> str:
    """What was measured, in one line."""
    if "failed" in figure:
        return f"failed: {figure['failed']}"
    return ", ".join(f"{name.replace('_', ' ')} {_value(value)}" for name, value in figure["measured"].items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{name.replace('_', ' ')} {_value(each)}" for name, each in value.items()) + ")"
    if isinstance(value, list):
        return " / ".join(_value(each) for each in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else "–" if value is None else str(value)


def render(document: Mapping[str, Any]) -> str:
    return "\n".join(_lines(document)) + "\n"


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    if document["schema"] != SCHEMA:
        raise ValueError(f"expected a document {SCHEMA}, found {document['schema']}")
    machine, options, figures = document["machine"], document["options"], document["figures"]
    yield "<!-- Generated by docs/generate.py from benchmarks/results/latest.json, as `python -m benchmarks` does. -->\n"
    yield "# Benchmarks\n"
    yield f"Taken {document['taken']} on {machine['cores']} cores, {machine['memory_gib']} GiB of memory, Python"
    yield f"{machine['python']}, PostgreSQL {machine['postgresql']}, hashing {machine['hashing']}, tuples {machine['tuples']}."
    yield f"Load of the machine before the run: {machine['load_before']}{_loaded(machine)}. Rows:"
    yield f"{options['rows']:,}{'; P5 and P9: 10,000,000' if options['large'] else ''}.\n"
    yield 'How to repeat: `make bench ARGS="--json benchmarks/results/latest.json --markdown docs/benchmarks.md"`; some figures'
    yield 'alone: `make bench ARGS="--only P1,P2 --rows 300000"`.\n'
    met = sum(figure.get("verdict") == "met" for figure in figures.values())
    bound = sum(figure.get("verdict") != "no limit" for figure in figures.values())
    yield f"{met} of {bound} figures with a limit meet it.\n"
    yield "| | what | limit | measured | |"
    yield "|---|---|---|---|---|"
    for name, figure in figures.items():
        later = figure.get("taken", document["taken"])
        load = f", load {figure['load_before']}" if "load_before" in figure else ""
        measured = told(figure) + (f" (taken {later}{load})" if later != document["taken"] else "")
        cells = (name, figure["title"], figure["limit"], measured, f"**{figure.get('verdict', 'failed')}**")
        yield f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
    yield ""
    yield _REMARKS


def _loaded(machine: Mapping[str, Any]) -> str:
    busy = machine["load_before"] > machine["cores"] / 2
    return " (others were using it; timings are inflated, and ratios of unlike work with them)" if busy else ""
