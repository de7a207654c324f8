"""The ways a command ends that are not a bug: each carries one clear message and an exit code."""

import difflib
import os
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn


class UserError(Exception):
    """A mistake in the command, the config or the data: exit code 2, nothing was written."""

    exit_code = 2


class ConfigError(UserError):
    """A config that cannot be run: what was given, what is allowed, what to do."""


class DataError(UserError):
    """Data that is missing or damaged: which file, what was expected and found, how to get a good copy."""


class StoreError(UserError):
    """A tracking store that cannot be reached or read: which one, why, what to do."""


class TrainingError(Exception):
    """Training that failed after the run had begun: exit code 1, the run is FAILED with this reason."""

    exit_code = 1


class NotFiniteError(TrainingError):
    """A loss or metric that is NaN or infinite: going on from the checkpoint would only meet it again."""


class Pruned(Exception):  # noqa: N818
    """A trial that a search ends early because others were better after as many epochs: its run is KILLED."""

    def __init__(self, epoch: int, reason: str) -> None:
        super().__init__(f"pruned after epoch {epoch}: {reason}")
        self.epoch = epoch


class Terminated(BaseException):
    """SIGTERM: like KeyboardInterrupt it is no Exception, so that nothing on the way swallows it."""

    exit_code = 143


def terminate(*_: object) -> NoReturn:
    """The handler of SIGTERM."""
    raise Terminated


def exit_code(command: Callable[[], None]) -> int:
    """Run a command that trains nothing, and return its exit code.

    A mistake is told on stderr; that the reader of stdout has enough, such as `head`, is no mistake.
    """
    try:
        command()
        sys.stdout.flush()
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """For the nearest choice, whatever its case, ` (did you mean 'relu'?)`; else nothing."""
    by_lower_case = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), by_lower_case, n=1)
    return f" (did you mean {by_lower_case[close[0]]!r}?)" if close else ""


def listed(names: Iterable[object]) -> str:
    """In order, `adam, sgd`; `none` if there are none."""
    return ", ".join(sorted(map(str, names))) or "none"
