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

from experiments import PROJECT
from experiments.config.data_schema import LinearData
from experiments.config.identity import config_to_dict, flatten_config, identity_tags
from experiments.config.schema import Config
from experiments.data.datasets import Dataset, load_dataset
from experiments.errors import TrainingError
from experiments.profiling import begin_profile, profile_table, trace_events, trace_page
from experiments.reports.differences import run_name
from experiments.reports.notes import run_note, unfinished_note
from experiments.reports.progress import ProgressDisplay
from experiments.reports.report import (
    Results,
    final_metrics,
    import_matplotlib_ahead,
    predictions_csv,
    report_tables,
    write_figures,
)
from experiments.reports.summary import print_resume_hint, print_summary
from experiments.reproduction.resume import find_resumed_run
from experiments.tracking.addresses import hide_credentials, resolve_tracking_uri
from experiments.tracking.environment import CodeState, describe_hardware, installed_packages, loaded_code_state
from experiments.tracking.run import TrackedRun, open_run
from experiments.training.checkpoints import checkpoint_path
from experiments.training.cluster import (
    REPORTING,
    TRAINING,
    SignsOfLife,
    name_failed_worker,
    supervise_cluster,
    supervises_cluster,
)
from experiments.training.devices import start_strategy
from experiments.training.evaluation import Evaluator
from experiments.training.network_cache import prepare_network
from experiments.training.trainer import Trainer

RECORD_DIGESTS = "record_digests"  # the tag with the SHA-256 (hex) of each file that `record` logs, as JSON


