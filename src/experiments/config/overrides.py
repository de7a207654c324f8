"""Overrides as given on the command line, such as `model.dropout=0.3` or `~schedule`: how they are read.

Hydra's grammar reads the values where a config is composed (`parse_overrides`). Elsewhere, as in the name of a run, the
parts of the text are enough (`split_override`).
"""

import re
import shlex
from argparse import Namespace
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from hydra.errors import HydraException

from experiments.config.choices import group_names
from experiments.config.hydra_internals import hydra_argument_parser
from experiments.errors import ConfigError, show_given
from experiments.formatting import is_plain_text, shorten_middle

PRESETS = ("experiment", "debug")  # groups that change the keys of others and have no keys of their own
RUN_ID_KEYS = ("resume", "model.continue", "model.weights", "sweep.begin_from")
LONGEST_OVERRIDE = 20_000  # characters
CHOICE_KEYS = {"distribution": "strategy"}  # the key with the name of the group's choice, where it is not `name`


class SplitOverride(NamedTuple):
    """The parts of an override."""

    sign: str  # "", "+" (add), "++" (add or change) or "~" (delete)
    key: str  # a dotted key or a group, without the package of `group@package`
    value: str  # the text after the equals sign, "" if there is none

    @property
    def is_group_choice(self) -> bool:
        return self.sign != "~" and self.key in group_names()


def split_override(override: str) -> SplitOverride:
    """Split an override into its parts.

    >>> split_override("+model.units=[8,4]")
    SplitOverride(sign='+', key='model.units', value='[8,4]')
    """
    left, _, value = override.partition("=")
    name = left.lstrip("+~")
    return SplitOverride(left.removesuffix(name), name.partition("@")[0], value)


def override_key(override: str) -> str:
    """Return the key or group of an override: `model.dropout` of `+model.dropout=0.3`."""
    return split_override(override).key


def last_values(overrides: Iterable[str]) -> dict[str, str]:
    """Return the text of the value of each key: of a key that is given twice, the last counts.

    >>> last_values(["seed=1", "model.dropout=0.1", "seed=2"])
    {'seed': '2', 'model.dropout': '0.1'}
    """
    return {key: value for _, key, value in map(split_override, overrides)}


def is_hydra_key(key: str) -> bool:
    return re.split("[./]", key.lstrip("/"), maxsplit=1)[0] == "hydra"


def choice_key(group: str) -> str:
    """Return the key that has the name of a group's choice: `model.name`, `distribution.strategy`."""
    return f"{group}.{CHOICE_KEYS.get(group, 'name')}"


def parse_command_line() -> Namespace:
    """Parse sys.argv as Hydra does, into overrides and flags such as --multirun and --cfg, in any order."""
    return hydra_argument_parser().parse_intermixed_args()


def override_value_text(value: Any) -> str:
    """Return a value as it is written in an override."""
    return Override(OverrideType.CHANGE, "", ValueType.ELEMENT, value).get_value_element_as_str()


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides with Hydra's grammar; needs `composing`. Raises ConfigError for the first that is not one."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    parsed = []
    for override in overrides:
        if len(override) > LONGEST_OVERRIDE or not is_plain_text(override):
            what = "is too long" if is_plain_text(override) else "has control characters, or bytes that are not UTF-8"
            raise ConfigError(f"{show_given(override)} {what}. Give at most {LONGEST_OVERRIDE:,} characters of text.")
        try:
            (result,) = parser.parse_overrides([_quote_run_id(override)])
            if not result.key_or_group:
                raise HydraException("the key is missing")
            parsed.append(result)
        except Exception as error:  # Hydra raises many kinds, such as ValueError for a number of 5,000 digits
            reason = _parsing_problem(error, override)
            raise ConfigError(
                f"{show_given(override)} is not an override: {reason}. Write key=value, for example model.dropout=0.3;"
                " quote values with special characters: 'key=\"a b\"'."
            ) from None
    return parsed


def _quote_run_id(override: str) -> str:
    """Return an override whose value is a text although it may look like a number: the id of a run is `12e4`."""
    sign, key, value = split_override(override)
    is_id = key in RUN_ID_KEYS and re.fullmatch("[0-9a-fA-F]+", value)
    return f'{sign}{key}="{value}"' if is_id else override


def _parsing_problem(error: Exception, override: str) -> str:
    """Return why Hydra cannot parse an override, without the override and the place of Hydra's help."""
    text = str(error).partition("See https")[0].replace(f"Error parsing override '{override}'", "")
    text = text.replace(override, "...").replace("LexerNoViableAltException: ...", "a special character without quotes")
    reasons = [line.strip(" .") for line in text.splitlines() if line.strip(" .^")]
    return reasons[0] if reasons else type(error).__name__


def refuse_several_values(parsed: Iterable[Override]) -> None:
    if given := next((override.input_line for override in parsed if override.is_sweep_override()), None):
        short = shorten_middle(given, 200)
        raise ConfigError(
            f"{short!r} has several values. For a sweep add -m: python run.py -m {shlex.quote(short)}; for one list,"
            " write it in brackets: key=[a,b]."
        )
