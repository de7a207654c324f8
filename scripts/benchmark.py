"""Measure the project side by side with what people would run otherwise; every figure is a ratio.

python scripts/benchmark.py                        all figures: about 25 minutes on two cores
python scripts/benchmark.py startup walkthrough    some of them
python scripts/benchmark.py --json FILE            also as JSON, with every sample
python scripts/benchmark.py --quick                one round of few epochs: shows that it works, nothing to quote

Each sample is a process of its own. The sides of a figure take turns, in every second round in reverse order, so that
a busy or slowing machine affects all of them equally. The ratio is the median of the ratios of the rounds.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Literal, TypeVar

from image_measuring import MeasuredReading, make_arrays, make_pictures, read_with_keras, read_with_project
from measuring import MeasuredProcess, MeasuredRun, in_fresh_process, measure_process, measure_run

from experiments import PROJECT
from experiments.config.composition import compose_job
from experiments.data.datasets import find_dataset, load_dataset
from experiments.errors import CommandParser, DataError, TrainingError, run_command
from experiments.tracking.environment import describe_hardware, read_code_state

# TensorFlow stays out of this process: on Linux a child's peak memory starts at that of its parent.

NO_REPORT = ["report.figures=none", "tracking.log_model=false"]
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """Two things measured side by side, with a sample of each per round."""

    measured: str
    against: str
    samples: list[float]
    references: list[float]
    unit: str = "s"  # or MiB
    limit: float | None = None  # the promised maximum of the median that `limited` names
    limited: Literal["value", "ratio"] = "ratio"

    def as_dict(self) -> dict[str, Any]:
        ratios = [sample / reference for sample, reference in zip(self.samples, self.references, strict=True)]
        medians = {"value": median(self.samples), "reference": median(self.references), "ratio": median(ratios)}
        kept = None if self.limit is None else medians[self.limited] <= self.limit
        return {**vars(self), **medians, "ratio_range": [min(ratios), max(ratios)], "limit_kept": kept}


@dataclass(frozen=True)
class Bench:
    """What the figures share."""

    repeats: int
    quick: bool
    folder: Path  # of everything that is written; also has MNIST as mnist.npz, if a figure needs it

    def in_turns(self, name: str, sides: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
        """Call each side once per round, in every second round in reverse order; return the results by side."""
        results: dict[str, list[T]] = {side: [] for side in sides}
        for number in range(self.repeats):
            print(f"{name}: round {number + 1} of {self.repeats}", file=sys.stderr)
            for side in [*sides][:: -1 if number % 2 else 1]:
                results[side].append(sides[side]())
        return results

    def run(self, *overrides: str) -> MeasuredRun:
        """Measure a run of the project in a fresh process, tracked in the benchmark's own store."""
        uri = f"tracking.uri=sqlite:///{self.folder / 'mlflow.db'}"
        return in_fresh_process(measure_run, [*overrides, *(["training.epochs=2"] if self.quick else []), uri])

    def command(self, *arguments: str) -> tuple[MeasuredProcess, list[tuple[float, float, float]]]:
        """Measure a whole run.py on a new store; also return the `trained_runs` of that store."""
        with tempfile.TemporaryDirectory(dir=self.folder) as store:
            uri = f"sqlite:///{store}/mlflow.db"
            whole = measure_process(sys.executable, "run.py", *arguments, f"tracking.uri={uri}")
            return whole, in_fresh_process(trained_runs, uri)

    def plain_keras(self, *options: str, data: Path | None = None) -> MeasuredProcess:
        """Measure the same network trained without the project, on MNIST or on other data."""
        script = str(PROJECT / "scripts" / "plain_keras.py")
        return measure_process(sys.executable, script, str(data or self.folder / "mnist.npz"), *options)


