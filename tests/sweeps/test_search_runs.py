"""Whole searches as commands: the same trials every time, also after a kill, and failures that do not end them."""

import json
import time
from typing import Any

import pytest
from conftest import command, start
from stores import artifact, files, runs
from sweep_runs import child_runs, parent_run

DIGITS = ["data=digits", "training.epochs=1", "training.threads=1", "report.figures=none", "tracking.log_model=false"]
SEARCH = ["-m", "hydra/sweeper=optuna", *DIGITS]
SPACE = ["model.dropout=interval(0,0.5)", "optimizer.learning_rate=tag(log,interval(1e-3,1e-1))"]


def trials(uri: str) -> list[dict[str, Any]]:
    table = json.loads(artifact(uri, parent_run(uri).info.run_id, "tables/trials.json"))
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


@pytest.mark.soak
def test_a_killed_search_resumes_and_ends_like_an_uninterrupted_one(uri: str) -> None:
    one_by_one = ["hydra/launcher=basic", "hydra.sweeper.n_trials=3", "hydra.sweeper.startup_trials=1"]
    whole = command(*SEARCH, *SPACE, *one_by_one, f"tracking.uri={uri}")
    assert whole.returncode == 0, whole.stderr

    other = uri.replace("/store/", "/other/")
    arguments = [*SEARCH, *SPACE, *one_by_one, f"tracking.uri={other}"]
    process = start(*arguments)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None and len(child_runs(other)) < 2:
        time.sleep(0.25)
    process.kill()
    process.communicate()
    assert parent_run(other).info.status == "RUNNING"
    killed = parent_run(other).info.run_id
    finished = sum(run.info.status == "FINISHED" for run in child_runs(other).values())
    assert 1 <= finished <= 3  # the kill comes when it comes: in the second trial or the third, or just after one

    again = command(*arguments)
    assert again.returncode == 0, again.stderr
    assert parent_run(other).info.run_id == killed
    assert [run.info.status for run in runs(other)] == ["FINISHED"] * 4
    assert len(json.loads(artifact(other, killed, "config/plan.json"))) == 3
    before, after = trials(uri), trials(other)
    for rows in (before, after):
        for row in rows:
            del row["run_id"]
    assert [row["status"] for row in before] == ["COMPLETE"] * 3
    assert after == before


@pytest.mark.slow
def test_a_diverged_trial_is_a_result_of_the_search_and_equal_trials_run_once(uri: str) -> None:
    grid = ["hydra.sweeper.sampler=grid", "optimizer.learning_rate=1e-2,1e30,0.01", "model.dropout=choice(0,0.0)"]
    line = [*SEARCH, *grid, "hydra.launcher.workers=1", "sweep.on_error=stop", "sweep.retries=1", f"tracking.uri={uri}"]
    done = command(*line)
    assert done.returncode == 0, done.stderr
    assert "1e+30 learning_rate, 0 dropout  diverged, which counts as the worst result" in done.stdout
    assert "\n2 trials diverged, with the worst result there is.\n" in done.stdout
    assert command(*line).returncode == 0
    rows = trials(uri)
    assert [row["optimizer.learning_rate"] for row in rows] == ["0.01", "0.01", "1e+30", "1e+30"]
    assert [row["status"] for row in rows] == ["COMPLETE", "COMPLETE", "DIVERGED", "DIVERGED"]
    assert rows[0]["run_id"] == rows[1]["run_id"]
    assert rows[0]["best_val_accuracy"] == rows[1]["best_val_accuracy"] > 0.5
    assert sorted(run.info.status for run in child_runs(uri).values()) == ["FAILED", "FINISHED"]
    assert parent_run(uri).info.status == "FINISHED"
    assert "figures/search_history.png" in files(uri, parent_run(uri).info.run_id, "figures")

    pruned = command(*line, "hydra.sweeper.pruner=median", "model.dropout=choice(0,0.1)", "sweep.dry_run=true").stdout
    search = parent_run(uri).info.run_id
    assert f"This is a new search, as it differs from learning_rate x dropout ({search}): " in pruned
    assert "model.dropout: 0, 0.1, hydra.sweeper.pruner=median.\n" in pruned

    other = [*line, "hydra.sweeper.sampler=tpe", "hydra.sweeper.startup_trials=1", "hydra.sweeper.n_trials=1"]
    offer = f" To begin from its trials: sweep.begin_from={search}"
    assert f"{offer}\n" in command(*other, "sweep.dry_run=true").stdout
    assert "To begin from its trials" not in command(*other, offer.split()[-1], "sweep.dry_run=true").stdout
    begun = command(*other, offer.split()[-1], "training.epochs=2")
    assert (begun.returncode, begun.stdout) == (2, "")
    assert "its trials cannot be compared with this search, which has training.epochs=2 (was 1)." in begun.stderr
    begun = command(*other, offer.split()[-1])
    assert begun.returncode == 0, begun.stderr
    assert "\nThe search begins from 4 of 4 earlier trials.\n" in begun.stdout
    assert [run.info.status for run in runs(uri) if "sweep" in run.data.tags] == ["FINISHED"] * 2
