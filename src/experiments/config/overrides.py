"""Overrides as given on the command line: parsed in one place."""

import re
from collections.abc import Sequence

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from experiments.config.choices import CONFIG_FOLDER
from experiments.errors import ConfigError

PRESETS = ("experiment", "debug")  # groups that change the keys of others and have none of their own
CHOSEN = {"distribution": "strategy"}  # the key that tells which choice of a group a config has, where it is not `name`
UNKNOWN = ...  # what an override sets, where it alone does not tell


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them; needs `composing`.

    Raises:
        ConfigError: on the first that is none.
    """
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    parsed = []
    for override in overrides:
        try:
            (result,) = parser.parse_overrides([override])
            if not result.key_or_group:
                raise HydraException("the key is missing")
            parsed.append(result)
        except (HydraException, RecursionError, ValueError) as error:  # the last one: a number of 5,000 digits
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"{override!r} is not an override: {reason}. Write key=value, for example model.dropout=0.3;"
                " quote values with special characters: 'key=\"a b\"'."
            ) from None
    return parsed


def is_hydra_key(name: str) -> bool:
    return re.split("[./]", name.lstrip("/"), maxsplit=1)[0] == "hydra"


def is_group_choice(override: str) -> bool:
    return override.partition("=")[0] in group_names()


def group_names() -> list[str]:
    """The config groups of this project: the folders of conf/, without Hydra's own."""
    return sorted(folder.name for folder in CONFIG_FOLDER.iterdir() if folder.is_dir() and folder.name != "hydra")


def refuse_several_values(parsed: list[Override]) -> None:
    for override in parsed:
        if override.is_sweep_override():
            raise ConfigError(
                f"{override.input_line!r} names several values. For a sweep add -m: python run.py -m"
                f" {override.input_line}; for one list value write it in brackets: key=[a,b]."
            )