def startup(bench: Bench) -> list[Row]:
    """Measure the time until --help or a mistake in the config is answered."""
    python = partial(measure_process, sys.executable)
    ours = {
        "python run.py --help": partial(python, "run.py", "--help"),
        "python run.py model.droput=0.3": partial(python, "run.py", "model.droput=0.3", exit_code=2),
    }
    theirs = {f'python -c "import {name}"': partial(python, "-c", f"import {name}") for name in ("hydra", "tensorflow")}
    results = bench.in_turns("startup", ours | theirs)
    seconds = {side: [p.seconds for p in processes] for side, processes in results.items()}
    return [Row(our, their, seconds[our], seconds[their]) for our in ours for their in theirs]


def walkthrough(bench: Bench) -> list[Row]:
    """Measure the walkthrough's experiment, from start-up to figures and model, against its script in plain Keras."""
    epochs = f"epochs={1 if bench.quick else 10}"
    sides: dict[str, Callable[[], MeasuredProcess]] = {
        "ours": lambda: bench.command("experiment=walkthrough", f"training.{epochs}")[0],
        "theirs": lambda: bench.plain_keras(f"--{epochs}"),
    }
    ours, theirs = bench.in_turns("walkthrough", sides).values()
    measured, against = "python run.py experiment=walkthrough", "plain Keras: train and evaluate only"
    seconds = [p.seconds for p in ours], [p.seconds for p in theirs]
    peaks = [p.mebibytes for p in ours], [p.mebibytes for p in theirs]
    return [
        Row(f"{measured}: wall time", against, *seconds, "s", 0.40),
        Row(f"{measured}: peak memory", against, *peaks, "MiB", 1.0),
    ]


def epoch(bench: Bench) -> list[Row]:
    """Measure an epoch after the first, on all 60,000 images, against Keras's `fit`."""
    rows = []
    for network, batch, epochs, limit in (("mlp", 32, 4, 1 / 7), ("mlp", 128, 4, 1 / 4), ("cnn", 128, 2, 1.0)):
        name, epochs = f"epoch of model={network}, batch {batch}", 2 if bench.quick else epochs
        overrides = [f"model={network}", f"training.batch_size={batch}", f"training.epochs={epochs}"]
        options = [f"--network={network}", f"--batch-size={batch}", f"--epochs={epochs}"]
        sides: dict[str, Callable[[], MeasuredRun | MeasuredProcess]] = {
            "ours": partial(bench.run, "data.validation=0", *NO_REPORT, *overrides),
            "theirs": partial(bench.plain_keras, *options),
        }
        ours, theirs = ([median(r.epochs[1:]) for r in side] for side in bench.in_turns(name, sides).values())
        rows.append(Row(name, "Keras fit", ours, theirs, limit=limit))
    return rows


def report(bench: Bench) -> list[Row]:
    """Measure figures, tables, predictions and model of the default run, against the whole run."""
    limits = {"full": 3.0, "light": 0.7}
    runs = bench.in_turns("report", {size: partial(bench.run, f"report.figures={size}") for size in limits})
    name = "figures, tables, predictions, model: report.figures="
    seconds = {size: ([run.report for run in runs[size]], [run.seconds for run in runs[size]]) for size in limits}
    return [Row(name + size, "the whole run", *seconds[size], "s", limits[size], "value") for size in limits]


def logging(bench: Bench) -> list[Row]:
    """Measure the logging between the epochs, against the training."""
    runs = bench.in_turns("logging", {"run": partial(bench.run, *NO_REPORT)})["run"]
    seconds = [run.logging for run in runs], [sum(run.epochs) for run in runs]
    return [Row("logging the metrics of each epoch", "training", *seconds, "s", 0.03)]


def compile(bench: Bench) -> list[Row]:
    """Measure how much longer the first epoch takes than a later one."""
    runs = bench.in_turns("compile", {"run": partial(bench.run, *NO_REPORT, "training.epochs=4")})["run"]
    later = [median(run.epochs[1:]) for run in runs]
    more = [run.epochs[0] - usual for run, usual in zip(runs, later, strict=True)]
    return [Row("first epoch less a later one", "a later epoch", more, later, "s", 2.0, "value")]


