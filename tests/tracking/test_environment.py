"""The recorded state of the code, in real git repositories."""

import os
import subprocess
from pathlib import Path

import pytest

from experiments.tracking.environment import LARGEST_DIFFED_FILE, CodeState, installed_packages, read_code_state


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with settings that change how git shows differences."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "a.py").write_bytes(b"x = 1\r\ny = 2\r\n")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    settings = ["color.ui always", "diff.noprefix true", "diff.context 0", "diff.external false", "core.autocrlf false"]
    configured = (["config", *setting.split()] for setting in settings)
    for arguments in (["init", "-q"], *configured, ["add", "a.py"], [*identity, "commit", "-qm", "begin"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


def test_a_clean_tree_has_a_commit_and_no_diff(repository: Path) -> None:
    code = read_code_state(repository)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True).stdout.strip()
    assert code == CodeState(head, b"")
    assert code.tags == {"git_commit": head, "git_dirty": "false"}


def test_the_diff_has_changes_and_new_files_and_applies_to_the_commit(repository: Path, tmp_path: Path) -> None:
    (repository / "a.py").write_bytes(b"x = 1\r\ny = 3\r\n")
    (repository / "new.py").write_text("y = 3\n")
    (repository / "latin 1.txt").write_bytes("Größe\r\n".encode("latin-1"))
    (repository / "broken").symlink_to("nowhere")
    code = read_code_state(repository)
    assert code.tags["git_dirty"] == "true"
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(repository), str(clone)], check=True)
    subprocess.run(["git", "apply"], cwd=clone, input=code.diff, check=True)
    for name in ("a.py", "new.py", "latin 1.txt"):
        assert (clone / name).read_bytes() == (repository / name).read_bytes()
    assert (clone / "broken").readlink() == Path("nowhere")


def test_large_new_files_are_named_but_left_out(repository: Path) -> None:
    (repository / "data.bin").write_bytes(os.urandom(LARGEST_DIFFED_FILE + 1))
    (repository / "folder").symlink_to(repository.parent)
    left_out = b"# new file left out (too large, too many, or not a regular file): "
    assert read_code_state(repository).diff == left_out + b"data.bin\n" + left_out + b"folder\n"


def commit(repository: Path, name: str, content: bytes) -> None:
    (repository / name).parent.mkdir(exist_ok=True)
    (repository / name).write_bytes(content)
    subprocess.run(["git", "add", "."], cwd=repository, check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *identity, "commit", "-qm", name], cwd=repository, check=True)


LEFT_OUT = b"# changed file left out (larger than 100000 bytes, or too many): "


def test_large_changed_files_are_named_but_left_out(repository: Path) -> None:
    commit(repository, "data/grown *.bin", b"small")
    commit(repository, "data/grown x.bin", b"as the pattern above")
    commit(repository, "data/deleted.bin", os.urandom(LARGEST_DIFFED_FILE + 1))
    (repository / "data" / "grown *.bin").write_bytes(os.urandom(LARGEST_DIFFED_FILE + 1))
    (repository / "data" / "grown x.bin").write_bytes(b"changed")
    (repository / "data" / "deleted.bin").unlink()
    (repository / "a.py").write_bytes(b"x = 2\r\n")
    diff = read_code_state(repository / "data").diff
    assert diff.endswith(LEFT_OUT + b"data/deleted.bin\n" + LEFT_OUT + b"data/grown *.bin\n")
    assert b"+x = 2" in diff
    assert b"b/data/grown x.bin" in diff
    assert len(diff) < 1000


def test_only_large_changes_count_as_changes_too(repository: Path) -> None:
    commit(repository, "data.bin", b"small")
    (repository / "data.bin").write_bytes(os.urandom(LARGEST_DIFFED_FILE + 1))
    code = read_code_state(repository)
    assert (code.tags["git_dirty"], code.diff) == ("true", LEFT_OUT + b"data.bin\n")


def test_many_changed_files_are_limited_by_their_sum(repository: Path) -> None:
    for number in range(120):
        (repository / f"{number}.bin").write_bytes(b"0")
    commit(repository, "more.bin", b"0")
    for number in range(120):
        (repository / f"{number}.bin").write_bytes(os.urandom(99_000))
    diff = read_code_state(repository).diff
    assert diff.count(LEFT_OUT) == 19
    assert len(diff) < 20_000_000


def test_a_folder_without_git_has_no_commit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_code_state(tmp_path).tags == {"git_commit": "", "git_dirty": "false"}
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("variables", "head", "reason"),
    [
        (
            {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"},  # as for root in a container with another user's clone
            None,
            "fatal: detected dubious ownership in repository at '{0}'. To record them: git config --global --add"
            " safe.directory {0}",
        ),
        (
            {},
            "damaged",
            "fatal: not a git repository (or any of the parent directories): .git. To record them: make"
            " `git -C {0} diff` work",
        ),
        ({"PATH": ""}, None, "git is not installed. To record them: make `git -C {0} diff` work"),
    ],
)
def test_a_repository_that_git_refuses_is_reported_once(
    variables: dict[str, str],
    head: str | None,
    reason: str,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
    for name, value in (alone | variables).items():
        monkeypatch.setenv(name, value)
    if head:
        (repository / ".git" / "HEAD").write_text(head)
    for _ in range(2):
        assert read_code_state(repository) == CodeState("", b"")
    warning = f"The commit of {repository} and the changes since are not recorded: {reason.format(repository)}\n"
    assert capsys.readouterr() == ("", warning)


def test_the_commit_is_recorded_if_git_cannot_list_the_changes(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = read_code_state(repository).commit
    (repository / ".git" / "index").write_text("damaged")
    code = read_code_state(repository)
    assert code.tags == {"git_commit": commit, "git_dirty": "true"}
    assert code.diff.startswith(b"# git could not list the changes: ")
    assert capsys.readouterr().err.startswith(
        f"The changes in {repository} since commit {commit[:8]} are not recorded: "
    )


def test_before_the_first_commit_the_diff_has_everything(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "added.py").write_text("x = 1\n")
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    (tmp_path / "new.py").write_text("y = 2\n")
    code = read_code_state(tmp_path)
    assert code.tags == {"git_commit": "", "git_dirty": "true"}
    assert b"+x = 1\n" in code.diff
    assert b"+y = 2\n" in code.diff


def test_packages_are_listed_as_in_a_lock_file() -> None:
    lines = installed_packages().splitlines()
    assert lines == sorted(lines, key=str.lower)
    assert any(line.startswith("numpy==") for line in lines)
