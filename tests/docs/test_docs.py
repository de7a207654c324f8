"""Every page is true: its commands compose or exist, and so do the keys, choices, files, links and words it names.

Words in backticks are looked up in conf/ and in the sources. The commands of the README are also run (test_readme.py),
as are the single runs of docs/walkthrough.md and the code of its notebook (test_walkthrough.py), and those of
docs/extending.md and docs/beyond-mnist.md with their own code (test_extending.py, test_beyond_mnist.py).
"""

import ast
import fnmatch
import functools
import json
import pkgutil
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import PROJECT
from own_data import own_arrays, own_pictures

from experiments.commands.tool import SUBCOMMANDS
from experiments.config.choices import CONFIG_FOLDER, config_groups
from experiments.config.composition import compose_job
from experiments.config.hydra_internals import hydra_argument_parser
from experiments.config.overrides import PRESETS
from experiments.config.sweep_composition import compose_sweep
from experiments.errors import ConfigError
from experiments.formatting import TOOL

PAGES = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), *PROJECT.glob("docs/*.ipynb")])
CHECKED = [page for page in PAGES if page.name != "CHANGELOG.md"]  # it is about the past
COMMANDS = PROJECT / "src" / "experiments" / "commands"  # what the scripts of the same names call
GROUPS = [group.name for group in config_groups()]
SHELL_COMMANDS = ("cd", "eval", "export", "git", "pip", "source")
FOREIGN_WORDS = (".venv/bin/activate", "chromium", "jupyter", "jupyterlab", "lab", "mlflow.pyfunc", "taskset")
HYDRA_CHOICE = "hydra/launcher=basic"
LIBRARY_PREFIXES = ("gc.", "keras.", "lax.")  # dotted names that are neither keys nor ours
MLFLOW_COMMANDS = (["mlflow", "artifacts", "download"], ["mlflow", "models", "serve"])
FOLDERS = ("conf/", "docs/", "scripts/", "src/", "tests/", ".ci/")
FILE = re.compile(r"[\w$.*-]*/[\w$./*-]*|[\w*-]*\.(csv|db|ipynb|json|keras|lock|md|npz|png|py|toml|yaml)")
PLACEHOLDER = re.compile(r"[A-Z]{2,}[A-Z_]*|\.\.\.|\[.*\]")
RUN_ID = "a" * 32


def name_of(page: Path) -> str:
    return str(page.relative_to(PROJECT))


@cache
def text_of(page: Path) -> str:
    """Return the page in Markdown; for a notebook only its text, not its code."""
    if page.suffix != ".ipynb":
        return page.read_text()
    cells = json.loads(page.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def without_blocks(page: Path) -> str:
    return re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)


def blocks(page: Path) -> list[str]:
    """Return the blocks of commands of a page, without the Python code that one of them contains."""
    found = re.findall(r"```bash\n(.*?)```", text_of(page), re.DOTALL)
    return [re.sub(r" && python - <<'END'.*\nEND", "", block, flags=re.DOTALL) for block in found]