def sweep(bench: Bench) -> list[Row]:
    """Measure a sweep in the pool against plain scripts, and the overhead of a job for each way to run it."""
    rates = ["model.dropout=0.1,0.2,0.3,0.4", "optimizer.learning_rate=1e-3,5e-4,2e-4,1e-4"]
    epochs, jobs = 1 if bench.quick else 10, 16
    shared = [f"training.epochs={epochs}", "data.validation=0"]

    def swept(*options: str) -> tuple[float, float]:
        """Return the seconds of the whole command, and of a job besides training once the workers are up."""
        whole, runs = bench.command("-m", *rates, *shared, *options)
        workers = 1 if "hydra/launcher=basic" in options else min(os.cpu_count() or 1, jobs)
        wall = max(end for _, end, _ in runs) - min(start for start, _, _ in runs)
        return whole.seconds, (workers * wall - sum(trained for _, _, trained in runs)) / len(runs)

    def alone() -> float:
        """Return the seconds besides training of a job in a process of its own."""
        whole, [(_, _, trained)] = bench.command(*shared, "report.figures=light")
        return whole.seconds - trained

    sides: dict[str, Callable[[], Any]] = {
        "pool": swept,
        "plain": lambda: [bench.plain_keras(f"--epochs={epochs}").seconds for _ in range(2)],
        "basic": partial(swept, "hydra/launcher=basic"),
        "alone": alone,
    }
    results = bench.in_turns("sweep", sides)
    whole = [seconds for seconds, _ in results["pool"]]
    plain = [sum(pair) * jobs / 2 for pair in results["plain"]]
    pool, basic = ([besides for _, besides in results[side]] for side in ("pool", "basic"))
    jobs_of, job = "python run.py -m: 16 jobs of the default network", "a job besides training: hydra/launcher=pool"
    return [
        Row(jobs_of, "16 plain scripts, one after the other (2 measured)", whole, plain, limit=0.1),
        Row(job, "hydra/launcher=basic", pool, basic, "s", 1.5, "value"),
        Row(job, "a process for each job", pool, results["alone"], "s", 1.5, "value"),
    ]


def trained_runs(uri: str) -> list[tuple[float, float, float]]:
    """Return start, end and training time in seconds of each run in the store that trained."""
    from experiments.tracking.records import experiment_runs
    from experiments.tracking.store import open_existing_store

    _, found, _ = experiment_runs(open_existing_store(uri))
    trained = [run for run in found if "sweep" not in run.tags]
    return [(run.start_time / 1000, (run.end_time or 0) / 1000, run.metrics["train_seconds"]) for run in trained]


def load(bench: Bench) -> list[Row]:
    """Measure eight processes that log 1,000 runs of 200 points at once into a new store, none lost, against one."""
    processes, each = 8, 5 if bench.quick else 125

    def together(count: int) -> float:
        with tempfile.TemporaryDirectory(dir=bench.folder) as store:
            uri, start = f"sqlite:///{store}/mlflow.db", time.perf_counter()
            with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
                list(pool.map(log_runs, [uri] * count, [each] * count))
            seconds = time.perf_counter() - start
            found = in_fresh_process(count_runs, uri)
        if found != {"load": count * each, "Default": 0}:
            raise TrainingError(f"{count * each} runs of {POINTS} points were logged; complete in the store: {found}")
        return seconds / (count * each)

    results = bench.in_turns("load", {"eight": partial(together, processes), "one": partial(together, 1)})
    measured = f"logging a run, of {processes * each} by {processes} processes at once"
    return [Row(measured, "the same by one process", results["eight"], results["one"])]


POINTS = 200


