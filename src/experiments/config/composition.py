"""From a command line to validated configs: Hydra composes files and overrides, validation.py checks the result.

Nothing here loads TensorFlow, Keras or MLflow, so mistakes are reported within half a second.
"""

import contextlib
import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from experiments import INSTALLED, RESOURCES
from experiments.config.choices import (
    CONFIG_FOLDER,
    OWN_KINDS,
    choice_files,
    choices_overview,
    group_names,
    own_choice_values,
    own_choices,
)
from experiments.config.facts import count_training_examples
from experiments.config.hydra_internals import apply_overrides, config_keys, start_hydra
from experiments.config.identity import complete
from experiments.config.overrides import (
    PRESETS,
    is_hydra_key,
    override_key,
    parse_overrides,
    refuse_several_values,
    split_override,
)
from experiments.config.own_code import loaded_own_code
from experiments.config.schema import Config
from experiments.config.validation import field_descriptions, mapping_keys, show_value, validate_config
from experiments.errors import ConfigError, did_you_mean, join_sorted, raise_interruption, unknown_key
from experiments.formatting import as_called, shorten_middle

# Hydra and OmegaConf raise their own and many other kinds, AssertionError too, for what they cannot compose.
NOT_COMPOSABLE = Exception
HYDRAS_WORDS = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError)  # whose messages explain it

# For the template of --help, in which a dollar sign starts an interpolation.
OmegaConf.register_new_resolver("choices", lambda: choices_overview().replace("$", "$$"), replace=True)
OmegaConf.register_new_resolver("as_called", as_called, replace=True)
OmegaConf.register_new_resolver("documents", lambda: f" in {RESOURCES}" if INSTALLED else "", replace=True)


class EnvironmentReadError(Exception):
    """A config refers to the environment, whose secrets would go into messages and records."""


def _refuse_environment(name: object, *_: object) -> None:
    raise EnvironmentReadError(f"${{oc.env:{name}}} is not supported: a config may not read the environment.")


OmegaConf.register_new_resolver("oc.env", _refuse_environment, replace=True)


def compose_job(overrides: Sequence[str], config_dir: str | None = None) -> Config:
    """Compose and validate the config of a single run; raises ConfigError, which says what is wrong and allowed."""
    with composing(config_dir):
        parsed = parse_overrides(overrides)
        refuse_space(parsed)
        refuse_several_values(parsed)
        (job,) = compose_jobs([list(overrides)])
    return job.config


@dataclass(frozen=True)
class ComposedJob:
    """One job of a sweep: its config and its overrides, without those of `hydra.*`."""

    config: Config
    overrides: list[str]


@contextlib.contextmanager
def composing(config_dir: str | None = None) -> Iterator[None]:
    """Let Hydra compose from the files of conf/ and of another folder; afterwards restore Hydra's state."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            folders = [] if config_dir is None else [("--config-dir", Path(config_dir))]
            if (own := loaded_own_code()) and own.config_folder:
                folders.append(("--code", own.config_folder))
            for option, folder in folders:
                _check_config_folder(option, folder)
            if own and own.config_folder:
                _refuse_hidden_choices(own.config_folder)
            if folders:
                start_hydra(CONFIG_FOLDER, [folder for _, folder in folders])
            offer_own_choices()
            yield
    finally:
        GlobalHydra.instance().hydra = before


def compose_jobs(jobs: list[list[str]]) -> list[ComposedJob]:
    """Compose and validate jobs, given by overrides, or raise ConfigError for the first bad one; needs `composing`."""
    for chosen in dict.fromkeys(tuple(filter(_may_choose_a_file, job)) for job in jobs):
        try:
            _check_config_files(list(chosen))
        except ConfigError:
            raise
        except NOT_COMPOSABLE as error:  # reported when the job is composed
            raise_interruption(error)
    cache: dict[tuple[str, ...], DictConfig] = {}
    # A user's own file may be older than a key of its group.
    composed = [ComposedJob(validate_config(complete(_compose(job, cache))), job) for job in jobs]
    for job in composed:
        if job.config.data.folds and any(override_key(override) == "data.validation" for override in job.overrides):
            folds = job.config.data.folds
            raise ConfigError(
                f"data.validation and data.folds={folds} do not go together: one of the {folds} parts is the validation"
                " split. Leave out data.validation."
            )
        examples, batch = count_training_examples(job.config), job.config.training.batch_size
        # Overrides win over the preset.
        if examples > batch and ("debug", "overfit") in [split_override(o)[1:] for o in job.overrides]:
            raise ConfigError(
                f"debug=overfit trains on one batch, but data.limit={show_value(job.config.data.limit)} and"
                f" training.batch_size={batch} make {math.ceil(examples / batch):,}. Leave both out, or set both to the"
                " same number: data.limit=64 training.batch_size=64"
            )
    return composed


def _check_config_folder(option: str, folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"{option}={folder} is not a folder. Name one that contains experiment/NAME.yaml.")
    if (folder / "hydra").exists():
        raise ConfigError(
            f"{option}={folder} has a folder 'hydra', whose files could name code to run, but config files may"
            " contain only data. Remove it, or give hydra.* on the command line."
        )


def _refuse_hidden_choices(folder: Path) -> None:
    """Refuse files of the user's own that ours of the same name would hide."""
    for group in (*group_names(), "search"):
        ours = {file.stem for file in choice_files(group)}
        for file in (folder / group).glob("*.yaml"):
            if file.stem in ours:
                raise ConfigError(f"{file} has the name of a choice of ours, {group}={file.stem}. Rename it.")


