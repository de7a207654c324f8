"""Replicas on logical CPU devices, and workers as real processes, give the result of one device."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import command, start
from stores import history, made, runs, weights
from sweep_runs import wait_until
from train_once import train

from experiments.config.composition import compose_job
from experiments.errors import ConfigError
from experiments.training.cluster import free_local_ports, read_tf_config, supervises_cluster

# Everything that replicas could get wrong: dropout, batch normalization, clipping, weight decay, an average of the
# weights, a constraint, weights of classes, and a last batch of 10 that 4 replicas cannot share evenly.
HARD = [
    "data.limit=3210",
    "data.validation=0",
    "training.epochs=1",
    "model.batch_normalization=true",
    "model.kernel_constraint={max_norm:{max_value:2}}",
    "optimizer=adamw",
    "optimizer.use_ema=true",
    "training.gradient_clipping=0.5",
    "training.class_weight={3:2.5}",
    "training.label_smoothing=0.1",
]
WORKERS = ["distribution=multi_worker", "distribution.workers=2", "distribution.timeout_seconds=60"]
REPLICAS = ["distribution=mirrored", "distribution.devices=2"]
SMALL = ["data.limit=3710", "data.validation=500", "report.figures=none"]
EPOCHS = "training.epochs=12"


def trained(out: Path, *arguments: str) -> dict[str, np.ndarray]:
    done = command(str(out), *arguments, script="tests/train_once.py")
    assert done.returncode == 0, done.stderr
    with np.load(out) as stored:
        return dict(stored)


@pytest.mark.slow
def test_two_and_four_replicas_equal_one_device_to_rounding_whatever_the_config(tmp_path: Path, mnist: Path) -> None:
    one = train(HARD)
    for devices in ("2", "4"):
        replicas = ["distribution=mirrored", f"distribution.devices={devices}"]
        several = trained(tmp_path / f"{devices}.npz", *HARD, *replicas)
        for name, value in one.items():
            np.testing.assert_allclose(several[name], value, rtol=0, atol=5e-6, err_msg=f"{name}, {devices} replicas")


@pytest.mark.soak
@pytest.mark.parametrize("devices", [[], REPLICAS], ids=["one", "two"])
def test_a_convolutional_network_trains_alike_as_on_gpus(devices: list[str], tmp_path: Path) -> None:
    # There, operations must have a fixed order, which XLA's own gradient of pooling has not.
    small = [
        "data=digits",
        "data.limit=330",
        "data.validation=0",
        "training.epochs=2",
        "training.threads=1",
        "model=cnn",
        "model.filters=[4]",
    ]
    plain = train(small)
    as_on_gpus = trained(tmp_path / "gpu.npz", *small, *devices, "as_on_gpus")
    for name, value in plain.items():
        np.testing.assert_allclose(as_on_gpus[name], value, rtol=0, atol=2e-5, err_msg=name)


@pytest.mark.soak
def test_a_residual_network_with_frozen_layers_trains_alike_on_two_replicas(tmp_path: Path) -> None:
    small = ["data=digits", "data.limit=330", "data.validation=0", "training.epochs=1", "training.threads=1"]
    small += ["model=resnet", "model.depth=8", "training.freeze=[stem*]", "data.augmentation.flip=true"]
    small += ["optimizer=sgd", "optimizer.learning_rate=0.01"]  # Adam magnifies rounding where gradients are tiny
    one, two = train(small), trained(tmp_path / "2.npz", *small, *REPLICAS)
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=0, atol=2e-6, err_msg=name)


@pytest.mark.soak
@pytest.mark.parametrize(
    "overrides",
    [
        "optimizer=nadam",
        "optimizer=muon optimizer.weight_decay=0.1",
        "optimizer.gradient_accumulation_steps=3",
        "optimizer.use_ema=true optimizer.ema_overwrite_frequency=3",
    ],
)
def test_optimizers_with_steps_of_their_own_update_each_replica(overrides: str, tmp_path: Path) -> None:
    small = ["data=digits", "data.limit=330", "data.validation=0", "training.epochs=2", "training.threads=1"]
    small += overrides.split()
    one = train(small)
    two = trained(tmp_path / "2.npz", *small, *REPLICAS, "as_on_gpus")
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=0, atol=2e-6, err_msg=name)


@pytest.mark.slow
def test_batches_smaller_than_the_number_of_replicas_train_correctly(tmp_path: Path) -> None:
    tiny = ["data=digits", "data.limit=80", "data.validation=0", "training.epochs=1", "training.batch_size=3"]
    one = train(tiny)
    four = trained(tmp_path / "4.npz", *tiny, "distribution=mirrored", "distribution.devices=4")
    for name, value in one.items():
        np.testing.assert_allclose(four[name], value, rtol=0, atol=2e-6, err_msg=name)


@pytest.mark.slow
def test_fit_equals_the_compiled_loop_to_rounding() -> None:
    arguments = ["data=digits", "training.epochs=2", "model.batch_normalization=true", "schedule=one_cycle"]
    arguments += ["data.augmentation.shift=1", "data.augmentation.elastic=10"]
    compiled, fit = train(arguments), train([*arguments, "training.loop=fit"])
    for name, value in compiled.items():
        np.testing.assert_allclose(fit[name], value, rtol=0, atol=5e-5, err_msg=name)


@pytest.mark.slow
def test_two_replicas_agree_with_one_device_in_loss_and_accuracy_on_mnist(uri: str, mnist: Path) -> None:
    light = ["training.epochs=1", "report.figures=none", "tracking.log_model=false"]
    one = made(uri, *light).data.metrics
    done = command("distribution=mirrored", "distribution.devices=2", *light, f"tracking.uri={uri}")
    assert done.returncode == 0, done.stderr
    two = runs(uri)[1].data.metrics
    assert two["test_loss"] == pytest.approx(one["test_loss"], rel=0.01)
    assert two["test_accuracy"] == pytest.approx(one["test_accuracy"], abs=0.002)


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory, mnist: Path) -> tuple[str, str]:
    """The URI of a store with a run on two replicas, and the run's id: what two workers must come to."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mirrored')}/mlflow.db"
    done = command(*SMALL, EPOCHS, *REPLICAS, f"tracking.uri={uri}")
    assert done.returncode == 0, done.stderr
    (run,) = runs(uri)
    return uri, run.info.run_id


