"""Hydra's sweeper `optuna`: the trials of a search as jobs of the sweep; `experiments.study` proposes them."""

import sys
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """Runs the search that is open in this process; its settings are checked by then, see conf/hydra/sweeper."""

    launcher: Launcher

    def __init__(self, **settings: Any) -> None:
        pass

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from experiments.config.identity import identity_tags
        from experiments.errors import ConfigError
        from experiments.sweeps.search import Search
        from experiments.sweeps.search_space import point_overrides
        from experiments.sweeps.study import SearchStudy, publish_study
        from experiments.sweeps.sweep import SWEEP_FOLDER, current_sweep

        sweep = current_sweep()
        if sweep is None or not isinstance(sweep.plan.composed, Search):
            raise RuntimeError("hydra/sweeper=optuna runs the searches of run.py only")
        search = sweep.plan.composed
        code = identity_tags(search.jobs[0].config, data_digest="")[
            "fingerprint"
        ]  # what other code came to is not told
        trials = SearchStudy(search, SWEEP_FOLDER / f"{sweep.run.run_id}-{code[:16]}.journal")
        sweep.add([[*search.fixed, *point_overrides(point)] for point in trials.done])
        sweep.expected = len(sweep.jobs) + trials.left
        at_once = getattr(self.launcher, "at_once", lambda _: 1)(search.jobs[0].config)
        while not sweep.is_stopped and (batch := trials.ask(at_once)):
            jobs = {}
            for trial in batch:
                try:
                    overrides = [*search.fixed, *point_overrides(trial.values)]
                    (number,) = sweep.add([overrides], [trials.entry(trial)])
                    jobs[number] = trial, overrides
                except ConfigError as error:  # of values that do not go together, though each is allowed
                    sweep.refused.append(f"trial {trial.asked.number} cannot run: {error}")
                    print(sweep.refused[-1], file=sys.stderr)
                    trials.tell(trial, None, "FAILED", None)
            if jobs:
                self.launcher.launch([overrides for _, overrides in jobs.values()], initial_job_idx=min(jobs))
            for number, (trial, _) in jobs.items():
                outcome = sweep.outcome(number)
                if outcome.run_id or not sweep.is_stopped:  # else it was not started
                    status = "PRUNED" if outcome.pruned else outcome.status
                    trials.tell(trial, outcome.run_id, status, outcome.metrics.get(search.metric))
        sweep.add([[*search.fixed, *point_overrides(point)] for point in trials.not_tried_again])
        publish_study(trials, sweep.run)
