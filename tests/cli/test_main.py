"""The frame around all commands: help, options, errors, exit codes, the base install."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import ROOT, Cli
from witnz.cli import main as program
from witnz.cli.main import COMMANDS, build, main

VECTORS = ROOT / "tests" / "vectors"

# Modules that only the extras bring.
BROUGHT_BY_TYPER = {"pydantic", "pydantic_core"}  # from some version on
EXTRA_MODULES = sorted({*program.EXTRA_OF, "dateutil", "h11", "anyio"} - BROUGHT_BY_TYPER)
BASE_INSTALL = f"""
import contextlib, io, json, sys
sys.modules.update(dict.fromkeys({EXTRA_MODULES!r}))  # importing any of them is a ModuleNotFoundError
from witnz.cli.main import main
results = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    results.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""


def commands(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *path, name)


EVERY_COMMAND = dict(commands(build()))


@pytest.mark.parametrize("path", EVERY_COMMAND, ids=lambda path: " ".join(path) or "witnz")
def test_the_help_of_every_command_ends_with_an_example(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*path, "--help"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    last = shown.out.rstrip().splitlines()[-1]
    words = ("  witnz", *path) if not hasattr(EVERY_COMMAND[path], "commands") else ("  witnz",)
    assert " ".join(words) in shown.out.partition("Example")[2]
    assert last.startswith("    ")


@pytest.mark.parametrize("path", EVERY_COMMAND, ids=lambda path: " ".join(path) or "witnz")
def test_every_example_is_a_command_line_that_the_parser_takes(path: tuple[str, ...]) -> None:
    epilog = EVERY_COMMAND[path].epilog
    lines = [line.strip() for line in epilog.splitlines() if line.strip().startswith("witnz ")]
    assert lines or path == ("completion",)
    for line in lines:
        words = shlex.split(line)[1:]
        command: Any = EVERY_COMMAND[()]
        context = command.make_context("witnz", [], resilient_parsing=True)
        words = program.hoist_globals(words, frozenset(program._value_options(command)))
        words = [word for word in words if word not in ("--json",)]
        if words[0] == "-c":
            words = words[2:]
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        command.make_context(line, words, parent=context)


def test_the_program_is_the_one_that_is_promised() -> None:
    leaves = {
        " ".join(path)
        for path, command in EVERY_COMMAND.items()
        if path and (not hasattr(command, "commands") or command.invoke_without_command)
    }
    promised = """
        demo, init, protect, unprotect, doctor, start, status, verify, checkpoint list, checkpoint show, checkpoint export,
        anchor now, anchor list, anchor check, anchor backends, prove, log show, log export, findings list, findings show,
        findings ack, findings approve, repair plan, repair apply, repair store, keys show, keys policy, keys new, keys rotate,
        keys approvers,
        cluster status, cluster add, cluster remove, table export, report, report sample,
        report drill,
        erase, prune, config check, config show, config apply, config explain, version, completion
    """
    assert leaves == {name.strip() for name in promised.split(",")}


def test_no_option_takes_a_value_in_one_command_and_none_in_another() -> None:
    values, flags = set(), set()
    for command in EVERY_COMMAND.values():
        for parameter in command.params:
            names = {name for name in parameter.opts if name.startswith("-")}
            (flags if getattr(parameter, "is_flag", False) or getattr(parameter, "count", False) else values).update(names)
    assert not values & flags


def test_no_words_give_the_help_and_say_that_this_was_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Set up:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["verify", "--bogus"], "No such option"),
        (["verify", "--checkpoint"], "requires an argument"),
        (["status", "--color", "pink"], "pink"),
        (["findings"], "Missing command"),
        (["findings", "show"], "Missing argument"),
        (["status", "-c"], "option -c needs a value"),
        (["checkpoint", "show", "x"], "[N]"),
        (["status", "--interval", "0"], "0"),
        (["verify", "a", "--all"], "expected one of TABLE, --all"),
        (["verify", "--policy", "p"], "--policy goes with --checkpoint"),
        (["prove", "t", "-o", "x"], "expected the row's --key"),
    ],
)
def test_wrong_usage_is_exit_code_2_in_both_formats(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert message in shown.err
    assert "hint: " in shown.err
    assert main([*words[:1], "--json", *words[1:]]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith('{"schema": "witnz.error/1", "code": "usage", "exit_code": 2, "message": ')


def test_global_options_stand_before_or_after_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("database: {host: h, database: d, user: u}\n")
    for place in (0, 1, 2):
        for option in (["-c", f"{tmp_path}/a.yaml"], [f"--config={tmp_path}/a.yaml"]):
            words = ["config", "check", "--json"]
            words[place:place] = option
            assert main(words) == 0
            assert json.loads(capsys.readouterr().out)["path"] == f"{tmp_path}/a.yaml"


def test_color_is_used_when_asked_for_and_never_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = ["verify", "--checkpoint", str(VECTORS / "bundle-good.witnz.json")]

    def is_colored(*words: str) -> bool:
        assert main([*bundle, *words]) == 4
        return "\x1b[" in capsys.readouterr().out

    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    assert not is_colored()
    assert is_colored("--color", "always")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert is_colored()
    assert not is_colored("--color=never")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not is_colored()


# -- what goes wrong ----------------------------------------------------------------------------------------------------------


def test_an_unexpected_error_is_one_line_and_a_traceback_only_with_v(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_first: str | None) -> Any:
        raise RuntimeError("something\nunforeseen")

    monkeypatch.setattr(program, "build", fail)
    assert main(["status"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: unexpected RuntimeError: something unforeseen  [unexpected]\nhint: ")
    assert "Traceback" not in shown
    assert main(["status", "-v"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_is_exit_code_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_first: str | None) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "build", interrupt)
    assert main(["status"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_ctrl_c_ends_a_command_without_a_traceback() -> None:
    command = [sys.executable, "-m", "witnz", "verify", "--checkpoint", "-"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(bytes(1 << 18))  # more than the pipe holds: it is reading its standard input by now
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == b""
    assert err in (b"interrupted\n", b""), err


def test_an_answer_that_nobody_reads_to_its_end_is_no_error_message() -> None:
    command = f"{sys.executable} -m witnz verify --checkpoint {VECTORS}/bundle-good.witnz.json | true"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, check=False)
    assert done.stderr == b""


def test_a_name_that_holds_escape_sequences_is_shown_harmlessly(tmp_path: Path) -> None:
    found = Cli(tmp_path).run("verify", "--checkpoint", "\x1b[2Jx.json").expect(2)
    assert "\x1b" not in found.err
    assert "\\x1b[2Jx.json" in found.err


# -- the base install ---------------------------------------------------------------------------------------------------------


def run_base(*calls: list[str], cwd: Path = ROOT) -> list[tuple[int, str, str]]:
    """(code, stdout, stderr) of calls in an interpreter that has nothing but what the base install brings."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", BASE_INSTALL, json.dumps(calls)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=True)
    return [(code, out, err) for code, out, err in json.loads(done.stdout)]


def test_the_base_install_verifies_bundles_and_makes_keys(tmp_path: Path) -> None:
    bundle, policy = str(VECTORS / "bundle-good.witnz.json"), str(VECTORS / "policy.txt")
    calls = [
        ["verify", "--checkpoint", bundle, "--policy", policy],
        ["--help"],
        ["version"],
        ["completion", "bash"],
        ["keys", "new", "operator", "bob"],
    ]
    verified, helped, version, completed, made = run_base(*calls, cwd=tmp_path)
    assert verified[0] == 0, verified
    assert verified[1].rstrip().splitlines()[-1].startswith("VERIFIED: ")
    assert helped[0] == 0
    assert "extras: none (offline verification only)" in version[1]
    assert "_WITNZ_COMPLETE" in completed[1]
    assert made[0] == 0, made
    assert (tmp_path / "operator-bob.key").stat().st_mode & 0o777 == 0o600


def test_a_command_without_its_extra_says_which_one(tmp_path: Path) -> None:
    calls = [
        ["status"],
        ["verify", "--all"],
        ["verify", "--store"],
        ["config", "check"],
        ["config", "explain", "node.id"],
        ["init", "--db", "postgresql://w@h/d"],
        ["protect", "t"],
        ["doctor"],
        ["start"],
        ["findings", "list"],
        ["repair", "plan", "F-0123456789ab"],
    ]
    for words, (code, out, err) in zip(calls, run_base(*calls, cwd=tmp_path), strict=True):
        assert (code, out) == (2, ""), words
        assert "this command needs the extra 'node'" in err, words
        assert 'hint: pip install "witnz[node]"' in err, words
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["version"],
        ["verify", "--checkpoint", str(VECTORS / "bundle-good.witnz.json"), "--policy", str(VECTORS / "policy.txt")],
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_loaded_for_what_must_be_fast(words: list[str]) -> None:
    code = "import sys; from witnz.cli.main import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"psycopg", "pydantic", "yaml", "structlog", "starlette", "uvicorn", "sqlite3", "rich.console", "asyncio"}
    assert heavy & set(done.stderr.split()) == set()


def test_verifying_a_bundle_loads_no_other_command_and_no_chain() -> None:
    code = "import sys; from witnz.cli.main import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    words = ["verify", "--checkpoint", str(VECTORS / "bundle-good.witnz.json"), "--policy", str(VECTORS / "policy.txt")]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    others = {f"witnz.cli.{name}" for name in COMMANDS} - {"witnz.cli.verify"}
    unneeded = {"witnz.core.evm.receipt", "witnz.core.evm.transaction", "witnz.core.keyrange", "secrets"}
    assert "witnz.verify.bundle" in loaded
    assert loaded & (others | unneeded) == set()


def test_completion_answers_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        assert "_WITNZ_COMPLETE" in capsys.readouterr().out
    environment = {"_WITNZ_COMPLETE": "complete_bash", "COMP_WORDS": "witnz che", "COMP_CWORD": "1"}
    assert Cli(tmp_path).spawn(env=environment).expect(0).out.split() == ["checkpoint"]


def test_python_m_witnz_and_the_console_script_are_the_same_program(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("witnz")
    if not script.exists():
        pytest.skip("the package is not installed as a script in this environment")
    here = subprocess.run([script, "version"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert here == Cli(tmp_path).spawn("version").expect(0).out
