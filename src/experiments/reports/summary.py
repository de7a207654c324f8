"""A run in words: its name, its note on the run page, and what the terminal shows when it ends."""

import dataclasses
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from experiments.config.choices import choice_values, group_names
from experiments.config.composition import compose_job
from experiments.config.data_schema import LinearData
from experiments.config.identity import affects_result, config_to_dict, flatten_config
from experiments.config.metrics import FINAL_METRICS, higher_is_better
from experiments.config.overrides import split_override
from experiments.config.schema import Config
from experiments.config.validation import validate_config
from experiments.errors import NotFiniteError, TrialPruned
from experiments.formatting import escape_markdown, plural, printable, shorten
from experiments.profiling import SPAN_SEPARATOR, profile_table
from experiments.tracking.addresses import hide_credentials
from experiments.tracking.run import TrackedRun
from experiments.training.checkpoints import checkpoint_path
from experiments.training.trainer import improvement

if TYPE_CHECKING:
    import keras
    from rich.console import Console

    from experiments.data.datasets import Dataset
    from experiments.reports.report import Results


WORST_CLASSES = 3
NOTE_PICTURES = 3  # in the note, of those that the report drew: the first ones
LONGEST_VALUE = 60  # characters of a config value in the note

# The settings under which the numbers in the note on the single neuron were measured.
SINGLE_NEURON: dict[str, dict[str, object]] = {
    "data": {"slope": 0.8, "noise": 0.2, "train_examples": 1000, "limit": None, "validation": 0},
    "model": {"name": "neuron", "activation": "tanh", "kernel_initializer": "random_uniform"},
    "optimizer": {"name": "adam", "learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999},
    "schedule": {"name": "constant"},
    "training": {"epochs": 50, "batch_size": 32, "loss": "mean_squared_error"},
}

SWEEP_VARIABLE = "EXPERIMENTS_SWEEP"  # in the environment of a sweep's jobs: the folder of its frozen plan


def run_name(config: Config, overrides: Sequence[str]) -> str:
    """A run's name: what differs from the defaults, first of all; model and data where nothing does."""
    parts = []
    for override in overrides:
        _, key, value = split_override(override)
        if key.startswith("hydra") or not affects_result(key):
            continue
        last = re.search(r"[^.]+(\.\d+)*$", key)  # units.0 of model.units.0
        parts.append(value if key in group_names() else f"{last[0] if last else key}={value}")
    return " ".join(parts) or f"{config.model.name} {config.data.name}"


def differences_from_defaults(config: Config) -> list[str]:
    """What differs from the defaults and can change the result, as `key: default -> value`.

    Where another choice of a group was made, such as data=digits, that choice is the one difference, and the group's
    other keys are compared with the defaults of the choice.
    """
    default, tree = config_to_dict(_default_config()), config_to_dict(config)
    left_to_us = dataclasses.replace(config, training=dataclasses.replace(config.training, threads="auto"))
    default["training"]["threads"] = validate_config(config_to_dict(left_to_us)).training.threads
    found = []
    for group in tree:
        named = isinstance(tree[group], Mapping) and "name" in tree[group]
        if named and tree[group]["name"] != default[group]["name"]:
            found.append(f"{group}: {default[group]['name']} -> {tree[group]['name']}")
            default[group] = choice_values(group, tree[group]["name"])
    before, after = flatten_config(default), flatten_config(tree)
    for key, value in after.items():
        if affects_result(key) and (key not in before or before[key] != value):
            found.append(f"{key}: {_short_value(before.get(key))} -> {_short_value(value)}")
    return found


# Cached, so that the note is not of other defaults when the files are edited while the run trains.
@cache
def _default_config() -> Config:
    return compose_job([])


def _short_value(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return shorten(text, LONGEST_VALUE)


def run_command_line(overrides: Sequence[str]) -> str:
    """The command that repeats the run, quoted for a shell."""
    return shlex.join(["python", "run.py", *overrides])


def next_commands(config: Config, overrides: Sequence[str], run_id: str) -> dict[str, str]:
    """What to do with a run, a word for each command; passwords in the address of the store are left out."""
    uri = config.tracking.uri
    option, override = (f" --uri {shlex.quote(uri)}", ["tracking.uri=" + uri]) if uri else ("", [])
    found = {
        "repeat": run_command_line(overrides),
        "resume": run_command_line([f"resume={run_id}", *override]),
        "reproduce": f"python scripts/reproduce.py {run_id}{option}",
        "compare": f"python scripts/compare.py{option}",
        "evaluate": f"python scripts/evaluate.py {run_id}{option}",
        "look": f"python scripts/ui.py{option}" if uri else "make ui",
    }
    return {word: hide_credentials(line) for word, line in found.items()}


def unfinished_note(
    config: Config, dataset: "Dataset", model: "keras.Model", overrides: Sequence[str], run_id: str
) -> str:
    """The run page's description before there is a result; it stays when the run is cut off."""
    blocks = [
        "**Not finished.**",
        *_describe_setting(config, dataset, model),
        _code_block(next_commands(config, overrides, run_id)),
    ]
    return "\n\n".join(blocks)


def run_note(results: "Results", metrics: Mapping[str, float], overrides: Sequence[str], run_id: str) -> str:
    """The run page's description, in Markdown: the result, what was trained on what, and how to go on.

    MLflow shows the first five lines or so, and the rest after a click on "Show more": the result comes first.
    """
    from experiments.reports.report import report_figures

    config = results.config
    time = f"after {plural(len(results.history['loss']), 'epoch')} in {metrics['train_seconds']:.1f} s"
    blocks = [
        f"{_describe_result(results, metrics)} {time}.",
        *_describe_goal(results),
        *_describe_setting(config, results.dataset, results.model),
        *_describe_worst_classes(results),
        *_describe_neuron(config),
        _code_block(next_commands(config, overrides, run_id)),
    ]
    for picture in list(report_figures(results))[:NOTE_PICTURES]:
        file = f"figures/{picture}.png"
        # The address is relative to the page, so it holds on every server, also behind a prefix.
        blocks.append(f"![{file}](get-artifact?path={file}&run_uuid={run_id})")
    return "\n\n".join(blocks)


def _describe_setting(config: Config, dataset: "Dataset", model: "keras.Model") -> list[str]:
    """What is trained on what, and what of that differs from the defaults."""
    held_out = len(dataset.validation.targets)
    validation = f" ({held_out:,} held out for validation)" if held_out else ""
    differs = ", ".join(
        "`" + printable(difference).replace("`", "'") + "`" for difference in differences_from_defaults(config)
    )
    return [
        f"**{config.model.name}** with {plural(model.count_params(), 'weight')}, trained on"
        f" {len(dataset.train.targets):,} examples of **{dataset.name}**{validation} with {config.optimizer.name},"
        f" learning rate {config.optimizer.learning_rate:g}, batch size {config.training.batch_size},"
        f" seed {config.seed}.",
        f"Differs from the defaults: {differs or 'nothing'}.",
    ]


def _describe_result(results: "Results", metrics: Mapping[str, float]) -> str:
    tested = len(results.dataset.test.targets)
    if isinstance(results.config.data, LinearData):
        said = f"**Mean absolute error {metrics['test_mean_absolute_error']:.4f}** on {tested:,} test examples"
        if "learned_weight" in metrics:
            said += f", learned weight **{metrics['learned_weight']:.4f}** and bias **{metrics['learned_bias']:.4f}**"
        return said
    wrong = round(metrics["test_error_percent"] / 100 * tested)
    said = f"**Test accuracy {metrics['test_accuracy']:.2%}** ({wrong:,} of {tested:,} wrong)"
    if "best_val_accuracy" in metrics:
        said += f", best validation accuracy {metrics['best_val_accuracy']:.2%} in epoch {metrics['best_epoch']:.0f},"
    return said


def _describe_goal(results: "Results") -> list[str]:
    """Whether training got where `early_stopping.goal` wants it."""
    stopping, epochs = results.config.training.early_stopping, len(results.history["loss"])
    if stopping.goal is None:
        return []
    value = results.history[stopping.metric][-1]
    reached = improvement(stopping.metric, value, stopping.goal) >= 0
    wanted = f"at {'least' if higher_is_better(stopping.metric) else 'most'} {stopping.goal:g}"
    said = f"Goal reached in epoch {epochs}" if reached else f"Goal NOT reached in {plural(epochs, 'epoch')}"
    return [f"{said}: {stopping.metric} {value:.4g}, wanted {wanted}."]


def _describe_worst_classes(results: "Results") -> list[str]:
    """The classes with the largest error, and what they are most often taken for."""
    import numpy as np

    if isinstance(results.config.data, LinearData):
        return []
    names = [escape_markdown(name) for name in results.dataset.class_names]
    actual, predicted = results.dataset.test.targets, results.predicted
    confusion = np.bincount(actual * len(names) + predicted, minlength=len(names) ** 2).reshape(len(names), -1)
    examples = confusion.sum(1)
    np.fill_diagonal(confusion, 0)
    errors = confusion.sum(1)
    rate = errors / np.maximum(examples, 1)
    worst = [label for label in np.argsort(-rate, kind="stable")[:WORST_CLASSES] if errors[label]]
    if not worst:
        return []
    items = [
        f"- **{names[label]}**: {errors[label]:,} of {examples[label]:,} wrong ({rate[label]:.2%}), most often taken"
        f" for {names[confusion[label].argmax()]} ({plural(confusion[label].max(), 'time')})"
        for label in worst
    ]
    return ["Worst classes:", "\n".join(items)]


def _describe_neuron(config: Config) -> list[str]:
    if not (config.model.name == "neuron" and isinstance(config.data, LinearData)):
        return []
    why = (
        f"The points lie around y = {config.data.slope:g} x. The learned weight need not be that slope: "
        "the optimizer may not have converged, and an activation that is not linear bends the line."
    )
    for group, settings in SINGLE_NEURON.items():
        if any(getattr(getattr(config, group), key, None) != value for key, value in settings.items()):
            return [why]
    return [
        "**Why the weight is not 0.8.** Two reasons: 50 epochs of Adam have not converged, and tanh bends the line:"
        " for the line without noise the best weight is 0.977 and the best bias -0.036.",
        "Plain Keras is where this run is: on these 1,000 points it ends after 50 epochs at a weight of 0.586 to 0.635"
        " and a bias of 0.130 to 0.157 (three seeds; this program: 0.584 to 0.629 and 0.136 to 0.155). On the"
        " tutorial's own points, drawn by another generator, it gives 0.60 to 0.64 and 0.115 to 0.129.",
    ]


def _code_block(commands: Mapping[str, str]) -> str:
    """Each command below the word for it: on one line they would be wider than the run page's column."""
    return "\n".join(["```", *(line for word, command in commands.items() for line in (f"# {word}", command)), "```"])


def print_summary(results: "Results", metrics: Mapping[str, float], run: TrackedRun) -> None:
    """Print the table of results, where everything is, and the next commands."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, soft_wrap=True)
    rows = Table(show_header=False, box=None, pad_edge=False)
    for name, metric in FINAL_METRICS.items():
        if name in metrics:
            rows.add_row(name, metric.shown.format(metrics[name]))
    console.print()
    console.print(rows)
    for said in _describe_goal(results):
        console.print(f"\n{said}")
    if results.config.report.profile:
        _print_profile(console)
    console.print(f"\nRun {run.name} ({run.run_id}) in {hide_credentials(run.uri)}")
    console.print("\nNext:")
    for word, line in next_commands(results.config, [], run.run_id).items():
        if word in ("reproduce", "compare", "look"):
            console.print(f"  {line}  # {word}")


def _print_profile(console: "Console") -> None:
    """Where the time went; spans within others are indented."""
    from rich.table import Table

    shown = ("phase", "times", "seconds", "percent")
    rows, columns = Table(*shown, box=None, pad_edge=False), profile_table()
    for column in rows.columns[1:]:
        column.justify = "right"
    for path, times, seconds, percent in zip(*(columns[key] for key in shown), strict=True):
        *around, phase = path.split(SPAN_SEPARATOR)
        rows.add_row(f"{'  ' * len(around)}{phase}", str(times), f"{seconds:.2f}", f"{percent:.1f}")
    console.print(
        "\nWhere the time went (as a picture: profile/trace.html among the run's artifacts, and profile/trace.json"
        " for https://ui.perfetto.dev)"
    )
    console.print(rows)


@contextmanager
def print_resume_hint(config: Config, run_id: str) -> Iterator[None]:
    """Print, when a run is cut off, the command that goes on with it; not where that would only fail again, or where a
    sweep does."""
    try:
        yield
    except NotFiniteError:
        raise
    except TrialPruned:
        checkpoint_path(run_id).unlink(missing_ok=True)
        raise
    except BaseException:
        if SWEEP_VARIABLE in os.environ:  # the sweep's own command goes on with all its jobs
            raise
        known = checkpoint_path(run_id).exists()
        since = "from its last checkpoint" if known else "from the start, as there is no checkpoint yet"
        print(f"\nGo on with it, {since}: {next_commands(config, [], run_id)['resume']}", file=sys.stderr)
        raise
