"""The load of the machine is logged with the run, by steps that go on after a resume, and is not compared."""

import pytest
from stores import history, made

from experiments.comparison.comparison import compare_runs
from experiments.reproduction.original_run import recorded_points
from experiments.tracking import system_metrics
from experiments.tracking.records import find_runs
from experiments.tracking.run import open_run
from experiments.tracking.store import connect_store
from experiments.tracking.system_metrics import log_system_metrics

SMALL = ["data=digits", "training.epochs=2", "report.figures=none", "tracking.log_model=false"]


@pytest.mark.slow
def test_the_load_is_logged_beside_the_metrics_but_not_compared(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_metrics, "SAMPLE_SECONDS", 0.1)
    run = made(uri, *SMALL, "tracking.system_metrics=true")
    assert 0 <= run.data.metrics["system/cpu_utilization_percentage"] <= 100
    assert run.data.metrics["system/system_memory_usage_megabytes"] > 100
    steps = [step for step, _ in history(uri, run.info.run_id)["system/cpu_utilization_percentage"]]
    assert steps == list(range(1, len(steps) + 1))

    (record,) = find_runs(connect_store(uri), [run.info.run_id])
    assert not any(name.startswith("system/") for name in recorded_points(connect_store(uri), record))
    assert not any(name.startswith("system/") for name in compare_runs([record]).mean)


def test_a_resumed_run_goes_on_with_the_next_sample(uri: str) -> None:
    with open_run(uri, "digits", None, {}, {}) as run, log_system_metrics(run, True):
        pass
    with open_run(uri, "digits", None, {}, {}, run.run_id) as again, log_system_metrics(again, True):
        pass
    assert [step for step, _ in history(uri, run.run_id)["system/cpu_utilization_percentage"]] == [1, 2]


def test_nothing_is_logged_unless_it_is_wanted(uri: str) -> None:
    with open_run(uri, "digits", None, {}, {}) as run, log_system_metrics(run, False):
        pass
    assert history(uri, run.run_id) == {}
