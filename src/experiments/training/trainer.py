"""Training, epoch by epoch: metrics, early stopping, the best epoch, the plateau rule, checkpoints and signals.

The steps are in compiled_loop.py, and in fit_loop.py for Keras's own loop.
"""

import math
import signal
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from experiments.config.metrics import higher_is_better
from experiments.config.optimizer_schema import ReduceOnPlateauSchedule
from experiments.config.schema import Config
from experiments.data.datasets import Dataset
from experiments.errors import ENDING_SIGNALS, REPEATED_SIGNALS, Terminated
from experiments.profiling import span
from experiments.training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from experiments.training.compiled_loop import CompiledLoop
from experiments.training.evaluation import Metrics, class_weights, refuse_not_finite, split_metrics, tell_undefined
from experiments.training.fit_loop import FitLoop
from experiments.training.network_cache import CompiledNetwork
from experiments.training.optimizers import plan_hyperparameters


class TrainingObserver(Protocol):
    """Receives each step and epoch while training runs."""

    def step(self, epoch: int, step: int, metrics: Mapping[str, float]) -> None: ...

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None: ...


def improvement(metric: str, value: float, other: float) -> float:
    """Return by how much a value of the metric is better than another; below 0 if it is worse."""
    return value - other if higher_is_better(metric) else other - value


@dataclass
class ImprovementWatch:
    """The best value of a metric so far, its epoch, and how many epochs ago that was."""

    best: float | None = None
    epoch: int = 0
    wait: int = 0

    def improved(self, metric: str, value: float, epoch: int, min_delta: float) -> bool:
        """Record the value of an epoch, and return whether it beats the best so far by more than `min_delta`.

        NaN, of a metric that is not defined, is no improvement.
        """
        better = self.best is None or improvement(metric, value, self.best) > min_delta
        if better and not math.isnan(value):
            self.best, self.epoch, self.wait = value, epoch, 0
            return True
        self.wait += 1
        return False


@dataclass
class TrainingState:
    """The progress of training; with weights and optimizer, all that is needed to continue."""

    epoch: int = 1  # in progress; one more than the last when all are done
    step: int = 0  # number of its steps that are done
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0])  # loss and metric over their examples
    seconds: float = 0.0  # spent on those steps
    history: dict[str, list[float]] = field(
        default_factory=dict
    )  # metric -> one value per finished epoch, NaN if undefined
    stopping: ImprovementWatch = field(default_factory=ImprovementWatch)  # what early stopping has seen
    plateau: ImprovementWatch = field(default_factory=ImprovementWatch)  # what the schedule has seen
    plateau_factor: float = 1.0  # what the schedule's learning rate is multiplied by
    stopped: bool = False  # early stopping has ended the training


