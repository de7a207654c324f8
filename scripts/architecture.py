"""Write the graph of the packages and the tables of their modules into ARCHITECTURE.md, from the source.

python scripts/architecture.py           writes them
python scripts/architecture.py --check   only reports whether they are up to date: exit code 0, or 1
"""

import ast
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from experiments import PROJECT
from experiments.errors import CommandParser, run_command

PACKAGE = PROJECT / "src" / "experiments"
PAGE = PROJECT / "ARCHITECTURE.md"
GENERATED = re.compile(r"(?<=<!-- begin: written by scripts/architecture.py -->\n).*(?=<!-- end -->)", re.DOTALL)

# The packages and top-level modules from the bottom up: each may import those of its own level and of the levels below.
ORDER = "errors formatting profiling runtime < config < data < training < tracking < reports < experiment"
LEVELS = [set(level.split()) for level in f"{ORDER} < comparison < sweeps < reproduction < cli commands".split("<")]


def level_of(name: str) -> int:
    return next(level for level, names in enumerate(LEVELS) if name in names)


def imported_levels(level: int) -> set[int]:
    """Return the lower levels that the modules of a level import."""
    paths = [path for name in LEVELS[level] for path in [PACKAGE / f"{name}.py", *(PACKAGE / name).rglob("*.py")]]
    texts = [path.read_text() for path in paths if path.exists()]
    names = {name for text in texts for name in re.findall(r"^ *from experiments\.(\w+)", text, re.MULTILINE)}
    return {level_of(name) for name in names} & set(range(level))


def graph() -> str:
    """Return the imports between levels as Mermaid, without those that follow from others."""
    names, lines = ["<br>".join(sorted(level)) for level in LEVELS], []
    reached: list[set[int]] = []
    for level, name in enumerate(names):
        below = imported_levels(level)
        indirect = set().union(*(reached[low] for low in below))
        reached.append(below | indirect)
        lines += [f'    {level}["{name}"] --> {low}["{names[low]}"]' for low in sorted(below - indirect)]
    return "\n".join(["```mermaid", "flowchart TD", *reversed(lines), "```", ""])


def first_sentence(path: Path) -> str:
    paragraph = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.;])(?<!et al.) ", paragraph)[0].rstrip(".;")


def tables() -> str:
    """Return a section for each package, with its purpose and its modules, then one for the top-level modules."""
    faces = [PACKAGE / name / "__init__.py" for names in LEVELS for name in sorted(names) if (PACKAGE / name).is_dir()]
    parts = [f"### {f.parent.name}\n\n{first_sentence(f)}.\n\n{table(f.parent.rglob('*.py'))}" for f in faces]
    return "\n".join([*parts, f"### Beside the packages\n\n{table(PACKAGE.glob('*.py'))}"])


def table(paths: Iterable[Path]) -> str:
    lines = ["| Module | Subject |", "|---|---|"]
    for path in sorted(paths):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if (PACKAGE / name).is_dir() or name == "__init__":
            continue  # the face of a package
        lines.append(f"| [`{name}`]({path.relative_to(PROJECT)}) | {first_sentence(path)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page is out of date")
    check = parser.parse_args().check
    old = PAGE.read_text()
    new = GENERATED.sub(lambda _: f"\n{graph()}\n{tables()}\n", old)
    if not check:
        PAGE.write_text(new)
        print("Wrote ARCHITECTURE.md")
    elif new != old:
        sys.exit("ARCHITECTURE.md is out of date. Renew it: python scripts/architecture.py")


if __name__ == "__main__":
    sys.exit(run_command(main))