def log_runs(uri: str, count: int) -> None:
    """Log runs with POINTS values, in ten epochs."""
    from experiments.tracking.run import open_run

    for _ in range(count):
        with open_run(uri, "load", None, {"seed": 0}, {}) as run:
            for epoch in range(1, 11):
                run.log_metrics({f"metric_{index}": float(epoch) for index in range(POINTS // 10)}, epoch)


def count_runs(uri: str) -> dict[str, int]:
    """Count the finished runs with all their points in each experiment of the store."""
    from experiments.tracking.records import experiment_runs, metric_history
    from experiments.tracking.store import connect_store

    client, found = connect_store(uri), {}
    for name in ("load", "Default"):
        records = experiment_runs(client, name)[1]
        whole = [run for run in records if set(run.metrics.values()) == {10.0} and len(run.metrics) == POINTS // 10]
        last = whole[:1] and sum(map(len, metric_history(client, whole[0]).values()))
        found[name] = sum(run.status == "FINISHED" for run in whole) if last in ([], POINTS) else -1
    return found


def images(bench: Bench) -> list[Row]:
    """Measure reading a folder of JPEG files against plain Keras, and an epoch on images of CIFAR-10's shape."""
    pictures, arrays = bench.folder / "pictures", bench.folder / "arrays.npz"
    count = 300 if bench.quick else 10_000
    in_fresh_process(make_pictures, pictures, count)
    in_fresh_process(make_arrays, arrays, 2_000 if bench.quick else 50_000)

    def ours() -> tuple[MeasuredReading, MeasuredReading]:
        with tempfile.TemporaryDirectory(dir=bench.folder) as cache:
            first, second = (in_fresh_process(read_with_project, pictures, Path(cache)) for _ in range(2))
        return first, second

    sides: dict[str, Callable[[], Any]] = {"ours": ours, "theirs": partial(in_fresh_process, read_with_keras, pictures)}
    readings, theirs = bench.in_turns("reading pictures", sides).values()
    first, second = ([pair[number] for pair in readings] for number in range(2))
    reading, against = f"reading {count:,} JPEG files", "image_dataset_from_directory, read once"
    options = ["model=cnn", "training.batch_size=128", "training.epochs=2"]
    epochs: dict[str, Callable[[], MeasuredRun | MeasuredProcess]] = {
        "ours": partial(bench.run, "data=arrays", f"data.path={arrays}", "data.validation=0", *NO_REPORT, *options),
        "theirs": partial(bench.plain_keras, "--network=cnn", "--batch-size=128", "--epochs=2", data=arrays),
    }
    name = "epoch of model=cnn, batch 128, CIFAR-10's shape"
    ours_epoch, theirs_epoch = ([median(r.epochs[1:]) for r in side] for side in bench.in_turns(name, epochs).values())
    memory = {"reading for the first time": first, "reading again": second}
    sizes = {how: ([r.mebibytes for r in each], [r.array_mebibytes for r in each]) for how, each in memory.items()}
    return [
        Row(f"{reading} for the first time", against, [each.seconds for each in first], theirs, "s", 1.0),
        Row(f"{reading} again", against, [each.seconds for each in second], theirs, "s", 0.1),
        *(Row(f"memory of {how}", "the array", *each, "MiB", 1.2) for how, each in sizes.items()),
        Row(name, "Keras fit", ours_epoch, theirs_epoch, limit=0.75),
    ]


SIZES = {
    "training.batch_size": [8, 32, 128, 512],
    "model.units": [32, 128, 512, 1024],
    "data.limit": [7500, 15000, 30000, 60000],
    "distribution.devices": [1, 2, 4],
}


def scaling(bench: Bench) -> list[Row]:
    """Measure how the cost of an epoch grows with batch size, units, examples and replicas, against the default."""
    base = ["data.validation=0", "training.epochs=3", *NO_REPORT]
    rows = []
    for key, values in SIZES.items():
        mirrored = ["distribution=mirrored"] if key == "distribution.devices" else []
        sides = {f"{key}={value}": partial(bench.run, *base, *mirrored, f"{key}={value}") for value in values}
        results = bench.in_turns(f"scaling of {key}", {"default": partial(bench.run, *base), **sides})
        seconds = {side: [median(run.epochs[1:]) for run in runs] for side, runs in results.items()}
        rows += [Row(side, "default", seconds[side], seconds["default"]) for side in sides]
    return rows


def plot_scaling(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw a panel for each key of SIZES: seconds per epoch over its values."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    for axes, key in zip(figure.subplots(2, 2).flat, SIZES, strict=True):
        values = {float(r["measured"].partition("=")[2]): r["value"] for r in rows if r["measured"].startswith(key)}
        axes.plot(values.keys(), values.values(), "o-")
        axes.set_xscale("log", base=2)
        axes.set(xlabel=key, ylabel="seconds per epoch", ylim=(0, None))
        axes.set_xticks(list(values), [f"{value:g}" for value in values])
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


FIGURES = {f.__name__: f for f in (startup, walkthrough, epoch, images, report, logging, compile, sweep, load, scaling)}
WITHOUT_MNIST = {"startup", "images"}


def machine() -> dict[str, object]:
    from experiments.runtime import start_tensorflow

    start_tensorflow(1)  # keeps it quiet
    facts = {key: value for key, value in describe_hardware().items() if key != "threads"}
    packages = ("tensorflow", "keras", "numpy", "mlflow", "hydra-core")
    return {**facts, **{package: version(package) for package in packages}, **read_code_state().tags}


def main() -> int:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(FIGURES)}")
    add("--repeats", type=int, default=3, metavar="N", help="rounds of each figure (default: 3)")
    add("--json", metavar="FILE", type=Path, help="write everything as JSON too")
    add("--plot", metavar="FILE", type=Path, help="draw the figure `scaling` as a PNG")
    add("--quick", action="store_true", help="one round, few epochs")

    def command() -> None:
        options = parser.parse_args()
        names, repeats = options.names or list(FIGURES), 1 if options.quick else options.repeats
        if repeats < 1:
            parser.error(f"--repeats={repeats}: expected 1 or more")
        if unknown := [name for name in names if name not in FIGURES]:
            parser.error(f"unknown figure {unknown[0]!r}. Choices: {', '.join(FIGURES)}")
        if options.plot and "scaling" not in names:
            parser.error("--plot draws the figure `scaling`, which is not among the names")
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(repeats, options.quick, Path(folder))
            if not WITHOUT_MNIST.issuperset(names):
                save_mnist(bench.folder / "mnist.npz")
            now, busy = datetime.now(UTC).isoformat(timespec="seconds"), round(os.getloadavg()[0], 2)
            result = {"date": now, "load_before": busy, "repeats": repeats, "quick": options.quick}
            result["machine"] = in_fresh_process(machine)
            result["figures"] = [{"figure": name, **row.as_dict()} for name in names for row in FIGURES[name](bench)]
        show(result)
        if options.plot:
            plot_scaling([row for row in result["figures"] if row["figure"] == "scaling"], options.plot)
        if options.json:
            options.json.write_text(json.dumps(result, indent=2) + "\n")

    return run_command(command)


def save_mnist(file: Path, limit: int | None = None) -> None:
    """Save MNIST, verified, in the form that plain_keras.py reads; a DataError if it is missing or damaged."""
    import numpy as np

    config = compose_job(["data.validation=0", *([f"data.limit={limit}"] if limit else [])])
    if find_dataset(config.data) is None:
        raise DataError(
            "The figures other than startup and images need MNIST, which is not on this machine. `python run.py`"
            " downloads it; or set EXPERIMENTS_DATA_DIR=FOLDER, the folder that holds it in mnist/."
        )
    data = load_dataset(config.data, config.seed)
    train, test = data.train, data.test
    np.savez(file, x_train=train.inputs, y_train=train.targets, x_test=test.inputs, y_test=test.targets)


def show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(", ".join(f"{key} {value}" for key, value in result["machine"].items() if value))
    console.print(f"{result['date']}, {result['repeats']} rounds, load {result['load_before']} before")
    table = Table("figure", "measured", "against", "medians", "ratio (least to most)", "limit")
    for row in result["figures"]:
        numbers = (row["value"], row["reference"], row["ratio"], *row["ratio_range"])
        value, reference, ratio, least, most = (f"{n:,.0f}" if abs(n) >= 100 else f"{n:.3g}" for n in numbers)
        unit, kept = " s" if row["limited"] == "value" else "", "kept" if row["limit_kept"] else "not kept"
        limit = "" if row["limit"] is None else f"{row['limit']:g}{unit}: {kept}"
        medians = f"{value} to {reference} {row['unit']}"
        table.add_row(row["figure"], row["measured"], row["against"], medians, f"{ratio} ({least} to {most})", limit)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
