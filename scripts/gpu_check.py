"""Check on a machine with a GPU what this project promises there: equal bits, speed, replicas, jobs that share the GPU.

python scripts/gpu_check.py                       all of it, in under seven minutes; ends with 1 if a promise is broken
python scripts/gpu_check.py bits resume           some of it
python scripts/gpu_check.py --json FILE           also as JSON
python scripts/gpu_check.py --quick --any-device  on little data, also without a GPU: shows that the script works

Every run is a process of its own, on the real MNIST, in a store of its own.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from benchmark import machine, save_mnist
from measuring import in_fresh_process, measure_process

from experiments import PROJECT
from experiments.config.metrics import TIME_METRICS
from experiments.errors import CommandParser, TrainingError, UserError, run_command
from experiments.tracking.records import RunRecord, experiment_runs, metric_history
from experiments.tracking.store import open_existing_store
from experiments.training.compiled_programs import PROGRAM_FOLDER

# TensorFlow stays out of this process, which would otherwise hold a part of the GPU.

LIGHT = ["report.figures=none", "tracking.log_model=false", "tracking.experiment=gpu_check"]
ROUNDING = 1e-4  # by which losses of one device and of two replicas may differ after two epochs, as a fraction
# run.py on two logical devices: one GPU is split in two.
ON_TWO = """
import sys
import tensorflow as tf
for gpu in tf.config.list_physical_devices("GPU")[:1]:
    half = tf.config.LogicalDeviceConfiguration(memory_limit=8000)
    tf.config.set_logical_device_configuration(gpu, [half] * 2)
