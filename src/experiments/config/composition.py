"""From a command line to validated configs: Hydra composes the files and overrides, config.py checks the outcome.

Nothing here loads TensorFlow, Keras or MLflow, so a mistake is answered in well under a second.
"""

import contextlib
import copy
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments import PROJECT
from experiments.config.choices import CONFIG_FOLDER, choice_files, choices_overview
from experiments.config.explanation import field_descriptions, show_value
from experiments.config.facts import count_training_examples
from experiments.config.hydra_internals import apply_overrides, config_keys, start_hydra
from experiments.config.overrides import (
    CHOSEN,
    UNKNOWN,
    group_names,
    is_group_choice,
    is_hydra_key,
    parse_overrides,
    refuse_several_values,
)
from experiments.config.schema import Config
from experiments.config.validation import validate_config
from experiments.errors import ConfigError, did_you_mean, join_sorted

# What Hydra raises on config files that do not go together, or are no YAML.
NOT_COMPOSABLE = (HydraException, OmegaConfBaseException, ValueError, RecursionError, yaml.YAMLError)

# In the template of --help, where a dollar sign stands for something.
OmegaConf.register_new_resolver("choices", lambda: choices_overview().replace("$", "$$"), replace=True)

# In conf/ as ${project:}, so that a sweep writes there and not where it was started.
OmegaConf.register_new_resolver("project", lambda: str(PROJECT), replace=True)


def compose_job(overrides: Sequence[str], config_dir: str | None = None) -> Config:
    """Compose and validate what a command without -m stands for.

    Args:
        overrides: Hydra overrides as given on the command line.
        config_dir: a further folder of config files, as Hydra's --config-dir.

    Raises:
        ConfigError: it cannot run, with what is wrong and what is allowed.
    """
    with composing(config_dir):
        parsed = parse_overrides(overrides)
        refuse_space(parsed)
        refuse_several_values(parsed)
        (job,) = compose_jobs([list(overrides)])
    return job.config


@dataclass(frozen=True)
class ComposedJob:
    """One job of a sweep: its config, and the overrides that make it, less those of `hydra.*`."""

    config: Config
    overrides: list[str]


