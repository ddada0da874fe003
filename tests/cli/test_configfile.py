"""Editing the list of protected tables in witnz.yaml, whatever it looks like, and nothing else in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from witnz.cli import configfile
from witnz.cli.configfile import NewTable, add_tables, by_hand, load_edited, read_text, remove_tables, replace_file, scalar
from witnz.config import Config, load_config, parse_table_reference
from witnz.core.names import parse_table_name
from witnz.errors import ConfigError, KeyProblem

HEAD = "database: {host: db, database: app, user: w} # where\n"
NEW = NewTable("billing", "prices", {"mode": "append_only"})


def load(folder: Path, text: str) -> Config:
    path = folder / "witnz.yaml"
    with path.open("w", newline="") as stream:
        stream.write(text)
    path.chmod(0o600)
    return load_config(path, {})


def names(config: Config) -> list[str]:
    return [table.name for table in config.protected_tables]


LAYOUTS = {
    "no list": HEAD,
    "no newline at the end": HEAD.rstrip("\n"),
    "empty list": HEAD + "protected_tables: []\n",
    "nothing": HEAD + "protected_tables:\nseal_interval: 5s\n",
    "nothing but a comment": HEAD + "protected_tables:   # none yet\n",
    "null": HEAD + "protected_tables: ~  # none\nseal_interval: 5s\n",
    "block": HEAD
    + "protected_tables:\n  - name: a # first\n    mode: append_only\n  # before the last\n  - {table: b} # last\n",
    "block without indentation": HEAD
    + "protected_tables:\n- name: a\n  alert:\n  - slack\n\n# about seals\nseal_interval: 5s\n",
    "deep block": HEAD + "protected_tables:\n      - name: a\n        on_change: >-\n          record\nseal_interval: 5s\n",
    "dash alone": HEAD + "protected_tables:\n  -\n    name: a\n    mode: append_only\nseal_interval: 5s\n",
    "flow": HEAD + "protected_tables: [{name: a}, {name: b}] # two\nseal_interval: 5s\n",
    "flow over lines": HEAD + "protected_tables: [\n  {name: a},\n  {name: b},\n]\n",
    "windows line ends": (HEAD + "protected_tables:\n  - {name: a}\nseal_interval: 5s\n").replace("\n", "\r\n"),
    "not ASCII": HEAD + "# für 東京 🗼\nprotected_tables:\n  - {name: 東京} # 🗼\nseal_interval: 5s\n",
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_table_is_added_at_the_end_and_every_other_line_stays(tmp_path: Path, layout: str) -> None:
    config = load(tmp_path, layout)
    text = add_tables(layout, [NEW])
    edited = load_edited(config, text, [*names(config), "billing.prices"], by_hand([NEW]))
    assert edited.table("billing.prices").mode == "append_only"  # type: ignore[union-attr]
    if layout.endswith("\n") and "flow" not in layout and "[" not in layout and "~" not in layout:
        left = [line for line in text.splitlines() if "billing.prices" not in line]
        assert [line for line in left if line != "protected_tables:"] == [
            line for line in layout.splitlines() if line != "protected_tables:"
        ]
    assert [comment for comment in layout.split() if comment.startswith("#")] == [
        comment for comment in text.split() if comment.startswith("#")
    ]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_removing_what_was_added_leaves_what_was_there(tmp_path: Path, layout: str) -> None:
    config = load(tmp_path, layout)
    added = add_tables(layout, [NEW, NewTable("public", "x y", {})])
    places = [len(names(config)), len(names(config)) + 1]
    removed = remove_tables(added, places)
    assert names(load(tmp_path, removed)) == names(config)


@pytest.mark.parametrize(
    "layout", [key for key in LAYOUTS if "a" in key and key not in ("no list", "null", "nothing but a comment")]
)
def test_the_first_table_is_removed_and_the_others_stay(tmp_path: Path, layout: str) -> None:
    text = LAYOUTS[layout]
    config = load(tmp_path, text)
    if not names(config):
        return
    edited = load_edited(config, remove_tables(text, [0]), names(config)[1:], "by hand")
    assert names(edited) == names(config)[1:]


def test_the_comment_above_a_removed_table_stays() -> None:
    text = HEAD + "protected_tables:\n  # money\n  - name: a\n    mode: append_only # never changes\n  # people\n  - name: b\n"
    assert remove_tables(text, [0]) == HEAD + "protected_tables:\n  # money\n  # people\n  - name: b\n"


def test_removing_all_leaves_an_empty_list() -> None:
    text = HEAD + "protected_tables: # all\n  - name: a\n  - name: b\nseal_interval: 5s\n"
    assert remove_tables(text, [0, 1]) == HEAD + "protected_tables: [] # all\nseal_interval: 5s\n"


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20),
)
def test_every_name_is_read_back_as_it_was_meant(schema: str, table: str) -> None:
    import yaml

    item = yaml.load("- " + NewTable(schema, table, {}).item(), Loader=yaml.BaseLoader)[0]
    found, name = parse_table_reference(item["name"].replace("$${", "${"))
    assert (found or "public", name) == (schema, table)


@pytest.mark.parametrize(
    "text", ["plain", "with space", "yes", "null", "1e3", "5432", "${HOME", "${HOME}", "a: b", "#x", '"', "é", "-", ""]
)
def test_a_scalar_says_what_it_was(text: str) -> None:
    import yaml

    found = yaml.load(f"key: {scalar(text)}", Loader=yaml.BaseLoader)["key"]
    assert found == (text if text == "${HOME}" else text.replace("${", "$${"))


def test_a_layout_that_comes_out_otherwise_is_left_alone(tmp_path: Path) -> None:
    text = "{database: {host: db, database: app, user: w}, protected_tables: []}\n"
    config = load(tmp_path, text)
    odd = add_tables("{database: {host: db, database: app, user: w}}\n", [NEW])
    with pytest.raises(ConfigError):
        load_edited(config, odd, ["billing.prices"], by_hand([NEW]))
    with pytest.raises(ConfigError, match="laid out in a way") as refused:
        load_edited(config, text, ["billing.prices"], by_hand([NEW]))
    assert "- {name: billing.prices, mode: append_only}" in refused.value.hint
    assert read_text(tmp_path / "witnz.yaml") == text
    assert [path.name for path in tmp_path.iterdir()] == ["witnz.yaml"]


def test_an_edit_that_changes_anything_else_is_refused(tmp_path: Path) -> None:
    config = load(tmp_path, HEAD + "protected_tables: [{name: a, mode: append_only}]\n")
    for other in ("protected_tables: [{name: a}]\n", "protected_tables: [{name: a, mode: append_only}]\nseal_interval: 9s\n"):
        with pytest.raises(ConfigError, match="laid out in a way"):
            load_edited(config, HEAD + other, ["public.a"], "by hand")


def test_a_replaced_file_keeps_its_permissions_and_a_link_its_target(tmp_path: Path) -> None:
    real = tmp_path / "real.yaml"
    real.write_text("old")
    real.chmod(0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to(real)
    replace_file(link, "new")
    assert real.read_text() == "new"
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    replace_file(tmp_path / "fresh.yaml", "x")
    assert (tmp_path / "fresh.yaml").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh.yaml", "link.yaml", "real.yaml"]


def test_the_names_of_new_tables_are_canonical() -> None:
    assert parse_table_name(NewTable("s.x", 'ta"b', {}).name) == ("s.x", 'ta"b')
    assert os.sep not in NewTable("a/b", "c", {}).name


def test_a_file_of_another_user_names_the_line_that_is_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As /etc/witnz/witnz.yaml is to the account of the node; root may write anywhere, so the refusal is put in here."""
    config = load(tmp_path, HEAD + "protected_tables:\n  - {name: audit_logs}\n")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(configfile, "_write_private", refuse)
    with pytest.raises(KeyProblem, match="Permission denied") as caught:
        load_edited(config, "", names(config), by_hand([NEW]))
    assert caught.value.exit_code == 12
    assert "- {name: billing.prices, mode: append_only}\nthen run this command again" in caught.value.hint
    with pytest.raises(KeyProblem, match="cannot be written"):
        replace_file(tmp_path / "witnz.yaml", "")