def refuse_space(parsed: list[Override]) -> None:
    if chosen := next((o.input_line for o in parsed if o.key_or_group == "search"), None):
        raise ConfigError(f"{chosen!r} is the space of a search. Add: -m hydra/sweeper=optuna")


def _compose(overrides: list[str], cache: dict[tuple[str, ...], DictConfig]) -> dict[str, Any]:
    """Compose overrides; `cache` keeps the configs of the chosen files, as reading these takes longest."""
    parsed = parse_overrides(overrides)
    _check_group_choices(parsed)
    files = tuple(o for o in overrides if _may_choose_a_file(o) or is_hydra_key(override_key(o)))
    try:
        if files not in cache:
            cache[files] = compose("config", overrides=list(files))
            _complete_own_choices(cache[files])
        composed = copy.deepcopy(cache[files])
        try:
            apply_overrides([override for override in parsed if override.input_line not in files], composed)
        except TypeError:
            raise ConfigError(
                f"{' '.join(o for o in overrides if o.startswith('~'))}: an item of a list cannot be deleted. Give the"
                " whole list, such as model.units=[128]"
            ) from None
        return OmegaConf.to_container(composed, resolve=True)  # type: ignore[return-value]
    except ConfigError:
        raise
    except NOT_COMPOSABLE as error:
        raise explain_composition(overrides, error) from None


def offer_own_choices() -> None:
    """Let Hydra choose the user's own functions, also those that have no YAML file."""
    for group in OWN_KINDS:
        ours = [file.stem for file in choice_files(group)]
        for name, own in own_choices(group).items():
            if name in ours:
                raise ConfigError(f"{own.file}: {name} has the name of a choice of ours, {group}={name}. Rename it.")
            loaded = loaded_own_code()
            if not (loaded and (loaded.folder / "conf" / group / f"{name}.yaml").is_file()):
                ConfigStore.instance().store(name, own_choice_values(group, own), group)


def _complete_own_choices(composed: DictConfig) -> None:
    """Add the keys of the user's own functions that their YAML files leave out, with their defaults."""
    for group in OWN_KINDS:
        chosen = composed[group]
        if own := own_choices(group).get(str(chosen.get("name")) if isinstance(chosen, DictConfig) else ""):
            with open_dict(chosen):
                for key, value in own_choice_values(group, own).items():
                    chosen.setdefault(key, value)


def read_search_space(overrides: Sequence[str]) -> dict[str, Any]:
    """Read the space of a search from the files that overrides choose, or raise ConfigError; needs `composing`."""
    space = _compose([o for o in overrides if split_override(o).is_group_choice], {}).get("search")
    if not isinstance(space or {}, dict):
        what = "not a search space, which maps keys to distributions: see conf/search."
        raise ConfigError(f"search={show_value(space)} is {what}")
    return space or {}


def explain_composition(overrides: list[str], error: Exception) -> ConfigError:
    """Return the error for overrides that Hydra cannot compose: about the first unknown key, else in Hydra's words."""
    raise_interruption(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, EnvironmentReadError):
            return ConfigError(f'{cause} Let the shell put the value in: KEY="$NAME"')
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, RecursionError):
        return ConfigError("A value is nested too deeply: a hundred or more lists within lists.")
    if isinstance(error, UnicodeDecodeError):
        return _explain_encoding(error)
    words = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    in_hydras_words = ConfigError(words if isinstance(error, HYDRAS_WORDS) and words else _not_composable(overrides))
    try:
        chosen = [o for o in overrides if split_override(o).is_group_choice]
        known = list(config_keys(compose("config", overrides=chosen)))
    except NOT_COMPOSABLE as again:  # the choices themselves are wrong, as the error says
        raise_interruption(again)
        return in_hydras_words
    for sign, key, _ in map(split_override, overrides):
        if sign in ("", "~") and key not in known and key not in group_names() and not is_hydra_key(key):
            return ConfigError(unknown_key(key, known), {key: "unknown_key"})
    return in_hydras_words