from experiments.cli import main
sys.exit(main())
"""


@dataclass(frozen=True)
class Promise:
    """One thing that must hold: what was found, and the most that is allowed, where it is a number."""

    promise: str
    found: float | str
    limit: float | None
    kept: bool


@dataclass(frozen=True)
class CheckedRun:
    """A run as its store has it: its id, the values of each metric that is not a time, and seconds of each epoch."""

    run_id: str
    metrics: dict[str, list[float]]
    epochs: list[float]

    @property
    def later_epoch(self) -> float:
        """The seconds of an epoch after the first, which includes compiling."""
        return median(self.epochs[1:])


class Checks:
    """The checks; each returns promises."""

    def __init__(self, folder: Path, quick: bool) -> None:
        self.folder, self.quick = folder, quick
        self.uri = f"sqlite:///{folder}/mlflow.db"

    def overrides(self, *given: str) -> list[str]:
        small = ["data.limit=1300", "data.validation=100"] if self.quick else []
        return [*small, *LIGHT, *given, f"tracking.uri={self.uri}"]

    def run(self, *given: str, python: tuple[str, ...] = ("run.py",)) -> CheckedRun:
        """Make a run in a process, and read it back."""
        print(f"run.py {' '.join(given)}", file=sys.stderr)
        measure_process(sys.executable, *python, *self.overrides(*given))
        return self.read(self.records()[-1])

    def records(self) -> list[RunRecord]:
        """Return all runs made here that are not sweeps, the oldest first."""
        _, found, _ = experiment_runs(open_existing_store(self.uri), "gpu_check")
        return sorted((run for run in found if "sweep" not in run.tags), key=lambda run: run.start_time)

    def read(self, record: RunRecord) -> CheckedRun:
        history = metric_history(open_existing_store(self.uri), record)
        values = {name: [value for _, value in sorted(points)] for name, points in history.items()}
        measured = {name: values[name] for name in values if name not in TIME_METRICS}
        return CheckedRun(record.run_id, measured, values["epoch_seconds"])

    def bits(self) -> list[Promise]:
        """Make equal runs twice, with a smaller last batch: of the default network, and of a convolutional one."""
        uneven = "training.batch_size=96"

        def compiled_anew(*given: str) -> CheckedRun:
            drop_programs()
            return self.run(*given, uneven)

        networks = {"the default network": ["training.epochs=4"], "model=cnn": ["model=cnn", "training.epochs=3"]}
        pairs = {name: [compiled_anew(*given) for _ in range(2)] for name, given in networks.items()}
        return [equal_runs(f"{name}: the same run twice", *pair) for name, pair in pairs.items()]

    def resume(self) -> list[Promise]:
        """Kill a run after its second epoch, resume it, and compare it with one that was not disturbed."""
        given = ["training.epochs=30", "seed=7"]
        process = subprocess.Popen(
            [sys.executable, "run.py", *self.overrides(*given)], cwd=PROJECT, stdout=subprocess.PIPE, text=True
        )
        with process, process.stdout or open(os.devnull) as printed:  # noqa: PTH123
            if not any(line.startswith("epoch  2/") for line in printed):
                raise TrainingError("A run ended before its second epoch.")
            process.send_signal(signal.SIGKILL)
        killed = self.records()[-1].run_id
        measure_process(sys.executable, "run.py", f"resume={killed}", f"tracking.uri={self.uri}")
        (resumed,) = [self.read(record) for record in self.records() if record.run_id == killed]
        return [equal_runs("a run killed and resumed, against one that was not", resumed, self.run(*given))]

    def speed(self) -> list[Promise]:
        """Measure an epoch after the first against Keras's `fit`, and JAX and PyTorch where they are installed."""
        shared = ["data.validation=0", "training.epochs=4"]
        ours = {batch: self.run(*shared, f"training.batch_size={batch}").later_epoch for batch in (32, 512)}
        promises = [at_most("an epoch, batch 32, against Keras fit", ours[32] / self.peer("keras", 32), 1.0)]
        for name, package, limits in (("JAX", "jax", {32: 1.0, 512: 1.2}), ("PyTorch", "torch", {32: 1.0})):
            if find_spec(package) and (package != "jax" or find_spec("optax")):
                promises += [
                    at_most(f"an epoch, batch {batch}, against {name}", ours[batch] / self.peer(package, batch), limit)
                    for batch, limit in limits.items()
                ]
        cnn = self.run(*shared, "model=cnn", "training.batch_size=128").later_epoch
        return [*promises, at_most("an epoch of model=cnn, batch 128, in seconds", cnn, 0.10)]

    def peer(self, package: str, batch: int) -> float:
        """Return the seconds of an epoch after the first without this project."""
        print(f"plain_{package}.py, batch {batch}", file=sys.stderr)
        script = str(PROJECT / "scripts" / f"plain_{package}.py")
        options = ["--epochs", "2" if package == "keras" else "4", "--batch-size", str(batch)]
        return median(measure_process(sys.executable, script, str(self.mnist), *options).epochs[1:])

    @cached_property
    def mnist(self) -> Path:
        file = self.folder / "mnist.npz"
        save_mnist(file, 1300 if self.quick else None)
        return file

    def compiling(self) -> list[Promise]:
        """Measure the first epoch without and with programs that an earlier process compiled."""
        drop_programs()
        first, second = (self.run("training.epochs=1", "seed=3").epochs[0] for _ in range(2))
        return [
            at_most("the first epoch, compiling, in seconds", first, 2.5),
            at_most("the first epoch of a second start, in seconds", second, 1.0),
        ]

    def replicas(self) -> list[Promise]:
        """Train on two logical devices, and compare with one."""
        given = ["training.epochs=2", "seed=5"]
        one = self.run(*given)
        two = self.run(*given, "distribution=mirrored", "distribution.devices=2", python=("-c", ON_TWO))
        differences = [abs(a / b - 1) for a, b in zip(two.metrics["loss"], one.metrics["loss"], strict=True)]
        return [
            at_most("2 logical devices, an epoch in seconds", two.later_epoch, 1.5),
            at_most("2 logical devices, difference of the loss from one device", max(differences), ROUNDING),
        ]

    def pool(self) -> list[Promise]:
        """Run a sweep of eight jobs, two at a time on one GPU, and one of the jobs alone."""
        given = ["training.epochs=3", "model.dropout=0.25"]
        before = len(self.records())
        print(f"run.py -m {' '.join(given)}, 8 seeds, 2 workers", file=sys.stderr)
        sweep = ["-m", *self.overrides(*given), "seed=range(11,19)", "hydra.launcher.workers=2"]
        measure_process(sys.executable, "run.py", *sweep)
        jobs = self.records()[before:]
        alone = self.run(*given, "seed=11")
        (child,) = [self.read(job) for job in jobs if job.params["seed"] == "11"]
        wall = (max(job.end_time or 0 for job in jobs) - min(job.start_time for job in jobs)) / 1000
        besides = (2 * wall - sum(job.metrics["train_seconds"] for job in jobs)) / len(jobs)
        return [
            equal_runs("a job of a sweep that shares the GPU, against the same run alone", child, alone),
            at_most("a job besides its training, in seconds", besides, 0.6),
        ]


