"""The files of conf/: all compose, give what the schema names, and explain each key."""

import dataclasses
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from composed import job
from own_data import own_arrays, own_pictures

from experiments.config.choices import CONFIG_FOLDER, group_names
from experiments.config.found_facts import open_facts
from experiments.config.identity import config_to_dict
from experiments.config.optimizer_schema import optimizer_arguments
from experiments.config.overrides import PRESETS
from experiments.config.schema import Config
from experiments.config.validation import schema_fields
from experiments.data import picture_cache

GROUP_FILES = sorted(
    file for file in CONFIG_FOLDER.glob("*/*.yaml") if file.parent.name not in (*PRESETS, "hydra", "search")
)
NEEDS = {  # what a choice does not run without
    "data=arrays": [f"data.path={own_arrays()}"],
    "data=images": [f"data.path={own_pictures()}", "data.size=8"],
    "data=linear": ["training.loss=mean_squared_error"],
    "model=neuron": ["data=linear", "training.loss=mean_squared_error"],
    "model=keras": ["data.padding=2"],
}


def name_of(file: Path) -> str:
    return f"{file.parent.name}={file.stem}"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_cache, "PICTURE_FOLDER", own_pictures() / ".cache")


@cache
def shipped_choice(file: Path) -> Config:
    return job(*NEEDS.get(name_of(file), []), name_of(file))


@pytest.mark.parametrize("file", GROUP_FILES, ids=name_of)
def test_every_choice_composes_and_is_what_its_file_says(file: Path) -> None:
    composed = shipped_choice(file)
    given = {k: v for k, v in yaml.safe_load(file.read_text()).items() if not str(v).startswith("${")}
    if file.parent.name == "data":  # without what is needed or found
        given = {k: v for k, v in given.items() if k not in ("path", "size", *open_facts(given))}
    assert {key: config_to_dict(composed)[file.parent.name][key] for key in given} == given | (
        {"threads": composed.training.threads} if "threads" in given else {}
    )


@pytest.mark.parametrize("file", sorted(CONFIG_FOLDER.glob("experiment/*.yaml")), ids=name_of)
def test_every_experiment_composes_and_names_its_command(file: Path) -> None:
    assert job(name_of(file))
    assert f"# Command: python run.py {name_of(file)}" in file.read_text()


@pytest.mark.parametrize("file", GROUP_FILES, ids=name_of)
def test_the_files_give_exactly_the_fields_of_the_schema(file: Path) -> None:
    group = getattr(shipped_choice(file), file.parent.name)
    if file.parent.name == "optimizer":
        fields = {"name", "learning_rate", *optimizer_arguments()[file.stem]}
    else:
        fields = set(schema_fields(group))
    assert set(yaml.safe_load(file.read_text())) == fields


def test_the_groups_are_the_fields_of_the_config() -> None:
    top_level = {
        key for key in yaml.safe_load((CONFIG_FOLDER / "config.yaml").read_text()) if key not in ("defaults", "hydra")
    }
    assert {field.name for field in dataclasses.fields(Config)} - top_level <= set(group_names())
    entries = yaml.safe_load((CONFIG_FOLDER / "config.yaml").read_text())["defaults"]
    chosen = {key for entry in entries if isinstance(entry, dict) for key in entry}
    assert {key for key in chosen if not key.startswith("override hydra/")} <= set(group_names())


def uncommented_keys(text: str) -> Iterator[str]:
    """Keys with no comment on their line, above it, or beside the key that they belong to."""
    explained_until, previous = 10**9, ""
    for line in text.splitlines():
        match = re.match(r"( *)(- )?([\w.-]+):( |$)", line)
        if match and not line.lstrip().startswith("#"):
            indent = len(match[1])
            if indent <= explained_until:  # not inside a value that was explained
                explained = " #" in line or previous.lstrip().startswith("#")
                explained_until = indent if explained else 10**9
                if not explained:
                    yield match[3]
        previous = line


@pytest.mark.parametrize("file", [CONFIG_FOLDER / "config.yaml", *GROUP_FILES], ids=lambda file: file.stem)
def test_every_key_has_a_comment(file: Path) -> None:
    text = file.read_text().partition("\nhydra:")[0]
    assert text.startswith("#")
    assert list(uncommented_keys(text)) == []


def test_a_key_without_a_comment_would_be_found() -> None:
    assert list(uncommented_keys("a: 1  # first\nb: 2\nc:  # a mapping\n  d: 1\n# above\ne: 3\n")) == ["b"]
