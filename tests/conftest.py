"""Fixtures and helpers for several test modules: real commands in real processes, stores and data."""

import gc
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from preloaded import Preloaded

from experiments.runtime import collect_garbage_rarely

PROJECT = Path(__file__).resolve().parents[1]

# The default network on few images: the whole real path in seconds.
SHRUNK = ["data.limit=1200", "data.validation=200", "training.epochs=2"]

# These take more than a minute each.
LONGEST = ("test_distribution", "test_experiment", "test_pool", "test_published", "test_resume", "test_walkthrough")


def pytest_xdist_auto_num_workers() -> int:
    """Return one more than the cores, because tests often wait for servers, dead peers and time limits."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, then those with the most slow tests, so that no worker has one left at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.path.stem not in LONGEST, -slow[item.path]))


collect_garbage_rarely()  # as every command does
_modules = 0


def pytest_runtest_setup() -> None:
    """Keep loaded modules out of garbage collection, which Keras triggers often."""
    global _modules
    if len(sys.modules) > _modules + 300:
        gc.collect()
        gc.freeze()
        _modules = len(sys.modules)


@pytest.fixture(scope="session")
def mnist() -> Path:
    """Return the folder with the real MNIST; skip the test without it."""
    from experiments.config.composition import compose_job
    from experiments.data.datasets import find_dataset

    place = find_dataset(compose_job([]).data)
    if place is None:
        pytest.skip("the real MNIST is not on this machine (set EXPERIMENTS_DATA_DIR to the folder that holds mnist/)")
    return place


@pytest.fixture
def tensorflow() -> None:
    """Start TensorFlow in this process as every test does: it takes its number of threads only once."""
    from experiments.runtime import start_tensorflow

    start_tensorflow(1)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a new database once, as it takes MLflow more than a second."""
    from experiments.tracking.store import create_database

    database = tmp_path_factory.mktemp("empty") / "mlflow.db"
    create_database(f"sqlite:///{database}")
    return database


@pytest.fixture
def new_uri(tmp_path: Path) -> str:
    """Return the tracking URI of a store for this test, which does not exist yet."""
    return f"sqlite:///{tmp_path}/store/mlflow.db"


@pytest.fixture
def uri(new_uri: str, empty_store: Path) -> str:
    """Return the tracking URI of an empty store for this test."""
    database = Path(new_uri.removeprefix("sqlite:///"))
    database.parent.mkdir()
    shutil.copy(empty_store, database)
    with closing(sqlite3.connect(database)) as copy, copy:
        place = (str(empty_store.parent), str(database.parent))
        copy.execute("UPDATE experiments SET artifact_location = replace(artifact_location, ?, ?)", place)
    return new_uri


def start(*arguments: str, script: str = "run.py", **environment: str) -> subprocess.Popen[str] | Preloaded:
    """Start a command of the project: with an environment of its own as a user would, else in a preloaded process."""
    if not environment:
        return Preloaded(script, *arguments)
    return subprocess.Popen(
        [sys.executable, script, *arguments],
        cwd=PROJECT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As at a terminal: background processes of a non-interactive shell ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def command(*arguments: str, script: str = "run.py", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the project to its end, as `start` starts it."""
    process = start(*arguments, script=script, **environment)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)
