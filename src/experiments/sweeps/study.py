"""The trials of a search: Optuna, imported late, proposes them and is told their results (Akiba et al. 2019)."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.sweep_composition import SearchSettings
from experiments.errors import TrialPruned
from experiments.formatting import plural
from experiments.sweeps.earlier_trials import EarlierTrial
from experiments.sweeps.search import Parameter, Search, space_combinations

if TYPE_CHECKING:
    import optuna
    from matplotlib.figure import Figure
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

    from experiments.reports.figures.style import Style

EARLIER = "earlier"  # attribute of a trial of another search
STUDY_NAME = "search"  # of the study in its journal; Hyperband draws a trial's bracket from it


class SearchStudy:
    """The trials of a search, in a journal file, so that a search that was killed continues where it was.

    Trials that were cut off are given out again first, and those that failed earlier are tried once more. What is drawn
    for a trial depends only on the seed, its number and the trials before it. Only one process may give out trials.
    """

    def __init__(self, search: Search, journal: Path) -> None:
        self.search, self.journal = search, journal
        journal.parent.mkdir(parents=True, exist_ok=True)
        Path(f"{journal}.lock").unlink(missing_ok=True)  # of a process that was killed
        self.optuna, self._storage = _open_study(journal, search.mode)
        trials, failed = self.optuna.get_trials(), self.trials("FAIL")
        self._cut_off = [trial.number for trial in self.trials("RUNNING")]
        self._failed_before = len(failed)
        # Some of these points stay, where there are enough trials without them.
        self.not_tried_again = [t.params for t in failed if t.params not in [u.params for u in trials[t.number + 1 :]]]

    def trials(self, *states: str) -> "list[FrozenTrial]":
        """Return the trials of this search in these states, as Optuna names them."""
        own = (trial for trial in self.optuna.get_trials(deepcopy=False) if EARLIER not in trial.user_attrs)
        return [trial for trial in own if trial.state.name in states]

    def begin_from(self, earlier: Sequence[EarlierTrial]) -> None:
        """Let the sampler learn from those trials of another search that lie in this space, unless this has begun."""
        from optuna.trial import create_trial

        if not earlier or self.optuna.get_trials(deepcopy=False):
            return
        added = 0
        for trial in earlier:
            value = self._worst if trial.value is None else trial.value
            ranges = {p.key: _distribution(p) for p in self.search.space if p.key in trial.point}
            with suppress(ValueError):  # a parameter lies outside
                params, facts = dict(trial.point), {"run_id": trial.run_id, EARLIER: True}
                self.optuna.add_trial(create_trial(params=params, distributions=ranges, value=value, user_attrs=facts))
                added += 1
        print(f"The search begins from {added} of {plural(len(earlier), 'earlier trial')}.", flush=True)

    @property
    def _worst(self) -> float:
        return -math.inf if self.search.mode == "max" else math.inf

    @property
    def left(self) -> int:
        """The number of trials that are still to be given out."""
        whole = self.search.sweeper.n_trials
        if self.search.sweeper.sampler == "grid":
            whole = min(whole, len(list(space_combinations(self.search.space))))
        begun = len(self.trials("COMPLETE", "PRUNED", "FAIL", "RUNNING"))
        return max(0, whole - begun + self._failed_before + len(self._cut_off))

    def ask(self, at_most: int) -> "list[Trial]":
        """Return the next trials to run; none at the end of the search."""
        return list(islice(iter(self._next_trial, None), at_most))

    def tell(self, trial: "Trial", run_id: str | None, status: str, value: float | None) -> None:
        """Record the result of a trial: the status of its run, or PRUNED or DIVERGED, and the value of the objective.

        One that diverged gets the worst value there is, so that the sampler turns away from it.
        """
        from optuna.trial import TrialState

        if run_id:
            trial.set_user_attr("run_id", run_id)
        if status == "DIVERGED":
            self.optuna.tell(trial, self._worst)
        elif status == "FINISHED" and value is not None and math.isfinite(value):
            self.optuna.tell(trial, value)
        else:
            self.optuna.tell(trial, state=TrialState.PRUNED if status == "PRUNED" else TrialState.FAIL)

    def pruning_entry(self, trial: "Trial") -> dict[str, Any]:
        """Return what a job needs for pruning the trial, as plain data; nothing without a pruner."""
        if self.search.sweeper.pruner == "none":
            return {}
        told = {"metric": self.search.reported, "mode": self.search.mode, "settings": asdict(self.search.sweeper)}
        return {"journal": str(self.journal), "number": trial.number, **told}

    def _next_trial(self) -> "Trial | None":
        if self._cut_off:
            number = self._cut_off.pop(0)
            self.optuna.sampler = _trial_sampler(self.search.sweeper, number)
            return self._draw(_open_trial(self.optuna, self._storage, number))
        if self.left < 1:
            return None
        waiting = self.trials("WAITING")  # killed between the next lines
        trials = self.optuna.get_trials(deepcopy=False)
        self.optuna.sampler = _trial_sampler(self.search.sweeper, len(trials) - len(waiting))
        if not waiting and self.not_tried_again:
            self.optuna.enqueue_trial(self.not_tried_again.pop(0))
        elif not waiting and self.search.sweeper.sampler == "grid":
            tried = [trial.params for trial in trials]
            self.optuna.enqueue_trial(next(p for p in space_combinations(self.search.space) if p not in tried))
        return self._draw(self.optuna.ask())

    def _draw(self, trial: "Trial") -> "Trial":
        for p in self.search.space:
            if not p.exists(trial.params):
                continue
            if p.choices:
                trial.suggest_categorical(p.key, p.choices)
            elif isinstance(p.low, int) and isinstance(p.high, int):
                trial.suggest_int(p.key, p.low, p.high, step=int(p.step or 1), log=p.log)
            else:
                trial.suggest_float(p.key, p.low, p.high, step=p.step, log=p.log)
        return trial


def _distribution(p: Parameter) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if p.choices:
        return CategoricalDistribution(p.choices)
    if isinstance(p.low, int) and isinstance(p.high, int):
        return IntDistribution(p.low, p.high, step=int(p.step or 1), log=p.log)
    return FloatDistribution(p.low, p.high, step=p.step, log=p.log)


def pruning_watch(entry: Mapping[str, Any], epochs: int) -> Callable[[int, Mapping[str, float]], None]:
    """Return what a job calls after each of the `epochs` with its metrics: it may end the trial of the `entry`."""
    from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner

    settings, metric = SearchSettings(**entry["settings"]), entry["metric"]
    pruner: BasePruner = MedianPruner(n_startup_trials=settings.startup_trials, n_warmup_steps=settings.warmup_epochs)
    if settings.pruner == "hyperband":
        pruner = HyperbandPruner(min_resource=settings.warmup_epochs, max_resource=epochs)
    trial = _open_trial(*_open_study(Path(entry["journal"]), entry["mode"], pruner), entry["number"])

    def watch(epoch: int, metrics: Mapping[str, float]) -> None:
        if metric not in metrics:  # it is not defined for this epoch
            return
        value = metrics[metric]
        trial.report(value, epoch)
        if epoch < epochs and trial.should_prune():
            raise TrialPruned(epoch, f"{metric}={value:.4g} does not keep up with other trials ({settings.pruner})")

    return watch


def _open_study(
    journal: Path, mode: str, pruner: "optuna.pruners.BasePruner | None" = None
) -> "tuple[optuna.Study, BaseStorage]":
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(
        storage=storage,
        study_name=STUDY_NAME,
        direction="maximize" if mode == "max" else "minimize",
        sampler=optuna.samplers.RandomSampler(),  # set anew for each trial
        pruner=pruner or optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    return study, storage


def _open_trial(study: "optuna.Study", storage: "BaseStorage", number: int) -> "Trial":
    """Open a trial that was asked for earlier, perhaps in another process."""
    from optuna.trial import Trial

    study_id = storage.get_study_id_from_name(STUDY_NAME)
    return Trial(study, storage.get_trial_id_from_study_id_trial_number(study_id, number))


def _trial_sampler(settings: SearchSettings, number: int) -> "optuna.samplers.BaseSampler":
    """Return the sampler for one trial, so that a search that goes on draws what it would have drawn."""
    import numpy as np
    from optuna.samplers import CmaEsSampler, RandomSampler, TPESampler

    seed, startup = int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0]), settings.startup_trials
    if settings.sampler == "tpe":
        return TPESampler(n_startup_trials=startup, seed=seed)
    if settings.sampler == "cmaes":  # it takes the space from the trials before
        return CmaEsSampler(n_startup_trials=max(1, startup), warn_independent_sampling=False, seed=seed)
    return RandomSampler(seed=seed)  # of a grid the points are given


def trials_table(study: SearchStudy) -> dict[str, list[Any]]:
    """Return a row for every trial in order, as columns: number, status, objective, parameters and run."""
    trials = study.optuna.get_trials(deepcopy=False)
    values = [trial.value if trial.state.name == "COMPLETE" else None for trial in trials]
    states = [trial.state.name for trial in trials]
    return {
        "trial": [trial.number for trial in trials],
        "status": ["DIVERGED" if v and math.isinf(v) else s for v, s in zip(values, states, strict=True)],
        study.search.metric: [None if v and math.isinf(v) else v for v in values],
        "epochs": [trial.last_step for trial in trials],
        **{p.key: [trial.params.get(p.key) for trial in trials] for p in study.search.space},
        "run_id": [trial.user_attrs.get("run_id") for trial in trials],
    }


def study_figures(study: SearchStudy, style: "Style" = "light") -> "dict[str, Figure]":
    """Return the figures of the search by name: its history, and the importance of each parameter."""
    from optuna.importance import get_param_importances

    from experiments.reports.figures.search import parameter_importances, search_history

    search, rows = study.search, trials_table(study)
    drawn = {"search_history": search_history(search.metric, rows[search.metric], rows["status"], search.mode, style)}
    complete = [value for value in rows[search.metric] if value is not None]
    if len(set(complete)) > 1:
        importances = get_param_importances(study.optuna)
        drawn["search_importances"] = parameter_importances(search.metric, importances, len(complete), style)
    return drawn
