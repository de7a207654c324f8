"""What several test modules share: real processes of the real commands, and stores and data for them."""

import gc
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from experiments.runtime import collect_garbage_rarely

PROJECT = Path(__file__).resolve().parents[1]

# The default network on few images: every part of the real path, in seconds.
SHRUNK = ["data.limit=1200", "data.validation=200", "training.epochs=2"]


def pytest_xdist_auto_num_workers() -> int:
    """One more than the cores, as much of the suite waits: for servers, dead peers and time limits."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests first: else a worker is left with one of them when the others are through."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


collect_garbage_rarely()  # as every command does
_modules = 0


def pytest_runtest_setup() -> None:
    """Modules stay, and Keras looks for garbage among all that they hold whenever a test begins anew."""
    global _modules
    if len(sys.modules) > _modules + 300:
        gc.collect()
        gc.freeze()
        _modules = len(sys.modules)


@pytest.fixture(scope="session")
def mnist() -> Path:
    """The folder with the real MNIST; without it the test is skipped."""
    from experiments.config.composition import compose_job
    from experiments.data.datasets import find_dataset

    place = find_dataset(compose_job([]).data)
    if place is None:
        pytest.skip("the real MNIST is not on this machine (set EXPERIMENTS_DATA_DIR to the folder that holds mnist/)")
    return place


@pytest.fixture
def tensorflow() -> None:
    """TensorFlow in this process, started as every test starts it: it takes its threads once."""
    from experiments.runtime import start_tensorflow

    start_tensorflow(1)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as the first run makes it, which takes MLflow more than a second."""
    from experiments.tracking.store import create_database

    database = tmp_path_factory.mktemp("empty") / "mlflow.db"
    create_database(f"sqlite:///{database}")
    return database


@pytest.fixture
def new_uri(tmp_path: Path) -> str:
    """The tracking URI of a store of this test's own, which is not there yet."""
    return f"sqlite:///{tmp_path}/store/mlflow.db"


@pytest.fixture
def uri(new_uri: str, empty_store: Path) -> str:
    """The tracking URI of a store of this test's own, with nothing in it."""
    database = Path(new_uri.removeprefix("sqlite:///"))
    database.parent.mkdir()
    shutil.copy(empty_store, database)
    with closing(sqlite3.connect(database)) as copy, copy:
        place = (str(empty_store.parent), str(database.parent))
        copy.execute("UPDATE experiments SET artifact_location = replace(artifact_location, ?, ?)", place)
    return new_uri


Command = Callable[..., subprocess.CompletedProcess[str]]


def start(*arguments: str, script: str = "run.py", **environment: str) -> subprocess.Popen[str]:
    """Start a command of the project as a user would."""
    return subprocess.Popen(
        [sys.executable, script, *arguments],
        cwd=PROJECT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As at a terminal; in the background of a shell that is no terminal's, Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def command(*arguments: str, script: str = "run.py", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the project as a user would, to its end."""
    process = start(*arguments, script=script, **environment)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)
