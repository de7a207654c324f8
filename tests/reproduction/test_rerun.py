"""Repeated runs, and records that were changed after the run."""

import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from conftest import PROJECT, command
from stores import artifact, history, runs

from experiments.config.composition import compose_job
from experiments.config.identity import fingerprint_of
from experiments.errors import ConfigError, StoreError, UserError
from experiments.reproduction.bundle import BundleError, write_bundle
from experiments.reproduction.original_run import find_original_run, stored_weights, with_moved_data
from experiments.reproduction.rerun import MetricRow, compare_points, judge_rerun, repeat_run
from experiments.tracking.artifacts import model_location
from experiments.tracking.recorded_config import RECORDED_FILES, read_recorded_config
from experiments.tracking.store import connect_store

SCRIPT = "scripts/reproduce.py"
DIGITS = ["data=digits", "training.epochs=2", "report.figures=none"]


# --- the tolerance ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "recorded", "repeated", "close"),
    [
        ("val_loss", 0.5, 0.509, True),
        ("val_loss", 0.5, 0.511, False),
        ("test_loss", 0.5, 0.489, False),
        ("test_mean_absolute_error", 0.1, 0.103, False),
        ("val_accuracy", 0.95, 0.963, True),  # two images of 150
        ("val_accuracy", 0.95, 0.964, False),
        ("test_accuracy", 0.95, 0.956, False),
        ("test_error_percent", 5.0, 5.4, True),
        ("test_error_percent", 5.0, 5.6, False),
        ("best_epoch", 3, 9, True),
    ],
)
def test_tolerance_applies_only_where_equality_is_not_required(
    metric: str, recorded: float, repeated: float, close: bool
) -> None:
    images = {"test": 10_000, "validation": 150 if metric == "val_accuracy" else 5000, "train": 40}
    assert [row.equal for row in compare_points({metric: [(1, recorded)]}, {metric: [(1, repeated)]}, images)] == [
        close
    ]
    assert not compare_points({metric: [(1, recorded)]}, {metric: [(1, repeated)]}, None)[0].equal
    assert compare_points({metric: [(1, recorded)]}, {metric: [(1, recorded)]}, None)[0].equal


def test_reports_the_largest_difference_of_all_epochs() -> None:
    (row,) = compare_points({"loss": [(1, 4.0), (2, 2.0)]}, {"loss": [(1, 4.5), (2, 2.25)]}, {"train": 100})
    assert row == MetricRow("loss", 2.0, 2.25, 0.5, 1, False)


def test_a_metric_without_points_is_not_equal() -> None:
    assert compare_points({"a": []}, {}, None) == [MetricRow("a", None, None, None, None, False)]


def test_a_metric_or_epoch_missing_from_one_run_is_not_equal() -> None:
    recorded, repeated = {"a": [(1, 1.0)], "b": [(1, 1.0)]}, {"b": [(1, 1.0), (2, 1.0)], "c": [(1, 1.0)]}
    rows = compare_points(recorded, repeated, {"train": 100})
    assert [(row.metric, row.recorded, row.repeated, row.difference, row.equal) for row in rows] == [
        ("a", 1.0, None, None, False),
        ("b", 1.0, 1.0, None, False),
        ("c", None, 1.0, None, False),
    ]


# --- the script ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that has one finished run."""
    folder = tmp_path_factory.mktemp("recorded")
    done = command(*DIGITS, f"tracking.uri=sqlite:///{folder}/mlflow.db")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def store(recorded: Path, tmp_path: Path) -> tuple[str, str]:
    """The URI of a copy of the store, which the test may change, and the run's id."""
    folder = tmp_path / "store"
    shutil.copytree(recorded, folder)
    places = {"experiments": "artifact_location", "runs": "artifact_uri", "logged_models": "artifact_location"}
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        for table, column in places.items():
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(recorded), str(folder)))
    uri = f"sqlite:///{folder}/mlflow.db"
    return uri, runs(uri)[0].info.run_id


def again(store: tuple[str, str]) -> subprocess.CompletedProcess[str]:
    uri, run_id = store
    return command(run_id, "--uri", uri, script=SCRIPT)


