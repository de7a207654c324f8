"""The progress of training: one plain line per epoch in a file, a live bar in a terminal."""

import os
import pty
import subprocess
import sys
import time

import pytest

from experiments.reports.progress import ProgressDisplay

SCRIPT = """
import time
from experiments.reports.progress import ProgressDisplay
with ProgressDisplay(epochs=2, steps=10, examples=320, done=0, alive=lambda: None) as progress:
    for epoch in (1, 2):
        for step in (5, 10):
            progress.step(epoch, step, {"loss": 0.5, "accuracy": 0.75})
            time.sleep(0.3)
        progress.epoch(epoch, {"loss": 0.5, "val_loss": 0.25, "epoch_seconds": 1.5, "examples_per_second": 2000.0})
"""


def test_file_gets_one_plain_line_per_epoch() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        "epoch 1/2  loss 0.5000  val_loss 0.2500  1.50 s  2,000 examples/s",
        "epoch 2/2  loss 0.5000  val_loss 0.2500  1.50 s  2,000 examples/s",
    ]
    assert done.stderr == ""


def test_terminal_gets_a_live_bar_with_metrics_speed_and_time_left() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160"}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # the other end is closed: Linux says so by an error
        pass
    assert process.wait(60) == 0
    text = shown.decode()
    assert "\x1b[" in text  # it moves the cursor
    for fact in ("epoch 1/2", "loss 0.5000", "accuracy 0.7500", "examples/s", "s left"):
        assert fact in text


def test_speed_counts_only_the_steps_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    with ProgressDisplay(epochs=3, steps=10, examples=32_000, done=15, alive=lambda: None) as progress:
        for epoch, facts in ((2, "160 examples/s"), (3, "320 examples/s")):
            progress.epoch_started = time.perf_counter() - 100
            progress.step(epoch, 10, {})
            assert progress.bar
            assert facts in progress.bar.tasks[0].fields["facts"]