def run_experiment(
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
    begin_profile()
    resumed = find_resumed_run(config, overrides) if config.resume else None
    if resumed:
        config, overrides = resumed.config, resumed.overrides
    if supervises_cluster(config.distribution):
        return supervise_cluster(config.distribution, partial(_record_failure, config, overrides)) or ""
    dataset = _load_data(config)
    code = loaded_code_state()
    tags = {**(tags or {}), **identity_tags(config, dataset.digest), **code.tags}
    if resumed:
        resumed.check(tags)
        tags = {"resumed_at_commit": code.commit}  # what the run began with stays recorded
    signs = SignsOfLife()
    strategy = start_strategy(config.distribution, int(config.training.threads))
    model, optimizer = prepare_network(config, strategy)
    if signs.index > 0:
        checkpoint = checkpoint_path(resumed.run.run_id) if resumed else None
        return _follow(Trainer(config, strategy, model, optimizer, dataset, checkpoint), signs)
    evaluate = Evaluator(model, config.training.loss)
    untrained = evaluate(dataset.train).outputs if isinstance(config.data, LinearData) else None

    uri, name = resolve_tracking_uri(config.tracking.uri), config.tracking.run_name or run_name(config, overrides)
    run_id = resumed.run.run_id if resumed else run_id
    opened = open_run(uri, config.tracking.experiment, name, run_params(config), tags, run_id)
    with opened as run, print_resume_hint(config, run.run_id):
        signs.run(run.run_id)
        if not resumed:
            record_start(run, config, overrides, dataset, code)
        run.set_tags({"mlflow.note.content": unfinished_note(config, dataset, model, overrides, run.run_id)})
        trainer = Trainer(config, strategy, model, optimizer, dataset, checkpoint_path(run.run_id))
        for epoch, metrics in trainer.finished_epochs():
            run.log_metrics(metrics, epoch)  # those that a kill kept from the store
        import_matplotlib_ahead()
        signs.phase(TRAINING)
        size = (config.training.epochs, trainer.steps, trainer.examples, trainer.steps_done)
        with (
            name_failed_worker(),
            ProgressDisplay(*size, signs.progress) as progress,
            closing(trainer.run(progress)) as epochs,
        ):
            for epoch, metrics in epochs:
                run.log_metrics(metrics, epoch)
                if watch:
                    watch(epoch, metrics)
        signs.phase(REPORTING)
        results = Results(config, dataset, model, trainer.state.history, untrained, evaluate(dataset.test))
        final = final_metrics(results)
        run.log_metrics(final, trainer.state.epoch - 1)
        publish_results(run, results)
        run.set_tags({"mlflow.note.content": run_note(results, final, overrides, run.run_id)})
    checkpoint_path(run.run_id).unlink(missing_ok=True)
    print_summary(results, final, run)
    return run.run_id


_loaded_datasets: dict[str, Dataset] = {}  # the last two: what the jobs of a worker mostly share is read once


def _load_data(config: Config) -> Dataset:
    """Read, check and split the data of the config."""
    key = repr((config.data, config.seed))
    if key not in _loaded_datasets:
        _loaded_datasets[key] = load_dataset(config.data, config.seed)
    _loaded_datasets[key] = _loaded_datasets.pop(key)
    if len(_loaded_datasets) > 2:
        del _loaded_datasets[next(iter(_loaded_datasets))]
    return _loaded_datasets[key]


def _follow(trainer: Trainer, signs: SignsOfLife) -> str:
    """Train as a worker that is not the chief: the same steps, and nothing said or written."""
    trainer.checkpoint = None
    signs.phase(TRAINING)
    for _ in trainer.run(signs):
        pass
    signs.phase(REPORTING)
    return ""


def _record_failure(config: Config, overrides: Sequence[str], reason: str, run_id: str | None) -> NoReturn:
    """Give the run of a cluster that failed its status and the reason, and raise it."""
    uri, name = resolve_tracking_uri(config.tracking.uri), config.tracking.run_name or run_name(config, overrides)
    opened = open_run(uri, config.tracking.experiment, name, run_params(config), {}, run_id)
    with opened as run, print_resume_hint(config, run.run_id):
        raise TrainingError(reason)


def run_params(config: Config) -> dict[str, object]:
    """The config as MLflow's params: flat and dotted. Checksums and what is expected are in the artifact only."""
    left_out = ("data.checksums", "resume", "tracking.uri", "tracking.run_name", "objective.", "sweep.", "expected")
    return {key: value for key, value in flatten_config(config_to_dict(config)).items() if not key.startswith(left_out)}


def record_start(run: TrackedRun, config: Config, overrides: Sequence[str], dataset: Dataset, code: CodeState) -> None:
    """Log what the run is made of: data, config, and the environment that repeating it needs."""
    run.log_params(run_params(config))  # of a run that was killed before it had them, too
    # Where it is stored is known to who reads it, and may hold a password.
    without_place = replace(config, tracking=replace(config.tracking, uri=None))
    counts = {name: len(getattr(dataset, name).targets) for name in ("train", "validation", "test")}
    run.log_dataset(dataset.name, dataset.digest, dataset.source, counts)
    texts = {
        "config/config.yaml": yaml.safe_dump(config_to_dict(without_place), sort_keys=False, allow_unicode=True),
        "config/overrides.yaml": yaml.safe_dump([hide_credentials(o) for o in overrides], allow_unicode=True),
        "environment/packages.txt": installed_packages(),
        "environment/hardware.json": json.dumps(describe_hardware(), indent=2),
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


def publish_results(run: TrackedRun, results: Results) -> None:
    """Log what the run came to: figures, tables, predictions and the model."""
    with TemporaryDirectory() as folder:
        write_figures(results, Path(folder))
        run.log_artifacts(Path(folder), "figures")
    for name, columns in report_tables(results).items():
        run.log_table(columns, f"tables/{name}.json")
    run.log_text(predictions_csv(results), "predictions/test.csv")
    if results.config.tracking.log_model:
        test = results.dataset.test
        run.log_model(results.model, test.inputs[:1], results.test.outputs[:1])
    if results.config.report.profile:
        run.log_text(trace_page(), "profile/trace.html")
        run.log_text(trace_events(), "profile/trace.json")
        run.log_table(profile_table(), "tables/profile.json")
