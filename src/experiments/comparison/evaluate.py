"""Evaluate a run's model again on its official test set, or on that of other data, and add the result to the run."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from experiments.config.choices import choice_values
from experiments.config.composition import compose_job
from experiments.config.data_schema import DataConfig, ImageFileData, LinearData, OwnData, OwnFileData, PicturesData
from experiments.config.facts import gives_probabilities
from experiments.config.found_facts import FOUND_FACTS
from experiments.config.identity import config_to_dict
from experiments.config.overrides import override_key, split_override
from experiments.config.schema import Config
from experiments.data.datasets import Dataset, load_dataset
from experiments.data.image_files import verifies_any_packing
from experiments.errors import ConfigError, DataError
from experiments.formatting import shorten
from experiments.reports.figures.evaluation import expected_calibration_error
from experiments.reports.next_commands import next_commands
from experiments.reports.report import Results, per_class_table, publish_report, tell_failures, write_figures
from experiments.runtime import start_tensorflow
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.artifacts import download_model
from experiments.tracking.recorded_config import read_recorded_config
from experiments.tracking.records import RunRecord, find_runs, metric_history
from experiments.tracking.run import REPORT_MISSING, reopen_ended_run
from experiments.tracking.store import open_existing_store, store_errors
from experiments.training.devices import process_settings
from experiments.training.evaluation import Evaluation, Evaluator, criterion_of, split_metrics, tell_undefined
from experiments.training.networks import build_network, load_keras_model

# Keys of the group `data` that an evaluation depends on: where and what the images are; how points are generated.
IMAGE_KEYS = ("path", "checksums", "train_examples", "test_examples", "shape", "classes", "class_names", "pixel_max")
OWN_DATA_KEYS = ("size", "fit", "color", "test_fraction", "split_seed")
TEST_SET_KEYS = (*IMAGE_KEYS, *OWN_DATA_KEYS, "split", "slope", "noise")


@dataclass(frozen=True)
class EvaluatedRun:
    """The result of a run's model on a test set."""

    run: RunRecord
    config: Config  # the run's, with the data it was evaluated on and the store it is in
    source: str  # of the data
    metrics: dict[str, float]  # as added to the run
    per_class: dict[str, list[Any]]  # a table, as columns; empty for regression


def evaluate_run(run_id: str, overrides: Sequence[str] = (), uri: str | None = None) -> EvaluatedRun:
    """Evaluate the model of a run on the whole official test split, and add the result to the run.

    The run's status and times do not change. The metrics are named `evaluation_NAME_...` after the data, with the
    beginning of its digest unless it is the data that conf/data/NAME.yaml describes. A second evaluation on the same
    data replaces the first. On its own data, what its report lacks is made.

    Args:
        overrides: of the run's group `data`: another choice such as `data=fashion_mnist`, or keys in TEST_SET_KEYS.

    Raises:
        ConfigError: an override does not concern the test set, or is not allowed.
        DataError: the data cannot be found, is damaged, or does not fit the model.
        StoreError: there is no such run, or it has no model.
    """
    store = resolve_tracking_uri(uri)
    _refuse_other_overrides(overrides)
    client = open_existing_store(store)
    (run,) = find_runs(client, [run_id])
    with TemporaryDirectory() as folder:
        file = download_model(store, run.run_id, Path(folder))
        config, recorded_overrides = read_recorded_config(store, run.run_id)
        chosen = _choose_data(config, overrides)
        expected, found = _describe_examples(config.data), _describe_examples(chosen)
        if found != expected:
            said = f"data={chosen.name} does not fit the model of run {run.run_id}, which takes {expected}"
            fix = f"Choose data like data={config.data.name}, or train a model: python run.py data={chosen.name}"
            raise DataError(f"{said}: these are {found}. {fix}")
        if isinstance(chosen, OwnData) and isinstance(config.data, OwnData):
            _check_class_names(chosen, config.data, run.run_id)
        dataset = load_dataset(chosen, config.seed)
        start_tensorflow(*process_settings(config))
        model = load_keras_model(file, run.run_id, config)
    test = Evaluator(model, criterion_of(config))(dataset.test)
    prefix = f"evaluation_{dataset.name}" + ("" if _is_as_shipped(chosen) else f"_{dataset.digest[:8]}")
    targets, names = dataset.test.targets, dataset.class_names
    metrics = {f"{prefix}_{name}": value for name, value in _evaluation_metrics(test, targets, config).items()}
    per_class = per_class_table(targets, test.outputs.argmax(1), names) if names else {}
    with reopen_ended_run(store, run.run_id) as ended, store_errors(store):
        ended.log_metrics(metrics)
        if per_class:
            ended.log_table(per_class, f"tables/{prefix}.json")
        if dataset.digest != run.tags.get("data_digest"):
            counts = {"test": len(targets)}
            ended.log_dataset(dataset.name, dataset.digest, dataset.source, counts, context="evaluation")
        elif REPORT_MISSING in run.tags and not overrides:
            # A sweep adds all figures to its best run, whatever that run's config says.
            report = replace(config.report, figures="none" if config.report.figures == "none" else "full")
            recorded = replace(config, report=report, tracking=replace(config.tracking, uri=uri))
            history = _epoch_values(metric_history(client, run))
            untrained, start = _untrained_outputs(config, dataset), run.tags.get("initial_weights", "")
            results = Results(recorded, dataset, model, history, untrained, test, start)
            if not publish_report(ended, results, run.metrics, recorded_overrides):
                client.delete_tag(run.run_id, REPORT_MISSING)
                print(f"The report of run {run.run_id} is complete now.", file=sys.stderr)
    config = replace(config, data=chosen, tracking=replace(config.tracking, uri=uri))
    return EvaluatedRun(run, config, dataset.source, metrics, per_class)


