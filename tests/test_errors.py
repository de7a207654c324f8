"""How commands end: exit codes, messages, and readers that stop reading."""

import subprocess
import sys

import pytest

from experiments.errors import ConfigError, Terminated, TrainingError, run_command


@pytest.mark.parametrize(
    ("end", "code", "told"),
    [
        (None, 0, ""),
        (1, 1, ""),
        (ConfigError("model=mpl is not a choice."), 2, "model=mpl is not a choice.\n"),
        (TrainingError("The loss is nan."), 1, "The loss is nan.\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (Terminated(), 143, "Terminated.\n"),
    ],
)
def test_the_exit_code_says_how_a_command_ended(
    end: int | BaseException | None, code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> int | None:
        print("result")
        if isinstance(end, BaseException):
            raise end
        return end

    assert run_command(command) == code
    assert capsys.readouterr() == ("result\n", told)


@pytest.mark.parametrize(("shell", "left"), [("", "told on\n"), ("2>&1", "")])
def test_a_reader_that_stops_reading_does_not_end_the_command(shell: str, left: str) -> None:
    script = """
import sys
from rich.console import Console
from experiments.errors import run_command

def command():
    for _ in range(1000):
        Console(soft_wrap=True).print("row " * 100)
    print("told on", file=sys.stderr)
    return 3

sys.exit(run_command(command))
"""
    done = subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {shell} | head -c 3; echo " ${{PIPESTATUS[0]}}"', sys.executable, script],
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("row 3\n", left)


@pytest.mark.parametrize(("shell", "left"), [(">&-", "no\n"), ("2>&-", "")])
def test_a_stream_closed_at_the_start_does_not_end_the_command(shell: str, left: str) -> None:
    script = """
import sys
from experiments.errors import UserError, run_command

def command():
    print("row")
    raise UserError("no")

sys.exit(run_command(command))
"""
    done = subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {shell}', sys.executable, script], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (2, left)
