"""Draw the modules and the flow of a run from the source itself, and renew the table of modules in ARCHITECTURE.md.

python scripts/architecture.py           writes docs/images/modules.svg, docs/images/run.svg and the table
python scripts/architecture.py --check   says whether they are up to date: exit code 0, or 1
"""

import argparse
import ast
import io
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from experiments import PROJECT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PACKAGE = PROJECT / "src" / "experiments"
PAGE = PROJECT / "ARCHITECTURE.md"
IMAGES = PROJECT / "docs" / "images"
TOOLS = ("architecture", "benchmark", "measuring", "reference", "walkthrough")  # of the project's own upkeep: not drawn
TABLE = re.compile(r"(<!-- modules, .*? -->\n).*?(<!-- end of modules -->)", re.DOTALL)
INK, MUTED, LINE, FILL, COMMAND, STORY = "#1f2328", "#59636e", "#8c959f", "#f3f6f9", "#fff4e5", "#e3f1fb"
WIDTH, ROW = 13.0, 0.95  # of the picture of the modules, in inches
Graph = dict[str, set[str]]


# --- what the source says ---------------------------------------------------------------------------------------------


def modules() -> dict[str, Path]:
    """Modules of the package by name; a sub-package counts as one."""
    found = {path.stem: path for path in sorted(PACKAGE.glob("*.py")) if path.stem != "__init__"}
    return found | {path.parent.name: path for path in sorted(PACKAGE.glob("*/__init__.py"))}


def imports() -> Graph:
    """Module or command -> the modules of ours that it imports, anywhere in its source, but for types only."""
    sources = {name: [path] for name, path in modules().items()}
    sources |= {path.parent.name: sorted(path.parent.glob("*.py")) for path in PACKAGE.glob("*/__init__.py")}
    scripts = [path for path in sorted((PROJECT / "scripts").glob("*.py")) if path.stem not in TOOLS]
    commands = [PROJECT / "run.py", *scripts]
    sources |= {str(path.relative_to(PROJECT)): [path] for path in commands}
    graph = {name: set().union(*map(_imported, paths)) - {name} for name, paths in sources.items()}
    return {name: known for name, known in graph.items() if known or name in modules()}


