"""C06: the publication is there before witnz is, and it is empty, filtered, cut or of another kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.node import Protected, write_config
from tests.support.postgres import Database
from witnz.config import load_config
from witnz.errors import WitnzError
from witnz.node.node import Node, now_us
from witnz.node.setup import initialise
from witnz.postgres.session import Conninfo

TABLE = "public.ledger"
LEDGER = (
    "CREATE TABLE ledger (id bigint PRIMARY KEY, actor text, amount numeric); CREATE TABLE other (id int PRIMARY KEY);"
    " INSERT INTO ledger SELECT g, 'user' || g, g FROM generate_series(1, 10) g"
)
WRONG = {
    "empty": "CREATE PUBLICATION {name}",
    "of another table": "CREATE PUBLICATION {name} FOR TABLE other",
    "with a row filter": "CREATE PUBLICATION {name} FOR TABLE ledger WHERE (id > 5)",
    "with a column list": "CREATE PUBLICATION {name} FOR TABLE ledger (id, actor)",
    "of inserts only": "CREATE PUBLICATION {name} FOR TABLE ledger WITH (publish = 'insert')",
    "without truncate": "CREATE PUBLICATION {name} FOR TABLE ledger WITH (publish = 'insert, update, delete')",
    "for all tables": "CREATE PUBLICATION {name} FOR ALL TABLES",
}


SINCE_15 = pytest.mark.since(15, "row filters and column lists")


def marked(text: str) -> Any:
    return pytest.param(text, marks=SINCE_15) if text.endswith(")") and "publish" not in text else text


@pytest.mark.parametrize("statement", [marked(text) for text in WRONG.values()], ids=WRONG)
def test_the_dbas_wrong_publication_is_refused_until_it_is_gone(statement: str, database: Database, tmp_path: Path) -> None:
    database.sql(LEDGER)
    tables = [{"name": TABLE, "mode": "append_only"}]
    config = load_config(write_config(tmp_path, database, tables), {})
    database.sql(statement.format(name=config.publication), user="postgres")
    admin = Conninfo.from_conninfo(database.owner_dsn)
    with pytest.raises(WitnzError, match=config.publication) as refused:
        initialise(config, admin=admin, clock=now_us, operator="alice")
    assert refused.value.exit_code in (2, 14) and refused.value.hint
    database.sql(f"DROP PUBLICATION {config.publication}", user="postgres")
    protected = Protected.start(tmp_path, database, tables)
    protected.stop()


@pytest.mark.parametrize("statement", [marked(text) for name, text in WRONG.items() if name != "for all tables"])
def test_the_owners_own_wrong_publication_is_put_right(statement: str, database: Database, tmp_path: Path) -> None:
    database.sql(LEDGER)
    tables = [{"name": TABLE, "mode": "append_only"}]
    config = load_config(write_config(tmp_path, database, tables), {})
    database.sql(statement.format(name=config.publication))
    protected = Protected.start(tmp_path, database, tables)
    try:
        database.sql("INSERT INTO ledger VALUES (3000, 'late', 1)")
        database.sql("UPDATE ledger SET amount = 0 WHERE id = 2; DELETE FROM ledger WHERE id = 3")
        protected.wait_for("violation.update", "2")
        protected.wait_for("violation.delete", "3")
        assert {f.cls for f in protected.findings()} == {"violation.update", "violation.delete"}
        assert protected.verify(TABLE).result.rows == 10
    finally:
        protected.stop()


def test_one_made_wrong_between_init_and_start_is_a_gap_of_what_it_does_not_carry(database: Database, tmp_path: Path) -> None:
    database.sql(LEDGER)
    tables = [{"name": TABLE, "mode": "append_only"}]
    config = load_config(write_config(tmp_path, database, tables), {})
    initialise(config, admin=Conninfo.from_conninfo(database.owner_dsn), clock=now_us, operator="alice")
    database.sql(f"ALTER PUBLICATION {config.publication} DROP TABLE ledger", user="postgres")
    node = Node(config)
    protected = Protected(database, config, node, tmp_path)
    try:
        node.start(schedule=False)
        finding = protected.wait_for("publication.changed")
        assert "ledger" in finding.detail
        assert protected.findings(state="open") and node.journal.state.open_gaps().keys() <= {TABLE}
    finally:
        protected.stop()
