"""Runs that somebody deleted, and runs of experiments that somebody renamed or deleted."""

import pytest

from experiments.errors import StoreError
from experiments.tracking.records import find_runs
from experiments.tracking.run import open_run
from experiments.tracking.store import connect_store


def test_a_run_is_entered_again_in_its_experiment_whatever_that_is_called_by_now(uri: str) -> None:
    with open_run(uri, "old", None, {}, {}) as run:
        pass
    client = connect_store(uri)
    client.rename_experiment(run.experiment_id, "new")
    with open_run(uri, "old", None, {}, {}, run.run_id) as again:
        assert again.experiment_id == run.experiment_id
    assert {experiment.name for experiment in client.search_experiments()} == {"Default", "new"}


@pytest.mark.parametrize("length", [32, 12])
def test_a_deleted_run_is_named_with_the_command_that_restores_it(uri: str, length: int) -> None:
    with open_run(uri, "trial", "a run", {}, {}) as run:
        pass
    client = connect_store(uri)
    client.delete_run(run.run_id)
    advice = f"To restore it: MLFLOW_TRACKING_URI={uri} mlflow runs restore --run-id {run.run_id}"
    with pytest.raises(StoreError) as raised:
        find_runs(client, [run.run_id[:length]])
    assert str(raised.value) == f"Run {run.run_id} (a run) was deleted. {advice}"


def test_a_run_of_a_deleted_experiment_names_the_experiment(uri: str) -> None:
    with open_run(uri, "trial", "a run", {}, {}) as run:
        pass
    client = connect_store(uri)
    client.delete_experiment(run.experiment_id)
    with pytest.raises(StoreError) as raised:
        find_runs(client, [run.run_id])
    assert "(a run) is in experiment 'trial', which was deleted. To restore it: MLFLOW_TRACK" in str(raised.value)
    assert str(raised.value).endswith(f" mlflow experiments restore -x {run.experiment_id}")
