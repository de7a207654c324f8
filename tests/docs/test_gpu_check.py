"""scripts/gpu_check.py as a command, on a machine without a GPU: what it refuses, and what it writes."""

import json
from pathlib import Path

import pytest
from conftest import command
from gpu_check import CheckedRun, at_most, equal_runs

GPU_CHECK = "scripts/gpu_check.py"


@pytest.mark.slow
def test_a_machine_without_a_gpu_is_refused() -> None:
    done = command("bits", script=GPU_CHECK, CUDA_VISIBLE_DEVICES="-1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("TensorFlow finds no GPU here. Look at nvidia-smi")


def test_an_unknown_check_is_refused_with_the_choices() -> None:
    done = command("bit", script=GPU_CHECK)
    assert done.returncode == 2
    assert "unknown check 'bit'. Choices: bits, resume, speed, compiling, replicas, pool" in done.stderr


@pytest.mark.soak
def test_replicas_and_a_resumed_run_keep_their_promises_on_a_cpu_too(tmp_path: Path, mnist: Path) -> None:
    file = tmp_path / "result.json"
    options = ["--quick", "--any-device", "--json", str(file)]
    done = command("replicas", "resume", *options, script=GPU_CHECK, CUDA_VISIBLE_DEVICES="-1")
    assert file.exists(), done.stderr
    promises = {promise["promise"]: promise["kept"] for promise in json.loads(file.read_text())["promises"]}
    assert promises.pop("2 logical devices, an epoch in seconds") in (True, False)  # of a noisy machine
    assert list(promises.values()) == [True, True], done.stdout + done.stderr


def test_a_promise_is_broken_by_one_bit_and_by_more_than_its_limit() -> None:
    one = CheckedRun("a", {"loss": [0.5, 0.25]}, [1.0, 1.0])
    other = CheckedRun("b", {"loss": [0.5, 0.25000000000000006]}, [2.0, 2.0])
    assert equal_runs("twice", one, one).kept
    assert not equal_runs("twice", one, other).kept
    assert equal_runs("twice", one, other).found == "different: loss"
    assert (at_most("seconds", 1.0, 1.0).kept, at_most("seconds", 1.1, 1.0).kept) == (True, False)
