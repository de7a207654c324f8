"""A run's model on its official test set again, or on that of other data; what comes out is added to the run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from experiments import choices, data, figures, pretrained, report, resume, runs, runtime, tracking
from experiments.compose import compose_job
from experiments.config import as_dict
from experiments.errors import ConfigError, DataError
from experiments.evaluation import Evaluation, Evaluator
from experiments.schema import Config, DataConfig, ImageFiles, Linear

# Keys of the group `data` that an evaluation depends on: where images are and what they are; how points are generated.
IMAGES = ("path", "checksums", "train_examples", "test_examples", "shape", "classes", "class_names", "pixel_max")
TEST_SET = (*IMAGES, "slope", "noise")


@dataclass(frozen=True)
class Evaluated:
    """What a run's model made of a test set.

    Attributes:
        config: the run's, with the data that it was evaluated on and the store that it is in.
        source: where the data came from.
        metrics: as they were added to the run.
        per_class: a table, as columns; empty for regression.
    """

    run: runs.RunRecord
    config: Config
    source: str
    metrics: dict[str, float]
    per_class: dict[str, list[Any]]


def evaluate(run_id: str, overrides: Sequence[str] = (), uri: str | None = None) -> Evaluated:
    """Evaluate the model of a run on the whole official test split, and add the result to the run.

    The run's status and times stay as they were. The metrics are named `evaluation_NAME_...` by the data, with the
    beginning of its digest unless it is what conf/data/NAME.yaml describes. A second evaluation on the same data
    replaces the first.

    Args:
        run_id: of the run, or a unique beginning of it.
        overrides: of the run's group `data`: another choice such as `data=fashion_mnist`, or keys in TEST_SET.
        uri: of the tracking store; None for the one in force.

    Raises:
        ConfigError: an override is not of the test set, or not allowed.
        DataError: the data cannot be found, is damaged, or does not fit the model.
        StoreError: there is no such run, or it has no model.
    """
    store = tracking.resolve_uri(uri)
    _refuse_what_cannot_count(overrides)
    (run,) = runs.by_id(runs.open_store(store), [run_id])
    with TemporaryDirectory() as folder:
        file = tracking.download_model(store, run.run_id, Path(folder))
        config, _ = resume.recorded(store, run.run_id)
        chosen = _choose(config, overrides)
        _check_fit(run.run_id, config.data, chosen)
        dataset = data.load(chosen, config.seed)
        runtime.start(int(config.training.threads))
        model = pretrained.load_model(file, run.run_id)
    test = Evaluator(model, config.training.loss)(dataset.test)
    prefix = f"evaluation_{dataset.name}"
    if not _is_as_shipped(chosen):
        prefix += f"_{dataset.digest[:8]}"
    metrics = {f"{prefix}_{name}": value for name, value in _metrics(test, dataset.test.targets, config).items()}
    per_class = {}
    if dataset.class_names:
        per_class = report.per_class(dataset.test.targets, test.outputs.argmax(1), dataset.class_names)
    with tracking.ended_run(store, run.run_id) as ended, tracking.store_errors(store):
        ended.log_metrics(metrics)
        if per_class:
            ended.log_table(per_class, f"tables/{prefix}.json")
        if dataset.digest != run.tags.get("data_digest"):
            counts = {"test": len(dataset.test.targets)}
            ended.log_dataset(dataset.name, dataset.digest, dataset.source, counts, context="evaluation")
    config = replace(config, data=chosen, tracking=replace(config.tracking, uri=uri))
    return Evaluated(run, config, dataset.source, metrics, per_class)


def draw(run_id: str, uri: str) -> None:
    """Add to a finished run all the figures that its report can have, drawn from its model and its record."""
    client = runs.open_store(uri)
    (run,) = runs.by_id(client, [run_id])
    config, _ = resume.recorded(uri, run_id)
    config = replace(config, report=replace(config.report, figures="full"))
    dataset = data.load(config.data, config.seed)
    runtime.start(int(config.training.threads))
    history = {name: [value for _, value in points] for name, points in runs.history(client, run).items()}
    with TemporaryDirectory() as folder, tracking.ended_run(uri, run_id) as ended:
        model = pretrained.load_model(tracking.download_model(uri, run_id, Path(folder)), run_id)
        test = Evaluator(model, config.training.loss)(dataset.test)
        drawn = Path(folder, "figures")
        drawn.mkdir()
        report.write_figures(report.Results(config, dataset, model, history, None, test), drawn)
        with tracking.store_errors(uri):
            ended.log_artifacts(drawn, "figures")


def _refuse_what_cannot_count(overrides: Sequence[str]) -> None:
    for override in overrides:
        group, *keys = override.partition("=")[0].split(".")
        if group != "data" or (keys and keys[0] not in TEST_SET):
            raise ConfigError(
                f"{override!r} is not about the test set, and all else is the run's own, its preprocessing too."
                f" Expected: data=NAME, or data.KEY=VALUE with one of {', '.join(TEST_SET)}"
            )


def _choose(config: Config, overrides: Sequence[str]) -> DataConfig:
    """The run's group `data`, or the one that the overrides choose, with their values."""
    if not overrides:
        return config.data
    named = [override.partition("=")[2] for override in overrides if override.startswith("data=")]
    linear = named[-1] == "linear" if named else isinstance(config.data, Linear)
    # The test split is all that counts, so nothing about training may be in its way.
    loss = "mean_squared_error" if linear else "sparse_categorical_crossentropy"
    neutral = ["data.validation=0", "training.batch_size=1", f"training.loss={loss}"]
    if named:
        composed = compose_job([*neutral, *overrides])
        return composed.data
    with TemporaryDirectory() as folder:
        file = Path(folder, "data", "recorded.yaml")
        file.parent.mkdir()
        file.write_text(yaml.safe_dump(as_dict(config)["data"]))
        composed = compose_job(["data=recorded", *neutral, *overrides], config_dir=folder)
    return composed.data


def _is_as_shipped(config: DataConfig) -> bool:
    """Whether the official splits are those of conf/data/: only one test set of a name goes without its digest."""
    shipped = choices.values("data", config.name)
    if isinstance(config, ImageFiles) and config.path and "md5-gzip" in str(config.checksums):
        return False  # of a folder that is named; only what is packed as published can be compared with such a checksum
    return all(getattr(config, key) == shipped[key] for key in TEST_SET if key in shipped and key != "path")


def _check_fit(run_id: str, trained: DataConfig, chosen: DataConfig) -> None:
    expected, found = _examples(trained), _examples(chosen)
    if found != expected:
        raise DataError(
            f"data={chosen.name} does not fit the model of run {run_id}: it takes {expected}, and these are {found}."
            f" Choose data like data={trained.name}, or train a model: python run.py data={chosen.name}"
        )


def _examples(config: DataConfig) -> str:
    """What a model that is trained on such data relies on, in words."""
    if isinstance(config, Linear):
        return "single numbers to predict a number"
    size = " x ".join(map(str, config.shape))
    return f"images of {size} pixels from 0 to {config.pixel_max} in {config.classes} classes"


def _metrics(test: Evaluation, targets: np.ndarray, config: Config) -> dict[str, float]:
    metrics = dict(test.metrics)
    if "accuracy" in metrics:
        wrong = np.count_nonzero(test.outputs.argmax(1) != targets)
        metrics["error_percent"] = 100 * wrong / len(targets)
    if "crossentropy" in config.training.loss:  # else the outputs are no probabilities
        metrics["expected_calibration_error"] = figures.expected_calibration_error(targets, test.outputs)
    return metrics