def change(store: tuple[str, str], statement: str) -> None:
    with closing(sqlite3.connect(store[0].removeprefix("sqlite:///"))) as database, database:
        assert database.execute(statement).rowcount > 0


def config_file(store: tuple[str, str]) -> Path:
    folder = connect_store(store[0]).get_run(store[1]).info.artifact_uri.removeprefix("file://")
    return Path(folder, "config/config.yaml")


def model_file(store: tuple[str, str]) -> Path:
    (file,) = Path(store[0].removeprefix("sqlite:///")).parent.rglob("model.keras")
    return file


def change_model(file: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> None:
    """Change some of the files in a `.keras` file."""
    parts = {name: zipfile.ZipFile(file).read(name) for name in zipfile.ZipFile(file).namelist()}
    with zipfile.ZipFile(file, "w") as changed:
        for name, content in (parts | change(parts)).items():
            changed.writestr(name, content)


def change_a_weight(store: tuple[str, str], place: str = "layers/dense/vars/0") -> None:
    """Change the first weight of a layer; in the first layer it belongs to a corner pixel that is always white, so
    that it changes no prediction."""

    def change(parts: dict[str, bytes]) -> dict[str, bytes]:
        weights = io.BytesIO(parts["model.weights.h5"])
        with h5py.File(weights, "r+") as opened:
            opened[place][(0,) * opened[place].ndim] += 1
        return {"model.weights.h5": weights.getvalue()}

    change_model(model_file(store), change)


def assert_not_reproduced(store: tuple[str, str], *messages: str) -> str:
    """Repeat the run to its end and check that the output names what was changed."""
    done = again(store)
    assert done.returncode == 1, done.stderr
    for message in messages:
        assert message in done.stdout
    assert done.stdout.endswith("Not reproduced.\n")
    assert [run.info.status for run in runs(store[0])] == ["FINISHED"] * 2
    return done.stdout


@pytest.mark.slow
def test_a_run_is_reproduced_to_the_last_bit_in_a_new_linked_run(store: tuple[str, str]) -> None:
    uri, run_id = store
    recorded = history(uri, run_id)
    connect_store(uri).log_metric(run_id, "evaluation_digits_accuracy", 0.5)  # as evaluate.py adds it afterwards
    done = command(run_id[:10], "--uri", uri, script=SCRIPT)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Required: equal to the last bit" in done.stdout
    assert done.stdout.endswith("Reproduced.\n")
    first, new = runs(uri)
    assert (new.data.tags["reproduces"], new.info.run_name) == (run_id, "again: digits epochs=2")
    assert new.data.tags["fingerprint"] == first.data.tags["fingerprint"]
    assert history(uri, new.info.run_id) == recorded
    for metric in recorded:
        assert metric in done.stdout
    for time in ("epoch_seconds", "examples_per_second"):
        assert time not in done.stdout


@pytest.mark.slow
def test_names_a_metric_whose_history_was_changed(store: tuple[str, str]) -> None:
    change(store, "UPDATE metrics SET value = value + 1e-9 WHERE key = 'val_loss' AND step = 1")
    out = assert_not_reproduced(store, "Different: val_loss.\n", "1e-09 in epoch 1")
    assert "The record was changed" not in out


@pytest.mark.slow
def test_a_changed_config_is_detected(store: tuple[str, str]) -> None:
    path = config_file(store)
    config = yaml.safe_load(path.read_text())
    config["seed"] = 1
    path.write_text(yaml.safe_dump(config))
    assert_not_reproduced(
        store,
        "The record was changed after the run: config/config.yaml does not match its digest in the tag record_digests.",
        "Different: loss,",
    )


@pytest.mark.slow
def test_a_changed_result_and_a_changed_model_are_detected(store: tuple[str, str]) -> None:
    change(store, "UPDATE latest_metrics SET value = 0.999 WHERE key = 'test_accuracy'")
    change_a_weight(store)
    out = assert_not_reproduced(
        store,
        "Different: the model.\n",
        "The record was changed after the run: the model file does not match its digest in the tag model_digest.\n",
        "The record was changed after the run: the last test_accuracy is 0.999, which is not the last value in its hi",
    )
    assert out.count("The record was changed") == 2


def test_changed_files_are_detected_and_not_exported(store: tuple[str, str]) -> None:
    uri, run_id = store
    assert find_original_run(run_id, uri).record_changes() == []
    hardware = config_file(store).parent.parent / "environment" / "hardware.json"
    hardware.write_text(hardware.read_text().replace('"processor": "', '"processor": "another '))
    config = config_file(store)
    config.write_text(config.read_text().replace("mode: auto", "mode: min"))  # which changes no result
    digest = "does not match its digest in the tag record_digests"
    assert find_original_run(run_id, uri).record_changes() == [
        f"config/config.yaml {digest}",
        f"environment/hardware.json {digest}",
    ]
    with pytest.raises(BundleError, match=f"Run {run_id} cannot be exported: its record was changed: config/"):
        write_bundle(run_id, uri, config.with_name("run.json"))


def test_damaged_digests_count_as_changed_files(store: tuple[str, str]) -> None:
    uri, run_id = store
    assert set(json.loads(runs(uri)[0].data.tags["record_digests"])) == set(RECORDED_FILES)
    for value in ("{}", "[", "null"):
        connect_store(uri).set_tag(run_id, "record_digests", value)
        assert len(find_original_run(run_id, uri).changed_files) == len(RECORDED_FILES)


def test_a_metric_that_is_not_a_number_is_reported(store: tuple[str, str]) -> None:
    change(store, "UPDATE latest_metrics SET value = 'x' WHERE key = 'loss'")
    with pytest.raises(StoreError, match=f"Run {store[1]} is damaged: the metric loss='x' is not a number"):
        find_original_run(store[1], store[0])


@pytest.mark.parametrize("shape", [None, (2**62,), (10**6, 10**9), (10**4, 10**4)])
def test_a_model_file_with_huge_shapes_has_no_weights(shape: tuple[int, ...] | None) -> None:
    weights, file = io.BytesIO(), io.BytesIO()
    with h5py.File(weights, "w") as opened:
        if shape is None:
            opened["vars/0"] = h5py.Empty("f")
        else:
            opened.create_dataset("vars/0", shape=shape, dtype="f", chunks=(1,) * len(shape))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model.weights.h5", weights.getvalue())
    assert stored_weights(file.getvalue()) == {}


def test_names_the_changed_facts_about_the_machine(store: tuple[str, str]) -> None:
    found = find_original_run(store[1], store[0])
    instructions, switches = found.hardware["instructions"], found.hardware["switches"]
    assert isinstance(instructions, list)
    assert isinstance(switches, dict)
    assert switches["XLA_FLAGS"] == "--xla_cpu_prefer_vector_width=512"
    assert found.machine_changes(found.hardware) == []
    switches = {name: flags for name, flags in switches.items() if name != "XLA_FLAGS"}
    elsewhere = {**found.hardware, "threads": 3, "instructions": [*instructions, "avx9"], "switches": switches}
    two = replace(found, hardware={**found.hardware, "gpus": ["A100", "A100"]})
    assert two.machine_changes({**found.hardware, "gpus": ["A100"]}) == ["gpus was A100, is none"]
    assert found.machine_changes(elsewhere) == [
        "instructions was none, is avx9",
        "threads was 1, is 3",
        "switches was XLA_FLAGS=--xla_cpu_prefer_vector_width=512, is none",
    ]


@pytest.mark.slow
def test_a_missing_or_changed_model_is_detected_on_other_machines(store: tuple[str, str], tensorflow: None) -> None:
    uri, run_id = store
    found = find_original_run(run_id, uri)
    assert found.model is not None
    elsewhere = replace(found, hardware={**found.hardware, "processor": "another"})
    assert (judge_rerun(elsewhere, run_id).exact, judge_rerun(elsewhere, run_id).reproduced) == (False, True)
    wider = {place: np.zeros((17, *weights.shape[1:])) for place, weights in found.model.weights.items()}
    verdict = judge_rerun(replace(elsewhere, model=replace(found.model, weights=wider)), run_id)
    assert (verdict.record_changes, verdict.same_weights, verdict.reproduced) == ([], False, False)
    change_a_weight(store, "layers/dense_1/vars/1")
    verdict = judge_rerun(elsewhere, run_id)
    assert (verdict.record_changes, verdict.same_weights, verdict.reproduced) == ([], False, False)
    connect_store(uri).delete_tag(run_id, "model_digest")
    assert find_original_run(run_id, uri).record_changes() == [
        "the model file does not match its digest in the tag model_digest"
    ]
    model_file(store).unlink()
    assert find_original_run(run_id, uri).record_changes() == ["the logged model is missing"]


def test_another_network_with_the_same_weights_is_another_model(store: tuple[str, str]) -> None:
    uri, run_id = store
    found, file = find_original_run(run_id, uri).model, model_file(store)
    assert found is not None
    for old, new, equal in ((b'"dense"', b'"dense_7"', True), (b'"softmax"', b'"linear"', False)):
        change_model(file, lambda parts, old=old, new=new: {"config.json": parts["config.json"].replace(old, new)})
        model = find_original_run(run_id, uri).model
        assert model is not None
        assert model.digest != found.digest
        assert (model.equals(found), model.weights.keys() == found.weights.keys()) == (equal, True)


@pytest.mark.slow
def test_other_code_and_packages_are_reported_and_relax_the_tolerance(store: tuple[str, str]) -> None:
    uri, run_id = store
    client = connect_store(uri)
    (config, _), tags = read_recorded_config(uri, run_id), dict(client.get_run(run_id).data.tags)
    parts = {"code_digest": "0" * 36, "versions": tags["versions"], "data_digest": tags["data_digest"]}
    for key, value in {**parts, "fingerprint": fingerprint_of(config, parts)}.items():
        client.set_tag(run_id, key, value)
    client.log_text(run_id, artifact(uri, run_id, "environment/packages.txt") + "gone==1\n", "environment/packages.txt")
    client.delete_tag(run_id, "record_digests")  # as for runs recorded before digests existed
    change(store, "UPDATE metrics SET value = value * 1.01 WHERE key = 'val_loss' AND step = 1")
    done = again(store)
    assert done.returncode == 0, done.stderr
    assert f"Differs from the recorded run: the project's code (code_digest was {'0' * 36}, is " in done.stderr
    assert "Differs from the recorded run: installed packages: was gone==1, is none\n" in done.stderr
    assert "Required: within 2 % for losses and other metrics, 0.5 percentage points (or two images" in done.stdout


@pytest.mark.slow
def test_a_run_that_cannot_be_repeated_is_refused_with_advice(store: tuple[str, str]) -> None:
    uri, _ = store
    client = connect_store(uri)
    bare = client.create_run("0", run_name="bare")
    client.set_terminated(bare.info.run_id)
    failed = client.create_run("0", run_name="broken")
    client.set_terminated(failed.info.run_id, "FAILED")
    diverged, parent = (client.create_run("0", run_name=name).info.run_id for name in ("diverged", "three"))
    for key, value in {"end_error": "NotFiniteError", "end_reason": "loss became nan in epoch 2 of 5."}.items():
        client.set_tag(diverged, key, value)
    client.set_terminated(diverged, "FAILED")
    client.set_tag(failed.info.run_id, "mlflow.parentRunId", parent)
    for wrong, message in {
        diverged: "only finished runs can be reproduced. Resuming it would fail again: loss became nan in epoch 2",
        parent: rf"\(three\) is a sweep. Choose one of its runs: {failed.info.run_id} \(broken\). To see them"
        rf" all: python scripts/compare.py --sweep {parent}$",
        bare.info.run_id: "has no artifact config/config.yaml",
        failed.info.run_id: r"\(broken\) is FAILED; only finished runs can be reproduced. Resume it first: python",
    }.items():
        with pytest.raises(StoreError, match=message):
            find_original_run(wrong, uri)
    unknown = command("0" * 32, "--uri", uri, script=SCRIPT)
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1), unknown.stderr
    assert f"There is no run '{'0' * 32}'" in unknown.stderr
    assert len(runs(uri)) == 5


