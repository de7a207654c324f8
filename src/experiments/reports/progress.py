"""The progress of training: a live bar per epoch in a terminal, one plain line per epoch elsewhere."""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from experiments.config.metrics import metric_names
from experiments.formatting import format_duration, plain_console

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID


class ProgressDisplay:
    """The progress of one run on the console; a context manager around training."""

    def __init__(self, epochs: int, steps: int, examples: int, done: int, alive: Callable[[], None]) -> None:
        """Take the epochs of the run, the steps and examples of an epoch, and the steps done by an earlier process,
        which do not count for the speed and the time left; `alive` is called at each sign of progress."""
        self.console = plain_console()
        self.epochs, self.steps, self.examples, self.done, self.alive = epochs, steps, examples, done, alive
        self.bar: Bar | None = None
        self.task: TaskID | None = None
        self.started = self.epoch_started = 0.0

    def __enter__(self) -> "ProgressDisplay":
        from rich.progress import BarColumn, Progress, TextColumn

        self.started = self.epoch_started = time.perf_counter()
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[facts]}"))
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.task = self.bar.add_task(self._title(1), total=self.steps, facts="compiling")
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def step(self, epoch: int, step: int, metrics: Mapping[str, float]) -> None:
        """Show the means of the epoch so far."""
        self.alive()
        if not self.bar or self.task is None:
            return
        now = time.perf_counter()
        done = (epoch - 1) * self.steps + step
        left = (now - self.started) / (done - self.done) * (self.epochs * self.steps - done)
        here = step - max(0, self.done - (epoch - 1) * self.steps)  # of this epoch, by this process
        rate = self.examples * here / self.steps / max(now - self.epoch_started, 1e-9)
        facts = f"{_list_metrics(metrics)}  {rate:,.0f} examples/s  {format_duration(left)} left"
        self.bar.update(self.task, completed=step, description=self._title(epoch), facts=facts)

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Print the metrics of a finished epoch."""
        rate = f"{metrics['examples_per_second']:,.0f} examples/s"
        self.console.print(f"{self._title(epoch)}  {_list_metrics(metrics)}  {metrics['epoch_seconds']:.2f} s  {rate}")
        self.epoch_started = time.perf_counter()

    def _title(self, epoch: int) -> str:
        return f"epoch {epoch:{len(str(self.epochs))}}/{self.epochs}"


def _list_metrics(metrics: Mapping[str, float]) -> str:
    shown = metric_names("", "val_")
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name in shown)
