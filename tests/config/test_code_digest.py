"""The digest of the code: what changes it, and that every supported Python computes the same."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PROJECT

from experiments.config.code_digest import COMPUTING_CODE, code_digest

PACKAGE = PROJECT / "src" / "experiments"
PYTHONS = ("python3.11", "python3.12", "python3.13")

# Syntax that the versions of Python parse or dump differently.
SYNTAX = '''
def shown(x: float, *, width: int = 3, **rest: object) -> str:
    """Docstring."""
    return f"{x}" "" f"{x!r:>{width}.{2}f}{{}}" "a" f"" 'b' f"{x=}" u"c" f"{x:{width}.{width}}" rf"\\d{x:%Y}"

async def work(items, /):
    async with items as (a, *b), c:
        yield [i async for i in a if not None is ...], {**c, 1: -2.5e-3, b"\\xff": "\\u00e9\\u200b"}, b[1:, ::2]

match shown(1j):
    case {"a": [1, *_], **rest} | "x" if (y := 0x10_0):
        print(lambda *a, k=None: (yield), y @ 2 ** -1 <= 3 != 4)
    case _:
        try:
            raise ValueError() from None
        except* (KeyError, ValueError) as e:
            del e
'''


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Copy the package."""
    return Path(shutil.copytree(PACKAGE, tmp_path / "package", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture
def digest_of(package: Path) -> Callable[[], str]:
    """Return a function that computes the digest of the copy as its files are now."""
    return lambda: code_digest.__wrapped__(package)


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)


def replace(file: Path, before: str, after: str) -> None:
    source = file.read_text()
    assert before in source
    file.write_text(source.replace(before, after, 1))


def test_comments_docstrings_layout_and_code_that_does_not_compute_leave_the_digest_alone(
    package: Path, digest_of: Callable[[], str]
) -> None:
    assert digest_of() == code_digest()
    for source in (package / "training").glob("*.py"):
        append(source, "\n\n# A comment.\n")
        replace(source, '"""', '"""Reworded: ')
    replace(package / "training" / "augmentation.py", "        config, ", "        # Why.\n        config,   ")
    append(package / "reports" / "figures" / "style.py", "\n\nNEW_FIGURE = 1\n")
    append(package / "cli.py", "\n\nNEW_OPTION = 1\n")
    (package / "training" / ".#trainer.py").symlink_to("nobody@nowhere.1")  # as editors lock a file
    assert digest_of() == code_digest()


@pytest.mark.parametrize("part", COMPUTING_CODE)
def test_a_change_to_computing_code_changes_the_digest(part: str, package: Path, digest_of: Callable[[], str]) -> None:
    source = package / part if part.endswith(".py") else sorted((package / part).glob("*.py"))[-1]
    append(source, "\n\nNEW = 1\n")
    assert digest_of() != code_digest()


def test_a_change_to_the_content_of_the_keras_table_changes_the_digest(
    package: Path, digest_of: Callable[[], str]
) -> None:
    table = package / "config" / "keras_table.json"
    table.write_text(json.dumps(json.loads(table.read_text()), indent=4))
    assert digest_of() == code_digest()
    replace(table, '"momentum": 0.0', '"momentum": 0.5')
    assert digest_of() != code_digest()


def test_a_change_to_a_training_step_changes_the_digest(package: Path, digest_of: Callable[[], str]) -> None:
    replace(package / "training" / "network_cache.py", "loss * count", "loss / count")
    assert digest_of() != code_digest()


def test_renamed_added_and_removed_modules_change_the_digest(package: Path, digest_of: Callable[[], str]) -> None:
    folder = package / "data"
    (folder / "datasets.py").rename(folder / "renamed.py")
    digests = {code_digest(), digest_of()}
    (folder / "added.py").write_text("")
    digests.add(digest_of())
    (folder / "renamed.py").unlink()
    assert len(digests | {digest_of()}) == 4


def find_python(name: str) -> str:
    """Find the interpreter of this version on the PATH or in pyenv; skip the test if it is missing."""
    candidates = [
        shutil.which(name),
        *map(str, Path("~/.pyenv/versions").expanduser().glob(f"{name[6:]}.*/bin/python")),
    ]
    for python in filter(None, candidates):
        script = "import sys; print('python%d.%d' % sys.version_info[:2])"
        done = subprocess.run([python, "-c", script], capture_output=True, text=True)
        if done.stdout.strip() == name:
            return python
    pytest.skip(f"{name} is not installed on this machine")


@pytest.mark.parametrize("name", PYTHONS)
def test_every_supported_python_computes_the_same_digest(
    name: str, package: Path, digest_of: Callable[[], str]
) -> None:
    python = find_python(name)
    (package / "training" / "syntax.py").write_text(SYNTAX)
    script = (
        "import pathlib, runpy\n"
        f"module = runpy.run_path({str(PACKAGE / 'config' / 'code_digest.py')!r})\n"
        f"print(module['code_digest'](pathlib.Path({str(package)!r})))\n"
    )
    environment = {**os.environ, "PYTHONPATH": ""}
    # -S leaves only the standard library.
    done = subprocess.run([python, "-S", "-c", script], capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    assert done.stdout.split() == [digest_of()]


def test_a_process_keeps_the_digest_of_the_code_it_has_loaded(package: Path, digest_of: Callable[[], str]) -> None:
    before = code_digest(package)
    append(package / "experiment.py", "\n\nNEW = 1\n")
    assert code_digest(package) == before != digest_of()
