"""The user's own code: a folder of Python files and `conf/`, loaded because its user has named it, and its digest.

Nothing but the option --code, or the user's own ~/experiments.toml, makes a program load code.
"""

import importlib.util
import os
import re
import sys
import tomllib
import traceback
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.config.code_digest import syntax_digest
from experiments.config.keras_table import keras_table
from experiments.config.metrics import CHOSEN_METRICS, METRICS
from experiments.config.own_schema import own_schema
from experiments.config.registry import GIVEN, OwnFunction, own_functions
from experiments.errors import ConfigError, Terminated
from experiments.formatting import clean_message

TRUST_FILE = "experiments.toml"  # in the user's home
NOT_LOADED = ("conftest", "setup")  # besides tests: files that other tools load
NOT_CODE = ("tests", "mlruns", "outputs")  # folders; the last two are where runs write, copies of the code too
MOST_FILES = 200
LARGEST_CODE = 1_000_000  # bytes of all files together


@dataclass(frozen=True)
class OwnCode:
    """The code that this process has loaded."""

    folder: Path
    files: dict[str, bytes]  # Python files, and YAML files of conf/, by their path in the folder
    digest: str  # of the Python files, by their syntax

    @property
    def config_folder(self) -> Path | None:
        folder = self.folder / "conf"
        return folder if folder.is_dir() else None


_loaded: list[OwnCode] = []  # one or none


def loaded_own_code() -> OwnCode | None:
    """Return the user's own code that this process has loaded."""
    return _loaded[0] if _loaded else None


def forget_own_code() -> None:
    """Forget the code that was loaded, and its functions; for tests, as a command loads code once."""
    _loaded.clear()
    for kind in GIVEN:
        own_functions(kind).clear()


def add_code_option(parser: ArgumentParser) -> None:
    """Add the option --code to a command, whose value is for `load_own_code`."""
    parser.add_argument("--code", metavar="FOLDER", help="load your own code: a folder of Python files and conf/")


def load_own_code(given: str | None) -> None:
    """Import the Python files of a folder, which register their functions; None: of a trusted working folder, if any.

    Files of tests are left out. Raises ConfigError if the folder cannot be loaded.
    """
    folder = _trusted_folder() if given is None else Path(given).expanduser().resolve()
    if folder is None or (_loaded and _loaded[0].folder == folder):
        return
    if not folder.is_dir():
        raise ConfigError(f"--code={given} is not a folder. Name the folder with your Python files and conf/.")
    files = _read_files(folder)
    modules = [name for name in files if "/" not in name and name.endswith(".py")]
    modules = [name for name in modules if not name.startswith("test_") and name[:-3] not in NOT_LOADED]
    if not modules:
        raise ConfigError(f"--code={folder} contains no Python file. Name the folder with your Python files and conf/.")
    sys.path.append(str(folder))  # for the files that they import
    for name in modules:
        _import_file(folder / name)
    offered = [own for kind in GIVEN for own in own_functions(kind).values()]
    if not offered:
        raise ConfigError(
            f"--code={folder} offers nothing: no function in {', '.join(modules[:5])} has a decorator such as"
            " @experiments.model."
        )
    taken = {
        "metric": [name for metric in (*METRICS, *CHOSEN_METRICS.values()) for name in (metric.name, *metric.names)],
        "loss": keras_table()["losses"],
    }
    for own in offered:
        own_schema(own)
        if own.name in taken.get(own.kind, ()):
            raise ConfigError(f"{own.file}: {own.name} has the name of a {own.kind} of ours. Rename it.")
    _loaded[:] = [OwnCode(folder, files, _digest_of(files))]


def load_trusted_code(digest: str) -> bool:
    """Load the folder of ~/experiments.toml whose code has this digest; return whether there is one."""
    found = next((folder for folder in _trusted_folders() if _digest_of(_read_files(folder)) == digest), None)
    if found is not None:
        load_own_code(str(found))
    return found is not None