@pytest.mark.slow
def test_damaged_recorded_files_are_reported_in_one_line(store: tuple[str, str]) -> None:
    folder = config_file(store).parents[1]
    for name, content, message in (
        (
            "config/config.yaml",
            b"[1, 2]",
            "is damaged: it is not a mapping. Without it the run cannot be resumed",
        ),
        ("config/config.yaml", b"seed: 2020-01-01", "is damaged: Object of type date is not JSON serializable"),
        ("config/config.yaml", b"&a [*a]", "is damaged: it describes more than 10,000 values"),
        ("config/config.yaml", b"seed: !!python/name:os.system", "could not determine a constructor for the tag"),
        ("config/config.yaml", b"\xff\xfe", "config/config.yaml is damaged: 'utf-8' codec can't decode byte 0xff"),
        ("config/config.yaml", b"seed: [", "is damaged: while parsing a flow node expected the node content"),
        ("config/overrides.yaml", b"5", "is damaged: it is not a list of strings. Without it"),
        ("environment/hardware.json", b"{", "environment/hardware.json is damaged: Expecting property name"),
        ("environment/hardware.json", b"[" * 100_000, "environment/hardware.json is damaged: maximum recursion depth"),
        ("environment/hardware.json", b"[]", "environment/hardware.json is damaged: it is not a mapping."),
        ("environment/packages.txt", b"\xff", "environment/packages.txt is damaged: 'utf-8' codec"),
    ):
        path = folder / name
        before = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            find_original_run(store[1], store[0])
        path.write_bytes(before)
        assert message in str(caught.value)
        assert str(caught.value).endswith("Restore the file from a copy, or make a new run.")
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_run_with_missing_initial_weights_is_refused(store: tuple[str, str], tmp_path: Path) -> None:
    (uri, run_id), start = store, "0" * 32
    path = config_file(store)
    path.write_text(path.read_text().replace("weights: null", f"weights: '{start}'"))
    with pytest.raises(BundleError, match=rf"starts from the weights of run {start} \(model.weights\), which a bundle"):
        write_bundle(run_id, uri, tmp_path / "run.json")
    with pytest.raises(StoreError, match=f"^model.weights: There is no run '{start}' in {uri}"):
        repeat_run(find_original_run(run_id, uri))
    with pytest.raises(StoreError, match=f"^There is no run '{start}' in {uri}"):
        model_location(uri, start)


