"""The wheel, installed without the clone: real commands in an empty working folder, and a new project's own test."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT
from stores import runs

pytestmark = pytest.mark.slow


class Installation:
    """A folder into which the wheel was installed, and a working folder."""

    def __init__(self, folder: Path) -> None:
        source, wheels = folder / "source", folder / "wheels"
        for part in ("src", "conf", "docs"):
            shutil.copytree(PROJECT / part, source / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        for file in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "requirements.lock"):
            shutil.copy(PROJECT / file, source)
        self.site, self.work = folder / "site", folder / "work"
        self.work.mkdir()
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        for line in (
            [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(source)],
            [*pip, "install", "--no-deps", "--no-index", "--target", str(self.site), "--find-links", str(wheels)],
        ):
            name = ["keras-hydra-experiments"] if "install" in line else []
            subprocess.run([*line, *name], check=True, cwd=folder)
        shutil.rmtree(source)

    def run(self, *line: str, folder: Path | None = None, ends_with: int = 0) -> str:
        """Run a command in the working folder, or in another, and return what it prints."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "EXPERIMENTS_"))}
        path = f"{self.site / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            line,
            cwd=folder or self.work,
            env={**environment, "PYTHONPATH": str(self.site), "PATH": path},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == ends_with, done.stderr
        return done.stdout + done.stderr

    def files(self) -> set[Path]:
        return {path for path in self.site.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("installed"))


def test_runs_are_made_in_the_working_folder_and_nothing_in_the_installation(installed: Installation) -> None:
    before = installed.files()
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org"]
    for line in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message=first"]):
        installed.run(*git, *line)
    said = installed.run("experiments", "run", "data=digits", "training.epochs=1", "report.figures=light")
    (run,) = runs(f"sqlite:///{installed.work}/mlruns/mlflow.db")
    run_id = run.info.run_id
    assert run.info.status == "FINISHED"
    assert f"experiments reproduce {run_id}" in said
    assert "experiments compare" in run.data.tags["mlflow.note.content"]
    said += installed.run("experiments", "compare", run_id)
    said += installed.run("experiments", "evaluate", run_id)
    said += (repeated := installed.run("experiments", "reproduce", run_id))
    assert "Reproduced." in repeated
    assert "python" not in said
    assert "make " not in said
    assert {path.name for path in installed.work.iterdir()} == {".git", "mlruns", "outputs"}
    made = runs(f"sqlite:///{installed.work}/mlruns/mlflow.db")
    commit = installed.run("git", "rev-parse", "HEAD").strip()
    assert [(run.data.tags["git_commit"], run.data.tags["git_dirty"]) for run in made] == [(commit, "false")] * 2
    assert installed.files() == before
    assert (installed.work / "mlruns" / "artifacts").is_dir()
    (lock,) = installed.work.rglob(f"{run_id}/artifacts/environment/requirements.lock")
    assert lock.read_text() == (PROJECT / "requirements.lock").read_text()


def test_data_are_looked_for_in_the_working_folder(installed: Installation) -> None:
    (installed.work / "data" / "mnist").mkdir(parents=True)
    (installed.work / "data" / "mnist" / "mnist.npz").write_bytes(b"damaged")
    assert f"{installed.work}/data/mnist" in installed.run("experiments", "run", ends_with=2)
    shutil.rmtree(installed.work / "data")


def test_help_names_documents_that_are_there(installed: Installation) -> None:
    text = installed.run("experiments", "run", "--help")
    (folder,) = re.findall(r"^== Further reading in (.*) ==$", text, re.MULTILINE)
    documents = re.findall(r"^(\S+\.md) ", text.partition("== Further reading")[2], re.MULTILINE)
    assert len(documents) > 3
    for document in documents:
        assert Path(folder, document).is_file()


def test_an_extra_is_installed_by_the_name_of_the_distribution(installed: Installation) -> None:
    assert "pip install 'keras-hydra-experiments[onnx]'" in installed.run("experiments", "export", "--help")


def test_a_script_of_a_clone_does_not_run_the_installed_code(installed: Installation) -> None:
    said = installed.run("python", str(PROJECT / "run.py"), "model.dropout=2", ends_with=2)
    assert f"belongs to {PROJECT}, but this Python has the code of {installed.site}/experiments installed" in said


def test_a_new_project_passes_its_own_test(installed: Installation, tmp_path: Path) -> None:
    before, folder = installed.files(), tmp_path / "my-project"
    said = installed.run("experiments", "new", str(folder))
    assert f"cd {folder}\n" in said
    assert not re.search(r"\{\{\w+\}\}", "".join(path.read_text() for path in folder.rglob("*") if path.is_file()))
    assert "# my-project\n" in (folder / "README.md").read_text()
    assert (folder / ".github" / "workflows" / "test.yml").is_file()
    assert "3 passed" in installed.run("python", "-m", "pytest", "-p", "no:xdist", folder=folder)
    assert {path.name for path in folder.iterdir()} >= {"outputs"}
    assert not (folder / "mlruns").exists()
    chosen = installed.run("experiments", "run", "--code", ".", "--cfg", "job", "model=two_paths_small", folder=folder)
    assert "\n  filters: 4\n" in chosen
    refused = installed.run("experiments", "new", str(folder), ends_with=2)
    assert refused == f"{folder} exists and is not an empty folder. Name one that does not exist yet.\n"
    assert installed.files() == before
