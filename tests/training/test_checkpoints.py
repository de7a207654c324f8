"""Checkpoints are restored exactly, and a kill during a save leaves the earlier one."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.errors import UserError
from experiments.training import checkpoints
from experiments.training.checkpoints import drop_checkpoint, load_checkpoint, lock_checkpoint, save_checkpoint


def test_state_and_arrays_are_restored_bit_for_bit(tmp_path: Path) -> None:
    state = {"epoch": 3, "sums": [0.1 + 0.2, 1e-300], "history": {"loss": [float(np.float32(1 / 3))]}, "best": None}
    arrays = {"weights": [np.float32([[1, 2]]), np.array(7, np.int64)], "optimizer": [], "best": [np.zeros(0)]}
    save_checkpoint(tmp_path / "run.npz", state, arrays)
    found, groups = load_checkpoint(tmp_path / "run.npz") or ({}, {})
    assert found == state
    assert {name: [a.tolist() for a in group] for name, group in groups.items()} == {
        "weights": [[[1.0, 2.0]], 7],
        "best": [[]],
    }
    assert groups["weights"][1].dtype == np.int64


def test_more_than_ten_arrays_keep_their_order(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "run.npz", {}, {"weights": [np.array(n) for n in range(12)]})
    _, groups = load_checkpoint(tmp_path / "run.npz") or ({}, {})
    assert [int(a) for a in groups["weights"]] == list(range(12))


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
        state, groups = load_checkpoint(path) or ({}, {})
        assert (groups["weights"][0] == state["n"]).all()


def test_a_damaged_checkpoint_is_replaced_by_the_one_before_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, whole = tmp_path / "run.npz", {"weights": [np.arange(40.0)]}
    save_checkpoint(path, {"epoch": 1}, whole)
    save_checkpoint(path, {"epoch": 2}, whole)
    earlier, later = tmp_path / "run.previous", path.read_bytes()
    kept, found = earlier.read_bytes(), set()
    for position in range(0, len(later), 13):
        path.write_bytes(later[:position] + bytes([later[position] ^ 0xFF]) + later[position + 1 :])
        earlier.write_bytes(kept)
        state, groups = load_checkpoint(path) or ({}, {})
        assert groups["weights"][0].tolist() == whole["weights"][0].tolist()
        found.add(state["epoch"])  # 2 where the byte carries nothing, such as the time in a header
        assert (state["epoch"] == 2) == path.exists()
    assert 1 in found
    assert f"The checkpoint {path} is damaged" in (told := capsys.readouterr().err)
    assert "The run continues from the one before it; only time is lost" in told

    earlier.write_bytes(kept)
    path.write_bytes(later[:100])  # a part
    assert (load_checkpoint(path) or ({},))[0] == {"epoch": 1}
    save_checkpoint(path, {"epoch": 2}, whole)
    assert (path.exists(), earlier.read_bytes()) == (True, kept)


def test_without_a_whole_checkpoint_the_run_starts_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.npz"
    assert load_checkpoint(path) is None
    path.write_bytes(b"")
    assert load_checkpoint(path) is None
    assert "is deleted. The run continues from the start" in capsys.readouterr().err
    save_checkpoint(path, {"epoch": 1}, {})
    path.rename(tmp_path / "run.previous")  # a kill came between the two renames of a save
    assert (load_checkpoint(path) or ({},))[0] == {"epoch": 1}


def test_a_checkpoint_is_locked_by_one_process_until_it_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "CHECKPOINT_FOLDER", tmp_path)
    script = f"""
import pathlib, time
from experiments.training import checkpoints
checkpoints.CHECKPOINT_FOLDER = pathlib.Path({str(tmp_path)!r})
with checkpoints.lock_checkpoint("a"):
    print(flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        with pytest.raises(UserError, match="Run a is still running, in another process"), lock_checkpoint("a"):
            pass
        with lock_checkpoint("b"):
            pass
        other.kill()
    with lock_checkpoint("a"):
        drop_checkpoint("a")
        again = lock_checkpoint("a")  # of a new file, which the first does not delete
        again.__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["a.lock"]
    again.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []
