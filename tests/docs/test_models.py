"""The commands of docs/models.md work one after the other, each RUN_ID being the run before."""

import shlex

import pytest
from conftest import PROJECT
from stores import made, weights
from test_docs import commands

PAGE = PROJECT / "docs" / "models.md"
SHRUNK = ["training.epochs=1", "training.threads=1", "data.limit=64", "data.validation=0", "report.figures=none"]
ONLY_THE_HEAD = 'training.freeze=["*","!output"]'  # of a large network, whose gradients take long to trace


@pytest.mark.slow
def test_every_command_runs_and_frozen_layers_stay_those_of_the_first_run(uri: str) -> None:
    made_by = {}
    run_id = ""
    for line in commands(PAGE):
        overrides = shlex.split(line.replace("RUN_ID", run_id))[2:]
        run = made(uri, *overrides, *SHRUNK, *([ONLY_THE_HEAD] if "model=keras" in line else []))
        assert run.info.status == "FINISHED"
        made_by[line], run_id = run, run.info.run_id
    first, second, last = [run for line, run in made_by.items() if "cnn" in line]
    stem, tuned = weights(uri, first.info.run_id)[0], weights(uri, second.info.run_id)
    assert (stem == tuned[0]).all()
    assert (stem != weights(uri, last.info.run_id)[0]).any()
    told = f"2 of 4 layers with weights start from model.weights={first.info.run_id}; drawn by seed: dense, dense_1."
    assert second.data.tags["initial_weights"] == told
    assert told.replace("_", "\\_") in second.data.tags["mlflow.note.content"]
    assert "of them frozen" in second.data.tags["mlflow.note.content"]
    assert "initial_weights" not in last.data.tags
