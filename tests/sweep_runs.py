"""Helpers of the tests of sweeps: the parent and the children in a store, and waiting for them."""

import time
from collections.abc import Callable
from typing import Any

from stores import runs


def child_runs(uri: str) -> dict[str, Any]:
    """Return the children of all sweeps in the store by their names, the first first."""
    return {run.info.run_name: run for run in runs(uri) if "mlflow.parentRunId" in run.data.tags}


def parent_run(uri: str) -> Any:
    """Return the parent run of the one sweep in the store."""
    (found,) = [run for run in runs(uri) if "sweep" in run.data.tags]
    return found


def wait_until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait until the condition returns something true, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.3)  # each look costs ten queries
    return found
