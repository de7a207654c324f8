"""Run the jobs of a sweep one after the other in this process: hydra/launcher=basic."""

import math
import time
from collections.abc import Sequence

from experiments.config.schema import Config
from experiments.errors import ConfigError
from experiments.sweeps.engines.engine import Engine, JobEnd, process_kind
from experiments.sweeps.jobs import try_job
from experiments.sweeps.plan import SweepJob


class InProcessEngine(Engine):
    """The engine of hydra/launcher=basic: jobs in this process. A signal reaches the job, which closes its run."""

    given: tuple[SweepJob, str | None]

    def max_parallel(self, config: Config) -> int:
        return 1

    def give(self, job: SweepJob, draw: str | None = None) -> None:
        self.given = job, draw

    def wait(self, timeout: float = math.inf) -> JobEnd:
        started = time.monotonic()
        job, draw = self.given
        reason = try_job(job, self.parent_id, draw)
        return JobEnd(job, time.monotonic() - started, reason)


def check_shared_process(jobs: Sequence[Config]) -> None:
    """Raise ConfigError if the jobs differ in what TensorFlow takes once per process, or layers do not fit."""
    if len({process_kind(config) for config in jobs}) > 1:
        raise ConfigError(
            "The jobs of this sweep differ in training.threads (which `auto` chooses by the network), in"
            " training.tensor_float_32 or in distribution, and TensorFlow fixes these once per process. Give all the"
            " same, such as training.threads=1, or use hydra/launcher=pool."
        )
    layered = [config for config in jobs if config.model.name == "layers"]
    if layered:  # only Keras knows whether the layers fit; a single run finds out before it is made
        from experiments.training.devices import start_strategy
        from experiments.training.networks import build_network

        settings = layered[0].training
        start_strategy(layered[0].distribution, int(settings.threads), settings.tensor_float_32)
        for config in layered:
            build_network(config)
