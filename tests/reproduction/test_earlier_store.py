"""A store made by commit 3007e39 still works: see tests/fixtures/README.md."""

import tarfile
from collections.abc import Iterator

import pytest
from conftest import PROJECT, command
from stores import history, runs

from experiments.tracking.store import connect_store
from experiments.training.checkpoints import checkpoint_path

ARCHIVE = PROJECT / "tests" / "fixtures" / "store-3007e39.tar.xz"
FINISHED, CUT_OFF, SWEEP = (
    "e08734b227974f7992469c25bb627494",
    "b88daeab65194739ad23650da6265110",
    "bb4caa3f83b84d12bd86f2292e1ecd6a",
)
COMMON = ["data=digits", "model.units=[8]", "report.figures=none", "tracking.experiment=old"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of the unpacked store; its checkpoint lies where this project looks for it."""
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    checkpoint = checkpoint_path(CUT_OFF)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_bytes((folder / "checkpoints" / checkpoint.name).read_bytes())
    yield f"sqlite:///{folder}/store/mlflow.db"
    checkpoint.unlink(missing_ok=True)


def test_compare_lists_its_runs_and_its_sweep(earlier: str) -> None:
    listed = command("--uri", earlier, "--format", "csv", script="scripts/compare.py")
    assert listed.returncode == 0, listed.stderr
    for run_id in (FINISHED, CUT_OFF):
        assert run_id[:8] in listed.stdout
    swept = command("--uri", earlier, "--sweep", SWEEP, script="scripts/compare.py")
    assert swept.returncode == 0, swept.stderr
    assert ("seed 1" in swept.stdout, "seed 2" in swept.stdout) == (True, True)


def test_evaluate_adds_metrics_to_its_run(earlier: str) -> None:
    before = history(earlier, FINISHED)
    done = command(FINISHED, "--uri", earlier, script="scripts/evaluate.py")
    assert done.returncode == 0, done.stderr
    added = history(earlier, FINISHED)
    assert {name: added[name] for name in before} == before
    assert any(name.startswith("evaluation_") for name in added)


def test_its_run_is_reproduced_within_the_tolerance(earlier: str) -> None:
    done = command(FINISHED, "--uri", earlier, script="scripts/reproduce.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Differs from the recorded run: the project's code" in done.stderr
    assert "Required: within 2 % for losses" in done.stdout
    assert "changed after the run" not in done.stdout
    assert done.stdout.endswith("Reproduced.\n")


def test_its_interrupted_run_is_resumed_only_with_resume_anyway(earlier: str) -> None:
    resume = [f"resume={CUT_OFF}", f"tracking.uri={earlier}"]
    refused = command(*resume)
    assert (refused.returncode, "resume_anyway=true" in refused.stderr) == (2, True), refused.stderr
    recorded = history(earlier, CUT_OFF)["loss"]
    assert connect_store(earlier).get_run(CUT_OFF).info.status == "KILLED"
    done = command(*resume, "resume_anyway=true")
    assert done.returncode == 0, done.stderr
    assert connect_store(earlier).get_run(CUT_OFF).info.status == "FINISHED"
    loss = history(earlier, CUT_OFF)["loss"]
    assert [epoch for epoch, _ in loss] == list(range(1, 61))
    assert loss[: len(recorded)] == recorded
    assert "epoch  1/" not in done.stdout


def test_its_sweep_entered_again_runs_anew_in_the_same_parent(earlier: str) -> None:
    before = {run.info.run_id for run in runs(earlier)}
    given = [*COMMON, "training.epochs=2", "seed=1,2", "tracking.log_model=false"]
    done = command("-m", *given, f"tracking.uri={earlier}")
    assert done.returncode == 0, done.stderr
    new = [run for run in runs(earlier) if run.info.run_id not in before]
    assert [run.data.tags["mlflow.parentRunId"] for run in new] == [SWEEP] * 2
    assert {run.info.status for run in new} == {"FINISHED"}
