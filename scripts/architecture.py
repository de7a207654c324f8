"""Write the graph of the packages and the tables of their modules into ARCHITECTURE.md, from the source.

python scripts/architecture.py           writes them
python scripts/architecture.py --check   only reports whether they are up to date: exit code 0, or 1
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from experiments import PROJECT

PACKAGE = PROJECT / "src" / "experiments"
PAGE = PROJECT / "ARCHITECTURE.md"
GENERATED = re.compile(r"(?<=<!-- begin: written by scripts/architecture.py -->\n).*(?=<!-- end -->)", re.DOTALL)

# The packages and top-level modules from the bottom up: each may import those of its own level and of the levels below.
LEVELS = [
    {"errors", "formatting", "profiling", "runtime"},
    {"config"},
    {"data"},
    {"training"},
    {"tracking"},
    {"reports"},
    {"experiment"},
    {"comparison"},
    {"sweeps"},
    {"reproduction"},
    {"cli"},
]


def level_of(name: str) -> int:
    return next(level for level, names in enumerate(LEVELS) if name in names)


def imported_levels(level: int) -> set[int]:
    """Return the lower levels that the modules of a level import."""
    names = {name for name in LEVELS[level] for path in sources(name) for name in imported_parts(path)}
    return {level_of(name) for name in names & set().union(*LEVELS)} & set(range(level))


def sources(name: str) -> list[Path]:
    module = PACKAGE / f"{name}.py"
    return [module] if module.exists() else sorted((PACKAGE / name).rglob("*.py"))


def imported_parts(path: Path) -> set[str]:
    """Return the package or top-level module of every import from `experiments`."""
    modules = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
    return {module.split(".")[1] for module in modules if module and module.startswith("experiments.")}


def graph() -> str:
    """Return the imports between levels as Mermaid, without those that follow from others."""
    below = [imported_levels(level) for level in range(len(LEVELS))]
    reached: list[set[int]] = []
    for direct in below:
        reached.append(direct.union(*(reached[level] for level in direct)))
    names = ["<br>".join(sorted(level)) for level in LEVELS]
    lines = []
    for level in reversed(range(len(LEVELS))):
        direct = {low for low in below[level] if not any(low in reached[other] for other in below[level])}
        lines += [f'    {level}["{names[level]}"] --> {low}["{names[low]}"]' for low in sorted(direct, reverse=True)]
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```", ""])


def first_sentence(path: Path) -> str:
    paragraph = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.;])(?<!et al.) ", paragraph)[0].rstrip(".;")


def tables() -> str:
    """Return a section for each package, with its purpose and its modules, then one for the top-level modules."""
    faces = [PACKAGE / name / "__init__.py" for names in LEVELS for name in sorted(names) if (PACKAGE / name).is_dir()]
    parts = [
        f"### {face.parent.name}\n\n{first_sentence(face)}.\n\n{table(face.parent.rglob('*.py'))}" for face in faces
    ]
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    main()
