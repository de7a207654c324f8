"""The story of one run, from its config to the closed MLflow run, top to bottom on one screen."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from typing import NoReturn

from experiments.config.data_schema import LinearData
from experiments.config.identity import identity_tags
from experiments.config.schema import Config
from experiments.data.datasets import load_dataset_once
from experiments.errors import StoreError, TrainingError, UserError
from experiments.profiling import begin_profile
from experiments.reports.differences import run_name
from experiments.reports.notes import NOTE_TAG, unfinished_note
from experiments.reports.progress import ProgressDisplay
from experiments.reports.report import Results, final_metrics, import_matplotlib_ahead, publish_results
from experiments.reports.summary import print_resume_hint, print_summary
from experiments.tracking.addresses import resolve_tracking_uri
from experiments.tracking.artifacts import load_initial_weights
from experiments.tracking.environment import loaded_code_state
from experiments.tracking.kept_state import continued_tags, keep_state, load_kept_state
from experiments.tracking.liveness import check_resumable
from experiments.tracking.recorded_config import (
    START_TAG,
    check_identity,
    is_record_lost,
    keep_start,
    record_start,
    run_params,
    settle_starts,
)
from experiments.tracking.run import TrackedRun, open_run
from experiments.tracking.store import check_stored
from experiments.tracking.system_metrics import log_system_metrics
from experiments.training.checkpoints import Checkpoint, checkpoint_path, drop_checkpoint, lock_checkpoint, start_path
from experiments.training.cluster import ClusterMember, join_cluster
from experiments.training.devices import start_strategy
from experiments.training.evaluation import Metrics
from experiments.training.network_cache import CompiledNetwork, prepare_network
from experiments.training.trainer import Trainer


def run_experiment(
    config: Config,
    overrides: Sequence[str],
    tags: Mapping[str, str] | None = None,
    run_id: str | None = None,
    watch: Callable[[int, Mapping[str, float]], None] | None = None,
) -> str:
    """Train what a config describes, record it in MLflow, and print the result.

    Return the id of the MLflow run; nothing in a process that only follows the chief of a cluster.

    Args:
        overrides: those of the command line; they are recorded, and name the run.
        tags: further tags of the run, such as one that names the run it repeats.
        run_id: an earlier run of the same config, code and data that was cut off or failed, to continue.
        watch: called with the number of each epoch, from 1 on, and its metrics; may raise TrialPruned.

    Raises:
        UserError: data, devices or store cannot be used, or the run cannot be resumed; nothing was written.
        TrainingError: a loss is not finite; the run is FAILED and keeps what was logged.
        KeyboardInterrupt, Terminated: after a checkpoint; the run is KILLED.
        TrialPruned: from `watch`; the run is KILLED.
    """
    begin_profile()
    cluster = join_cluster(config.distribution, partial(_record_failure, config, overrides))
    with cluster as member, _take_over(config, run_id, member):
        if member.supervised:
            return member.run_id
        dataset, code = load_dataset_once(config.data, config.seed), loaded_code_state()
        tags = {**(tags or {}), **identity_tags(config, dataset.digest), **code.tags, **continued_tags(config)}
        if run_id:
            check_identity(resolve_tracking_uri(config.tracking.uri), run_id, tags, config.resume_anyway)
        kept = load_kept_state(config, tags)
        strategy = start_strategy(config.distribution, int(config.training.threads), config.training.tensor_float_32)
        network = prepare_network(config, strategy, load_initial_weights(config))
        if member.follows:
            return _follow_chief(partial(Trainer, config, network, dataset), run_id, kept, member)
        tags |= _told_start(network)
        untrained = network.evaluate(dataset.train).outputs if isinstance(config.data, LinearData) else None

        if config.resume:  # the record of how the run started is kept
            tags = {"resumed_at_commit": code.commit}
        with _open_run(config, overrides, tags, run_id) as run, print_resume_hint(config, run.run_id, tags):
            member.report_run(run.run_id)
            if not config.resume or is_record_lost(run.uri, run.run_id):
                record_start(run, config, overrides, dataset, code)
            run.set_tags({NOTE_TAG: unfinished_note(config, dataset, network, overrides, run.run_id)})

            trainer = Trainer(config, network, dataset, checkpoint_path(run.run_id), kept)
            for epoch, metrics in trainer.finished_epochs():  # a kill may have kept some of them out of the store
                run.log_metrics(metrics, epoch)
            import_matplotlib_ahead()
            watched = log_system_metrics(run, config.tracking.system_metrics)
            with member.training(), watched, _displayed_epochs(trainer, member) as epochs:
                for epoch, metrics in epochs:
                    run.log_metrics(metrics, epoch)
                    if watch:
                        watch(epoch, metrics)

            test = network.evaluate(dataset.test)
            results = Results(config, dataset, network.model, trainer.state.history, untrained, test, network.start)
            final = final_metrics(results)
            run.log_metrics(final, trainer.state.epoch - 1)
            publish_results(run, results, final, overrides)
            keep_state(run, config, checkpoint_path(run.run_id))
        _drop_recorded(run)
        print_summary(results, final, run)
        return run.run_id


@contextmanager
def _take_over(config: Config, run_id: str | None, member: ClusterMember) -> Iterator[None]:
    """Hold the checkpoint of an earlier run, or raise a UserError if another process may still be training it."""
    if not run_id or member.supervised or member.follows:
        yield
        return
    with lock_checkpoint(run_id):
        check_resumable(resolve_tracking_uri(config.tracking.uri), run_id, config.resume_anyway)
        yield


def _drop_recorded(run: TrackedRun) -> None:
    """Drop the checkpoint of a finished run once its store has received everything."""
    if not run.spool:
        check_stored(run.uri, run.run_id)
        drop_checkpoint(run.run_id)


@contextmanager
def _open_run(
    config: Config, overrides: Sequence[str], tags: Mapping[str, str], run_id: str | None
) -> Iterator[TrackedRun]:
    """Open the run, or a new one: its start is on disk before it exists, and its checkpoint locked while it is open."""
    tracking = config.tracking
    uri, name = resolve_tracking_uri(tracking.uri), tracking.run_name or run_name(config, overrides)
    if run_id:  # whose checkpoint is locked already
        with open_run(uri, tracking.experiment, name, run_params(config), tags, run_id) as run:
            yield run
        return
    start, lock = keep_start(config, overrides), ExitStack()
    try:
        with lock, open_run(uri, tracking.experiment, name, run_params(config), {**tags, START_TAG: start.stem}) as run:
            start.rename(start_path(run.run_id))
            with suppress(StoreError):
                settle_starts(uri)
            lock.enter_context(lock_checkpoint(run.run_id))
            yield run
    except UserError:  # no run was made
        start.unlink(missing_ok=True)
        raise


@contextmanager
def _displayed_epochs(trainer: Trainer, member: ClusterMember) -> Iterator[Iterator[tuple[int, Metrics]]]:
    """Yield the epochs of the training, each trained on demand, and display their progress."""
    size = (trainer.config.training.epochs, trainer.steps, trainer.examples, trainer.steps_done)
    with ProgressDisplay(*size, member.progress) as progress, closing(trainer.run(progress)) as epochs:
        yield epochs


def _told_start(network: CompiledNetwork) -> dict[str, str]:
    """Say which layers start from other weights, if not all do, and return that as a tag."""
    if not network.start:
        return {}
    print(network.start, file=sys.stderr)
    return {"initial_weights": network.start}


def _follow_chief(
    make_trainer: Callable[..., Trainer], run_id: str | None, kept: Checkpoint | None, member: ClusterMember
) -> str:
    """Take the same steps as the chief, without printing or recording anything."""
    trainer = make_trainer(checkpoint_path(run_id) if run_id else None, kept)
    trainer.checkpoint = None
    with member.training():
        for _ in trainer.run(member):
            pass
    return ""


def _record_failure(config: Config, overrides: Sequence[str], reason: str, run_id: str | None) -> NoReturn:
    """Record why a cluster failed in its run, and raise it."""
    with _open_run(config, overrides, {}, run_id) as run, print_resume_hint(config, run.run_id, {}):
        raise TrainingError(reason)
