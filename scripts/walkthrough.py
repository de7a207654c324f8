"""Renew the pictures and the printed lines of docs/walkthrough.md by running its commands.

python scripts/walkthrough.py           all of them, in ten minutes on two cores, in a temporary store

A picture's title is the artifact of the run above it: ![What it shows](images/walkthrough/NAME.png "figures/NAME.png"),
or a file that the command above it writes: "outputs/NAME.png". A block of text below a command holds lines that it
prints; each is replaced by the next printed line that begins with the same word. RUN_ID stands for the last single run,
SWEEP_ID for the last sweep.
"""

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from experiments import PROJECT
from experiments.errors import CommandParser, run_command
from experiments.tracking.artifacts import read_artifact_bytes
from experiments.tracking.records import runs_with_tags
from experiments.tracking.store import connect_store

PAGE = PROJECT / "docs" / "walkthrough.md"
COLOURS = 256  # of a picture on the page; halves its size
PARTS = re.compile(
    r"```bash\n(?P<commands>.*?)```|```text\n(?P<printed>.*?)```|\]\((?P<picture>[^) ]+) \"(?P<artifact>.+?)\"\)",
    re.DOTALL,
)


class Step(NamedTuple):
    """A command of the page without its comment, and the parts of its output that the page shows."""

    command: str
    printed: list[str]
    pictures: dict[Path, str]  # file on the page -> artifact of the last run, or file in outputs/


def steps(text: str) -> list[Step]:
    """Return the commands of the page in order."""
    found: list[Step] = []
    for part in PARTS.finditer(text):
        if part["commands"]:
            lines = part["commands"].replace("\\\n", " ").splitlines()
            found += [Step(" ".join(line.partition("  #")[0].split()), [], {}) for line in lines if line.strip()]
        elif part["printed"]:
            found[-1].printed.extend(part["printed"].splitlines())
        else:
            found[-1].pictures[PAGE.parent / part["picture"]] = part["artifact"]
    return found


def first_word(line: str) -> str:
    """Return the first word of a printed line; empty for a line without letters or digits, such as a rule."""
    return next(iter(re.findall(r"[\w./-]*\w[\w./-]*", line)), "")


def renewed(lines: list[str], output: str) -> list[str]:
    """Return for each line the next one of the output that begins with the same word; a ValueError if there is none."""
    rest = iter(output.splitlines())
    found = []
    for line in lines:
        word = first_word(line)
        new = next((other.rstrip() for other in rest if first_word(other) == word), None) if word else line
        if new is None:
            raise ValueError(f"No further line begins with {word!r} in:\n{output}")
        found.append(new)
    return found


def run_steps(text: str, uri: str) -> str:
    """Run every command, renew the pictures, and return the page with renewed lines."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": uri, "COLUMNS": "120", "NO_COLOR": "1"}
    blocks: list[str] = []
    last = {"RUN_ID": "", "SWEEP_ID": ""}
    for step in steps(text):
        command = step.command.replace("RUN_ID", last["RUN_ID"]).replace("SWEEP_ID", last["SWEEP_ID"])
        began = time.monotonic()
        output = subprocess.check_output(command, shell=True, cwd=PROJECT, env=environment, text=True)
        print(f"{time.monotonic() - began:3.0f} s  {command}", flush=True)
        if step.printed:
            blocks.append("\n".join([*renewed(step.printed, output), ""]))
        if command.startswith("python run.py") and "--cfg" not in command:
            made = next(run for run in runs_with_tags(connect_store(uri), {}) if "mlflow.parentRunId" not in run.tags)
            last["SWEEP_ID" if "sweep" in made.tags else "RUN_ID"] = made.run_id
        for target, artifact in step.pictures.items():
            written = (PROJECT / artifact).read_bytes() if artifact.startswith("outputs/") else None
            shrink(written or read_artifact_bytes(uri, made.run_id, artifact), target)
    new = iter(blocks)
    return re.sub(r"(?<=```text\n).*?(?=```)", lambda _: next(new), text, flags=re.DOTALL)


def shrink(picture: bytes, target: Path) -> None:
    """Save a picture with fewer colours."""
    from PIL import Image

    target.parent.mkdir(exist_ok=True)
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS).save(target, optimize=True)


def main() -> None:
    CommandParser(__doc__).parse_args()
    with TemporaryDirectory() as folder:
        PAGE.write_text(run_steps(PAGE.read_text(), f"sqlite:///{folder}/mlflow.db"))


if __name__ == "__main__":
    sys.exit(run_command(main))
