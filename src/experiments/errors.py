"""The expected ways in which a command can fail: each carries one clear message and an exit code."""

import argparse
import difflib
import errno
import io
import os
import re
import resource
import shlex
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

from experiments import PROJECT, RESOURCES
from experiments.formatting import CONTROL_CHARACTERS, TOOL, as_called, clean_message, hide_credentials, shorten_middle


class UserError(Exception):
    """A mistake in the command, the config or the data: exit code 2, nothing was written."""

    exit_code = 2


class ConfigError(UserError):
    """A config that cannot be run: what was given, what is allowed, what to do.

    Attributes:
        problems: the keys that are refused, each with the type of its problem: one of pydantic's, or `unknown_key`.
    """

    def __init__(self, message: str, problems: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.problems = dict(problems or {})


class DataError(UserError):
    """Data that is missing or damaged: which file, what was expected and found, how to get a good copy."""


class StoreError(UserError):
    """A tracking store that cannot be reached or read: which one, why, what to do."""


class StoreOutageError(StoreError):
    """A tracking store that does not answer, or does not take requests now; it may again."""


class TrainingError(Exception):
    """Training that failed after the run had begun: exit code 1, the run is FAILED with this reason."""

    exit_code = 1


class NotFiniteError(TrainingError):
    """A loss or metric that is NaN or infinite: continuing from the checkpoint would only run into it again."""


class RecordingError(TrainingError):
    """A run that can no longer be recorded: nothing can be written anywhere, or somebody has deleted it."""


class TrialPruned(Exception):  # noqa: N818
    """A trial that a search ends early because others were better after as many epochs: its run is KILLED."""

    def __init__(self, epoch: int, reason: str) -> None:
        super().__init__(f"pruned after epoch {epoch}: {reason}")
        self.epoch = epoch


class Terminated(BaseException):
    """A signal that ends the command: like KeyboardInterrupt it is not an Exception, so that none swallows it."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"terminated by {self.signal.name}")

    @property
    def exit_code(self) -> int:
        return 128 + self.signal


# A closed terminal, Ctrl-\, `kill` and batch systems, and a limit of CPU time.
ENDING_SIGNALS = (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGXCPU)
# Sent again by the kernel or the shell, which must not disturb the end that the first one began.
REPEATED_SIGNALS = (signal.SIGHUP, signal.SIGXCPU)


def raise_terminated(number: int, _: object) -> NoReturn:
    """Handle a signal that ends the command."""
    if number in REPEATED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise Terminated(number)


def handle_ending_signals() -> None:
    """Raise Terminated for the signals that end a command, but those that are ignored, as by `nohup`."""
    for number in ENDING_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, raise_terminated)


def raise_interruption(error: BaseException) -> None:
    """Raise the Ctrl-C or other signal after which an error came: a library then failed to clean up."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt | Terminated):
            raise cause
        cause = cause.__cause__ or cause.__context__


ROOM = "Make room for files in {0}, in the store, and for temporary ones in {1} (or set TMPDIR to another folder)."
LIMITS = {  # what to do about an operating system's error
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EROFS), ROOM),
    errno.EFBIG: "Raise the limit of the size of a file, which `ulimit -f` shows.",
    errno.EAGAIN: "End other processes, or raise the limit of processes and threads, which `ulimit -u` shows.",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Raise the limit of open files, which `ulimit -n` shows."),
    errno.ENOMEM: "End other processes, or raise the limit of memory, which `ulimit -v` shows.",
}


