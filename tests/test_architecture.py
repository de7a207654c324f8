"""The rules of the source: which way imports go, what is private, what is imported late, how large a module may be."""

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from architecture import LEVELS, PACKAGE, level_of
from conftest import PROJECT, command

MODULES = sorted(PACKAGE.rglob("*.py"))
PACKAGES = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
COMMANDS = [PROJECT / "run.py", *sorted((PROJECT / "scripts").glob("*.py"))]
HEAVY = {"tensorflow", "keras", "mlflow", "pandas", "matplotlib", "sklearn", "scipy", "optuna", "PIL", "h5py"}
HYDRA_INTERNALS = PACKAGE / "config" / "hydra_internals.py"  # the one module that may use private parts of Hydra
PUBLIC_DESPITE_UNDERSCORE = {"_exit", "_asdict", "_replace", "_fields"}  # os, named tuples, ast
PUBLIC_DESPITE_UNDERSCORE |= {"_hard_delete_run", "_hard_delete_logged_model"}  # MLflow: what its `gc` calls


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def module_name(path: Path) -> str:
    """Return the dotted name of a module of the package, without `experiments`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imported_names(path: Path, *, at_module_level: bool = False) -> set[str]:
    """Return every imported module, and every imported name as `module.name`."""
    tree = tree_of(path)
    found = set()
    for node in tree.body if at_module_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def imported_distributions(path: Path, *, at_module_level: bool = False) -> set[str]:
    return {name.partition(".")[0] for name in imported_names(path, at_module_level=at_module_level)}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("_") and name not in PUBLIC_DESPITE_UNDERSCORE


def foreign_private_names(path: Path) -> Iterator[str]:
    """Yield the private names that a module imports, and the private attributes that it uses and does not define."""
    yield from (name for name in imported_names(path) if any(map(is_private, name.split("."))))
    tree = tree_of(path)
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    defined |= {node.attr for node in attributes if isinstance(node.ctx, ast.Store)}
    yield from (ast.unparse(node) for node in attributes if is_private(node.attr) and node.attr not in defined)


def top_level_names(path: Path) -> Iterator[str]:
    for node in tree_of(path).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))


def test_imports_go_one_way() -> None:
    for path in MODULES:
        own = module_name(path).partition(".")[0]
        if own == "__init__":
            continue
        for name in imported_names(path):
            other = name.removeprefix("experiments.").partition(".")[0] if name.startswith("experiments.") else own
            if other != own and other in set().union(*LEVELS):
                assert level_of(other) <= level_of(own), f"{module_name(path)} imports {name}, which stands above it"


def test_every_package_and_top_level_module_has_a_level() -> None:
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert {*PACKAGES, *files} == set().union(*LEVELS)


@pytest.mark.parametrize("path", [*MODULES, PROJECT / "run.py"], ids=lambda path: path.stem)
def test_nothing_heavy_is_imported_at_module_level(path: Path) -> None:
    assert not imported_distributions(path, at_module_level=True) & HEAVY


def test_only_tracking_imports_mlflow() -> None:
    importing = [path for path in [*MODULES, *COMMANDS] if "mlflow" in imported_distributions(path)]
    assert {path.parent for path in importing} == {PACKAGE / "tracking"}


def test_private_names_stay_in_their_module() -> None:
    tests = (PROJECT / "tests").rglob("*.py")
    sources = [path for path in [*MODULES, *COMMANDS, *tests] if path != HYDRA_INTERNALS]
    assert {
        str(path.relative_to(PROJECT)): found for path in sources if (found := [*foreign_private_names(path)])
    } == {}


def test_every_top_level_name_is_unique() -> None:
    places = defaultdict(list)
    for path in MODULES:
        for name in set(top_level_names(path)) - {"__all__", "__getattr__", "main"}:
            places[name].append(module_name(path))
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}


def offered_modules(package: str) -> set[str]:
    """Return the modules in a package's `__all__`: those that others may use."""
    tree = tree_of(PACKAGE / package / "__init__.py")
    (listed,) = (n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__")
    return set(ast.literal_eval(listed))


def test_others_use_only_the_modules_that_a_package_offers() -> None:
    offered = {package: offered_modules(package) for package in PACKAGES}
    used: dict[str, set[str]] = defaultdict(set)
    for path in [*MODULES, *COMMANDS]:
        own = module_name(path).partition(".")[0] if path in MODULES else ""
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("experiments."):
                _, package, *modules = str(node.module).split(".")
                if package in offered and package != own:
                    used[package] |= set(modules[:1]) or {alias.name for alias in node.names}
    assert used == offered


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_what_it_is_for_and_what_it_offers(package: str) -> None:
    file = PACKAGE / package / "__init__.py"
    assert len(ast.get_docstring(tree_of(file)) or "") > 40
    assert "__all__" in set(top_level_names(file))
    assert (PROJECT / "tests" / package).is_dir()


def test_only_figures_and_engines_are_nested_packages() -> None:
    nested = {str(path.parent.relative_to(PACKAGE)) for path in PACKAGE.glob("*/*/**/__init__.py")}
    assert nested == {"reports/figures", "sweeps/engines"}


def test_at_most_eight_files_stand_beside_the_packages() -> None:
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= 8


def test_no_module_is_longer_than_400_lines() -> None:
    lengths = {module_name(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_the_architecture_page_is_up_to_date() -> None:
    done = command("--check", script="scripts/architecture.py")
    assert done.returncode == 0, done.stderr


def test_the_version_is_the_same_in_package_citation_and_changelog() -> None:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    released = re.search(r"^## (\d\S+) - (\S+)$", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released
    assert (citation["version"], citation["date-released"].isoformat()) == released.groups()
    assert citation["version"] == version
