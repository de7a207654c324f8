"""What the files of conf/ say about themselves: each begins with a comment on what it is."""

import re
import textwrap
from pathlib import Path

from experiments.config import PROJECT

CONF = PROJECT / "conf"
WIDTH = 118  # characters of a line of --help


def groups() -> dict[str, str]:
    """The config groups in the order of config.yaml, each with what its comment there says."""
    found = {}
    for line in (CONF / "config.yaml").read_text().partition("\nhydra:")[0].splitlines():
        entry, _, comment = line.partition("#")
        group = entry.strip().removeprefix("- ").partition(":")[0]
        if entry.startswith("  - ") and (CONF / group).is_dir():
            found[group] = comment.strip()
    return found


def files(group: str) -> list[Path]:
    """The choices of a group, by name."""
    return sorted((CONF / group).glob("*.yaml"))


def about(file: Path) -> str:
    """The comment that a config file begins with, as one paragraph."""
    lines = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def overview() -> str:
    """Every group with its choices, where there are several: each with its first sentence, on a line of its own."""
    lines = []
    for group, comment in groups().items():
        lines += [f"{group}: {comment}"]
        for file in files(group) if len(files(group)) > 1 else []:
            sentence = re.split(r"(?<=\.) (?=[A-Z])", about(file))[0].removesuffix(".")
            lines += [f"  {file.stem:20} {textwrap.shorten(sentence, WIDTH - 23, placeholder=' ...')}"]
    return "\n".join(lines)
