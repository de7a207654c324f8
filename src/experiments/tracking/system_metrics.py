"""The load of the machine while a run trains: processors, memory, disk, network and GPUs, as MLflow measures it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from experiments.tracking.run import TrackedRun

SAMPLE_SECONDS = 5.0  # between two samples; the last one is taken at the end
SHORTEST_SAMPLE = 1.0  # seconds; a shorter last one is left out, unless it is the only one
SYSTEM_PREFIX = "system/"  # of the metrics' names, by which MLflow's UI shows them on a page of their own


@contextmanager
def log_system_metrics(run: TrackedRun, wanted: bool) -> Iterator[None]:
    """Log the load of the machine to the run, from a thread, if it is wanted."""
    if not wanted:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_sample_until, args=(ended, run), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _sample_until(ended: threading.Event, run: TrackedRun) -> None:
    """Sample with MLflow's monitor; what its own thread logs is lost while the store is away."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run.run_id, tracking_uri=run.uri)
    monitor.collect_metrics()  # the load is measured since the sample before
    last, step = False, run.last_step(SYSTEM_PREFIX)
    while not last:
        for part in monitor.monitors:
            part.clear_metrics()
        began = time.monotonic()
        last = ended.wait(SAMPLE_SECONDS)
        if last and time.monotonic() - began < SHORTEST_SAMPLE and run.last_step(SYSTEM_PREFIX) > step:
            return
        with suppress(Exception):  # the run logs its own metrics too, and fails for the same reason
            monitor.collect_metrics()
            load = {f"{SYSTEM_PREFIX}{name}": value for name, value in monitor.aggregate_metrics().items()}
            run.log_metrics(load, run.last_step(SYSTEM_PREFIX) + 1)