def draw_full_report(run_id: str, uri: str) -> None:
    """Add all the figures of a full report to a finished run, drawn from its model and its record."""
    client = open_existing_store(uri)
    (run,) = find_runs(client, [run_id])
    config, _ = read_recorded_config(uri, run_id)
    config = replace(config, report=replace(config.report, figures="full"))
    dataset = load_dataset(config.data, config.seed)
    start_tensorflow(*process_settings(config))
    history = _epoch_values(metric_history(client, run))
    with TemporaryDirectory() as folder, reopen_ended_run(uri, run_id) as ended:
        model = load_keras_model(download_model(uri, run_id, Path(folder)), run_id, config)
        test = Evaluator(model, criterion_of(config))(dataset.test)
        drawn = Path(folder, "figures")
        drawn.mkdir()
        failures = write_figures(Results(config, dataset, model, history, None, test), drawn)
        with store_errors(uri):
            ended.log_artifacts(drawn, "figures")
            tracking = replace(config.tracking, uri=uri)
            tell_failures(ended, failures, next_commands(replace(config, tracking=tracking), [], run_id)["evaluate"])


def _epoch_values(points: Mapping[str, Sequence[tuple[int, float]]]) -> dict[str, list[float]]:
    """Return the values of each metric, one for each epoch: NaN where it was not defined."""
    found = {name: dict(of_metric) for name, of_metric in points.items()}
    return {name: [of.get(n, math.nan) for n in range(1, max(of) + 1)] for name, of in found.items()}


def _untrained_outputs(config: Config, dataset: Dataset) -> np.ndarray | None:
    """Return what the run's network answered before training, which only the figure of a line needs."""
    if not isinstance(config.data, LinearData) or config.model.weights is not None:
        return None
    return Evaluator(build_network(config), criterion_of(config))(dataset.train).outputs


def _refuse_other_overrides(overrides: Sequence[str]) -> None:
    for override in overrides:
        group, *keys = override_key(override).split(".")
        if group != "data" or (keys and keys[0] not in TEST_SET_KEYS):
            raise ConfigError(
                f"{override!r} does not concern the test set; everything else, including preprocessing, stays as in the"
                f" run. Expected: data=NAME, or data.KEY=VALUE with one of {', '.join(TEST_SET_KEYS)}"
            )


def _choose_data(config: Config, overrides: Sequence[str]) -> DataConfig:
    """Return the run's group `data`, or the one that the overrides choose, with their values."""
    if not overrides:
        return config.data
    named = [value for _, key, value in map(split_override, overrides) if key == "data"]
    linear = named[-1] == "linear" if named else isinstance(config.data, LinearData)
    # Only the test split counts, so no setting of training may conflict with it.
    loss = "mean_squared_error" if linear else "sparse_categorical_crossentropy"
    neutral = [
        "data.folds=null",
        "data.fold=null",
        "data.validation=0",
        "training.batch_size=1",
        f"training.loss={loss}",
    ]
    if named:
        return compose_job([*neutral, *overrides]).data
    with TemporaryDirectory() as folder:
        file = Path(folder, "data", "recorded.yaml")
        file.parent.mkdir()
        file.write_text(yaml.safe_dump(_as_recorded(config)))
        return compose_job(["data=recorded", *neutral, *overrides], config_dir=folder).data


def _as_recorded(config: Config) -> dict[str, Any]:
    """Return a run's group `data`; facts of the user's own data are left open, to be found in other files."""
    recorded: dict[str, Any] = config_to_dict(config)["data"]
    if isinstance(config.data, OwnData):
        recorded |= dict.fromkeys(FOUND_FACTS)
    if isinstance(config.data, PicturesData):
        recorded |= {"size": config.data.shape[:2], "color": len(config.data.shape) == 3}
    return recorded


def _check_class_names(chosen: OwnData, trained: OwnData, run_id: str) -> None:
    if chosen.class_names != trained.class_names:
        found, expected = (shorten(", ".join(data.class_names), 100) for data in (chosen, trained))
        where = chosen.path if isinstance(chosen, OwnFileData) else f"data={chosen.name}"
        raise DataError(
            f"{where} has the classes {found}, but the model of run {run_id} knows {expected}. Name them alike."
        )


def _is_as_shipped(config: DataConfig) -> bool:
    """Return whether the official splits are those of conf/data/; only their metrics are named without a digest."""
    shipped = choice_values("data", config.name)
    if isinstance(config, ImageFileData) and config.path and not verifies_any_packing(config):
        return False  # the files in a folder may not be packed as published
    # Of published data, the seed of the folds does not touch the test set.
    others = ("path",) if isinstance(config, OwnData) else ("path", "split_seed")
    return all(getattr(config, key) == shipped[key] for key in TEST_SET_KEYS if key in shipped and key not in others)


def _describe_examples(config: DataConfig) -> str:
    """Describe what a model trained on such data relies on."""
    if isinstance(config, LinearData):
        return "single numbers to predict a number"
    size = " x ".join(map(str, config.shape))
    if len(config.shape) == 1:
        return f"vectors of {size} numbers in {config.classes} classes"
    return f"images of {size} pixels from 0 to {config.pixel_max} in {config.classes} classes"


def _evaluation_metrics(test: Evaluation, targets: np.ndarray, config: Config) -> dict[str, float]:
    split, undefined = split_metrics(config.metrics, targets, test.outputs, "test_")
    tell_undefined(undefined)
    metrics = test.metrics | {name.removeprefix("test_"): value for name, value in split.items()}
    if gives_probabilities(config):
        metrics["expected_calibration_error"] = expected_calibration_error(targets, test.outputs)
    return metrics
