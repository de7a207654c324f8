"""The trials of a search: Optuna proposes them and is told their results, by ask and tell (Akiba et al. 2019).

Optuna is imported inside functions, because that takes a second.
"""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.composition import compose_jobs, composing
from experiments.config.identity import identity_tags
from experiments.config.sweep_composition import SearchSettings
from experiments.errors import ConfigError, TrialPruned
from experiments.sweeps.job_runner import JobRunner
from experiments.sweeps.leaderboard_report import log_figures
from experiments.sweeps.plan import SweepJob, plan_jobs, varied_overrides
from experiments.sweeps.search import ParameterValue, Point, Search, point_overrides, space_combinations
from experiments.tracking.run import TrackedRun

if TYPE_CHECKING:
    import optuna
    from matplotlib.figure import Figure

    from experiments.reports.figures.style import Style

STUDY_NAME = "search"  # of the study in its journal; Hyperband draws a trial's bracket from it


@dataclass(frozen=True)
class SearchTrial:
    """One point of the space to try."""

    asked: "optuna.trial.Trial"
    values: Point


class SearchStudy:
    """The trials of a search, in a journal file, so that a search that was killed continues where it was.

    Trials that were cut off are given out again first, and those that failed earlier are tried once more. What is drawn
    for a trial depends only on the seed, its number and the trials before it. Only one process may give out trials.
    """

    def __init__(self, search: Search, journal: Path) -> None:
        self.search, self.journal = search, journal
        journal.parent.mkdir(parents=True, exist_ok=True)
        Path(f"{journal}.lock").unlink(missing_ok=True)  # of a process that was killed
        self.optuna = _open_study(journal, search.mode)
        trials = self.optuna.get_trials()
        self._cut_off = [trial for trial in trials if trial.state.name == "RUNNING"]
        failed = [trial for trial in trials if trial.state.name == "FAIL"]
        self._failed_before = len(failed)
        # Some of these points stay, where there are enough trials without them.
        self.not_tried_again = [t.params for t in failed if t.params not in [u.params for u in trials[t.number + 1 :]]]

    @property
    def done(self) -> list[dict[str, ParameterValue]]:
        """The points that were completed or pruned."""
        trials = self.optuna.get_trials(deepcopy=False)
        return [trial.params for trial in trials if trial.state.name in ("COMPLETE", "PRUNED")]

    @property
    def left(self) -> int:
        """The number of trials that are still to be given out."""
        whole = self.search.sweeper.n_trials
        if self.search.sweeper.sampler == "grid":
            whole = min(whole, sum(1 for _ in space_combinations(self.search.space)))
        begun = sum(trial.state.name != "WAITING" for trial in self.optuna.get_trials(deepcopy=False))
        return max(0, whole - begun + self._failed_before + len(self._cut_off))

    def ask(self, at_most: int) -> list[SearchTrial]:
        """Return the next trials to run; none at the end of the search."""
        trials: list[SearchTrial] = []
        while len(trials) < at_most and (asked := self._next_trial()):
            trials.append(asked)
        return trials

    def tell(self, trial: SearchTrial, run_id: str | None, status: str, value: float | None) -> None:
        """Record the result of a trial: the status of its run, or PRUNED, and the value of the objective."""
        from optuna.trial import TrialState

        if run_id:
            trial.asked.set_user_attr("run_id", run_id)
        if status == "FINISHED" and value is not None and math.isfinite(value):
            self.optuna.tell(trial.asked, value)
        else:
            self.optuna.tell(trial.asked, state=TrialState.PRUNED if status == "PRUNED" else TrialState.FAIL)

    def pruning_entry(self, trial: SearchTrial) -> dict[str, Any] | None:
        """Return what a job needs for pruning the trial, as plain data, or None without a pruner."""
        if self.search.sweeper.pruner == "none":
            return None
        told = {"metric": self.search.reported, "mode": self.search.mode, "settings": asdict(self.search.sweeper)}
        return {"journal": str(self.journal), "id": trial.asked._trial_id, **told}

    def _next_trial(self) -> SearchTrial | None:
        from optuna.trial import Trial

        if self._cut_off:
            frozen = self._cut_off.pop(0)
            self.optuna.sampler = _trial_sampler(self.search.sweeper, frozen.number)
            return self._draw(Trial(self.optuna, frozen._trial_id))
        trials = self.optuna.get_trials(deepcopy=False)
        waiting = [trial for trial in trials if trial.state.name == "WAITING"]  # killed between the next lines
        if self.left < 1:
            return None
        if not waiting and self.not_tried_again:
            self.optuna.enqueue_trial(self.not_tried_again.pop(0))
        elif not waiting and self.search.sweeper.sampler == "grid":
            tried = [trial.params for trial in trials]
            self.optuna.enqueue_trial(next(p for p in space_combinations(self.search.space) if p not in tried))
        self.optuna.sampler = _trial_sampler(self.search.sweeper, len(trials) - len(waiting))
        return self._draw(self.optuna.ask())

    def _draw(self, asked: "optuna.trial.Trial") -> SearchTrial:
        values: dict[str, ParameterValue] = {}
        for p in (p for p in self.search.space if p.exists(values)):
            if p.choices:
                values[p.key] = asked.suggest_categorical(p.key, p.choices)
            elif isinstance(p.low, int) and isinstance(p.high, int):
                values[p.key] = asked.suggest_int(p.key, p.low, p.high, step=int(p.step or 1), log=p.log)
            else:
                values[p.key] = asked.suggest_float(p.key, p.low, p.high, step=p.step, log=p.log)
        return SearchTrial(asked, values)