def _trusted_folder() -> Path | None:
    """Return the folder of ~/experiments.toml that is, or contains, the working folder."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was deleted
        return None
    return next((folder for folder in _trusted_folders() if here.is_relative_to(folder)), None)


def _trusted_folders() -> list[Path]:
    try:
        file = Path.home() / TRUST_FILE
        listed = tomllib.loads(file.read_text(encoding="utf-8")).get("code", []) if file.is_file() else []
        if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
            raise TypeError("code is not a list of texts")
        return [folder for folder in (Path(text).expanduser().resolve() for text in listed) if folder.is_dir()]
    except RuntimeError:  # a user without a home
        return []
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f'~/{TRUST_FILE} cannot be read: {error}. Write a line code = ["~/my-project"].') from None


def _digest_of(files: Mapping[str, bytes]) -> str:
    return syntax_digest({name: content for name, content in files.items() if name.endswith(".py")})


def _read_files(folder: Path) -> dict[str, bytes]:
    """Return the Python files of a folder and the YAML files of its conf/, without tests, by their path in it."""
    files: dict[str, bytes] = {}
    for path in sorted(_find_files(folder)):
        files[path.relative_to(folder).as_posix()] = path.read_bytes()
        if len(files) > MOST_FILES or sum(map(len, files.values())) > LARGEST_CODE:
            raise ConfigError(
                f"--code={folder} has more than {MOST_FILES} files, or {LARGEST_CODE:,} bytes, of code. It is recorded"
                " with every run: name a folder with nothing else in it."
            )
    return files


def _find_files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder, followlinks=True):
        inside = Path(place).relative_to(folder).parts
        kept = (name for name in folders if not name.startswith((".", "__pycache__")))
        folders[:] = [name for name in kept if inside or name not in NOT_CODE]
        ends = (".py", ".yaml") if inside[:1] == ("conf",) else ".py"
        found = (Path(place, name) for name in names if name.endswith(ends) and not name.startswith("."))
        yield from filter(Path.is_file, found)


def _import_file(file: Path) -> None:
    if not file.stem.isidentifier() or file.stem.startswith("__"):
        raise ConfigError(f"{file} cannot be imported, as its name is not that of a module. Rename the file.")
    spec = importlib.util.find_spec(file.stem)
    if spec is None or spec.origin is None or Path(spec.origin).absolute() != file:
        raise ConfigError(f"{file} has the name of an installed module, {file.stem}. Rename the file.")
    try:
        importlib.import_module(file.stem)
    except (ConfigError, KeyboardInterrupt, Terminated):
        raise
    except BaseException as error:  # whatever the code raises, SystemExit too
        raise ConfigError(explain_own_error(str(file), error)) from None


def explain_own_error(file: str, error: BaseException) -> str:
    """Say which line of the user's code, in this file or beside it, raised an error, and why."""
    text = str(getattr(error, "msg", None) or error).partition("Arguments received by")[0]  # which Keras appends
    said = text.strip().splitlines() or [""]
    place = re.escape(str(Path(file).parent))
    if traced := re.findall(rf'File "({place}/[^"]+)", line (\d+)', str(error)):  # as TensorFlow tells it
        where, line = traced[-1]
        return clean_message(f"{where}, line {line}: {said[-1].strip()}")
    every = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in every if Path(frame.filename).parent == Path(file).parent]
    line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
    where = f"{frames[-1].filename if frames else file}{f', line {line}' if line else ''}"
    return clean_message(f"{where}: {type(error).__name__}: {said[-1]}".removesuffix(": "))


def call_own(own: OwnFunction, *given: Any, **arguments: Any) -> Any:
    """Call a function of the user's own; what it raises becomes a ConfigError with the line."""
    try:
        return own.function(*given, **arguments)
    except (Exception, SystemExit) as error:  # whatever the code raises
        raise ConfigError(f"{own.kind} {own.name} failed: {explain_own_error(own.file, error)}") from error
