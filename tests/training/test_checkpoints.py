"""Checkpoints are restored exactly, and a kill during a save leaves the earlier one."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from experiments.training.checkpoints import load_checkpoint, save_checkpoint


def test_state_and_arrays_are_restored_bit_for_bit(tmp_path: Path) -> None:
    state = {"epoch": 3, "sums": [0.1 + 0.2, 1e-300], "history": {"loss": [float(np.float32(1 / 3))]}, "best": None}
    arrays = {"weights": [np.float32([[1, 2]]), np.array(7, np.int64)], "optimizer": [], "best": [np.zeros(0)]}
    save_checkpoint(tmp_path / "run.npz", state, arrays)
    found, groups = load_checkpoint(tmp_path / "run.npz")
    assert found == state
    assert {name: [a.tolist() for a in group] for name, group in groups.items()} == {
        "weights": [[[1.0, 2.0]], 7],
        "best": [[]],
    }
    assert groups["weights"][1].dtype == np.int64


def test_more_than_ten_arrays_keep_their_order(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "run.npz", {}, {"weights": [np.array(n) for n in range(12)]})
    assert [int(a) for a in load_checkpoint(tmp_path / "run.npz")[1]["weights"]] == list(range(12))


def test_kill_during_a_save_leaves_a_complete_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    script = f"""
import itertools, pathlib, numpy as np
from experiments.training.checkpoints import save_checkpoint
for n in itertools.count():
    save_checkpoint(pathlib.Path({str(path)!r}), {{"n": n}}, {{"weights": [np.full(500_000, n)]}})
    print(n, flush=True)
"""
    for saves in (1, 4, 7):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert process.stdout
        for _ in range(saves):
            process.stdout.readline()
        process.kill()  # most of its time it is within a save
        process.wait()
        state, groups = load_checkpoint(path)
        assert (groups["weights"][0] == state["n"]).all()