def pruning_watch(entry: Mapping[str, Any], epochs: int) -> Callable[[int, Mapping[str, float]], None]:
    """Return what a job calls with each epoch and its metrics: it reports them to the study, and may end the trial.

    Args:
        entry: from SearchStudy.pruning_entry, perhaps in another process.
        epochs: of the whole training; after the last there is nothing left to prune.
    """
    from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner
    from optuna.trial import Trial

    settings, metric = SearchSettings(**entry["settings"]), entry["metric"]
    pruner: BasePruner = MedianPruner(n_startup_trials=settings.startup_trials, n_warmup_steps=settings.warmup_epochs)
    if settings.pruner == "hyperband":
        pruner = HyperbandPruner(min_resource=settings.warmup_epochs, max_resource=epochs)
    trial = Trial(_open_study(Path(entry["journal"]), entry["mode"], pruner), entry["id"])

    def watch(epoch: int, metrics: Mapping[str, float]) -> None:
        value = metrics[metric]
        trial.report(value, epoch)
        if epoch < epochs and trial.should_prune():
            raise TrialPruned(epoch, f"{metric}={value:.4g} does not keep up with other trials ({settings.pruner})")

    return watch


def _open_study(journal: Path, mode: str, pruner: "optuna.pruners.BasePruner | None" = None) -> "optuna.Study":
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        study_name=STUDY_NAME,
        direction="maximize" if mode == "max" else "minimize",
        sampler=optuna.samplers.RandomSampler(),  # set anew for each trial
        pruner=pruner or optuna.pruners.NopPruner(),
        load_if_exists=True,
    )


def _trial_sampler(settings: SearchSettings, number: int) -> "optuna.samplers.BaseSampler":
    """Return the sampler for one trial, so that a search that goes on draws what it would have drawn."""
    import numpy as np
    from optuna.samplers import CmaEsSampler, RandomSampler, TPESampler

    seed = int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0])
    if settings.sampler == "tpe":
        return TPESampler(n_startup_trials=settings.startup_trials, seed=seed)
    if settings.sampler == "cmaes":
        startup = max(1, settings.startup_trials)  # it takes the space from the trials before
        return CmaEsSampler(n_startup_trials=startup, warn_independent_sampling=False, seed=seed)
    return RandomSampler(seed=seed)  # of a grid the points are given


def trials_table(study: SearchStudy) -> dict[str, list[Any]]:
    """Return a row for every trial in order, as columns: number, status, objective, parameters and run."""
    trials = study.optuna.get_trials(deepcopy=False)
    return {
        "trial": [trial.number for trial in trials],
        "status": [trial.state.name for trial in trials],
        study.search.metric: [trial.value if trial.state.name == "COMPLETE" else None for trial in trials],
        "epochs": [trial.last_step for trial in trials],
        **{p.key: [trial.params.get(p.key) for trial in trials] for p in study.search.space},
        "run_id": [trial.user_attrs.get("run_id") for trial in trials],
    }


def study_figures(study: SearchStudy, style: "Style" = "light") -> "dict[str, Figure]":
    """Return the figures of the search by name: its history, and the importance of each parameter."""
    from optuna.importance import get_param_importances

    from experiments.reports.figures.search import parameter_importances, search_history

    search, rows = study.search, trials_table(study)
    values = rows[search.metric]
    drawn = {"search_history": search_history(search.metric, values, rows["status"], search.mode, style)}
    complete = [value for value in values if value is not None]
    if len(set(complete)) > 1:
        importances = get_param_importances(study.optuna)
        drawn["search_importances"] = parameter_importances(search.metric, importances, len(complete), style)
    return drawn


def run_search(search: Search, runner: JobRunner, parent: TrackedRun, folder: Path) -> list[str]:
    """Run the trials of a search, as many in parallel as the engine has room for, and publish the study.

    A batch waits for its slowest trial: what is drawn next would otherwise depend on which trial ends first. The folder
    keeps the study's journal. Returns a line for each trial that could not be made into a job.
    """
    code = identity_tags(search.jobs[0].config, data_digest="")["fingerprint"]  # results of other code do not count
    study = SearchStudy(search, folder / f"{parent.run_id}-{code[:16]}.journal")
    keys = list(varied_overrides(search.jobs))

    def plan_job(point: Point, trial: SearchTrial | None = None) -> SweepJob:
        with composing(search.config_dir):
            composed = compose_jobs([[*search.fixed, *point_overrides(point)]])
        entry = study.pruning_entry(trial) if trial else None
        runner.jobs += plan_jobs(composed, keys, len(runner.jobs), entry)
        return runner.jobs[-1]

    refused: list[str] = []
    for point in study.done:
        plan_job(point)
    runner.expected = len(runner.jobs) + study.left
    at_once = runner.engine.max_parallel(search.jobs[0].config)
    while not runner.is_stopped and (batch := study.ask(at_once)):
        jobs: dict[int, SearchTrial] = {}
        for trial in batch:
            try:
                jobs[plan_job(trial.values, trial).number] = trial
            except ConfigError as error:  # values that are allowed one by one, but not together
                refused.append(f"trial {trial.asked.number} cannot run: {error}")
                print(refused[-1], file=sys.stderr)
                study.tell(trial, None, "FAILED", None)
        runner.run([runner.jobs[number] for number in jobs])
        outcomes = runner.outcomes()
        for number, trial in jobs.items():
            end = outcomes[number]
            if end.run_id or not runner.is_stopped:  # else it was not started
                status = "PRUNED" if end.pruned else end.status
                study.tell(trial, end.run_id, status, end.metrics.get(search.metric))
    for point in study.not_tried_again:
        plan_job(point)
    parent.log_table(trials_table(study), "tables/trials.json")
    log_figures(parent, study_figures(study, search.jobs[0].config.report.style))
    return refused
