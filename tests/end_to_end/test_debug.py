"""The debug presets, and starting from another run's weights: whole runs in this process."""

import json
from typing import Any

import pytest
from stores import artifact, history, made, runs, weights

from experiments.config.choices import CONFIG_FOLDER
from experiments.config.composition import compose_job
from experiments.errors import ConfigError, StoreError
from experiments.tracking.addresses import database_file
from experiments.tracking.store import connect_store

DIGITS = ["data=digits", "training.threads=1"]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the URI of one store for this module; creating one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.mark.parametrize("file", sorted(CONFIG_FOLDER.glob("debug/*.yaml")), ids=lambda file: file.stem)
def test_every_preset_composes_with_every_experiment(file: Any) -> None:
    assert f"# Command: python run.py debug={file.stem}" in file.read_text()
    for experiment_file in CONFIG_FOLDER.glob("experiment/*.yaml"):
        config = compose_job([f"experiment={experiment_file.stem}", f"debug={file.stem}"])
        assert config.tracking.experiment == "debug"


@pytest.mark.parametrize(
    ("override", "now"),
    [
        ("data.limit=2000", "data.limit=2000 and training.batch_size=32 make 63"),
        ("training.batch_size=16", "data.limit=32 and training.batch_size=16 make 2"),
        ("data.limit=null", "data.limit=null and training.batch_size=32 make 1,875"),
    ],
)
def test_overfit_is_refused_on_more_than_one_batch(override: str, now: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_job(["debug=overfit", override])
    assert str(caught.value) == (
        f"debug=overfit trains on one batch, but {now}. Leave both out, or set both to the same number:"
        " data.limit=64 training.batch_size=64"
    )
    compose_job(["debug=overfit", "data.limit=64", "training.batch_size=64"])


def test_smoke_runs_a_few_batches_in_its_own_experiment(uri: str) -> None:
    run = made(uri, *DIGITS, "debug=smoke")
    client = connect_store(uri)
    assert client.get_experiment(run.info.experiment_id).name == "debug"
    assert {"val_accuracy", "test_accuracy"} <= set(run.data.metrics)
    assert run.data.params["training.epochs"] == "2"
    assert (run.info.status, run.info.run_name) == ("FINISHED", "digits threads=1 smoke")
    assert weights(uri, run.info.run_id)


@pytest.mark.parametrize(
    ("rate", "said"),
    [("0.01", "Goal reached in epoch "), ("1e-9", "Goal NOT reached in 40 epochs: loss 2.")],
    ids=["it learns", "it does not"],
)
def test_overfit_says_whether_the_loss_reached_zero(
    rate: str, said: str, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["debug=overfit", "training.epochs=40", f"optimizer.learning_rate={rate}", "tracking.log_model=false"]
    run = made(uri, *DIGITS, *arguments)
    printed = capsys.readouterr().out
    assert said in printed
    assert said in run.data.tags["mlflow.note.content"]
    assert "wanted at most 0.01." in printed
    if "NOT" not in said:
        losses = [loss for _, loss in history(uri, run.info.run_id)["loss"]]
        assert losses[-1] <= 0.01 < min(losses[:-1])  # it stopped at the first such epoch


def test_profile_logs_a_table_and_a_trace(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    of_its_own = ["model.units=24", "training.epochs=2", "report.figures=light"]  # else its program may be compiled
    run = made(uri, *DIGITS, "debug=profile", *of_its_own)
    table = json.loads(artifact(uri, run.info.run_id, "tables/profile.json"))
    phases = [row[0] for row in table["data"]]
    assert phases[:1] in (["Python, Hydra, config"], ["data"])  # the former in the first run of a process
    parts = ["data", "building the network", "epoch", "epoch / compiling and the first step", "epoch / steps"]
    assert set(parts) | {"epoch / evaluation", "checkpoint", "logging", "figures", "model"} <= set(phases)
    names = [event["name"] for event in json.loads(artifact(uri, run.info.run_id, "profile/trace.json"))["traceEvents"]]
    assert names.count("epoch") == 2
    assert "figure 01_learning_curves" in names
    assert '"name": "figure 01_learning_curves"' in artifact(uri, run.info.run_id, "profile/trace.html")
    assert "compiling and the first step" in capsys.readouterr().out


def test_a_run_starts_from_anothers_weights_with_its_own_fingerprint(uri: str) -> None:
    small = [*DIGITS, "training.epochs=1", "report.figures=none", "model.units=16"]
    first = made(uri, *small)
    start = f"model.weights={first.info.run_id}"
    # With a vanishing learning rate the network stays what it was when training began.
    still = made(uri, *small, start, "optimizer.learning_rate=1e-30")
    pairs = zip(weights(uri, first.info.run_id), weights(uri, still.info.run_id), strict=True)
    assert all((theirs == ours).all() for theirs, ours in pairs)
    assert still.data.params["model.weights"] == first.info.run_id
    again = made(uri, *small, "optimizer.learning_rate=1e-30")
    assert again.data.tags["fingerprint"] != still.data.tags["fingerprint"]
    with pytest.raises(ConfigError) as caught:
        made(uri, *small, "model.units=8", start)
    assert "its weights have the shapes 64x16, 16, 16x10, 10, but this network needs 64x8, 8, 8x10, 10" in str(
        caught.value
    )
    before = len(runs(uri))
    without_model = made(uri, *small, "tracking.log_model=false")
    with pytest.raises(StoreError, match="has no model: runs log it at the end"):
        made(uri, *small, f"model.weights={without_model.info.run_id}")
    connect_store(uri).delete_tag(first.info.run_id, "model_digest")  # like a run recorded before digests existed
    for file in database_file(uri).parent.rglob("model.keras"):
        file.write_bytes(b"no model")
    with pytest.raises(StoreError, match=f"^model.weights: The model of run {first.info.run_id} cannot be loaded: "):
        made(uri, *small, start)
    assert len(runs(uri)) == before + 1  # refused runs are not recorded
