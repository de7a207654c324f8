"""The private parts of Hydra that this project needs; only this module imports them.

A release of Hydra may move them: tests/config/test_hydra_internals.py then fails and says what is gone.
"""

import copy
from collections.abc import Iterator, Sequence
from functools import cache
from io import StringIO
from pathlib import Path
from typing import IO

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config.own_code import add_code_option
from experiments.config.yaml_files import LARGEST_YAML, check_yaml
from experiments.errors import CommandParser

_load_yaml = OmegaConf.load


def _load_checked_yaml(file: IO[str]) -> DictConfig | ListConfig:
    return copy.deepcopy(_parse_checked_yaml(file.read(LARGEST_YAML + 1), file.name))


@cache  # Hydra reads each file several times, and parsing it takes half of the time of a composition
def _parse_checked_yaml(text: str, name: str) -> DictConfig | ListConfig:
    check_yaml(text, name)
    stream = StringIO(text)
    stream.name = name  # for the messages of the parser
    try:
        return _load_yaml(stream)
    except OSError:  # OmegaConf's for a number, a set and the like
        raise yaml.YAMLError(f"{name} is not a mapping. Write a line KEY: VALUE for each setting.") from None
    except (OmegaConfBaseException, ValueError) as error:  # for what a config cannot hold
        what = str(error).partition("\n")[0]
        raise yaml.YAMLError(f"{name} cannot be read: {what}. Write texts, numbers, lists and mappings only.") from None


# Hydra reads every config file with it, and it copies what an alias stands for each time.
OmegaConf.load = staticmethod(_load_checked_yaml)  # type: ignore[assignment]


def hydra_argument_parser() -> CommandParser:
    """Return the parser of Hydra's command line: overrides and flags such as --multirun and --cfg."""
    parser = CommandParser(None, parents=[get_args_parser()], add_help=False)
    add_code_option(parser)
    return parser


def start_hydra(folder: Path, further: Sequence[Path]) -> None:
    """Let Hydra find config files in several folders, as `hydra.main` does for --config-dir."""
    search_path = create_config_search_path(str(folder))
    for place in further:
        search_path.prepend("command-line", f"file://{place.absolute()}", SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    Hydra.create_main_hydra2("app", search_path)


def apply_overrides(overrides: list[Override], config: DictConfig) -> None:
    """Set in a composed config what overrides of values say, as composing does after it has read the files."""
    ConfigLoaderImpl._apply_overrides_to_config(overrides, config)


def expand_product(overrides: list[Override]) -> list[list[str]]:
    """Return the jobs of a sweep, each by its overrides: every combination of the values, as Hydra's sweeper does."""
    return [list(job) for batch in BasicSweeper.split_arguments(overrides, max_batch_size=None) for job in batch]


def config_keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a config, of groups too, without resolving what they refer to."""
    for key in map(str, config):
        yield prefix + key
        if isinstance(config._get_node(key), DictConfig):
            yield from config_keys(config[key], f"{prefix}{key}.")
