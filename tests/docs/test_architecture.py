"""The modules' rules, read from their source: which way imports go, and what is never imported early."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import PROJECT, command

PACKAGE = PROJECT / "src" / "experiments"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"tensorflow", "keras", "mlflow", "pandas", "matplotlib", "sklearn", "scipy", "optuna", "PIL", "h5py"}


def imports(path: Path, at_module_level: bool) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if at_module_level else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", [*MODULES, PROJECT / "run.py"], ids=lambda path: path.stem)
def test_nothing_heavy_is_imported_at_module_level(path: Path) -> None:
    assert not tops(imports(path, at_module_level=True)) & HEAVY


def test_only_tracking_imports_mlflow() -> None:
    sources = [*MODULES, *(PROJECT / "scripts").glob("*.py")]
    assert [path.name for path in sources if "mlflow" in tops(imports(path, at_module_level=False))] == ["tracking.py"]


# module -> the modules of ours that it may know; what is not listed may be known by none of those above it.
LAYERS = [
    {"errors", "keras_api", "formatting", "figures", "spool", "profiling", "own_optimizers", "processes", "ui_pages"},
    {"keras_checks", "pictures"},
    {"schema"},
    {"config", "cluster", "image_files"},
    {"choices"},
    {"data", "download", "models", "optimizers", "tracking", "environment", "randomness", "runtime", "progress"},
    {"evaluation", "runs", "checkpoints", "distribution"},
    {"augmentation", "pretrained"},
    {"networks"},
    {"compiled", "fit", "compare"},
    {"training", "report", "compare_views"},
    {"compose"},
    {"search_space"},
    {"search"},
    {"study"},
    {"summary", "resume", "model_files"},
    {"experiment", "evaluate", "leaderboard"},
    {"sweep_plan", "records"},
    {"sweeps"},
    {"pool"},
    {"cli", "reproduce", "published", "bundle", "predict"},
]


def test_imports_go_one_way() -> None:
    height = {name: level for level, names in enumerate(LAYERS) for name in names}
    for path in MODULES:
        module = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if module == "__init__":
            continue
        assert module in height, f"{module}.py has no place in the layers of this test"
        for name in imports(path, at_module_level=False):
            other = name.removeprefix("experiments.").partition(".")[0] if name.startswith("experiments.") else module
            if other in height and other != module:
                assert height[other] <= height[module], f"{module} imports {other}, which stands above it"


def test_the_pictures_and_the_table_of_the_architecture_page_are_up_to_date() -> None:
    done = command("--check", script="scripts/architecture.py")
    assert done.returncode == 0, done.stderr


def test_no_box_in_the_picture_of_the_modules_overlaps_another_or_leaves_the_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(PROJECT / "scripts")
    import architecture

    levels = architecture.rows(architecture.reduced(architecture.imports()))
    places = architecture.places(levels, architecture.WIDTH, 10)
    assert {"run.py", "scripts/compare.py", "scripts/ui.py", "experiment", "figures"} <= set(places)
    for row in levels:
        edges = [edge for x, _, box in (places[name] for name in row) for edge in (x - box / 2, x + box / 2)]
        assert [0, *edges, architecture.WIDTH] == sorted([0, *edges, architecture.WIDTH])


def test_the_citation_and_the_changelog_are_of_the_packages_version() -> None:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    released = re.search(r"^## (\d\S+) - (\S+)$", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released
    assert (citation["version"], citation["date-released"].isoformat()) == released.groups()
    assert citation["version"] == version
