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
    lines, longest = [], max(len(file.stem) for group in groups() for file in files(group))
    for group, comment in groups().items():
        lines += [f"{group}: {comment}"]
        for file in files(group) if len(files(group)) > 1 else []:
            # A sentence ends in a full stop, but not after the initial of a name.
            sentence = re.split(r"(?<=[^ A-Z]\.) (?=[A-Z])| (?=Command: )", about(file))[0].removesuffix(".")
            lines += [f"  {file.stem:{longest}}  {textwrap.shorten(sentence, WIDTH - longest - 4, placeholder=' ...')}"]
    return "\n".join(lines)
