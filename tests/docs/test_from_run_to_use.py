"""The commands and the code of docs/from-run-to-use.md, on a real run: served over HTTP, exported and promoted."""

import importlib.util
import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from conftest import PROJECT, command
from stores import made

PAGE = (PROJECT / "docs" / "from-run-to-use.md").read_text()
COMMANDS = [
    line.partition(" #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
REQUEST, SAVED_MODEL = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
EXPORTS = [line for line in COMMANDS if "export.py" in line]
PROMOTIONS = [line for line in COMMANDS if "promote.py" in line]
SERVERS = [line for line in COMMANDS if line.startswith("mlflow")]
WITHOUT_ONNX = importlib.util.find_spec("onnxruntime") is None

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The tracking URI of a store with the run of the page, of two epochs, and the run's id."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    (line,) = (line for line in COMMANDS if "run.py" in line)
    shrunk = ["training.epochs=2", "training.threads=1", "report.figures=none"]
    return uri, made(uri, *shlex.split(line)[2:], *shrunk).info.run_id


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """The pictures to which the page applies the model [2, 8, 8]."""
    from sklearn.datasets import load_digits

    return load_digits().images[:2]


@pytest.fixture(scope="module")
def expected(run: tuple[str, str], digits: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """What the logged model gives for them in plain Keras."""
    import keras

    from experiments.tracking.artifacts import download_model

    model: Any = keras.saving.load_model(download_model(*run, tmp_path_factory.mktemp("model")), compile=False)
    return np.asarray(model(digits))


def script(line: str, run: tuple[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command of the page that starts a script."""
    _, name, *arguments = shlex.split(re.sub("RUN_ID|SWEEP_ID", run[1], line))
    return command(*arguments, "--uri", run[0], script=name)


def serve(line: str, run: tuple[str, str], log: Path) -> list[list[float]]:
    """Start a server with a command of the page, and return its answer to the request of the page."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = str(sock.getsockname()[1])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # as in an activated environment
    environment = {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": run[0]}
    environment.pop("PYTHONPATH", None)  # MLflow serves it without this project
    arguments = shlex.split(line.replace("RUN_ID", run[1]).replace("5001", port))
    with log.open("w") as output:
        server = subprocess.Popen(
            arguments, cwd=log.parent, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                requests.get(f"http://127.0.0.1:{port}/ping", timeout=5).raise_for_status()
                break
            except requests.RequestException:
                time.sleep(0.2)
        with redirect_stdout(io.StringIO()) as printed:
            exec(REQUEST.replace("5001", port), {})
        return json.loads(printed.getvalue())
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_the_page_has_these_commands() -> None:
    assert (len(EXPORTS), len(PROMOTIONS), len(SERVERS)) == (3, 3, 2)
    others = set(COMMANDS) - {*EXPORTS, *PROMOTIONS, *SERVERS}
    assert others == {
        "export MLFLOW_TRACKING_URI=sqlite:///mlruns/mlflow.db",
        "python run.py experiment=digits",
        "pip install -e '.[onnx]'",
    }


def test_a_served_model_answers_for_raw_pixels(run: tuple[str, str], expected: np.ndarray, tmp_path: Path) -> None:
    np.testing.assert_allclose(serve(SERVERS[0], run, tmp_path / "log"), expected, atol=1e-5)


def test_the_promoted_model_is_loaded_by_its_alias(
    run: tuple[str, str], digits: np.ndarray, expected: np.ndarray
) -> None:
    import mlflow

    first, *others = [script(line, run).stdout.splitlines()[-1] for line in PROMOTIONS]
    assert re.fullmatch(rf"Run {run[1]} \(.*\) is digits version 1 \(champion\) now\.", first)
    assert others == [f"Run {run[1]} is digits version 1 (champion) already."] * 2
    address = shlex.split(SERVERS[1])[4]
    assert SERVERS[1] == SERVERS[0].replace("runs:/RUN_ID/model", address)
    mlflow.set_tracking_uri(run[0])
    model = mlflow.pyfunc.load_model(address)
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # which MLflow has set
    np.testing.assert_allclose(model.predict(digits.astype(np.uint8)), expected, atol=1e-5)


def export(line: str, run: tuple[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the page that exports, into this folder."""
    return script(re.sub(r"--to (\S+)|$", lambda to: f" --to {folder / (to[1] or '')}", line, count=1), run)


def test_a_keras_file_and_a_saved_model_are_exported_and_checked(
    run: tuple[str, str], digits: np.ndarray, expected: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    for line in EXPORTS[:2]:
        done = export(line, run, tmp_path)
        assert done.returncode == 0, done.stderr
        checked, takes = done.stdout.splitlines()[1:3]
        assert re.fullmatch(
            r"Checked on 360 test examples: the outputs differ by at most [\d.e-]+, the classes not at all\.", checked
        )
        classes = "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
        given = f"gives a value for each class, in this order: {classes}."
        assert takes == f"It takes 8 x 8 float32 values from 0 to 16, and {given}"
    name = f"model-{run[1][:8]}.keras"
    assert {path.name for path in tmp_path.iterdir()} == {"digits", "digits.json", name, f"{name}.json"}
    origin = json.loads((tmp_path / "digits.json").read_text())
    assert (origin["run_id"], origin["input"]["range"]) == (run[1], [0, 16])
    assert origin["output"]["classes"] == list("0123456789")
    model: Any = keras.saving.load_model(tmp_path / name)
    np.testing.assert_allclose(model(digits), expected, atol=1e-6)

    monkeypatch.chdir(tmp_path)
    given = {}
    exec(SAVED_MODEL.replace("print(", "print(outputs := "), given)
    np.testing.assert_allclose(given["outputs"], expected, atol=1e-6)

    done = export(EXPORTS[1], run, tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"{tmp_path}/digits exists, and is not overwritten. Remove it, or choose another with --to.\n"


@pytest.mark.skipif(WITHOUT_ONNX, reason="the extra is not installed: pip install -e '.[onnx]'")
def test_an_onnx_file_is_exported_and_checked(
    run: tuple[str, str], digits: np.ndarray, expected: np.ndarray, tmp_path: Path
) -> None:
    import onnxruntime

    done = export(EXPORTS[2], run, tmp_path)
    assert done.returncode == 0, done.stderr
    session = onnxruntime.InferenceSession(tmp_path / "digits.onnx")
    (taken,) = session.get_inputs()
    (outputs,) = session.run(None, {taken.name: digits.astype(np.float32)})
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


@pytest.mark.skipif(not WITHOUT_ONNX, reason="the extra is installed")
def test_a_missing_extra_is_named(new_uri: str, tmp_path: Path) -> None:
    done = export(EXPORTS[2], (new_uri, "1234"), tmp_path)
    install = "python -m pip install -e '.[onnx]'"
    said = "--format=onnx needs packages that this Python does not have: tf2onnx, onnx, onnxruntime. Install the extra,"
    assert (done.returncode, done.stderr) == (2, f"{said} in the project's folder: {install}\n")
