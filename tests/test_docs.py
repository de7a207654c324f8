"""Every page is true: its commands compose or exist, and so do the keys, choices, files and links that it names.

Those of the README are also run (test_readme.py), those of docs/walkthrough.md too (test_walkthrough.py), and all of
docs/extending.md is applied and run (test_extending.py).
"""

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import PROJECT
from hydra._internal.utils import get_args_parser

from experiments.compose import CONF, PRESETS, compose_jobs, groups

PAGES = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")])
CHECKED = [page for page in PAGES if page.name not in ("extending.md", "CHANGELOG.md")]  # the latter is about the past
OF_THE_SYSTEM = ("cd", "eval", "export", "git", "pip", "source")
FOLDERS = ("conf/", "docs/", "scripts/", "src/", "tests/", ".ci/")
PLACEHOLDER = re.compile(r"[A-Z]{2,}[A-Z_]*|\.\.\.|\[.*\]")
RUN_ID = "a" * 32


def name_of(page: Path) -> str:
    return str(page.relative_to(PROJECT))


def inline(page: Path) -> list[str]:
    """What stands in backticks in the text of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def commands(page: Path) -> list[str]:
    """The commands of a page, from its blocks and from its text."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [code for code in inline(page) if code.startswith(("python ", "make "))]
    return list(dict.fromkeys(" ".join(line.partition(" #")[0].split()) for line in lines if line.strip("# ")))


def keys(tree: dict[str, Any], prefix: str) -> Iterator[str]:
    for key, value in tree.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")


def known_keys() -> set[str]:
    tree = yaml.safe_load((CONF / "config.yaml").read_text())
    found = set(keys({key: value for key, value in tree.items() if key not in ("defaults", "hydra")}, ""))
    for group in set(groups()) - set(PRESETS):
        for file in (CONF / group).glob("*.yaml"):
            found |= set(keys(yaml.safe_load(file.read_text()), f"{group}."))
    for file in CONF.glob("experiment/*.yaml"):  # null but where a published config says what it gives
        found |= set(keys(yaml.safe_load(file.read_text()).get("expected") or {}, "expected."))
    return found


def check_run(arguments: list[str]) -> None:
    """Hydra knows the options; the overrides, with something for each placeholder, make a config that could be run."""
    given = get_args_parser().parse_args(arguments)
    if given.help or given.hydra_help or given.shell_completion:
        return
    if any(override.startswith("hydra/sweeper=") for override in given.overrides):
        return  # a search has a grammar of its own, which its own tests hold
    overrides = [o.replace("RUN_ID", RUN_ID).replace("FOLDER", "folder") for o in given.overrides]
    complete = [o for o in overrides if not PLACEHOLDER.fullmatch(o) and "KEY" not in o and "GROUP" not in o]
    assert compose_jobs(complete, multirun=given.multirun)


def check(line: str) -> None:
    """The command exists, and what it is given is something that it takes."""
    words = shlex.split(line)
    if words[:2] == ["python", "run.py"]:
        check_run(words[2:])
    elif words[:2] == ["python", "-c"]:
        ast.parse(words[2])
    elif words[0] == "python" and words[1] != "-m":
        script = PROJECT / words[1]
        assert script.exists(), words[1]
        for option in (word for word in words[2:] if word.startswith("--")):
            assert f'"{option}"' in script.read_text() or option == "--help", f"{words[1]} has no {option}"
    elif words[0] == "python":
        own = PROJECT / "src" / Path(*words[2].split("."))
        assert own.with_suffix(".py").exists() or words[2] in ("mlflow", "pytest")
    elif words[0] == "make":
        done = subprocess.run(["make", "--dry-run", *words[1:]], cwd=PROJECT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for word in words[1:]:
            if word.startswith("ARGS="):
                check_run(shlex.split(word.removeprefix("ARGS=")))
    else:
        assert words[0] in OF_THE_SYSTEM, f"{words[0]} is no command of this project"


@pytest.mark.parametrize("page", CHECKED, ids=name_of)
def test_every_command_of_a_page_is_one_that_could_be_run(page: Path) -> None:
    for line in commands(page):
        check(line)


@pytest.mark.parametrize("page", CHECKED, ids=name_of)
def test_every_key_and_choice_that_a_page_names_exists(page: Path) -> None:
    known, first = known_keys(), {key.partition(".")[0] for key in known_keys()}
    for code in inline(page):
        key, _, value = code.partition("=")
        if re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)+", key) and key.partition(".")[0] in first:
            if Path(key).suffix not in (".py", ".md", ".yaml", ".keras", ".json"):
                assert key in known, f"{name_of(page)}: there is no key {key}"
        elif key in groups() and re.fullmatch(r"[a-z_0-9]+", value):
            assert (CONF / key / f"{value}.yaml").exists(), f"{name_of(page)}: there is no choice {code}"


@pytest.mark.parametrize("page", CHECKED, ids=name_of)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    sources = {path.name for folder in ("src", "scripts", "tests") for path in (PROJECT / folder).rglob("*.py")}
    for code in inline(page):
        if re.fullmatch(r"[\w./*-]+", code) and code.startswith(FOLDERS) and not re.search("[A-Z]{3}", code):
            assert list(PROJECT.glob(code.rstrip("/"))), f"{name_of(page)}: there is no {code}"
        elif re.fullmatch(r"\w+\.py", code):
            assert code in sources or (PROJECT / code).exists(), f"{name_of(page)}: there is no {code}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_and_image_of_a_page_exists(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{name_of(page)}: there is no {target}"


@pytest.mark.parametrize(
    "line",
    [
        "python run.py model.droput=0.3",
        "python scripts/compare.py --nonsense",
        "python scripts/nothing.py",
        "make nothing",
        "./run.sh",
    ],
)
def test_a_command_that_is_wrong_would_be_found(line: str) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 - each in its own way
        check(line)
