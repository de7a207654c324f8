"""The trials of a search: Optuna proposes them and hears their results, by ask and tell (Akiba et al. 2019).

Optuna is imported inside functions, because that takes a second.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.sweep_composition import SearchSettings
from experiments.errors import TrialPruned
from experiments.sweeps.leaderboard_report import log_figures
from experiments.sweeps.search import Search
from experiments.sweeps.search_space import Parameter, ParameterValue, Point, space_combinations
from experiments.tracking.run import TrackedRun

if TYPE_CHECKING:
    import optuna
    from matplotlib.figure import Figure
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

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
    for a trial depends only on the seed, its number and the trials before it.

    Args:
        journal: the file, made if need be. Only one process may give out trials from it.
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
        self._again = [t.params for t in failed if t.params not in [other.params for other in trials[t.number + 1 :]]]

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

    @property
    def not_tried_again(self) -> list[dict[str, ParameterValue]]:
        """The points that failed earlier and were not given out again, as there are enough trials without them."""
        return list(self._again)

    def ask(self, at_most: int) -> list[SearchTrial]:
        """Return the next trials to run; none at the end of the search."""
        trials: list[SearchTrial] = []
        while len(trials) < at_most and (asked := self._next_trial()):
            trials.append(asked)
        return trials

    def tell(self, trial: SearchTrial, run_id: str | None, status: str, value: float | None) -> None:
        """Record the result of a trial.

        Args:
            run_id: in MLflow.
            status: of the run, or PRUNED.
            value: of the objective.
        """
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
        return {
            "journal": str(self.journal),
            "id": trial.asked._trial_id,
            "metric": self.search.reported,
            "mode": self.search.mode,
            "settings": asdict(self.search.sweeper),
        }

    def _next_trial(self) -> SearchTrial | None:
        from optuna.trial import Trial as Asked

        if self._cut_off:
            frozen = self._cut_off.pop(0)
            self.optuna.sampler = _trial_sampler(self.search.sweeper, frozen.number)
            return self._draw(Asked(self.optuna, frozen._trial_id))
        trials = self.optuna.get_trials(deepcopy=False)
        waiting = [trial for trial in trials if trial.state.name == "WAITING"]  # killed between the next lines
        if self.left < 1:
            return None
        if not waiting and self._again:
            self.optuna.enqueue_trial(self._again.pop(0))
        elif not waiting and self.search.sweeper.sampler == "grid":
            tried = [trial.params for trial in trials]
            self.optuna.enqueue_trial(next(p for p in space_combinations(self.search.space) if p not in tried))
        self.optuna.sampler = _trial_sampler(self.search.sweeper, len(trials) - len(waiting))
        return self._draw(self.optuna.ask())

    def _draw(self, asked: "optuna.trial.Trial") -> SearchTrial:
        values: dict[str, ParameterValue] = {}
        for parameter in self.search.space:
            if parameter.exists(values):
                values[parameter.key] = _draw_value(asked, parameter)
        return SearchTrial(asked, values)


def pruning_watch(entry: Mapping[str, Any], epochs: int) -> Callable[[int, Mapping[str, float]], None]:
    """Return what a job calls with each epoch and its metrics: it reports them to the study, and may end the trial.

    Args:
        entry: from SearchStudy.pruning_entry, perhaps in another process.
        epochs: of the whole training; after the last there is nothing left to prune.
    """
    from optuna.trial import Trial as Asked

    settings, metric = SearchSettings(**entry["settings"]), entry["metric"]
    study = _open_study(Path(entry["journal"]), entry["mode"], _study_pruner(settings, epochs))
    trial = Asked(study, entry["id"])

    def watch(epoch: int, metrics: Mapping[str, float]) -> None:
        value = metrics[metric]
        trial.report(value, epoch)
        if epoch < epochs and trial.should_prune():
            raise TrialPruned(epoch, f"{metric}={value:.4g} does not keep up with other trials ({settings.pruner})")

    return watch


def _open_study(journal: Path, mode: str, pruner: "BasePruner | None" = None) -> "optuna.Study":
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


def _draw_value(asked: "optuna.trial.Trial", parameter: Parameter) -> ParameterValue:
    key, low, high, step, log = parameter.key, parameter.low, parameter.high, parameter.step, parameter.log
    if parameter.choices:
        return asked.suggest_categorical(key, parameter.choices)
    if isinstance(low, int) and isinstance(high, int):
        return asked.suggest_int(key, low, high, step=int(step or 1), log=log)
    return asked.suggest_float(key, low, high, step=step, log=log)


def _trial_sampler(settings: SearchSettings, number: int) -> "BaseSampler":
    """The sampler for one trial, so that a search that goes on draws what it would have drawn."""
    import numpy as np
    from optuna.samplers import CmaEsSampler, RandomSampler, TPESampler

    seed = int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0])
    match settings.sampler:
        case "tpe":
            return TPESampler(n_startup_trials=settings.startup_trials, seed=seed)
        case "cmaes":
            startup = max(1, settings.startup_trials)  # it takes the space from the trials before
            return CmaEsSampler(n_startup_trials=startup, warn_independent_sampling=False, seed=seed)
        case _:  # of a grid the points are given
            return RandomSampler(seed=seed)


def _study_pruner(settings: SearchSettings, epochs: int) -> "BasePruner":
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    match settings.pruner:
        case "median":
            return MedianPruner(n_startup_trials=settings.startup_trials, n_warmup_steps=settings.warmup_epochs)
        case "hyperband":
            return HyperbandPruner(min_resource=settings.warmup_epochs, max_resource=epochs)
        case _:
            return NopPruner()


def publish_study(study: SearchStudy, parent: TrackedRun) -> None:
    """Log every trial and the figures of the search to the parent run."""
    parent.log_table(trials_table(study), "tables/trials.json")
    log_figures(parent, study_figures(study, study.search.jobs[0].config.report.style))


def trials_table(study: SearchStudy) -> dict[str, list[Any]]:
    """Return a row for every trial in order, as columns: number, status, objective, parameters and run."""
    trials, keys = study.optuna.get_trials(deepcopy=False), [parameter.key for parameter in study.search.space]
    return {
        "trial": [trial.number for trial in trials],
        "status": [trial.state.name for trial in trials],
        study.search.metric: [trial.value if trial.state.name == "COMPLETE" else None for trial in trials],
        "epochs": [trial.last_step for trial in trials],
        **{key: [trial.params.get(key) for trial in trials] for key in keys},
        "run_id": [trial.user_attrs.get("run_id") for trial in trials],
    }


def study_figures(study: SearchStudy, style: "Style" = "light") -> "dict[str, Figure]":
    """Return the figures of the search by name: its history, and the importance of each parameter."""
    from optuna.importance import get_param_importances

    from experiments.reports.figures.search import parameter_importances, search_history

    search, rows = study.search, trials_table(study)
    values = rows[search.metric]
    drawn = {"search_history": search_history(search.metric, values, rows["status"], search.mode, style)}
    complete = [value for value, status in zip(values, rows["status"], strict=True) if status == "COMPLETE"]
    if len(set(complete)) > 1:
        importances = get_param_importances(study.optuna)
        drawn["search_importances"] = parameter_importances(search.metric, importances, len(complete), style)
    return drawn
