"""Finished runs that are trained further end equal to runs that had all the epochs at once, to the last bit."""

from typing import Any

import numpy as np
import pytest
from conftest import command
from stores import history, made, runs, weights

from experiments.config.composition import compose_job
from experiments.errors import ConfigError, StoreError
from experiments.experiment import run_experiment
from experiments.reproduction.original_run import find_original_run
from experiments.reproduction.rerun import repeat_run
from experiments.reproduction.resume import find_continued_run
from experiments.tracking.addresses import database_file
from experiments.tracking.store import connect_store
from experiments.training.checkpoints import checkpoint_path

pytestmark = pytest.mark.slow

SMALL = [
    *("data=digits", "data.limit=300", "data.validation=100", "model.units=16", "optimizer.learning_rate=0.01"),
    *("report.figures=none", "training.batch_size=64"),
]
CASES = {
    # Adam, dropout, augmentation, an uneven last batch, the plateau rule, and the best epoch restored.
    "compiled": [
        *("data.augmentation.shift=1", "training.restore_best=true"),
        *("schedule=reduce_on_plateau", "schedule.patience=1", "schedule.min_delta=0.3"),
    ],
    "fit": ["training.loop=fit", "optimizer=sgd", "optimizer.momentum=0.9", "model.batch_normalization=true"],
}


def continued(uri: str, run_id: str, *overrides: str) -> Any:
    """Train a run further in this process, as run.py does, and return the new run as read back."""
    given = [f"model.continue={run_id}", *overrides, f"tracking.uri={uri}"]
    config = find_continued_run(compose_job(given), given)
    return connect_store(uri).get_run(run_experiment(config, given))


def assert_equal_runs(uri: str, one: Any, other: Any) -> None:
    assert history(uri, one.info.run_id) == history(uri, other.info.run_id)
    pairs = zip(weights(uri, one.info.run_id), weights(uri, other.info.run_id), strict=True)
    assert all(np.array_equal(ours, theirs) for ours, theirs in pairs)


@pytest.mark.parametrize("case", CASES)
def test_two_epochs_and_two_more_equal_four(case: str, uri: str) -> None:
    first = made(uri, *SMALL, *CASES[case], "training.epochs=2", "training.keep_state=true")
    further = continued(uri, first.info.run_id, "training.epochs=4", "training.keep_state=false")
    whole = made(uri, *SMALL, *CASES[case], "training.epochs=4")
    assert_equal_runs(uri, further, whole)
    assert further.data.tags["continued_from"] == first.info.run_id
    assert further.data.tags["fingerprint"] != whole.data.tags["fingerprint"]
    assert first.data.params.items() - further.data.params.items() == {
        ("training.epochs", "2"),
        ("training.keep_state", "True"),
        ("model.continue", "None"),
    }
    assert not checkpoint_path(first.info.run_id).exists()


def test_a_continued_run_can_be_continued_and_reproduced(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = made(uri, *SMALL, "training.epochs=1", "training.keep_state=true", "schedule=one_cycle")
    assert f"python run.py model.continue={first.info.run_id} training.epochs=2" in capsys.readouterr().out
    second = continued(uri, first.info.run_id, "training.epochs=2", "tracking.run_name=second")
    assert second.info.run_name == "second"
    assert capsys.readouterr().err.splitlines() == [
        f"schedule=one_cycle depends on training.epochs, and run {first.info.run_id} followed that of 1 epoch: the"
        " result differs from that of 2 epochs in one run."
    ]
    third = continued(uri, second.info.run_id[:8], "training.epochs=3")
    assert third.info.run_name == f"continue={second.info.run_id[:8]} epochs=3"
    assert third.data.tags["continued_from"] == third.data.params["model.continue"] == second.info.run_id
    assert_equal_runs(uri, third, connect_store(uri).get_run(repeat_run(find_original_run(third.info.run_id, uri))))


def test_what_cannot_be_continued_is_refused(uri: str) -> None:
    without = made(uri, *SMALL, "training.epochs=1", "tracking.log_model=false").info.run_id
    kept = [*SMALL, "training.epochs=3", "training.keep_state=true", "tracking.log_model=false"]
    first = made(uri, *kept).info.run_id
    stopped = made(uri, *kept, "training.early_stopping.goal=100").info.run_id
    epochs, before = "training.epochs=4", len(runs(uri))

    def refused(*overrides: str, kind: type[Exception] = ConfigError) -> str:
        with pytest.raises(kind) as caught:
            continued(uri, *overrides)
        return str(caught.value)

    assert "has no state: only runs with training.keep_state=true" in refused(without, epochs, kind=StoreError)
    assert "There is no run" in refused("0" * 32, epochs, kind=StoreError)
    assert f"ended run {stopped} in epoch 1, so it has no further epochs" in refused(stopped, epochs)
    enough = f"model.continue: run {first} has 3 epochs already. Give the number of epochs in all: training.epochs=4"
    assert refused(first, "training.epochs=3").startswith(enough)
    assert refused(first).startswith(enough)
    assert f"model.units=8 disagrees with run {first}, which was started with" in refused(
        first, epochs, "model.units=8"
    )
    limited = "model.kernel_constraint={max_norm:{max_value:2}}"
    assert "which was started with model.kernel_constraint=null." in refused(first, epochs, limited)
    with pytest.raises(ConfigError, match=rf"optimizer.learning_rate=0.1 disagrees with run {first}, which has"):
        made(uri, *SMALL, f"model.continue={first}", epochs, "optimizer.learning_rate=0.1")  # not by way of run.py

    client = connect_store(uri)
    digest = client.get_run(first).data.tags["code_digest"]
    client.set_tag(first, "code_digest", "0" * 36)
    assert f"Run {first} cannot be continued, because these changed: the project's code" in refused(first, epochs)
    client.set_tag(first, "code_digest", digest)
    client.set_terminated(first, "KILLED")
    assert "is KILLED; only finished runs can be continued" in refused(first, epochs, kind=StoreError)
    client.set_terminated(first, "FINISHED")
    (state,) = database_file(uri).parent.rglob(f"{first}/artifacts/state/state.npz")
    state.write_bytes(state.read_bytes()[:-1])
    assert f"the state of run {first} was changed after the run" in refused(first, epochs, kind=StoreError)
    assert len(runs(uri)) == before


def test_run_py_refuses_in_one_line(uri: str) -> None:
    several = command("-m", f"model.continue={'0' * 32}", "seed=0,1", f"tracking.uri={uri}")
    assert (several.returncode, several.stderr.count("\n")) == (2, 1)
    assert "model.continue=RUN_ID trains one run further, and -m is for several. Leave out -m." in several.stderr
    unknown = command(f"model.continue={'0' * 32}", "training.epochs=4", f"tracking.uri={uri}")
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)
    assert "There is no run" in unknown.stderr
