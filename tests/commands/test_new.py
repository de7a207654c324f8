"""A new project: where it may be written, what its README shows, and from where its CI installs the tool."""

import json
import re
import shlex
from argparse import Namespace
from pathlib import Path

import pytest
import yaml
from own_code import loaded

from experiments.commands.new import find_requirement, write_project
from experiments.config.composition import compose_job
from experiments.config.sweep_composition import compose_sweep
from experiments.errors import UserError


def test_the_commands_of_its_readme_compose(tmp_path: Path) -> None:
    write_project(Namespace(folder=tmp_path))
    lines = re.findall(
        r"^experiments (run|sweep) --code \. (.*?)(?:  +#.*)?$", (tmp_path / "README.md").read_text(), re.M
    )
    assert len(lines) == 3
    with loaded(tmp_path):
        for command, overrides in lines:
            compose = compose_job if command == "run" else compose_sweep
            assert compose(shlex.split(overrides))
        assert compose_job(["model=two_paths_small"]).model.filters == 4


def test_every_file_that_its_readme_lists_is_there_and_its_yaml_is_valid(tmp_path: Path) -> None:
    write_project(Namespace(folder=tmp_path / "further" / "mine"))
    readme = (tmp_path / "further" / "mine" / "README.md").read_text()
    assert readme.startswith("# mine\n")
    listed = re.findall(r"`((?:\.|\w)[\w./]*[./][\w/]+)`", readme)
    assert len(set(listed)) >= 6
    for name in set(listed) - {"mlruns/", "experiments.toml"}:
        assert (tmp_path / "further" / "mine" / name).exists(), name
    for file in tmp_path.rglob("*.y*ml"):
        assert yaml.safe_load(file.read_text())


def test_refuses_a_file_and_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match="exists and is not an empty folder"):
            write_project(Namespace(folder=folder))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_its_requirement_is_the_repository_from_which_the_tool_was_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "keras_hydra_experiments-0.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: keras-hydra-experiments\nVersion: 0.1.0\n")
    origin = {"url": "https://example.org/tool.git", "vcs_info": {"vcs": "git", "commit_id": "0f" * 20}}
    monkeypatch.syspath_prepend(tmp_path)
    (installed / "direct_url.json").write_text(json.dumps(origin))
    assert find_requirement() == f"keras-hydra-experiments @ git+https://example.org/tool.git@{'0f' * 20}"
    (installed / "direct_url.json").write_text(json.dumps({"url": "file:///home/me/tool", "dir_info": {}}))
    assert find_requirement().startswith("# Where CI gets the tool from, such as:")
