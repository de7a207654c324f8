"""Hydra's launcher `pool`: the jobs of a sweep in worker processes that stay; `experiments.pool` has them."""

from collections.abc import Sequence

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from experiments.config.schema import Config


class PoolLauncher(Launcher):
    """Runs the jobs of the sweep that is open in this process; conf/hydra/launcher/pool.yaml has its arguments."""

    def __init__(self, workers: int | None, timeout_minutes: float | None) -> None:
        self.workers, self.timeout_minutes = workers, timeout_minutes

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        pass  # a job is not composed again: its config was frozen when the sweep started

    def at_once(self, config: Config) -> int:
        """How many jobs with this config run at once."""
        from experiments.sweeps.engines.pool import max_parallel

        return max_parallel(config, self.workers)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from experiments.sweeps.engines.pool import run_in_pool
        from experiments.sweeps.sweep import current_sweep

        sweep = current_sweep()
        if sweep is None:
            raise RuntimeError("hydra/launcher=pool runs the sweeps of run.py only")
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        run_in_pool(sweep, numbers, self.workers, self.timeout_minutes)
        return [JobReturn(overrides=overrides, status=JobStatus.COMPLETED) for overrides in job_overrides]
