"""The private parts of Hydra are where this project looks for them, and only one module knows them."""

import re
from pathlib import Path

from conftest import PROJECT
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from experiments.config.choices import CONFIG_FOLDER
from experiments.config.composition import composing
from experiments.config.hydra_internals import (
    apply_overrides,
    config_keys,
    expand_product,
    hydra_argument_parser,
    start_hydra,
)

PARSER = OverridesParser.create()


def test_only_one_module_uses_private_parts_of_hydra() -> None:
    private = re.compile(r"hydra\._internal|\bOverride\._|ConfigLoaderImpl|\._get_node")
    sources = [*(PROJECT / "src").rglob("*.py"), *(PROJECT / "scripts").glob("*.py")]
    assert [path.name for path in sources if private.search(path.read_text())] == ["hydra_internals.py"]


def test_hydra_parses_its_command_line() -> None:
    arguments = hydra_argument_parser().parse_args(["-m", "seed=0,1", "--config-dir", "folder", "--cfg", "job"])
    assert (arguments.multirun, arguments.overrides, arguments.cfg) == (True, ["seed=0,1"], "job")
    flags = ("config_dir", "config_name", "config_path", "help", "hydra_help", "info", "shell_completion")
    assert all(hasattr(arguments, flag) for flag in (*flags, "experimental_rerun"))


def test_config_files_of_a_further_folder_are_found(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("name: digits")
    with composing():
        start_hydra(CONFIG_FOLDER, [tmp_path])
        choices = GlobalHydra.instance().config_loader().get_group_options("data")
    assert {"mine", "digits", "mnist"} <= set(choices)


def test_overrides_are_applied_to_a_composed_config() -> None:
    config = OmegaConf.create({"model": {"units": [1], "name": "mlp"}})
    apply_overrides(PARSER.parse_overrides(["model.units=[8,4]", "+model.dropout=0.5", "~model.name"]), config)
    assert config == {"model": {"units": [8, 4], "dropout": 0.5}}


def test_a_product_is_every_combination() -> None:
    assert expand_product(PARSER.parse_overrides(["a=1,2", "b=x,y"])) == [
        ["a=1", "b=x"],
        ["a=1", "b=y"],
        ["a=2", "b=x"],
        ["a=2", "b=y"],
    ]


def test_keys_are_listed_without_resolving_values() -> None:
    config = OmegaConf.create({"a": {"b": "${nowhere}"}, "c": "???"})
    assert list(config_keys(config)) == ["a", "a.b", "c"]
