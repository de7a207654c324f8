"""Promotion to the champion of a registered model: of runs as they are recorded, in real stores."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from conftest import command
from servers import Server

from experiments.config.composition import compose_job
from experiments.config.identity import config_to_dict
from experiments.errors import UserError
from experiments.sweeps.promotion import promote_model
from experiments.tracking.model_registry import version_with_alias
from experiments.tracking.run import open_run
from experiments.tracking.store import connect_store

CONFIG = yaml.safe_dump(config_to_dict(compose_job(["data=digits"])))
METRIC = "best_val_accuracy"


def add_run(uri: str, right: int, value: float, digest: str = "d", objective: str = METRIC, **facts: str) -> str:
    """Add a finished run with a model, that got the first `right` of 100 test examples right; return its id."""
    tags = {"data_digest": digest} | ({"mlflow.parentRunId": facts.pop("parent")} if "parent" in facts else {})
    groups = {"dropout": "model.dropout", "fold": "data.fold", "folds": "data.folds"}
    params = {"seed": "0", **{groups.get(key, key): text for key, text in facts.items()}}
    with open_run(uri, "first", f"right={right}", params, tags) as run:
        run.log_metrics({objective: value, "test_accuracy": right / 100})
        run.log_text(CONFIG.replace("metric: auto", f"metric: {objective}"), "config/config.yaml")
        run.log_text("[]", "config/overrides.yaml")
        rows = [f"{i},a,{'a' if i < right else 'b'},0.9" for i in range(100)]
        run.log_text("\n".join(["index,actual,predicted,probability", *rows]), "predictions/test.csv")
    client = connect_store(uri)
    model = client.create_logged_model(run.experiment_id, "model", run.run_id)
    with TemporaryDirectory() as folder:
        Path(folder, "model.keras").write_bytes(b"weights")
        client.log_model_artifacts(model.model_id, folder)
    return run.run_id


def add_sweep(uri: str, **accuracies: list[float]) -> tuple[str, list[str]]:
    """Add a sweep over seeds of each dropout, such as `_1=[0.9, 0.91]`; return its id and those of its runs."""
    with open_run(uri, "first", "a sweep", {}, {"sweep": "digest", "objective": f"{METRIC} max"}) as parent:
        pass
    runs = [
        add_run(uri, 90, value, parent=parent.run_id, seed=str(seed), dropout=f"0.{key[1:]}")
        for key, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    return parent.run_id, runs


def promote(uri: str, run_id: str, *options: str) -> tuple[int, str, str]:
    done = command(run_id, "--name=digits", "--alias=champion", "--uri", uri, *options, script="scripts/promote.py")
    return done.returncode, done.stdout, done.stderr


def champion(uri: str) -> str:
    found = version_with_alias(connect_store(uri), "digits", "champion")
    assert found is not None
    return found.run_id


@pytest.fixture(params=["file", pytest.param("server", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, uri: str, tmp_path: Path) -> Iterator[str]:
    """The address of a SQLite store, then of a tracking server."""
    if request.param == "file":
        yield uri
        return
    server = Server(tmp_path)
    server.start()
    yield server.uri
    server.kill()


def test_a_champion_is_replaced_only_by_a_better_model(store: str) -> None:
    first, alike, better = add_run(store, 80, 0.84), add_run(store, 82, 0.86), add_run(store, 90, 0.85)
    code, out, err = promote(store, first[:12])
    said = f"best_val_accuracy 0.84: the first champion of digits.\nRun {first} (right=80) is digits version 1"
    assert (code, out) == (0, f"{said} (champion) now.\n")
    serve = "mlflow models serve -m models:/digits@champion --env-manager local"
    assert err == f"Next:\n  MLFLOW_TRACKING_URI={store} {serve}  # serve it\n"

    code, out, err = promote(store, alike)
    test = "McNemar's test on 100 test examples"
    assert (code, out) == (1, f"test_accuracy 0.82 against 0.8: not better beyond noise (p = 0.5, {test}).\n")
    assert err == f"Run {alike} (right=82) was not promoted. To promote it all the same, add --anyway.\n"
    assert champion(store) == first

    code, out, _ = promote(store, better)
    said = f"test_accuracy 0.9 against 0.8: better beyond noise (p = 0.002, {test}).\n"
    assert (code, out) == (0, f"{said}Run {better} (right=90) is digits version 2 (champion) now.\n")
    code, out, _ = promote(store, better)
    assert (code, out) == (0, f"Run {better} is digits version 2 (champion) already.\n")
    worse = promote_model(first, "digits", "champion", uri=store)
    assert worse.decision == f"test_accuracy 0.8 against 0.9: worse beyond noise (p = 0.002, {test})"

    version = connect_store(store).get_model_version_by_alias("digits", "champion")
    assert (str(version.version), version.tags) == ("2", {"run": better, "metric": METRIC, "value": "0.85"})
    assert version.description == said.removesuffix(".\n")

    assert promote(store, alike, "--anyway")[0] == 0
    assert champion(store) == alike
    said = f"Run {alike} is the registered model digits version 3 (champion), which cannot be loaded without it.\n"
    assert said in command(alike, "--uri", store, script="scripts/delete.py").stdout


def test_the_best_run_of_a_sweep_is_compared_over_seeds(uri: str) -> None:
    first, runs = add_sweep(uri, _1=[0.80, 0.81, 0.82], _2=[0.70, 0.71, 0.75])
    assert promote_model(first, "digits", "champion", uri=uri).run.run_id == runs[2]
    same, _ = add_sweep(uri, _3=[0.80, 0.82, 0.84])
    refused = promote_model(same, "digits", "champion", uri=uri)
    said = "not better beyond noise (p = 0.5, Welch's t-test over 3 and 3 seeds)"
    assert (refused.version, refused.decision) == (None, f"{METRIC} on average 0.82 against 0.81: {said}")
    better, runs = add_sweep(uri, _3=[0.93, 0.92, 0.91])
    promoted = promote_model(better, "digits", "champion", uri=uri)
    assert promoted.decision.startswith(f"{METRIC} on average 0.92 against 0.81: better beyond noise (p = 0.0")
    assert champion(uri) == runs[0]


def test_over_folds_the_test_is_corrected_for_their_overlap(uri: str) -> None:
    sweeps = {}
    for dropout, values in {"0.1": [0.80, 0.81, 0.82, 0.83], "0.2": [0.81, 0.84, 0.82, 0.85]}.items():
        sweeps[dropout] = add_sweep(uri)[0]
        for fold, value in enumerate(values):
            add_run(uri, 90, value, parent=sweeps[dropout], dropout=dropout, folds="4", fold=str(fold))
    promote_model(sweeps["0.1"], "digits", "champion", uri=uri)
    refused = promote_model(sweeps["0.2"], "digits", "champion", uri=uri)
    # The differences are 0.01, 0.03, 0, 0.02; t = 0.015 / (0.0129 * sqrt(1/4 + 1/3)) with 3 degrees of freedom.
    said = "not better beyond noise (p = 0.23, corrected resampled t-test over 4 and 4 seeds and folds)"
    assert (refused.version, refused.decision) == (None, f"{METRIC} on average 0.83 against 0.815: {said}")


def test_what_cannot_be_compared_is_refused(uri: str) -> None:
    promote_model(add_run(uri, 80, 0.8), "digits", "champion", uri=uri)
    other = promote_model(add_run(uri, 90, 0.9, digest="e"), "digits", "champion", uri=uri)
    said = "right=90: cannot be compared with digits version 1 (champion): its run"
    assert (other.version, other.decision) == (None, f"{said} {champion(uri)} was tested on other data (data_digest d)")
    loss = promote_model(add_run(uri, 90, 0.1, objective="val_loss"), "digits", "champion", uri=uri)
    assert loss.decision.endswith("predictions do not show the noise of val_loss, and there are not several seeds")
    deleted = champion(uri)
    assert command(deleted, "--yes", "--uri", uri, script="scripts/delete.py").returncode == 0
    new = add_run(uri, 100, 1.0)
    assert f"There is no run '{deleted}'" in promote_model(new, "digits", "champion", uri=uri).decision
    assert promote_model(new, "digits", "champion", anyway=True, uri=uri).version is not None


@pytest.mark.parametrize(
    ("name", "alias", "message"),
    [
        ("a/b", "champion", "--name=a/b is not allowed: the name of a registered model, without / and :"),
        ("digits", "latest", "--alias=latest is not allowed: letters, digits, _ and -, such as champion; not latest"),
        ("digits", "v1", "--alias=v1 is not allowed: letters, digits, _ and -"),
        ("digits", "best one", "--alias=best one is not allowed: letters, digits, _ and -"),
    ],
)
def test_names_that_mlflow_does_not_take_are_refused(name: str, alias: str, message: str, new_uri: str) -> None:
    with pytest.raises(UserError) as caught:
        promote_model("1234", name, alias, uri=new_uri)
    assert str(caught.value).startswith(message)