def _not_composable(overrides: list[str]) -> str:
    given = shorten_middle(" ".join(overrides), 300) or "config.yaml"
    return (
        f"Hydra cannot compose {given}: a key, a value or a file is of a kind that does not belong there. Write"
        " GROUP=NAME or KEY=VALUE, and in files texts, numbers, lists and mappings only."
    )


def _explain_encoding(error: UnicodeDecodeError) -> ConfigError:
    """Return the error for a config file that is not UTF-8, which Hydra does not name."""
    sources = GlobalHydra.instance().config_loader().get_sources()
    for folder in [Path(source.path) for source in sources if source.scheme() == "file"]:
        for file in sorted(folder.rglob("*.yaml")):
            try:
                file.read_bytes().decode()
            except UnicodeDecodeError as found:
                line = found.object[: found.start].count(b"\n") + 1
                byte = f"byte 0x{found.object[found.start]:02x} in line {line}"
                return ConfigError(f"{file} is not UTF-8: {byte}. Save it as UTF-8.")
    return ConfigError(f"A config file is not UTF-8: {error}. Save it as UTF-8.")


def _check_config_files(overrides: list[str]) -> None:
    """Refuse config files that are empty or lists, lack their package, or set `hydra.*`.

    Hydra's own keys can name code to run, and a config file is data.
    """
    loader = GlobalHydra.instance().config_loader()
    for chosen in loader.compute_defaults_list("config", overrides, RunMode.RUN).defaults:
        path, package = chosen.config_path, chosen.package or ""
        if path is None or path == "config" or path.startswith("hydra/"):  # our own and Hydra's
            continue
        source = next((source for source in loader.get_sources() if source.is_config(path)), None)
        if source is None:
            continue
        file = f"{source.path}/{path}.yaml"
        content: Any = OmegaConf.to_container(source.load_config(path).config)
        if not isinstance(content, dict):
            raise ConfigError(f"{file} is not a mapping. Write a line KEY: VALUE for each setting.")
        group = path.partition("/")[0]
        where = package.partition(".")[0]
        if group in PRESETS and where not in ("", "hydra", *field_descriptions(Config)):
            raise ConfigError(
                f"{file} needs the first line '# @package _global_': without it, its keys are looked for in"
                f" {where!r}, which has none."
            )
        for key in set(content if package == "" else ()) & set(mapping_keys()):
            if not isinstance(content[key], dict):
                raise ConfigError(
                    f"{file}: {key} is {show_value(content[key])}, not a mapping. Write its keys below it."
                )
        if not content and group in group_names() and group not in (*PRESETS, "search"):
            raise ConfigError(f"{file} is empty. Write a line KEY: VALUE for each setting, as in conf/{group}.")
        keys = [f"@package {package}"] if is_hydra_key(package) else []
        keys += ["hydra"] if package == "" and "hydra" in content else []
        defaults = (d if isinstance(d, str) else str(next(iter(d), "")) for d in content.get("defaults", []))
        groups = (default.split(" ")[-1].partition("@")[0] for default in defaults)  # of `override /model@package`
        keys += filter(is_hydra_key, groups)
        if keys:
            raise ConfigError(
                f"{file} sets {keys[0]!r}, but Hydra's own keys can name code to run, and config"
                " files may contain only data. Remove it, or give hydra.* on the command line."
            )


def _may_choose_a_file(override: str) -> bool:
    key = override_key(override)
    return "." not in key and (key in group_names() or key not in field_descriptions(Config))


def _check_group_choices(parsed: Iterable[Override]) -> None:
    loader = GlobalHydra.instance().config_loader()
    for override in parsed:
        group, choice = override.key_or_group, override.value()
        if override.is_delete() and group in group_names():
            why = "which every run needs" if group in field_descriptions(Config) else "of which nothing is chosen"
            raise ConfigError(f"{override.input_line!r} removes the group {group!r}, {why}. Leave it out.")
        if group == "hydra.searchpath":
            raise ConfigError(f"{override.input_line!r} is not supported. Use --config-dir FOLDER for your own files.")
        if group not in group_names():
            continue
        choices = loader.get_group_options(group)
        for name in choice if isinstance(choice, list) and group in PRESETS else [choice]:
            if not isinstance(name, str) or name not in choices:
                given, known = show_value(name), f"Choices of {group}: {join_sorted(choices)}"
                none = " Leave it out for none." if choice is None and group not in field_descriptions(Config) else ""
                raise ConfigError(f"{group}={given} is not a choice{did_you_mean(given, choices)}.{none} {known}")
