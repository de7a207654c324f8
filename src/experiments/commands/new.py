"""Write a small project of your own: a dataset, a network, a metric, an experiment, a test and its CI.

experiments new my-project

The folder must not exist yet, or be empty. The project passes its own test, and its README says how it is used.
"""

import argparse
import json
import shlex
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from experiments.errors import CommandParser, UserError, run_command

TEMPLATES = Path(__file__).with_name("new_project")
DISTRIBUTION = "keras-hydra-experiments"  # as in pyproject.toml
UNKNOWN_ADDRESS = f"""\
# Where CI gets the tool from, such as: {DISTRIBUTION} @ git+https://HOST/OWNER/REPOSITORY@COMMIT
{DISTRIBUTION}"""


def main() -> int:
    parser = CommandParser(__doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder to write the project into")
    return run_command(lambda: write_project(parser.parse_args()))


def write_project(options: argparse.Namespace) -> None:
    """Write the files of the templates into the folder, and print their names and what to do next."""
    folder: Path = options.folder
    try:
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise UserError(f"{folder} exists and is not an empty folder. Name one that does not exist yet.")
        folder.mkdir(parents=True, exist_ok=True)
        requirement = find_requirement()
        texts = {"name": folder.resolve().name, "folder": str(folder.resolve()), "requirement": requirement}
        for name, text in read_templates():
            for key, value in texts.items():
                text = text.replace(f"{{{{{key}}}}}", value)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
            print(folder / name)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be written: {error.strerror}. Name another folder."
        ) from None
    steps = [f"cd {shlex.quote(str(folder))}", "experiments run --code . experiment=shapes", "python -m pytest"]
    print("Next:", *(f"  {step}" for step in steps), sep="\n")
    if requirement == UNKNOWN_ADDRESS:
        print("Before you use its CI: write into requirements.txt where this tool is to be installed from.")


def read_templates() -> Iterator[tuple[str, str]]:
    """Yield the path of each file in the project, and its template."""
    for file in sorted(TEMPLATES.rglob("*.template")):
        name = file.relative_to(TEMPLATES).as_posix().removesuffix(".template").replace("dot_", ".")
        yield name, file.read_text(encoding="utf-8")


def find_requirement() -> str:
    """Return the line of requirements.txt that installs this tool, by the repository from which pip installed it."""
    try:
        origin = json.loads(distribution(DISTRIBUTION).read_text("direct_url.json") or "{}")
    except PackageNotFoundError:  # a clone on the PYTHONPATH
        origin = {}
    if "vcs_info" not in origin:
        return UNKNOWN_ADDRESS
    control = origin["vcs_info"]
    return f"{DISTRIBUTION} @ {control['vcs']}+{origin['url']}@{control['commit_id']}"