@contextlib.contextmanager
def composing(config_dir: str | None = None) -> Iterator[None]:
    """Hydra's own machinery for composing, with our files and those of a further folder."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            if config_dir is not None:
                _add_config_folder(Path(config_dir))
            yield
    finally:
        GlobalHydra.instance().hydra = before


def compose_jobs(jobs: list[list[str]]) -> list[ComposedJob]:
    """Compose and validate jobs, each given by its overrides; needs `composing`.

    Raises:
        ConfigError: on the first job that cannot run.
    """
    for chosen in dict.fromkeys(tuple(filter(_may_choose_a_file, job)) for job in jobs):
        with contextlib.suppress(*NOT_COMPOSABLE):  # told when the job is composed
            _refuse_files_that_set_hydra(list(chosen))
    read: dict[tuple[str, ...], DictConfig] = {}
    composed = [ComposedJob(validate_config(_compose(job, read)), job) for job in jobs]
    for job in composed:
        _refuse_several_batches(job)
    return composed


def _refuse_several_batches(job: ComposedJob) -> None:
    """debug=overfit is about one batch, and an override beside it wins over the preset."""
    examples, batch = count_training_examples(job.config), job.config.training.batch_size
    if examples > batch and any(override.lstrip("+") == "debug=overfit" for override in job.overrides):
        raise ConfigError(
            f"debug=overfit trains on one batch, and with data.limit={show_value(job.config.data.limit)} and"
            f" training.batch_size={batch} there are {math.ceil(examples / batch):,}. Leave both out, or give both the"
            " same number: data.limit=64 training.batch_size=64"
        )


def _add_config_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"--config-dir={folder} is not a folder. Name one that holds experiment/NAME.yaml.")
    if (folder / "hydra").exists():  # it would stand before ours, and Hydra's own keys name code to run
        raise ConfigError(
            f"--config-dir={folder} holds a folder {'hydra'!r}, whose files can name code to run, and config files are"
            " data only. Remove it, or give hydra.* on the command line."
        )
    start_hydra(CONFIG_FOLDER, folder)


def refuse_space(parsed: list[Override]) -> None:
    if chosen := next((o.input_line for o in parsed if o.key_or_group == "search"), None):
        raise ConfigError(f"{chosen!r} is the space of a search. Add: -m hydra/sweeper=optuna")


def _compose(overrides: list[str], read: dict[tuple[str, ...], DictConfig]) -> dict[str, Any]:
    """What the overrides compose to. `read` keeps what the choices of files came to: reading them takes longest."""
    parsed = parse_overrides(overrides)
    _check_group_choices(parsed)
    files = tuple(o for o in overrides if _may_choose_a_file(o) or is_hydra_key(o.lstrip("+~").partition("=")[0]))
    try:
        if files not in read:
            read[files] = compose("config", overrides=list(files))
        composed = copy.deepcopy(read[files])
        values = [override for override in parsed if override.input_line not in files]
        try:
            apply_overrides(values, composed)
        except TypeError:
            raise ConfigError(
                f"{' '.join(o for o in overrides if o.startswith('~'))}: an item of a list cannot be deleted. Give the"
                " whole list, such as model.units=[128]"
            ) from None
        return OmegaConf.to_container(composed, resolve=True)  # type: ignore[return-value]
    except NOT_COMPOSABLE as error:
        raise ConfigError(explain_composition(overrides, error)) from None


def read_search_space(overrides: Sequence[str]) -> dict[str, Any]:
    """The space of a search in the files that these overrides choose; needs `composing`.

    Raises:
        ConfigError: there is no such file, or what is there is no mapping.
    """
    space = _compose(list(filter(is_group_choice, overrides)), {}).get("search")
    if not isinstance(space or {}, dict):
        raise ConfigError(f"search={show_value(space)} is no space. It maps keys to distributions: see conf/search.")
    return space or {}


def explain_composition(overrides: list[str], error: Exception) -> str:
    """Hydra names the key that is missing; we also name the one that was meant."""
    try:
        known = list(config_keys(compose("config", overrides=[o for o in overrides if is_group_choice(o)])))
    except NOT_COMPOSABLE:  # the choices themselves are at fault, which the error says
        return _one_line(error)
    for override in parse_overrides(overrides):
        key = override.key_or_group
        if override.is_add() or override.is_delete() or key in known or key in group_names() or key.startswith("hydra"):
            continue
        return f"unknown key {key!r}{_nearest(key, known)}. See every key: python run.py --cfg job"
    return _one_line(error)


def _one_line(error: Exception) -> str:
    if "recursion depth" in str(error):
        return "A value is nested too deeply: lists within lists, a hundred and more of them."
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


def _refuse_files_that_set_hydra(overrides: list[str]) -> None:
    """A config file is data, wherever it comes from: `hydra.*` is not for it, as that can name code to run."""
    loader = GlobalHydra.instance().config_loader()
    for chosen in loader.compute_defaults_list("config", overrides, RunMode.RUN).defaults:
        path, package = chosen.config_path, chosen.package or ""
        if path is None or path == "config" or path.startswith("hydra/"):  # ours and Hydra's own
            continue
        source = next((source for source in loader.get_sources() if source.is_config(path)), None)
        if source is None:
            continue
        content: Any = OmegaConf.to_container(source.load_config(path).config)
        if not isinstance(content, dict):
            raise ConfigError(f"{source.path}/{path}.yaml is no mapping. Write a line KEY: VALUE for each setting.")
        keys = [f"@package {package}"] if is_hydra_key(package) else []
        keys += ["hydra"] if package == "" and "hydra" in content else []
        keys += [group for group in map(_defaults_group, content.get("defaults", [])) if is_hydra_key(group)]
        if keys:
            raise ConfigError(
                f"{source.path}/{path}.yaml sets {keys[0]!r}: Hydra's own keys can name code to run, and a config file"
                " is data only. Remove it, or give hydra.* on the command line."
            )


def _may_choose_a_file(override: str) -> bool:
    key = override.partition("=")[0]
    return "." not in key and (key in group_names() or key not in field_descriptions(Config))


def _defaults_group(default: Any) -> str:
    """`override /model@package: mlp` in a defaults list -> "/model"."""
    key = default if isinstance(default, str) else next(iter(default), "")
    return str(key).split(" ")[-1].partition("@")[0]


def _nearest(key: str, known: list[str]) -> str:
    last = key.rsplit(".", 1)[-1]
    same_ending = [name for name in known if name.rsplit(".", 1)[-1] == last]
    return f" (did you mean {same_ending[0]!r}?)" if same_ending else did_you_mean(key, known)


def _check_group_choices(parsed: Iterable[Override]) -> None:
    loader = GlobalHydra.instance().config_loader()
    for override in parsed:
        group, choice = override.key_or_group, override.value()
        if override.is_delete() and group in group_names():
            raise ConfigError(
                f"{override.input_line!r} removes the group {group!r}, which every run needs. Leave it out."
            )
        if group == "hydra.searchpath":
            raise ConfigError(f"{override.input_line!r} is not supported. Use --config-dir FOLDER for your own files.")
        if group not in group_names() or (choice is None and group not in field_descriptions(Config)):
            continue
        choices = loader.get_group_options(group)
        for name in choice if isinstance(choice, list) else [choice]:
            if not isinstance(name, str) or name not in choices:
                raise ConfigError(
                    f"{group}={show_value(name)} is not a choice{did_you_mean(str(name), choices)}."
                    f" Choices of {group}: {join_sorted(choices)}"
                )


def override_setting(override: str) -> tuple[str, Any]:
    """The key and the value that an override sets; a choice such as model=mlp sets model.name.

    What cannot be told from the override alone is UNKNOWN: the value of a deletion, of a preset, of what refers to
    other keys or to chance, and of the choice of a file that is not in conf/ or calls itself otherwise.

    Raises:
        ConfigError: it is no override, or names several values.

    >>> setting("model.units=[16]"), setting("data=digits"), setting("~expected")
    (('model.units', [16]), ('data.name', 'digits'), ('expected', Ellipsis))
    """
    with composing():
        (parsed,) = parse_overrides([override])
        refuse_several_values([parsed])
    key = parsed.key_or_group
    if parsed.is_delete() or parsed.package or is_hydra_key(key) or re.search(r"\$\{|\w\(", override):
        return key, UNKNOWN
    value = _unquote(parsed.value())
    if key not in group_names():
        return key, UNKNOWN if (key, value) == ("training.threads", "auto") else value  # resolved in the config
    named = CHOSEN.get(key, "name")
    file = next((file for file in choice_files(key) if file.stem == value), None)
    if file and re.search(rf"^{named}: {re.escape(file.stem)}\b", file.read_text(encoding="utf-8"), re.MULTILINE):
        return f"{key}.{named}", value
    return key, UNKNOWN


def _unquote(value: Any) -> Any:
    """A value as Hydra parses it, with its quoted texts as texts."""
    if isinstance(value, Mapping):
        return {str(key): _unquote(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unquote(item) for item in value]
    return value.text if isinstance(value, QuotedString) else value
