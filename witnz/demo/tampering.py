"""The deeds, each caught by another way of looking, and what sets the tables right again.

sql           the DBA writes: the replication stream shows it at once, with transaction and time
publication   the table leaves the publication for the length of one transaction: the stream shows nothing of what was
              written meanwhile; the catalog watch sees that the publication was touched, the next scan names the rows
file          the server is stopped and a value in the heap file is overwritten: the next scan names the row
"""

from __future__ import annotations

import time
from typing import Final

from witnz.demo.heapfile import find_row, replace_value
from witnz.demo.play import VERIFIED, Expected, Play
from witnz.demo.stage import AUDIT, DATABASE, PRICES, wait_for

UPDATED, DELETED = 117, 231
HIDDEN_UPDATED, HIDDEN_DELETED, HIDDEN_INSERTED = 118, 232, 900_001
EDITED: Final = 119
UNSIGNED: Final = "SKU-055"
REASON: Final = "incident 12"
DEEDS: Final = frozenset({"sql.update", "sql.delete", "sql.unsigned", "sql.truncate", "publication", "file.update"})
"""What is done, and can be left undone to see the demo fail."""

_CHANGE = "UPDATE audit_logs SET detail = 'paid {paid} EUR' WHERE id = {id}"
_REMOVE = "DELETE FROM audit_logs WHERE id = {id}"
_INVENT = "INSERT INTO audit_logs VALUES ({id}, '2026-02-01', 'clerk3', 'payment', 'paid {paid} EUR')"
_PRICE = "UPDATE billing.prices SET cents = 1 WHERE sku = '{sku}'"


def by_sql(play: Play) -> None:
    """UPDATE, DELETE and TRUNCATE of the append-only table, and a price that nobody signed for."""
    play.begin("sql", "As the DBA, by SQL")
    for scene, cls, table, key, statement in (
        ("sql.update", "violation.update", AUDIT, UPDATED, _CHANGE.format(paid=90_117, id=UPDATED)),
        ("sql.delete", "violation.delete", AUDIT, DELETED, _REMOVE.format(id=DELETED)),
        ("sql.unsigned", "change.unapproved", PRICES, UNSIGNED, _PRICE.format(sku=UNSIGNED)),
        ("sql.truncate", "violation.truncate", AUDIT, None, "TRUNCATE audit_logs"),
    ):
        expected = Expected(cls, table, None if key is None else str(key))
        play.expect_now(scene, expected, play.tamper(scene, statement))


def settle_sql(play: Play, before: str) -> None:
    """The rows back from the truncate (and with them those that were changed before it), the price approved.

    ``before``: the digest of the first rows, as they were.
    """
    play.begin("repair", "Putting it right: repaired rows, an approved price")
    _repair(play, "sql.truncate", before)
    _all_closed(play, "repair.closed", ("sql.update", "sql.delete"))
    play.approve("sql.unsigned", "price correction, ticket 4711")


def round_the_publication(play: Play) -> None:
    """UPDATE, DELETE and INSERT while the table is out of the publication, all in one transaction."""
    play.begin("publication", "Round the publication: what the stream never shows")
    publication = play.stage.ask("SELECT pubname FROM pg_publication_tables WHERE tablename = 'audit_logs'")
    done_at = play.tamper(
        "publication",
        f'ALTER PUBLICATION "{publication}" DROP TABLE audit_logs',
        _CHANGE.format(paid=90_118, id=HIDDEN_UPDATED),
        _REMOVE.format(id=HIDDEN_DELETED),
        _INVENT.format(paid=66_666, id=HIDDEN_INSERTED),
        f'ALTER PUBLICATION "{publication}" ADD TABLE ONLY audit_logs',
        at_once=True,
    )
    play.expect_now("publication.touched", Expected("publication.changed", AUDIT), done_at, "catalog")
    rows = {
        "publication.update": Expected("row.modified", AUDIT, str(HIDDEN_UPDATED)),
        "publication.delete": Expected("row.deleted", AUDIT, str(HIDDEN_DELETED)),
        "publication.insert": Expected("row.inserted", AUDIT, str(HIDDEN_INSERTED)),
    }
    play.expect_by_scan(AUDIT, rows, time.monotonic())


def in_the_heap_file(play: Play) -> None:
    """One digit of one value, in the file of the stopped server."""
    play.begin("file", "In the heap file of the stopped server")
    server = play.stage.server
    place = find_row(server, DATABASE, "public.audit_logs", "id = %s", [EDITED])
    server.stop()
    if "file.update" not in play.leave_out:
        offset = replace_value(place, f"paid 10{EDITED} EUR".encode(), f"paid 90{EDITED} EUR".encode())
        file = place.segment.relative_to(server.data_dir)
        play.narrator.say(f"server stopped; {file}, byte {offset}: 10{EDITED} becomes 90{EDITED}; server started")
    server.start()
    up_at = time.monotonic()
    play.stage.await_recording(play.patience_s)
    play.expect_by_scan(AUDIT, {"file.update": Expected("row.modified", AUDIT, str(EDITED))}, up_at)


def settle_silent(play: Play, before: str) -> None:
    """Every row that only a scan has seen, repaired; the publication's finding, approved."""
    scenes = play.scenes()
    rows = [name for name in scenes if name.startswith(("publication.", "file.")) and name != "publication.touched"]
    if rows or "publication.touched" in scenes:
        play.begin("repair", "Putting right what the scans found")
    for scene in rows:
        _repair(play, scene, before if scene == rows[-1] else "")
    if "publication.touched" in scenes:
        play.approve("publication.touched", "publication looked at, incident 12")
        wait_for(play.stage.is_settled, play.patience_s)  # the table begins a new generation with it


def _repair(play: Play, scene: str, before: str) -> None:
    """Apply; ``before``: what the digest of the first rows must be afterwards, where that can be said; then also a plan first.

    The exit code is that of the verification afterwards, hence 3 while other rows of the table wait for their repair.
    """
    finding = play.scenes().get(scene)
    if finding is None:
        return
    url, key = play.stage.admin_url, play.stage.operator_key.name
    begun = time.monotonic()
    plan = play.run("repair", "plan", finding, "-o", f"{scene}.sql") if before else None
    words = ("--admin-url", url, "--operator-key", key, "--reason", REASON)
    ran = plan if plan is not None and plan.code != VERIFIED else play.run("repair", "apply", finding, *words)
    seen = play.stage.client.finding(finding)["state"]
    if ran.error:
        seen = ran.outcome
    elif before and play.stage.baseline_digest() != before:
        seen = "the rows are not what they were"
    seconds = time.monotonic() - begun
    play.note(f"repair.{scene}", "repaired", seen, ok=seen == "repaired", detector="operator", seconds=seconds)


def _all_closed(play: Play, scene: str, scenes: tuple[str, ...]) -> None:
    """The findings about rows that a repair restored besides are closed with it."""
    known = play.scenes()
    ids = [known[name] for name in scenes if name in known]
    states = {play.stage.client.finding(name)["state"] for name in ids}
    if ids:
        seen = ", ".join(sorted(states))
        play.note(scene, "repaired", seen, ok=states == {"repaired"}, detector="operator", seconds=0.0)