@pytest.mark.slow
def test_moved_data_is_read_from_the_given_folder(store: tuple[str, str], tmp_path: Path) -> None:
    config = compose_job(["data=mnist", f"data.path={tmp_path}/gone"])
    found = replace(find_original_run(store[1], store[0]), config=config, overrides=["+data.path=x", "seed=0"])
    for folder, given in (("/data", "/data"), ("~/My data (1)", "'~/My data (1)'")):
        there = with_moved_data(found, f"data.path={given}")
        assert (there.config.data.path, there.overrides) == (folder, ["seed=0", f"data.path={given}"])
    with pytest.raises(ConfigError, match=r"mnist contains a reference\. Name the folder itself: data\.path="):
        with_moved_data(found, "data.path=${oc.env:HOME}/mnist")
    with pytest.raises(ConfigError, match=r"'data\.path=~' is not an override: .*; quote values with"):
        with_moved_data(found, "data.path=~")
    with pytest.raises(ConfigError, match=r"data\.path=/data: data=digits is not read from a folder\. Leave out"):
        with_moved_data(find_original_run(store[1], store[0]), "data.path=/data")


def test_missing_data_is_refused(store: tuple[str, str], tmp_path: Path) -> None:
    shown = command("--cfg", "job", "data=mnist", f"data.path={tmp_path}/gone")
    config_file(store).write_text(shown.stdout)
    done = again(store)
    assert done.returncode == 2
    assert f"{tmp_path}/gone does not exist" in done.stderr
    assert len(runs(store[0])) == 1


def test_help_loads_nothing_heavy() -> None:
    loaded = "import sys, runpy, atexit; atexit.register(lambda: print({'tensorflow', 'mlflow'} & set(sys.modules)));"
    script = f"{loaded} sys.argv = ['reproduce.py', '--help']; runpy.run_path({SCRIPT!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0
    assert "RUN_ID" in done.stdout
    assert done.stdout.endswith("set()\n")
