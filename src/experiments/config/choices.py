"""Read the files of conf/ and their comments: a first line that says what each file is, and a comment for each key."""

import inspect
import re
from collections.abc import Mapping
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from experiments import RESOURCES
from experiments.config.own_code import loaded_own_code
from experiments.config.registry import OwnFunction, own_functions
from experiments.config.yaml_files import read_yaml

CONFIG_FOLDER = RESOURCES / "conf"
START_KEYS = ("weights", "weights_of", "continue")  # that all networks have
OWN_KINDS = {"model": "model", "data": "dataset", "optimizer": "optimizer"}  # of functions that are choices of a group


class ConfigGroup(NamedTuple):
    """A config group: its folder below conf/, its default choice, and its subject."""

    name: str
    default: str
    comment: str


def config_groups() -> list[ConfigGroup]:
    """Return the config groups in the order of config.yaml, Hydra's own that have files here at the end."""
    text = (CONFIG_FOLDER / "config.yaml").read_text()
    return [ConfigGroup(*entry) for entry in re.findall(r"(?m)^  - (?:override )?([\w/]+): (\w+) +# (.*)$", text)]


@cache
def group_names() -> tuple[str, ...]:
    """Return the names of this project's config groups, without Hydra's own."""
    return tuple(group.name for group in config_groups() if not group.name.startswith("hydra/"))


def choice_files(group: str) -> list[Path]:
    """Return the choices of a group, by name."""
    return sorted(filter(Path.is_file, (CONFIG_FOLDER / group).glob("*.yaml")))  # an editor's lock is a broken link


def own_choices(group: str) -> dict[str, OwnFunction]:
    """Return the functions of the user's own code that are choices of a group."""
    return own_functions(OWN_KINDS[group]) if group in OWN_KINDS else {}


def own_choice_values(group: str, own: OwnFunction) -> dict[str, Any]:
    """Return what a choice of the user's own code sets where its YAML file, if any, does not."""
    common: dict[str, Any] = {}
    if group == "model":
        common = {key: choice_values("model", "mlp")[key] for key in START_KEYS}
    elif group == "data":
        common = {key: value for key, value in choice_values("data", "arrays").items() if key != "path"}
    elif group == "optimizer":
        (given, *_) = (parameter.default for parameter in inspect.signature(own.function).parameters.values())
        common = {"learning_rate": 0.001 if given is inspect.Parameter.empty else given}
    return {**common, "name": own.name, **{key.name: key.default for key in own.keys}}


def own_choice_comments(group: str) -> dict[str, str]:
    """Return the choices of a group that the user's own code and its conf/ add, each with a sentence."""
    own = loaded_own_code()
    files = (own.folder / "conf" / group).glob("*.yaml") if own else ()
    comments = {file.stem: (choice_comment(file) or [""])[0].removesuffix(".") for file in sorted(files)}
    return comments | {name: choice.meaning for name, choice in own_choices(group).items() if not comments.get(name)}


@cache  # cached, so that editing a file does not affect a running process
def choice_values(group: str, name: str) -> Mapping[str, Any]:
    """Return what a choice sets, as written in its file, or in the signature of the user's own function."""
    if own := own_choices(group).get(name):
        return own_choice_values(group, own)
    file = CONFIG_FOLDER / group / f"{name}.yaml"
    content: Mapping[str, Any] = read_yaml(file.read_text(encoding="utf-8"), str(file))
    return content


def choice_comment(file: Path) -> list[str]:
    """Return the lines of the comment at the top of a config file; the first says in a sentence what it is."""
    lines = takewhile(lambda line: line.startswith("#"), file.read_text().splitlines())
    return [line.removeprefix("#").strip() for line in lines if not line.startswith("# @package")]


def key_comments(file: Path) -> dict[str, str]:
    """Return the comment on each key of a YAML file, by the key's path."""
    found, path = {}, list[str]()
    for line in file.read_text().splitlines():
        if match := re.match(r"( *)([\w-]+):(?: .*?)?(?:\s# ?(.*))?$", line):
            indent, key, comment = match.groups()
            path = [*path[: len(indent) // 2], key]
            found[".".join(path)] = comment or ""
    return found


def choices_overview() -> str:
    """Return, for --help, every group with its choices, then every key outside the groups, each on its own line."""
    choices = {group: [f for f in choice_files(group.name) if f.stem != "default"] for group in config_groups()}
    own = {group: own_choice_comments(group.name) for group in choices}
    longest = max(len(name) for group in choices for name in [*own[group], *(file.stem for file in choices[group])])
    lines = ["== Groups and their choices (GROUP=CHOICE) ==", ""]
    for group, files in choices.items():
        default = f" (default: {group.default})" if group.default in [file.stem for file in files] else ""
        lines += [f"{group.name}: {group.comment}{default}"]
        lines += [f"  {file.stem:{longest}}  {choice_comment(file)[0].removesuffix('.')}" for file in files]
        lines += [f"  {name:{longest}}  {comment} (your own)" for name, comment in own[group].items()]
    lines += ["", "== Keys outside the groups (KEY=VALUE) ==", ""]
    for key, comment in key_comments(CONFIG_FOLDER / "config.yaml").items():
        if comment and not key.startswith("hydra"):
            lines += [f"{key:{longest + 2}}  {comment}"]
    return "\n".join(lines)
