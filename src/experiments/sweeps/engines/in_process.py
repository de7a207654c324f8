"""The engine of hydra/launcher=basic: jobs one after another, in this process."""

import time
from collections.abc import Sequence
from signal import Signals

from experiments.config.schema import Config
from experiments.errors import ConfigError
from experiments.sweeps.engines import JobEnd, process_kind
from experiments.sweeps.jobs import draw_report, try_job
from experiments.sweeps.plan import SweepJob


class InProcessEngine:
    """Runs a job while the sweep waits for it. A signal reaches the job itself, which closes its run and raises."""

    parent_id: str
    given: tuple[SweepJob, str | None]

    def start(self, parent_id: str) -> None:
        self.parent_id = parent_id

    def max_parallel(self, config: Config) -> int:
        return 1

    def give(self, job: SweepJob, draw: str | None = None) -> None:
        self.given = job, draw

    def wait(self) -> JobEnd:
        started = time.monotonic()
        job, draw = self.given
        reason = draw_report(job, draw) if draw else try_job(job, self.parent_id)
        return JobEnd(job, time.monotonic() - started, reason)

    def interrupt(self, sent: Signals) -> None:
        pass

    def close(self) -> list[JobEnd]:
        return []


def check_shared_process(jobs: Sequence[Config]) -> None:
    """Check that these jobs can run in one process.

    Raises:
        ConfigError: they differ in what TensorFlow takes once per process, or layers do not fit.
    """
    if len({process_kind(config) for config in jobs}) > 1:
        raise ConfigError(
            "The jobs of this sweep differ in training.threads (which `auto` chooses by the network), or in"
            " distribution, and TensorFlow takes both once per process. Give all the same, such as training.threads=1,"
            " or use hydra/launcher=pool."
        )
    layered = [config for config in jobs if config.model.name == "layers"]
    if layered:  # only Keras knows whether the layers fit; a single run finds out before it is made
        from experiments.training.devices import start_strategy
        from experiments.training.networks import build_network

        start_strategy(layered[0].distribution, int(layered[0].training.threads))
        for config in layered:
            build_network(config)