class CommandParser(argparse.ArgumentParser):
    """A parser of the arguments of a command, to be used within `run_command`: a mistake in them is a UserError."""

    def __init__(self, description: str | None, **settings: Any) -> None:
        shown = as_called(description or "")
        super().__init__(description=shown, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        program = self.prog if self.prog.startswith(f"{TOOL} ") else f"python {shlex.quote(sys.argv[0])}"
        raise UserError(f"{message}. For help: {program} --help")


class OutputStream(io.TextIOWrapper):
    """A standard stream that shows no credentials, and loses what cannot be written instead of raising an error.

    Its reader may stop, such as `head` or a terminal; any other reason, such as a full disk, is kept in `failure`.
    """

    failure: str | None = None

    def __init__(self, stream: TextIO | None) -> None:
        # None: it was closed before the command began. Keep a reference, or the file would be closed.
        self._below = stream or Path(os.devnull).open("w")  # noqa: SIM115
        super().__init__(self._below.buffer, self._below.encoding, "backslashreplace", line_buffering=True)

    def write(self, text: str) -> int:
        with self._losing_the_unread():
            super().write(hide_credentials(text))
        return len(text)

    def flush(self) -> None:
        with self._losing_the_unread():
            super().flush()

    def close(self) -> None:
        """Leave the underlying stream open, because others write to it."""
        self.flush()

    @contextmanager
    def _losing_the_unread(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: the terminal was closed
                self.failure = error.strerror
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


class MessageStream(OutputStream):
    """Standard error, whose messages also contain nothing that a terminal interprets."""

    def write(self, text: str) -> int:
        super().write(CONTROL_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", text))
        return len(text)


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command, and return its exit code: its own, 0 for None, or that of the error, reported on stderr.

    A reader of stdout or stderr that stops reading, such as `head`, neither ends the command nor counts as an error.
    Output that cannot be written, as the disk is full, does not end the command either, but makes the exit code 1.
    """
    streams = OutputStream(sys.stdout), MessageStream(sys.stderr)
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        code = _run_to_exit_code(command)
        sys.stdout.flush()
        if failure := streams[0].failure or streams[1].failure:
            print(f"The output cannot be written: {failure}. The rest of it is lost.", file=sys.stderr)
            code = code or 1
    return code


def _run_to_exit_code(command: Callable[[], int | None]) -> int:
    try:
        _check_process()
        _check_installed_here()
        return command() or 0
    except SystemExit as end:  # of argparse and Hydra, after --help or for unknown options
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except (UserError, TrainingError) as error:
        print(as_called(clean_message(str(error))) or type(error).__name__, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except Terminated as end:
        print("Terminated.", file=sys.stderr)
        return end.exit_code
    except Exception as error:
        if advice := machine_limit(error):
            print(advice, file=sys.stderr)
        else:
            traceback.print_exc()  # through the stream that shows no credentials
        return 1


def machine_limit(error: Exception) -> str:
    """Return what to do about an error that is due to the machine or its limits; nothing for any other."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (named := re.search(r"errno = (\d+)", str(error))):  # of HDF5
        number = int(named[1])
    if "start new thread" in str(error):
        number = _thread_limit()
    if re.search("disk I/O error|database or disk is full", str(error)):  # of SQLite
        number = errno.EFBIG if _is_limited(resource.RLIMIT_FSIZE) else errno.ENOSPC
    if isinstance(error, MemoryError) or "failed to map segment" in str(error):
        number = errno.ENOMEM
    if number not in LIMITS:
        return ""
    file = f": {error.filename}" if isinstance(error, OSError) and error.filename else ""
    return f"{os.strerror(number)}{file}. {LIMITS[number].format(PROJECT, tempfile.gettempdir())}"


def _thread_limit() -> int:
    """Return the error of a limit that keeps threads from starting: each also needs memory for its stack."""
    return errno.ENOMEM if _is_limited(resource.RLIMIT_AS) else errno.EAGAIN


def _is_limited(kind: int) -> bool:
    return resource.getrlimit(kind)[0] != resource.RLIM_INFINITY


def _check_installed_here() -> None:
    """Raise UserError if the script is in another copy of the project than the code that this Python has installed."""
    script = Path(sys.argv[0])
    with suppress(FileNotFoundError):  # the working folder was deleted
        for folder in script.resolve().parents[:2]:
            if script.is_file() and (folder / "src" / "experiments").is_dir() and folder != RESOURCES:
                quoted = shlex.quote(str(folder))
                raise UserError(
                    f"{script} belongs to {folder}, but this Python has the code of {RESOURCES} installed, and would"
                    f" run that. Set up its own environment: rm -rf {quoted}/.venv; make -C {quoted} setup"
                )


def _check_process() -> None:
    """Raise UserError if this process has no working folder, no place for temporary files, or too few threads."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UserError("The working folder was deleted. Change to one that exists, such as with: cd ~") from None
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        if resource.getrlimit(resource.RLIMIT_FSIZE)[0] == 0:
            raise UserError(f"No file can be written. {LIMITS[errno.EFBIG]}") from None
        raise UserError(f"{error.strerror}. Set TMPDIR to a folder that exists and can be written to.") from None
    over = threading.Event()
    threads = [threading.Thread(target=over.wait) for _ in range(24 + 4 * (os.cpu_count() or 1))]
    try:
        for thread in threads:
            thread.start()
    except RuntimeError:  # TensorFlow would end the process in the middle of a run
        started = sum(thread.ident is not None for thread in threads)
        allowed = f"This process may start only {started} of the {len(threads)} threads that it needs"
        raise UserError(f"{allowed}. {LIMITS[_thread_limit()]}") from None
    finally:
        over.set()


def existing_place(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists; raise a UserError for a link that leads nowhere."""
    found = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not found.exists():
        raise UserError(f"{found} is a link to {found.readlink()}, which does not exist. Make it, or delete the link.")
    return found


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that is closest to a word in any case; None if none is close."""
    word = word[:200]  # comparing takes the square of the length
    by_lower_case = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), by_lower_case, n=1)
    return by_lower_case[close[0]] if close else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return a suggestion to add to a message, such as ` (did you mean 'relu'?)`, or nothing."""
    close = nearest(word, choices)
    return f" (did you mean {close!r}?)" if close else ""


def show_given(text: str) -> str:
    """Return what somebody typed in quotation marks, without its middle if it is long: `'seed=x'`."""
    return repr(shorten_middle(text, 200))


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Return the message for a key that does not exist; `known` are the dotted keys that do, or those beside it.

    >>> unknown_key("model.dropuot", ["model.units", "model.dropout"])
    "unknown key 'model.dropuot' (did you mean 'model.dropout'?). Keys of model: dropout, units"
    """
    group, _, last = key.rpartition(".")
    groups: dict[str, dict[str, str]] = {"": {}}
    for name in (known := list(known)):
        groups.setdefault(name.rpartition(".")[0], {})[name.rpartition(".")[2]] = name
    meant = next((names[last] for names in groups.values() if last in names), None)
    if group in groups:
        meant = meant or groups[group].get(nearest(last, groups[group]) or "")
    if not group or group not in groups:
        meant = meant or nearest(key, known)
    while group not in groups:
        group = group.rpartition(".")[0]
    suggestion, where = f" (did you mean {meant!r}?)" if meant else "", f" of {group}" if group else ""
    return f"unknown key {show_given(key)}{suggestion}. Keys{where}: {join_sorted(groups[group])}"


def join_sorted(names: Iterable[object]) -> str:
    """Return the names in order, `adam, sgd`, or `none` if there are none."""
    return ", ".join(sorted(map(str, names))) or "none"
