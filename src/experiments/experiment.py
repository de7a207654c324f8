"""The story of one run, from config to closed MLflow run, top to bottom on one screen."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import yaml

from experiments import (
    PROJECT,
    checkpoints,
    cluster,
    data,
    distribution,
    environment,
    networks,
    profiling,
    report,
    resume,
    summary,
    tracking,
)
from experiments.config import as_dict, flatten, identity
from experiments.errors import TrainingError
from experiments.evaluation import Evaluator
from experiments.progress import Progress
from experiments.schema import Config, Linear
from experiments.training import Trainer

RECORD_DIGESTS = "record_digests"  # the tag with the SHA-256 (hex) of each file that `record` logs, as JSON


def run(
    config: Config,
    overrides: Sequence[str],
    tags: Mapping[str, str] | None = None,
    run_id: str | None = None,
    watch: Callable[[int, Mapping[str, float]], None] | None = None,
) -> str:
    """Train what the config describes, record it in MLflow, and say what came out.

    Args:
        config: validated; with `resume` set, the run of that id goes on with its own recorded config.
        overrides: what was given on the command line; recorded, and the run is named by them.
        tags: further tags of the run, such as one that names the run it repeats.
        run_id: an earlier run of the same config, code and data that was cut off or failed: it goes on there.
        watch: called with each epoch, from 1 on, and its metrics; may raise Pruned.

    Returns:
        The id of the MLflow run.

    Raises:
        UserError: data, devices or store cannot be used, or the run cannot be resumed; nothing was written.
        TrainingError: a loss is not finite; the run is FAILED and keeps what was logged.
        KeyboardInterrupt, Terminated: after a checkpoint; the run is KILLED.
        Pruned: from `watch`; the run is KILLED.
    """
    profiling.begin()
    resumed = resume.find(config, overrides) if config.resume else None
    if resumed:
        config, overrides = resumed.config, resumed.overrides
    if cluster.supervises(config.distribution):
        return cluster.supervise(config.distribution, partial(_record_failure, config, overrides)) or ""
    dataset = _load(config)
    code = environment.loaded_code()
    tags = {**(tags or {}), **identity(config, dataset.digest), **code.tags}
    if resumed:
        resumed.check(tags)
        tags = {"resumed_at_commit": code.commit}  # what the run began with stays recorded
    signs = cluster.Signs()
    strategy = distribution.start(config.distribution, int(config.training.threads))
    model, optimizer = networks.build(config, strategy)
    if signs.index > 0:
        checkpoint = checkpoints.path(resumed.run.run_id) if resumed else None
        return _follow(Trainer(config, strategy, model, optimizer, dataset, checkpoint), signs)
    evaluate = Evaluator(model, config.training.loss)
    untrained = evaluate(dataset.train).outputs if isinstance(config.data, Linear) else None

    uri, name = tracking.resolve_uri(config.tracking.uri), config.tracking.run_name or summary.name(config, overrides)
    run_id = resumed.run.run_id if resumed else run_id
    opened = tracking.open_run(uri, config.tracking.experiment, name, params(config), tags, run_id)
    with opened as run, summary.way_on(config, run.run_id):
        signs.run(run.run_id)
        if not resumed:
            record(run, config, overrides, dataset, code)
        run.set_tags({"mlflow.note.content": summary.about(config, dataset, model, overrides, run.run_id)})
        trainer = Trainer(config, strategy, model, optimizer, dataset, checkpoints.path(run.run_id))
        for epoch, metrics in trainer.finished_epochs():
            run.log_metrics(metrics, epoch)  # those that a kill kept from the store
        report.import_ahead()
        signs.phase(cluster.TRAINING)
        size = (config.training.epochs, trainer.steps, trainer.examples, trainer.steps_done)
        with (
            cluster.named_failures(),
            Progress(*size, signs.progress) as progress,
            closing(trainer.run(progress)) as epochs,
        ):
            for epoch, metrics in epochs:
                run.log_metrics(metrics, epoch)
                if watch:
                    watch(epoch, metrics)
        signs.phase(cluster.REPORTING)
        results = report.Results(config, dataset, model, trainer.state.history, untrained, evaluate(dataset.test))
        final = report.final_metrics(results)
        run.log_metrics(final, trainer.state.epoch - 1)
        publish(run, results)
        run.set_tags({"mlflow.note.content": summary.note(results, final, overrides, run.run_id)})
    checkpoints.path(run.run_id).unlink(missing_ok=True)
    summary.show(results, final, run)
    return run.run_id


_loaded: dict[str, data.Dataset] = {}  # the last two: what the jobs of a worker mostly share is read once


def _load(config: Config) -> data.Dataset:
    """Read, check and split the data of the config."""
    key = repr((config.data, config.seed))
    if key not in _loaded:
        _loaded[key] = data.load(config.data, config.seed)
    _loaded[key] = _loaded.pop(key)
    if len(_loaded) > 2:
        del _loaded[next(iter(_loaded))]
    return _loaded[key]


def _follow(trainer: Trainer, signs: cluster.Signs) -> str:
    """Train as a worker that is not the chief: the same steps, and nothing said or written."""
    trainer.checkpoint = None
    signs.phase(cluster.TRAINING)
    for _ in trainer.run(signs):
        pass
    signs.phase(cluster.REPORTING)
    return ""


def _record_failure(config: Config, overrides: Sequence[str], reason: str, run_id: str | None) -> NoReturn:
    """Give the run of a cluster that failed its status and the reason, and raise it."""
    uri, name = tracking.resolve_uri(config.tracking.uri), config.tracking.run_name or summary.name(config, overrides)
    opened = tracking.open_run(uri, config.tracking.experiment, name, params(config), {}, run_id)
    with opened as run, summary.way_on(config, run.run_id):
        raise TrainingError(reason)


def params(config: Config) -> dict[str, object]:
    """The config as MLflow's params: flat and dotted. Checksums and what is expected are in the artifact only."""
    left_out = ("data.checksums", "resume", "tracking.uri", "tracking.run_name", "objective.", "sweep.", "expected")
    return {key: value for key, value in flatten(as_dict(config)).items() if not key.startswith(left_out)}