def inline(page: Path) -> list[str]:
    """Return the inline code in the text of a page."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", without_blocks(page))]


def commands(page: Path) -> list[str]:
    """Return the commands in the blocks and in the text of a page."""
    lines = [line for block in blocks(page) for line in block.replace("\\\n", " ").splitlines()]
    lines += [code for code in inline(page) if code.startswith(("python ", "make ", f"{TOOL} "))]
    return list(dict.fromkeys(" ".join(line.partition(" #")[0].split()) for line in lines if line.strip("# ")))


def keys(tree: dict[str, Any], prefix: str) -> Iterator[str]:
    for key, value in tree.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")


@cache
def known_keys() -> set[str]:
    tree = yaml.safe_load((CONFIG_FOLDER / "config.yaml").read_text())
    found = set(keys({key: value for key, value in tree.items() if key not in ("defaults", "hydra")}, ""))
    for group in set(GROUPS) - set(PRESETS):
        for file in (CONFIG_FOLDER / group).glob("*.yaml"):
            found |= set(keys(yaml.safe_load(file.read_text()), f"{group.replace('/', '.')}."))
    for file in CONFIG_FOLDER.glob("experiment/*.yaml"):  # null except in published configs
        found |= set(keys(yaml.safe_load(file.read_text()).get("expected") or {}, "expected."))
    return found


@cache
def sources() -> str:
    """Return the text of conf/ and of the code, without the tests, which also contain wrong words."""
    files = [*(PROJECT / "src").rglob("*.py"), *(PROJECT / "scripts").glob("*.py"), *CONFIG_FOLDER.rglob("*.yaml")]
    text = [file.read_text() for file in [*files, PROJECT / "pyproject.toml", PROJECT / "Makefile"]]
    return "\n".join([*text, *(file.stem for file in files)])


@cache
def known_words() -> set[str]:
    return set(re.findall(r"\w+", sources()))


def is_ours(name: str) -> bool:
    """Return whether `module.function` exists in the package."""
    try:
        pkgutil.resolve_name(f"experiments.{name}")
    except (AttributeError, ImportError):
        return False
    return True


def check_setting(key: str, value: str) -> None:
    """Check that the key or the choice is in conf/."""
    if key in GROUPS:
        if re.fullmatch(r"[a-z_0-9]+", value):
            file = f"conf/{key}/{value}.yaml"
            assert (PROJECT / file).exists(), f"there is no choice {key}={value}"
    else:
        assert key in known_keys(), f"there is no key {key}"
        assert not re.fullmatch(r"[a-z_]+", value) or value in known_words(), f"nothing is called {value}"


def check_file(name: str, page: Path) -> None:
    """Check that the file exists, or that the code or a command of the page mentions it."""
    if name.startswith("my-project/"):  # the reader's own
        return
    pattern = name if (PROJECT / name).exists() else re.sub(r"[A-Z]{3,}", "*", name.rstrip("/"))
    folders = [PROJECT, page.parent, *(PROJECT / folder for folder in ("src/experiments", "scripts", "tests"))]
    if not any(any(folder.glob(pattern)) for folder in folders):
        assert not name.startswith(FOLDERS), f"there is no {name}"
        whole = r"\b" * name[0].isalnum() + re.escape(name.rstrip("/")) + r"\b"
        assert re.search(whole, "\n".join([sources(), *blocks(page)])), f"nothing makes {name}"


def check_word(word: str, page: Path) -> None:
    """Check that a word is what it looks like: a setting, a file, a key, or a word of the sources."""
    key, equals, value = word.partition("=")
    if word in (*FOREIGN_WORDS, HYDRA_CHOICE):
        return
    if word.startswith(LIBRARY_PREFIXES):
        assert re.search(rf"\b{re.escape(word)}\b", sources()), f"nothing uses {word}"
    elif equals and re.fullmatch(r"[a-z_/]+(\.[a-z_0-9]+)*", key):
        check_setting(key, value)
    elif FILE.fullmatch(word):
        check_file(word, page)
    elif re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)+", word) and not is_ours(word):
        check_setting(word, "")
    elif word.startswith("--"):
        assert f'"{word}"' in sources() or word in hydra_argument_parser().format_usage(), f"there is no option {word}"
    elif re.fullmatch(r"\d*[A-Za-z_][\w*]*", key):
        assert fnmatch.filter(known_words(), key), f"nothing is called {key}"


def check_run(arguments: list[str]) -> None:
    """Check that Hydra knows the options, and that the overrides compose, with a value for each placeholder."""
    given = hydra_argument_parser().parse_args(arguments)
    if given.help or given.hydra_help or given.shell_completion:
        return
    if any(override.startswith("hydra/sweeper=") for override in given.overrides):
        for override in given.overrides:  # the tests of a search check the grammar of the values
            check_setting(*override.partition("=")[::2])
        return
    own = {"RUN_ID": RUN_ID, "data.path=FOLDER": f"data.path={own_pictures()}", "FILE.npz": str(own_arrays())}
    overrides = [functools.reduce(lambda text, name: text.replace(name, own[name]), own, o) for o in given.overrides]
    overrides = [override.replace("FOLDER", "folder") for override in overrides]
    complete = [o for o in overrides if not PLACEHOLDER.fullmatch(o) and "KEY" not in o and "GROUP" not in o]
    assert (compose_sweep if given.multirun else compose_job)(complete)


def check_script(script: Path, arguments: list[str]) -> None:
    """Check that a script has the options, and that the files and words exist."""
    for option in (word for word in arguments if word.startswith("--")):
        assert f'"{option}"' in script.read_text() or option == "--help", f"{script.name} has no {option}"
    for word in arguments:
        if word.startswith(FOLDERS):
            assert (PROJECT / word).exists(), f"there is no {word}"
        assert not re.fullmatch(r"[a-z_]+", word) or word in known_words(), f"nothing is called {word}"


def check(line: str) -> None:
    """Check that the command exists, and that it takes these arguments."""
    words = shlex.split(line)
    words = ["python", "-m", *words] if words[0] == "mlflow" else words
    if words[0] == TOOL:
        assert words[1] in (*SUBCOMMANDS, "--help"), f"{TOOL} has no {words[1]}"
        if words[1] in ("run", "sweep"):
            check_run([*filter(None, [SUBCOMMANDS[words[1]].option]), *words[2:]])
        elif words[1] in SUBCOMMANDS:
            check_script(COMMANDS / f"{words[1]}.py", words[2:])
    elif words[:2] == ["python", "run.py"]:
        check_run(words[2:])
    elif words[:2] == ["python", "-c"]:
        ast.parse(words[2])
    elif words[0] == "python" and words[1] != "-m":
        script = PROJECT / words[1]
        assert script.exists(), words[1]
        called = COMMANDS / script.name
        check_script(called if called.exists() else script, words[2:])
    elif words[0] == "python":
        own = PROJECT / "src" / Path(*words[2].split("."))
        ours = own.with_suffix(".py").exists() or (own / "__main__.py").exists()
        assert ours or words[2] == "pytest" or words[2:5] in MLFLOW_COMMANDS, line
    elif words[0] == "make":
        done = subprocess.run(["make", "--dry-run", *words[1:]], cwd=PROJECT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for word in words[1:]:
            if word.startswith("ARGS="):
                check_run(shlex.split(word.removeprefix("ARGS=")))
    else:
        assert words[0] in SHELL_COMMANDS, f"{words[0]} is not a command of this project"


@pytest.mark.parametrize("page", CHECKED, ids=name_of)
def test_every_command_of_a_page_is_valid(page: Path) -> None:
    for line in commands(page):
        if "--code" not in shlex.split(line):  # see test_extending.py and test_beyond_mnist.py
            check(line)


@pytest.mark.parametrize("page", CHECKED, ids=name_of)
def test_every_word_in_backticks_exists(page: Path) -> None:
    for code in inline(page):
        if not code.endswith(" ..."):  # abbreviated
            for word in code.split():
                check_word(word.strip("'\""), page)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_and_image_of_a_page_exists(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)", text_of(page)):
        linked = page.parent / target if target else page
        assert linked.exists(), f"there is no {target}"
        assert not anchor or anchor in anchors(linked), f"{target} has no #{anchor}"


@pytest.mark.parametrize(
    "line",
    [
        "python run.py model.droput=0.3",
        "python run.py -m hydra/sweeper=optuna hydra.sweeper.n_trails=50",
        "python scripts/compare.py --nonsense",
        "python scripts/compare.py --metric epoch_secs",
        "python scripts/nothing.py",
        "python scripts/predict.py RUN_ID docs/images/nothing.png",
        "python -m mlflow artefacts download",
        "make nothing",
        "experiments nothing",
        "experiments run model.droput=0.3",
        "experiments compare --nonsense",
        "./run.sh",
    ],
)
def test_a_wrong_command_is_found(line: str) -> None:
    with pytest.raises((AssertionError, ConfigError)):
        check(line)


@pytest.mark.parametrize(
    "word",
    [
        "model.droput",
        "modle.dropout",
        "hydra.launcher.wrkrs",
        "resume_anyhow=true",
        "data=mnits",
        "test_eror_percent",
        "02_effect",
        "lecun1989_*",
        "--nonsense",
        "conf/nothing/",
        "outputs/chekpoints/",
        "tables/leaderboard.jso",
        "nothing.py",
    ],
)
def test_a_wrong_word_is_found(word: str) -> None:
    with pytest.raises(AssertionError, match=r"there is no|nothing"):
        check_word(word, PROJECT / "README.md")