class Trainer:
    """Trains a network in place, keeping its state in the file `checkpoint`, and continuing from it if it exists.

    Without one it starts from `kept`, the final state of an earlier run, if there is one.
    """

    def __init__(
        self,
        config: Config,
        network: CompiledNetwork,
        dataset: Dataset,
        checkpoint: Path | None,
        kept: Checkpoint | None = None,
    ) -> None:
        self.config, self.dataset, self.checkpoint = config, dataset, checkpoint
        self.model, self.optimizer, self.evaluate = network.model, network.optimizer, network.evaluate
        self.state, self.best_weights = TrainingState(), list[np.ndarray]()
        self.told = set[str]()  # metrics that are not defined
        loop = FitLoop if config.training.loop == "fit" else CompiledLoop
        weights = class_weights(config, dataset.train.targets)
        self.loop: FitLoop | CompiledLoop = loop(network, dataset.train, config.seed, weights)
        self.examples = len(dataset.train.targets)
        self.steps = -(-self.examples // network.batch_size)
        self.saved = time.monotonic()
        stored = load_checkpoint(checkpoint) if checkpoint else None
        if stored := stored or kept:
            self._restore(stored)

    @property
    def steps_done(self) -> int:
        """The number of steps of the whole run that are done."""
        return (self.state.epoch - 1) * self.steps + self.state.step

    def finished_epochs(self) -> Iterator[tuple[int, Metrics]]:
        """Yield the epochs that were finished before this process began, as `run` would."""
        for index in range(self.state.epoch - 1):
            values = {name: values[index] for name, values in self.state.history.items()}
            yield index + 1, {name: value for name, value in values.items() if not math.isnan(value)}

    def run(self, progress: TrainingObserver) -> Generator[tuple[int, Metrics], None, None]:
        """Train, and yield the number and metrics of each epoch when it is finished.

        The metrics are loss and accuracy (or mean_absolute_error) over the epoch's examples as they were trained on,
        the same with `val_` after the epoch, learning_rate (of the last step), epoch_seconds (without validation) and
        examples_per_second, and of the config's `metrics` those that are defined. Afterwards the model has its final
        weights: the best epoch's with `training.restore_best`.
        Raise a NotFiniteError if a metric is not finite; KeyboardInterrupt and Terminated come after a checkpoint.
        """
        state, epochs = self.state, self.config.training.epochs
        if isinstance(self.loop, CompiledLoop):
            self.loop.check_agreement(self.steps_done)
        with DeferredSignals() as signals:
            while state.epoch <= epochs and not state.stopped:
                metrics, undefined = self._epoch(progress, signals)
                for name, value in (metrics | dict.fromkeys(undefined, math.nan)).items():
                    state.history.setdefault(name, []).append(value)
                progress.epoch(state.epoch, metrics)
                self._judge(metrics)
                state.epoch, state.step, state.sums, state.seconds = state.epoch + 1, 0, [0.0, 0.0], 0.0
                self._save()
                yield state.epoch - 1, metrics
                signals.check()
        self.optimizer.finalize_variable_values(self.model.trainable_variables)
        for layer in self.model.layers:
            if hasattr(layer, "synchronized"):  # the logged model is for one device, and any backend
                layer.synchronized = False
        if self.best_weights:
            self.model.set_weights(self.best_weights)

    @span("epoch")
    def _epoch(self, progress: TrainingObserver, signals: "DeferredSignals") -> tuple[Metrics, list[str]]:
        """Train an epoch, and return its metrics and the names of those that are not defined."""
        state, epoch, config = self.state, self.state.epoch, self.config
        plan = plan_hyperparameters(config, self.steps, epoch, state.plateau_factor)
        began = time.perf_counter() - state.seconds

        def report(step: int, sums: np.ndarray) -> None:
            progress.step(epoch, step, self._means(sums, min(step * self.config.training.batch_size, self.examples)))
            if self.loop.resumes_within_an_epoch:
                state.step, state.sums = step, [float(value) for value in sums]
                state.seconds = time.perf_counter() - began
                minutes = self.config.training.checkpoint_minutes
                if signals.received or (minutes is not None and time.monotonic() - self.saved > 60 * minutes):
                    self._save()
            signals.check()

        sums = self.loop.epoch(epoch, plan, state.step, np.array(state.sums, np.float32), report)
        seconds = max(time.perf_counter() - began, 1e-9)  # a clock may stand still
        metrics = self._means(sums, self.examples)
        if len(self.dataset.validation.targets):
            held_out = self.evaluate(self.dataset.validation)
            metrics |= {f"val_{name}": value for name, value in held_out.metrics.items()}
        refuse_not_finite(metrics, f"in epoch {epoch} of {config.training.epochs}")
        undefined: dict[str, str] = {}
        if len(self.dataset.validation.targets):
            further, undefined = split_metrics(
                config.metrics, self.dataset.validation.targets, held_out.outputs, "val_"
            )
            metrics |= further
            tell_undefined({name: reason for name, reason in undefined.items() if name not in self.told})
            self.told |= set(undefined)
        times = {"epoch_seconds": seconds, "examples_per_second": self.examples / seconds}
        return metrics | {"learning_rate": float(plan[-1, 0])} | times, list(undefined)

    def _means(self, sums: np.ndarray, examples: int) -> Metrics:
        return {"loss": float(sums[0]) / examples, self.evaluate.quality.__name__: float(sums[1]) / examples}

    def _judge(self, metrics: Metrics) -> None:
        """Apply early stopping, keep the best weights, and apply the plateau rule, after an epoch."""
        state, stopping, schedule = self.state, self.config.training.early_stopping, self.config.schedule
        value = metrics.get(stopping.metric, math.nan)
        if stopping.patience is not None or self.config.training.restore_best:
            if state.stopping.improved(stopping.metric, value, state.epoch, stopping.min_delta):
                self.best_weights = self.model.get_weights() if self.config.training.restore_best else []
            state.stopped = stopping.patience is not None and state.stopping.wait >= stopping.patience
        if stopping.goal is not None and improvement(stopping.metric, value, stopping.goal) >= 0:
            state.stopped = True
        if isinstance(schedule, ReduceOnPlateauSchedule):
            watched = metrics.get(schedule.metric, math.nan)
            state.plateau.improved(schedule.metric, watched, state.epoch, schedule.min_delta)
            if state.plateau.wait >= schedule.patience:
                state.plateau.wait = 0
                state.plateau_factor = max(state.plateau_factor * schedule.factor, schedule.smallest_fraction)

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        optimizer = [variable.numpy() for variable in self.optimizer.variables]
        arrays = {"weights": self.model.get_weights(), "optimizer": optimizer, "best": self.best_weights}
        save_checkpoint(self.checkpoint, asdict(self.state), arrays)
        self.saved = time.monotonic()

    def _restore(self, checkpoint: Checkpoint) -> None:
        stored, arrays = checkpoint
        watches: dict[str, Any] = {name: ImprovementWatch(**stored.pop(name)) for name in ("stopping", "plateau")}
        self.state = TrainingState(**stored, **watches)
        self.model.set_weights(arrays["weights"])
        for variable, value in zip(self.optimizer.variables, arrays["optimizer"], strict=True):
            variable.assign(value)
        self.best_weights = arrays.get("best", [])


class DeferredSignals:
    """Holds ending signals back until the next `check`, so that weights and state are always of the same step."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "DeferredSignals":
        if threading.current_thread() is threading.main_thread():  # Python handles signals there only
            handled = [n for n in (signal.SIGINT, *ENDING_SIGNALS) if signal.getsignal(n) != signal.SIG_IGN]
            self.before = {sent: signal.signal(sent, self._note) for sent in handled}
        return self

    def __exit__(self, *_: object) -> None:
        for sent, handler in self.before.items():
            signal.signal(sent, handler)

    def _note(self, sent: int, _: object) -> None:
        if sent in REPEATED_SIGNALS:
            self.before[sent] = signal.SIG_IGN
        impatient = self.received == sent and sent not in REPEATED_SIGNALS
        self.received = sent
        if impatient:
            self.check()

    def check(self) -> None:
        """Raise the exception of a signal received in the meantime."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is not None:
            raise Terminated(self.received)
