"""The installed command `experiments`: its subcommands, its words, and what it completes."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT, command

from experiments.commands.tool import SUBCOMMANDS
from experiments.formatting import TOOL_VARIABLE, as_called

COMMANDS = PROJECT / "src" / "experiments" / "commands"
HEAVY = ("tensorflow", "keras", "mlflow", "pandas", "matplotlib", "sklearn")


def tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return command(*arguments, script=str(COMMANDS / "__main__.py"))


def test_every_command_is_a_subcommand_and_has_a_line_of_help() -> None:
    modules = {path.stem for path in COMMANDS.glob("*.py")} - {"__init__", "__main__", "tool"}
    assert set(SUBCOMMANDS) == {"run", "sweep", *modules}
    done = tool("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for name, subcommand in SUBCOMMANDS.items():
        assert callable(importlib.import_module(subcommand.module).main)
        assert f"  {name:9}  {subcommand.meaning}\n" in done.stdout


def test_every_script_of_the_users_calls_a_subcommand() -> None:
    for name in set(SUBCOMMANDS) - {"run", "sweep", "new"}:
        assert f"from experiments.commands.{name} import main" in (PROJECT / "scripts" / f"{name}.py").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "No command is given. Commands: run, sweep, compare,"),
        (["compair"], "'compair' is not a command (did you mean 'compare'?). Commands: run, sweep, compare,"),
        (["compare", "--bad"], "unrecognized arguments: --bad. For help: experiments compare --help"),
        (["run", "--bad"], "unrecognized arguments: --bad. For help: experiments run --help"),
        (["run", "seed=0,1"], "'seed=0,1' has several values. For a sweep add -m: experiments sweep seed=0,1;"),
        (["sweep", "seed=0,1", "model.dropout=2"], "model.dropout=2 is not allowed"),
        (["compare", "--uri=sqlite:////tmp/none/m.db"], "the first run creates it (experiments run)."),
    ],
)
def test_a_mistake_is_told_in_one_line_in_the_words_of_the_tool(arguments: list[str], said: str) -> None:
    done = tool(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr


def test_a_sweep_is_run_with_several_values(new_uri: str) -> None:
    small = ["data=digits", "training.epochs=1", "sweep.dry_run=true", f"tracking.uri={new_uri}"]
    done = tool("sweep", "seed=0,1", *small)
    assert done.returncode == 0, done.stderr
    assert "Sweep of 2 runs" in done.stdout
    assert "python" not in done.stdout


def test_help_is_that_of_a_clone_in_the_words_of_the_tool() -> None:
    for arguments, script in ((["run"], "run.py"), (["sweep"], "run.py"), (["reproduce"], "scripts/reproduce.py")):
        ours, theirs = tool(*arguments, "--help").stdout, command("--help", script=script).stdout
        assert "python " not in ours
        assert "run.py" not in ours
        assert len(ours.splitlines()) >= len(theirs.splitlines()) > 20


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["run", "model.droput=1"], ["reproduce", "--help"]]
)
def test_nothing_heavy_is_loaded_for_help_and_mistakes(arguments: list[str]) -> None:
    script = (
        "import sys, atexit; from experiments.commands.tool import main;"
        f"atexit.register(lambda: print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)); main()"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=PROJECT, capture_output=True, text=True)
    assert done.stderr.endswith("[]\n")


@pytest.mark.parametrize(
    ("in_a_clone", "as_the_tool"),
    [
        ("python run.py seed=1", "experiments run seed=1"),
        ("python run.py -m seed=0,1", "experiments sweep seed=0,1"),
        ("Next: python scripts/compare.py --uri x", "Next: experiments compare --uri x"),
        ("make ui", "experiments ui"),
        ("python run.py    one\npython run.py -m  many", "experiments run    one\nexperiments sweep   many"),
        ("the store of run.py", "the store of experiments run"),
        ("/home/me/run.py, line 3; networks.py, line 1", "/home/me/run.py, line 3; networks.py, line 1"),
    ],
)
def test_commands_are_told_as_this_one_was_called(
    in_a_clone: str, as_the_tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOOL_VARIABLE, raising=False)
    assert as_called(in_a_clone) == in_a_clone
    monkeypatch.setenv(TOOL_VARIABLE, "1")
    assert as_called(in_a_clone) == as_called(as_called(in_a_clone)) == as_the_tool


@pytest.mark.parametrize(
    ("line", "completed"),
    [("comp", ["compare"]), ("run model.act", ["model.activation="]), ("sweep data=dig", ["data=digits"])],
)
def test_bash_completes_subcommands_choices_and_keys(line: str, completed: list[str], tmp_path: Path) -> None:
    executable = tmp_path / "experiments"
    executable.write_text(f'#!/bin/sh\nexec {sys.executable} -m experiments.commands "$@"\n')
    executable.chmod(0o755)
    script = f"""
eval "$(experiments run -sc install=bash)"
function=$(complete -p experiments | grep --only-matching -- "-F [^ ]*" | cut -c 4-)
COMP_LINE="experiments {line}" COMP_WORDS=(experiments {line}) COMP_CWORD={len(line.split())}
$function 2>/dev/null
echo "${{COMPREPLY[@]}}"
"""
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == completed, done.stderr