@pytest.mark.slow
def test_two_workers_equal_two_replicas_bit_for_bit(uri: str, mirrored: tuple[str, str]) -> None:
    done = command(*SMALL, EPOCHS, *WORKERS, f"tracking.uri={uri}")
    assert done.returncode == 0, done.stderr
    (run,) = runs(uri)
    assert history(uri, run.info.run_id) == history(*mirrored)
    for ours, theirs in zip(weights(uri, run.info.run_id), weights(*mirrored), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def children(pid: int) -> list[int]:
    """The worker processes of a run, the chief first."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in listed.stdout.split()]


@pytest.mark.soak
@pytest.mark.parametrize(
    ("sent", "said"),
    # Of a worker that was killed the chief may hear first, from TensorFlow.
    [(signal.SIGKILL, "was killed by SIGKILL. All workers were ended|is gone"), (signal.SIGSTOP, "is gone or hangs")],
)
def test_run_fails_when_a_worker_dies_or_hangs_and_can_be_resumed(
    sent: signal.Signals, said: str, uri: str, mirrored: tuple[str, str]
) -> None:
    epochs = EPOCHS if sent == signal.SIGKILL else "training.epochs=99"
    process = start(*SMALL, epochs, *WORKERS, f"tracking.uri={uri}")
    assert process.stdout
    while not (line := process.stdout.readline()).startswith("epoch  2"):
        assert line or process.poll() is None, process.communicate()
    workers = children(process.pid)
    if sent == signal.SIGKILL:
        os.kill(workers[1], signal.SIGSTOP)
        time.sleep(13)  # more than TensorFlow by itself waits for a worker, less than distribution.timeout_seconds
        os.kill(workers[1], signal.SIGCONT)
    os.kill(workers[1], sent)
    before = time.monotonic()
    _, err = process.communicate(timeout=150)
    assert time.monotonic() - before < 120
    assert process.returncode == 1, err
    assert "worker 1" in err
    assert re.search(said, err)
    for pid in workers:
        assert not Path(f"/proc/{pid}").exists()
    (run,) = runs(uri)
    assert run.info.status == "FAILED"
    assert "worker 1" in run.data.tags["end_reason"]
    if sent == signal.SIGSTOP:
        return
    resumed = command(f"resume={run.info.run_id}", f"tracking.uri={uri}")
    assert resumed.returncode == 0, resumed.stderr
    assert history(uri, run.info.run_id) == history(*mirrored)


@pytest.mark.soak
def test_workers_end_though_their_supervisor_is_killed_while_they_load(new_uri: str) -> None:
    process = start("data=digits", "training.epochs=100000", "report.figures=none", *WORKERS, f"tracking.uri={new_uri}")
    wait_until(lambda: len(children(process.pid)) == 2)
    workers = children(process.pid)
    process.kill()
    try:
        wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), seconds=20)
    finally:
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)


@pytest.mark.soak
def test_run_fails_and_names_a_peer_that_never_starts(uri: str) -> None:
    ports = free_local_ports(2)
    task = {"cluster": {"worker": [f"127.0.0.1:{port}" for port in ports]}, "task": {"type": "worker", "index": 0}}
    arguments = ["data=digits", "distribution=multi_worker", "distribution.timeout_seconds=20", f"tracking.uri={uri}"]
    done = command(*arguments, TF_CONFIG=json.dumps(task))
    assert done.returncode == 1
    assert "is still waiting for its peers" in done.stderr
    assert re.search(rf"no answer from (worker 0 at \S+, )?worker 1 at 127\.0\.0\.1:{ports[1]}\b", done.stderr)
    assert [run.info.status for run in runs(uri)] == ["FAILED"]


@pytest.mark.slow
def test_tasks_of_a_slurm_step_are_the_workers(uri: str) -> None:
    """Slurm itself is not here: its variables are, as srun sets them for two tasks on this host."""
    for port in (8888, 8889):  # of TensorFlow's resolver, whoever else may have them
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                free.bind(("127.0.0.1", port))
            except OSError:
                pytest.skip(f"port {port} is in use")
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost"}
    step["SLURM_STEP_TASKS_PER_NODE"] = "2"
    arguments = ["data=digits", "training.epochs=2", "report.figures=none", "distribution=multi_worker"]
    tasks = [start(*arguments, f"tracking.uri={uri}", **step, SLURM_PROCID=str(index)) for index in range(2)]
    for task in tasks:
        _, err = task.communicate(timeout=150)
        assert task.returncode == 0, err
    assert [run.info.status for run in runs(uri)] == ["FINISHED"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["distribution=central_storage"], "distribution=central_storage is not a choice"),
        (["distribution=mirrored", "distribution.devices=17"], "distribution.devices=17 is not allowed"),
        (["training.loop=fit", "distribution=multi_worker"], "Use training.loop=compiled"),
        (["distribution.workers=2"], "distribution.workers=2 needs distribution=multi_worker"),
        (["distribution=one_device", "distribution.devices=2"], "Use distribution=mirrored"),
        (["training.loop=fit", "distribution=mirrored", "distribution.devices=2"], "Use training.loop=compiled"),
        (
            ["training.loop=fit", "optimizer.gradient_accumulation_steps=2"],
            "fails in Keras. Use training.loop=compiled",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_reason(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        compose_job(overrides)
    assert said in str(refused.value)


def test_refuses_a_tf_config_that_is_not_of_a_worker_and_ignores_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose_job(["distribution=multi_worker"])
    peers = ["a:1", "b:1"]
    task = {"type": "worker", "index": 1}
    refused = [
        {},
        {"cluster": {"worker": peers}},
        {"cluster": {"worker": peers}, "task": {"type": "worker", "index": 2}},
        {"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}},
        {"cluster": {"worker": ["a", "b"]}, "task": task},
        {"cluster": {"worker": peers, "chief": ["c:1"]}, "task": task},
        {"cluster": {"worker": peers, "chief": ["c:1"]}, "task": {"type": "chief", "index": 0}},
    ]
    for given in ["foo", "[]", *map(json.dumps, refused)]:
        monkeypatch.setenv("TF_CONFIG", given)
        with pytest.raises(ConfigError) as error:
            supervises_cluster(config.distribution)
        assert str(error.value) == (
            f"TF_CONFIG={given} does not describe a worker. Expected, on the first of two:"
            ' {"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, "task": {"type": "worker", "index": 0}}.'
            " That worker is the chief; jobs of other names, such as chief or ps, are not supported."
        )
    monkeypatch.setenv("TF_CONFIG", "")
    with pytest.raises(ConfigError, match="needs exactly one definition of its workers"):
        supervises_cluster(config.distribution)
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": peers}, "task": task}))
    assert supervises_cluster(config.distribution)
    assert read_tf_config() == (1, peers)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["distribution=mirrored"], "found no GPU. For N logical devices on this CPU add distribution.devices=N"),
        (["distribution=auto", "distribution.devices=2"], "but there are 0 GPUs here"),
        (["distribution=multi_worker"], "needs exactly one definition of its workers. Add distribution.workers=N"),
    ],
)
def test_missing_devices_are_reported_before_a_run_is_made(
    overrides: list[str], said: str, new_uri: str, tmp_path: Path
) -> None:
    done = command("data=digits", *overrides, f"tracking.uri={new_uri}")
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "store").exists()
