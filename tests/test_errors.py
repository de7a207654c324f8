"""How commands end: exit codes, messages, and readers that stop reading."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from conftest import PROJECT

from experiments.errors import CommandParser, ConfigError, Terminated, TrainingError, run_command


@pytest.mark.parametrize(
    ("end", "code", "told"),
    [
        (None, 0, ""),
        (1, 1, ""),
        (ConfigError("model=mpl is not a choice."), 2, "model=mpl is not a choice.\n"),
        (TrainingError("The loss is nan."), 1, "The loss is nan.\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (Terminated(), 143, "Terminated.\n"),
        (Terminated(signal.SIGHUP), 129, "Terminated.\n"),
        (Terminated(signal.SIGXCPU), 152, "Terminated.\n"),
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


def test_a_message_is_bounded_clean_and_never_empty(capsys: pytest.CaptureFixture[str]) -> None:
    def told(message: str) -> str:
        def command() -> None:
            raise ConfigError(message)

        assert run_command(command) == 2
        return capsys.readouterr().err

    assert told("") == "ConfigError\n"
    assert told("a\x1b[31m\udc80\tb\nc\r") == "a\ufffd[31m\ufffd b\nc\n"
    assert told(f"key={'x' * 10**6} is wrong. Give less.").endswith("x is wrong. Give less.\n")
    assert len(told("word " * 10**5)) < 1300
    listed = told("line\n" * 1000 + "To do.").splitlines()
    assert (len(listed), listed[17:]) == (20, ["line", "and 982 more lines like these", "To do."])


@pytest.mark.parametrize(
    ("shell", "message"),
    [
        ("ulimit -f 0", "No file can be written. Raise the limit of the size of a file, which `ulimit -f` shows."),
        ("cd $(mktemp -d) && rmdir $PWD", "The working folder was deleted. Change to one that exists"),
        ("export EXPERIMENTS_DATA_DIR=~nosuchuser/x", "EXPERIMENTS_DATA_DIR=~nosuchuser/x: there is no such home"),
        ("export LC_ALL=C; set -- \"$1\" \"$2\" $'seed=\\xff'", "'seed=\\udcff' has control characters, or bytes"),
    ],
)  # fmt: skip
def test_a_process_that_cannot_work_ends_with_one_line(shell: str, message: str) -> None:
    line = f'{shell}; exec "$1" "$2" "${{@:3}}" experiment=walkthrough'
    words = ["bash", "-c", line, "bash", sys.executable, str(PROJECT / "run.py")]
    done = subprocess.run(words, capture_output=True, text=True, errors="backslashreplace")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith(message)


SQLITE = "__import__('sqlite3').connect('s').executescript('CREATE TABLE t(a); INSERT INTO t VALUES(zeroblob(90000))')"


@pytest.mark.parametrize(
    ("limit", "command", "code", "message"),
    [
        (":", "open('/dev/full', 'wb', 0).write(b'x')", 1, "No space left on device. Make room for files in "),
        ("ulimit -f 1", "[open('large', 'ab', 0).write(bytes(800)) for _ in '123']", 1, "File too large. Raise the"),
        ("ulimit -f 8", SQLITE, 1, "File too large. Raise the limit of the size of a file, which `ulimit -f` shows."),
        (
            ":",
            SQLITE.replace("CREATE", "PRAGMA max_page_count=9; CREATE"),
            1,
            "No space left on device. Make room for files",
        ),
        ("ulimit -n 20", "[open('/dev/null') for _ in range(30)]", 1, "Too many open files: /dev/null. Raise the"),
        ("ulimit -v 2000000", "bytes(10**10)", 1, "Cannot allocate memory. End other processes, or raise the limit"),
        ("ulimit -u 5", "print('begun')", 2, "or raise the limit of processes and threads, which `ulimit -u` shows."),
        ("ulimit -v 200000", "print('begun')", 2, "or raise the limit of memory, which `ulimit -v` shows."),
    ],
)
def test_a_limit_of_the_machine_is_told_in_one_line(
    limit: str, command: str, code: int, message: str, tmp_path: Path
) -> None:
    script = f"import sys; from experiments.errors import run_command; sys.exit(run_command(lambda: {command}))"
    words = ["bash", "-c", f'{limit}; exec "$@"', "bash"]
    if limit.startswith("ulimit -u") and os.getuid() == 0:  # which has no such limit
        if not shutil.which("setpriv"):
            pytest.skip("only setpriv can take away the rights of root")
        keep = [f"--{kind}=-all,+dac_override" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
        words = ["setpriv", "--reuid=65534", "--clear-groups", *keep, *words]
    done = subprocess.run([*words, sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
    assert message in done.stderr


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


@pytest.mark.parametrize(
    "words",
    [
        *("run.py --help", "run.py experiment=walkthrough --cfg job"),
        *(f"scripts/{name}.py --help" for name in ("compare", "reference")),
    ],
)
def test_output_that_cannot_be_written_is_told_once_and_is_a_failure(words: str) -> None:
    full = 'exec "$@" > /dev/full'
    done = subprocess.run(
        ["bash", "-c", full, "bash", sys.executable, *words.split()], cwd=PROJECT, capture_output=True, text=True
    )
    lost = "The output cannot be written: No space left on device. The rest of it is lost.\n"
    assert (done.returncode, done.stderr) == (1, lost)


def test_mistakes_in_arguments_and_other_messages_are_clean_too(capsys: pytest.CaptureFixture[str]) -> None:
    parser = CommandParser(None, prog="it")
    parser.add_argument("--port", type=int)

    def told(*arguments: str) -> str:
        def command() -> None:
            print("wait\x1b[2J \u3000\x9b", file=sys.stderr)
            parser.parse_args(arguments)

        assert run_command(command) == 2
        first, message = capsys.readouterr().err.splitlines()
        assert first == "wait\ufffd[2J \u3000\ufffd"
        return message.partition(". For help: python ")[0]

    assert told("--port", "x") == "argument --port: invalid int value: 'x'"
    assert told("http://me:secret@host/?token=secret", "\x1b[1m") == "unrecognized arguments: http://host/ \ufffd[1m"
    assert len(told("--" + "x" * 10**5)) < 400


def test_a_text_as_exit_code_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: sys.exit("The page is out of date.")) == 1
    assert capsys.readouterr().err == "The page is out of date.\n"


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


ENDED = """
import signal, sys, time
from experiments.errors import Terminated, handle_ending_signals, run_command
from experiments.training.trainer import DeferredSignals