def _imported(path: Path) -> set[str]:
    found = set()
    for node in _without_types(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "experiments":
            found |= {alias.name for alias in node.names} if node.module == "experiments" else {str(node.module)}
    return {name.removeprefix("experiments.").split(".")[0] for name in found} & set(modules())


def _without_types(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes, but for what stands under `if TYPE_CHECKING`."""
    yield node
    if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
        for child in ast.iter_child_nodes(node):
            yield from _without_types(child)


def first_sentence(node: ast.Module | ast.FunctionDef | ast.ClassDef) -> str:
    paragraph = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.;])(?<!et al.) ", paragraph)[0].rstrip(".;")


class Call(NamedTuple):
    """A step of a run: what is called, what it says that it does, and whether the MLflow run is open."""

    name: str
    says: str
    tracked: bool


def flow() -> list[Call]:
    """What `experiment.run` calls of ours, in the order of its source.

    Not what it calls only for an argument, nor where a process takes another way and returns.
    """
    source = ast.parse((PACKAGE / "experiment.py").read_text())
    origin = {node.name: f"experiment.{node.name}" for node in source.body if isinstance(node, ast.FunctionDef)}
    for node in source.body:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("experiments."):
            origin |= {alias.name: f"{str(node.module).split('.')[1]}.{alias.name}" for alias in node.names}
    (run,) = (node for node in source.body if isinstance(node, ast.FunctionDef) and node.name == "run")
    del origin["run"]  # within it, the name is that of the MLflow run
    for assignment in ast.walk(run):  # what a method is called on: `trainer = Trainer(...)`
        match assignment:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=ast.Name(id=cls))) if cls in origin:
                origin[name] = origin[cls]
    withs = [node for node in ast.walk(run) if isinstance(node, ast.With)]
    (tracked,) = (node for node in withs if "opened" in ast.unparse(node.items[0]))
    found: dict[str, Call] = {}
    for call in sorted(_outermost(run, origin), key=lambda node: (node.end_lineno, node.end_col_offset)):
        name = str(_name(call, origin))
        if says := _says(name):
            is_open = tracked.body[0].lineno <= call.lineno <= (tracked.end_lineno or 0)
            found.setdefault(name, Call(name, says, is_open))
    return list(found.values())


def _outermost(node: ast.AST, origin: dict[str, str]) -> Iterator[ast.Call]:
    """Calls of ours that are no argument of another such call, and not under an `if` that returns."""
    if isinstance(node, ast.Call) and _name(node, origin):
        yield node
    elif not (isinstance(node, ast.If) and isinstance(node.body[-1], ast.Return)):
        for child in ast.iter_child_nodes(node):
            yield from _outermost(child, origin)


def _name(call: ast.Call, origin: dict[str, str]) -> str | None:
    """`module.function`, `module.Class` or `module.Class.method` of what is called; None if it is not ours."""
    match call.func:
        case ast.Name(id=name):
            return origin.get(name)
        case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in modules() or name in origin:
            return f"{origin.get(name, name)}.{attribute}"
    return None


def _says(name: str) -> str:
    """The first sentence of the docstring of `module.function`, `module.Class` or `module.Class.method`."""
    module, *path = name.split(".")
    node: ast.Module | ast.FunctionDef | ast.ClassDef = ast.parse(modules()[module].read_text())
    for part in path:
        inner = [n for n in node.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == part]
        if not inner:
            return ""
        node = inner[0]
    return first_sentence(node)


# --- the pictures and the table ---------------------------------------------------------------------------------------


def reduced(graph: Graph) -> Graph:
    """The imports that do not follow from others: a -> c is left out where a -> b -> c."""
    below = {name: _reached(graph, name) for name in graph}
    return {name: {k for k in known if not any(k in below[other] for other in known)} for name, known in graph.items()}


def _reached(graph: Graph, name: str) -> set[str]:
    return graph[name].union(*(_reached(graph, known) for known in graph[name]))


def rows(graph: Graph) -> list[list[str]]:
    """Commands first, then each module in the row below the lowest of those that import it."""
    depth = {name: 0 for name in graph if name not in modules()}

    def place(name: str) -> int:
        if name not in depth:
            depth[name] = 1 + max((place(other) for other in graph if name in graph[other]), default=0)
        return depth[name]

    for name in sorted(graph):
        place(name)
    ordered: list[list[str]] = []
    across: dict[str, float] = {}
    for level in range(max(depth.values()) + 1):
        row = sorted(name for name in graph if depth[name] == level)
        users = {name: [across[other] for other in across if name in graph[other]] for name in row}
        row.sort(key=lambda name: sum(users[name]) / len(users[name]) if users[name] else 0.5)
        across |= {name: (index + 0.5) / len(row) for index, name in enumerate(row)}
        ordered.append(row)
    return ordered


def places(levels: list[list[str]], width: float, height: float) -> dict[str, tuple[float, float, float]]:
    """The middle of each module's box on the page and the width of the box, in inches from the lower left corner."""
    return {
        name: ((index + 0.5) * width / len(row), height - 0.45 - ROW * level, 0.35 + 0.083 * len(name))
        for level, row in enumerate(levels)
        for index, name in enumerate(row)
    }


def draw_modules() -> "Figure":
    graph = reduced(imports())
    levels = rows(graph)
    width, height = WIDTH, ROW * len(levels)
    axes = _canvas(width, height)
    where = places(levels, width, height)
    for name, known in graph.items():
        for other in sorted(known):
            (x, y, _), (to_x, to_y, _) = where[name], where[other]
            axes.annotate(
                "",
                (to_x, to_y + 0.19),
                (x, y - 0.19),
                zorder=2,  # above the boxes, so that one that passes a box is not taken for its own
                arrowprops={"arrowstyle": "-|>", "color": LINE, "lw": 0.8, "shrinkA": 0, "shrinkB": 0},
            )
    for name, (x, y, box) in where.items():
        fill = STORY if name == "experiment" else FILL if name in modules() else COMMAND
        _box(axes, x, y, box, 0.36, fill)
        axes.text(x, y, name, ha="center", va="center", fontsize=9.5, color=INK, zorder=4)
    return axes.figure  # type: ignore[return-value]


def draw_flow() -> "Figure":
    calls = flow()
    step, width = 0.56, 11.0
    height = step * len(calls) + 0.3
    axes = _canvas(width, height)
    tracked = [index for index, call in enumerate(calls) if call.tracked]
    top, bottom = height - 0.15 - step * tracked[0], height - 0.15 - step * (tracked[-1] + 1)
    _box(axes, width / 2, (top + bottom) / 2, width - 0.1, top - bottom, STORY)
    said = axes.text(width - 0.25, (top + bottom) / 2, "the MLflow run is open", fontsize=10, color=MUTED, rotation=90)
    said.set(ha="center", va="center")
    for index, call in enumerate(calls):
        y = height - 0.15 - step * (index + 0.5)
        _box(axes, 1.75, y, 2.9, 0.38, FILL)
        axes.text(1.75, y, call.name, ha="center", va="center", fontsize=9.5, color=INK)
        axes.text(3.4, y, textwrap.shorten(call.says, 96, placeholder=" …"), va="center", fontsize=9.5, color=INK)
        if index:
            arrow = {"arrowstyle": "-|>", "color": LINE, "lw": 0.8, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", (1.75, y + 0.19), (1.75, y + step - 0.19), arrowprops=arrow)
    return axes.figure  # type: ignore[return-value]


def _canvas(width: float, height: float) -> "Axes":
    """Axes over the whole of a new figure, in inches from the lower left corner."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(width, height), facecolor="white").add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    return axes


def _box(axes: "Axes", x: float, y: float, width: float, height: float, fill: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    corner = (x - width / 2, y - height / 2)
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=0.06", fc=fill, ec=LINE))


def svg(figure: "Figure") -> str:
    """The figure as SVG, the same text for the same figure, with its words as words."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "architecture", "svg.fonttype": "none"}):
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def table() -> str:
    """Every module with the first sentence about it, from the commands down."""
    files, graph = modules(), imports()
    lines = ["| Module | What it is |", "|---|---|"]
    for name in (name for row in rows(graph) for name in row if name in files):
        link = f"[`{name}`]({files[name].relative_to(PROJECT)})"
        lines.append(f"| {link} | {first_sentence(ast.parse(files[name].read_text()))} |")
    return "\n".join(lines) + "\n"


def pages() -> dict[Path, str]:
    """Every file that this script makes, as it should be."""
    return {
        IMAGES / "modules.svg": svg(draw_modules()),
        IMAGES / "run.svg": svg(draw_flow()),
        PAGE: TABLE.sub(lambda match: match[1] + table() + match[2], PAGE.read_text()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if something is out of date")
    check = parser.parse_args().check
    stale = {path: text for path, text in pages().items() if not path.exists() or path.read_text() != text}
    names = ", ".join(str(path.relative_to(PROJECT)) for path in stale)
    if check and stale:
        sys.exit(f"Not up to date: {names}. Renew: python scripts/architecture.py")
    for path, text in stale.items():
        path.write_text(text)
    print(f"Wrote {names}" if stale else "All is up to date")


if __name__ == "__main__":
    main()
