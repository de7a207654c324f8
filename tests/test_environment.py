"""What is recorded of the code, in real repositories of git."""

import os
import subprocess
from pathlib import Path

import pytest

from experiments import environment


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "a.py").write_text("x = 1\n")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for arguments in (["init", "-q"], ["add", "a.py"], [*identity, "commit", "-qm", "begin"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    return tmp_path


def test_a_clean_tree_has_a_commit_and_no_diff(repository: Path) -> None:
    code = environment.code(repository)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True).stdout.strip()
    assert code == environment.Code(head, "")
    assert code.tags == {"git_commit": head, "git_dirty": "false"}


def test_the_diff_holds_changes_and_new_files_and_applies_to_the_commit(repository: Path, tmp_path: Path) -> None:
    (repository / "a.py").write_text("x = 2\n")
    (repository / "new.py").write_text("y = 3\n")
    code = environment.code(repository)
    assert code.tags["git_dirty"] == "true"
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(repository), str(clone)], check=True)
    subprocess.run(["git", "apply"], cwd=clone, input=code.diff, text=True, check=True)
    assert (clone / "a.py").read_text() == "x = 2\n"
    assert (clone / "new.py").read_text() == "y = 3\n"


def test_new_files_that_are_data_are_named_and_not_kept(repository: Path) -> None:
    (repository / "data.bin").write_bytes(os.urandom(environment.LARGEST_NEW_FILE + 1))
    diff = environment.code(repository).diff
    assert diff == "# new, and too large or too many to keep: data.bin\n"


def test_a_folder_without_git_has_no_commit(tmp_path: Path) -> None:
    assert environment.code(tmp_path).tags == {"git_commit": "", "git_dirty": "false"}


def test_packages_are_listed_as_in_a_lock_file() -> None:
    lines = environment.packages().splitlines()
    assert lines == sorted(lines, key=str.lower)
    assert any(line.startswith("numpy==") for line in lines)