CHECKS: dict[str, Callable[[Checks], list[Promise]]] = {
    check.__name__: check
    for check in (Checks.bits, Checks.resume, Checks.speed, Checks.compiling, Checks.replicas, Checks.pool)
}


def attempt(name: str, checks: Checks) -> list[Promise]:
    """Return the promises of a check; a process that fails breaks them all."""
    try:
        return CHECKS[name](checks)
    except TrainingError as error:
        print(error, file=sys.stderr)
        return [Promise(f"{name}: every process ends well", str(error).splitlines()[-1], None, False)]


def drop_programs() -> None:
    """Let the next process compile anew; the programs that are kept are only faster than that."""
    for path in PROGRAM_FOLDER.glob("*/*.pb"):
        path.unlink(missing_ok=True)


def equal_runs(promise: str, one: CheckedRun, other: CheckedRun) -> Promise:
    """Compare all metrics of two runs that are not times, to the last bit."""
    different = sorted(name for name in one.metrics if one.metrics[name] != other.metrics.get(name))
    return Promise(promise, f"different: {', '.join(different)}" if different else "equal", None, not different)


def at_most(promise: str, found: float, limit: float) -> Promise:
    return Promise(promise, found, limit, found <= limit)


def show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(", ".join(f"{key} {value}" for key, value in result["machine"].items() if value))
    table = Table("promise", "found", "at most", "")
    for promise in result["promises"]:
        found, limit = promise["found"], promise["limit"]
        shown = found if isinstance(found, str) else f"{found:.3g}"
        table.add_row(promise["promise"], shown, f"{limit:g}" if limit else "", "kept" if promise["kept"] else "BROKEN")
    console.print(table)


def main() -> int:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(CHECKS)}")
    add("--json", metavar="FILE", type=Path, help="write everything as JSON too")
    add("--quick", action="store_true", help="little data")
    add("--any-device", action="store_true", help="go on without a GPU")

    def command() -> int:
        options = parser.parse_args()
        if unknown := [name for name in options.names if name not in CHECKS]:
            parser.error(f"unknown check {unknown[0]!r}. Choices: {', '.join(CHECKS)}")
        facts = in_fresh_process(machine)
        if not facts["gpus"] and not options.any_device:
            raise UserError(
                "TensorFlow finds no GPU here. Look at nvidia-smi, and install pip install -e '.[gpu]'; or add"
                " --any-device, to see the script work."
            )
        with tempfile.TemporaryDirectory() as folder:
            checks = Checks(Path(folder), options.quick)
            promises: list[Promise] = []
            now = datetime.now(UTC).isoformat(timespec="seconds")
            for name in options.names or CHECKS:
                promises += attempt(name, checks)
                result = {"date": now, "machine": facts, "promises": [asdict(promise) for promise in promises]}
                if options.json:  # also if a later check never ends
                    options.json.write_text(json.dumps(result, indent=2) + "\n")
        show(result)
        return int(not all(promise.kept for promise in promises))

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