def command():
    try:
        with DeferredSignals() as signals:
            print("ready", flush=True)
            while True:
                time.sleep(0.01)
                signals.check()
    except Terminated as end:
        time.sleep(0.3)  # closing the run, while the signal is sent again
        print(end, file=sys.stderr)
        raise

handle_ending_signals()
sys.exit(run_command(command))
"""


@pytest.mark.parametrize(("sent", "code"), [("SIGHUP", 129), ("SIGQUIT", 131), ("SIGXCPU", 152)])
def test_a_signal_that_ends_a_command_is_told_by_its_exit_code(sent: str, code: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ENDED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGQUIT, signal.SIG_DFL),  # shells ignore it for background jobs
    ) as process:
        assert process.stdout
        process.stdout.readline()
        for _ in range(1 if sent == "SIGQUIT" else 3):  # as shells and the kernel repeat the others
            process.send_signal(signal.Signals[sent])
            time.sleep(0.1)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err.decode()) == (code, f"terminated by {sent}\nTerminated.\n")


@pytest.mark.parametrize(("wrapper", "code"), [([], 129), (["nohup"], 143)])
def test_a_closed_terminal_ends_a_command_in_order_but_not_under_nohup(wrapper: list[str], code: int) -> None:
    ours, terminal = os.openpty()
    with subprocess.Popen(
        [*wrapper, sys.executable, "-c", ENDED],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(2, termios.TIOCSCTTY, 0),
    ) as process:
        os.close(terminal)
        assert process.stdout
        process.stdout.readline()
        os.close(ours)  # from now on, writing to the terminal fails
        if wrapper:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.terminate()
        assert process.wait(10) == code