def record(
    run: tracking.Run, config: Config, overrides: Sequence[str], dataset: data.Dataset, code: environment.Code
) -> None:
    """Log what the run is made of: data, config, and the environment that repeating it needs."""
    run.log_params(params(config))  # of a run that was killed before it had them, too
    # Where it is stored is known to who reads it, and may hold a password.
    without_place = replace(config, tracking=replace(config.tracking, uri=None))
    counts = {name: len(getattr(dataset, name).targets) for name in ("train", "validation", "test")}
    run.log_dataset(dataset.name, dataset.digest, dataset.source, counts)
    texts = {
        "config/config.yaml": yaml.safe_dump(as_dict(without_place), sort_keys=False, allow_unicode=True),
        "config/overrides.yaml": yaml.safe_dump([tracking.shown(o) for o in overrides], allow_unicode=True),
        "environment/packages.txt": environment.packages(),
        "environment/hardware.json": json.dumps(environment.hardware(), indent=2),
        "environment/requirements.lock": (PROJECT / "requirements.lock").read_text(),
    }
    contents = {path: text.encode() for path, text in texts.items()} | {"environment/uncommitted.diff": code.diff}
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
    run.set_tags({RECORD_DIGESTS: json.dumps(digests)})  # tells whether one was changed since
    with TemporaryDirectory() as folder:
        for path, content in contents.items():
            target = Path(folder, path)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content)
        run.log_artifacts(Path(folder))


def publish(run: tracking.Run, results: report.Results) -> None:
    """Log what the run came to: figures, tables, predictions and the model."""
    with TemporaryDirectory() as folder:
        report.write_figures(results, Path(folder))
        run.log_artifacts(Path(folder), "figures")
    for name, columns in report.tables(results).items():
        run.log_table(columns, f"tables/{name}.json")
    run.log_text(report.predictions(results), "predictions/test.csv")
    if results.config.tracking.log_model:
        test = results.dataset.test
        run.log_model(results.model, test.inputs[:1], results.test.outputs[:1])
    if results.config.report.profile:
        run.log_text(profiling.page(), "profile/trace.html")
        run.log_text(profiling.trace(), "profile/trace.json")
        run.log_table(profiling.table(), "tables/profile.json")
