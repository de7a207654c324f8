"""Recorded runs that are run again, and records that somebody changed."""

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
from experiments.config.identity import config_to_dict, fingerprint_of
from experiments.errors import ConfigError, StoreError, UserError
from experiments.reproduction.bundle import BundleError, write_bundle
from experiments.reproduction.logged_model import _stored_weights
from experiments.reproduction.record import RECORDED_FILES, _says, find_record, with_moved_data
from experiments.reproduction.rerun import MetricRow, compare_points, judge_rerun, rerun_record
from experiments.tracking.artifacts import model_location
from experiments.tracking.recorded_config import read_recorded_config
from experiments.tracking.store import connect_store

SCRIPT = "scripts/reproduce.py"
DIGITS = ["data=digits", "training.epochs=2", "report.figures=none"]


# --- what is within the tolerance ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "then", "now", "close"),
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
def test_elsewhere_metrics_may_differ_by_the_tolerance_and_here_by_nothing(
    metric: str, then: float, now: float, close: bool
) -> None:
    images = {"test_": 10_000, "val_": 150 if metric == "val_accuracy" else 5000, "": 40}
    assert [row.equal for row in compare_points({metric: [(1, then)]}, {metric: [(1, now)]}, images)] == [close]
    assert not compare_points({metric: [(1, then)]}, {metric: [(1, now)]}, None)[0].equal
    assert compare_points({metric: [(1, then)]}, {metric: [(1, then)]}, None)[0].equal


def test_the_largest_difference_is_that_of_all_epochs() -> None:
    (row,) = compare_points({"loss": [(1, 4.0), (2, 2.0)]}, {"loss": [(1, 4.5), (2, 2.25)]}, {"": 100})
    assert row == MetricRow("loss", 2.0, 2.25, 0.5, 1, False)


def test_a_metric_without_any_epoch_in_either_run_is_no_match() -> None:
    assert compare_points({"a": []}, {}, None) == [MetricRow("a", None, None, None, None, False)]


@pytest.mark.parametrize(("filters", "true"), [(24, True), (25, False)])
def test_an_override_of_a_layer_in_a_list_sets_what_it_names_in_it(filters: int, true: bool) -> None:
    tree = config_to_dict(compose_job(["experiment=fast99"]))
    assert _says(tree, "model.layers.1", {"Conv2D": {"filters": filters}}) == true


def test_a_metric_or_an_epoch_that_only_one_of_the_runs_has_is_no_match() -> None:
    then, now = {"a": [(1, 1.0)], "b": [(1, 1.0)]}, {"b": [(1, 1.0), (2, 1.0)], "c": [(1, 1.0)]}
    rows = compare_points(then, now, {"": 100})
    assert [(row.metric, row.then, row.now, row.difference, row.equal) for row in rows] == [
        ("a", 1.0, None, None, False),
        ("b", 1.0, 1.0, None, False),
        ("c", None, 1.0, None, False),
    ]


# --- the script ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of one finished run."""
    folder = tmp_path_factory.mktemp("recorded")
    done = command(*DIGITS, f"tracking.uri=sqlite:///{folder}/mlflow.db")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def store(recorded: Path, tmp_path: Path) -> tuple[str, str]:
    """URI of a copy of the store that the test may change, and the run's id."""
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
    """Changes some of the files in a `.keras` file."""
    parts = {name: zipfile.ZipFile(file).read(name) for name in zipfile.ZipFile(file).namelist()}
    with zipfile.ZipFile(file, "w") as changed:
        for name, content in (parts | change(parts)).items():
            changed.writestr(name, content)


def change_a_weight(store: tuple[str, str], place: str = "layers/dense/vars/0") -> None:
    """The first; in the first layer it is one that no image of the test set makes a difference to: that of a corner
    pixel that is always white."""

    def change(parts: dict[str, bytes]) -> dict[str, bytes]:
        weights = io.BytesIO(parts["model.weights.h5"])
        with h5py.File(weights, "r+") as opened:
            opened[place][(0,) * opened[place].ndim] += 1
        return {"model.weights.h5": weights.getvalue()}

    change_model(model_file(store), change)


def assert_found_out(store: tuple[str, str], *said: str) -> str:
    """The run was tried again, to its end, and what was changed is named."""
    done = again(store)
    assert done.returncode == 1, done.stderr
    for text in said:
        assert text in done.stdout
    assert done.stdout.endswith("Not reproduced.\n")
    assert [run.info.status for run in runs(store[0])] == ["FINISHED"] * 2
    return done.stdout


@pytest.mark.slow
def test_a_run_is_reproduced_to_the_last_bit_as_a_new_run_linked_to_it(store: tuple[str, str]) -> None:
    uri, run_id = store
    recorded = history(uri, run_id)
    connect_store(uri).log_metric(run_id, "evaluation_digits_accuracy", 0.5)  # as evaluate.py adds it afterwards
    done = command(run_id[:10], "--uri", uri, script=SCRIPT)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Asked for: equal to the last bit" in done.stdout
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
def test_a_metric_that_was_changed_in_the_store_is_named(store: tuple[str, str]) -> None:
    change(store, "UPDATE metrics SET value = value + 1e-9 WHERE key = 'val_loss' AND step = 1")
    out = assert_found_out(store, "Not the same: val_loss.\n", "1e-09 in epoch 1")
    assert "The record was changed" not in out


@pytest.mark.slow
def test_a_config_that_was_changed_is_found_out(store: tuple[str, str]) -> None:
    path = config_file(store)
    config = yaml.safe_load(path.read_text())
    config["seed"] = 1
    path.write_text(yaml.safe_dump(config))
    assert_found_out(
        store,
        "the param seed is 0, in config/config.yaml it is 1.",
        "the tag fingerprint is not that of config/config.yaml and the tags code_digest, versions, data_digest.",
        "Not the same: loss,",
    )


@pytest.mark.slow
def test_a_param_a_result_and_a_model_that_were_changed_where_others_read_them_are_found_out(
    store: tuple[str, str],
) -> None:
    change(store, "UPDATE params SET value = '0.5' WHERE key = 'model.dropout'")
    change(store, "UPDATE latest_metrics SET value = 0.999 WHERE key = 'test_accuracy'")
    change_a_weight(store)
    out = assert_found_out(
        store,
        "Not the same: the model.\n",
        "The record was changed after the run: the model's file is not the one that was logged, by its digest in",
        "The record was changed after the run: the param model.dropout is 0.5, in config/config.yaml it is 0.2.\n",
        "The record was changed after the run: the last test_accuracy is 0.999, and none such in its history.\n",
        "The record was changed after the run: test_error_percent is ",
    )
    assert out.count("The record was changed") == 4


def test_what_follows_from_other_metrics_and_any_file_of_the_record_is_held_against_them(
    store: tuple[str, str],
) -> None:
    uri, run_id = store
    assert find_record(run_id, uri).contradictions() == []
    for table in ("metrics", "latest_metrics"):
        for key, value in (("test_error_percent", 0.25), ("best_epoch", 7), ("best_val_accuracy", 0.875)):
            change(store, f"UPDATE {table} SET value = {value} WHERE key = '{key}'")
    metrics = history(uri, run_id)
    best = max(value for _, value in metrics["val_accuracy"])
    hardware = config_file(store).parent.parent / "environment" / "hardware.json"
    hardware.write_text(hardware.read_text().replace('"processor": "', '"processor": "another '))
    config = config_file(store)
    config.write_text(config.read_text().replace("mode: auto", "mode: min"))  # in no param, and changes no result
    with pytest.raises(BundleError, match=f"Run {run_id} cannot be put into a bundle: its record was changed: config/"):
        write_bundle(run_id, uri, config.with_name("run.json"))
    found = find_record(run_id, uri).contradictions()
    digest = "is not the file that was logged, by its digest in the tag record_digests"
    assert found[:2] == [f"config/config.yaml {digest}", f"environment/hardware.json {digest}"]
    assert found[2:] == [
        f"best_val_accuracy is 0.875, by the other metrics it is {best:g}",
        f"best_epoch is 7, by the other metrics it is {1 + [v for _, v in metrics['val_accuracy']].index(best)}",
        f"test_error_percent is 0.25, by the other metrics it is {100 - 100 * metrics['test_accuracy'][0][1]:g}",
    ]


def test_a_tag_without_the_digests_of_the_record_is_found_out(store: tuple[str, str]) -> None:
    uri, run_id = store
    assert set(json.loads(runs(uri)[0].data.tags["record_digests"])) == set(RECORDED_FILES)
    for value in ("{}", "[", "null"):
        connect_store(uri).set_tag(run_id, "record_digests", value)
        assert len(find_record(run_id, uri).changed_files) == len(RECORDED_FILES)


def test_a_metric_that_is_no_number_is_told(store: tuple[str, str]) -> None:
    change(store, "UPDATE latest_metrics SET value = 'x' WHERE key = 'loss'")
    with pytest.raises(StoreError, match=f"Run {store[1]} was changed: its metric loss is 'x', no number"):
        find_record(store[1], store[0])


@pytest.mark.parametrize("shape", [None, (2**62,), (10**6, 10**9)])
def test_a_model_that_claims_more_than_there_is_can_be_read(shape: tuple[int, ...] | None) -> None:
    weights, file = io.BytesIO(), io.BytesIO()
    with h5py.File(weights, "w") as opened:
        if shape is None:
            opened["vars/0"] = h5py.Empty("f")
        else:
            opened.create_dataset("vars/0", shape=shape, dtype="f", chunks=(1,) * len(shape))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model.weights.h5", weights.getvalue())
    assert _stored_weights(file.getvalue()) == {}


def test_what_of_the_machine_has_changed_is_named(store: tuple[str, str]) -> None:
    found = find_record(store[1], store[0])
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
def test_a_model_that_is_gone_or_another_is_found_out_on_other_machines_too(
    store: tuple[str, str], tensorflow: None
) -> None:
    uri, run_id = store
    found = find_record(run_id, uri)
    assert found.model is not None
    elsewhere = replace(found, hardware={**found.hardware, "processor": "another"})
    assert (judge_rerun(elsewhere, run_id).exact, judge_rerun(elsewhere, run_id).reproduced) == (False, True)
    wider = {place: np.zeros((17, *weights.shape[1:])) for place, weights in found.model.weights.items()}
    verdict = judge_rerun(replace(elsewhere, model=replace(found.model, weights=wider)), run_id)
    assert (verdict.contradictions, verdict.same_weights, verdict.reproduced) == ([], False, False)
    change_a_weight(store, "layers/dense_1/vars/1")
    verdict = judge_rerun(elsewhere, run_id)
    assert (verdict.contradictions, verdict.same_weights, verdict.reproduced) == ([], False, False)
    connect_store(uri).delete_tag(run_id, "model_digest")
    assert find_record(run_id, uri).contradictions() == [
        "the model's file is not the one that was logged, by its digest in the tag model_digest"
    ]
    model_file(store).unlink()
    assert find_record(run_id, uri).contradictions() == ["the model that it logged is gone"]


def test_another_network_around_the_same_weights_is_another_model(store: tuple[str, str]) -> None:
    uri, run_id = store
    found, file = find_record(run_id, uri).model, model_file(store)
    assert found is not None
    for old, new, equal in ((b'"name": "dense"', b'"name": "dense_7"', True), (b'"softmax"', b'"linear"', False)):
        change_model(file, lambda parts, old=old, new=new: {"config.json": parts["config.json"].replace(old, new)})
        model = find_record(run_id, uri).model
        assert model is not None
        assert model.digest != found.digest
        assert (model.equals(found), model.weights.keys() == found.weights.keys()) == (equal, True)


@pytest.mark.slow
def test_other_code_and_packages_are_said_and_allow_for_the_tolerance(store: tuple[str, str]) -> None:
    uri, run_id = store
    client = connect_store(uri)
    (config, _), tags = read_recorded_config(uri, run_id), dict(client.get_run(run_id).data.tags)
    parts = {"code_digest": "0" * 36, "versions": tags["versions"], "data_digest": tags["data_digest"]}
    for key, value in {**parts, "fingerprint": fingerprint_of(config, parts)}.items():
        client.set_tag(run_id, key, value)
    client.log_text(run_id, artifact(uri, run_id, "environment/packages.txt") + "gone==1\n", "environment/packages.txt")
    client.delete_tag(run_id, "record_digests")  # as of a run of before there were any
    change(store, "UPDATE metrics SET value = value * 1.01 WHERE key = 'val_loss' AND step = 1")
    done = again(store)
    assert done.returncode == 0, done.stderr
    assert f"Differs from then: the project's code (code_digest was {'0' * 36}, is " in done.stderr
    assert "Differs from then: installed packages: was gone==1, is none\n" in done.stderr
    assert "Asked for: within 2 % in losses and other metrics, 0.5 percentage points (or two images" in done.stdout


@pytest.mark.slow
def test_what_cannot_be_tried_is_said_and_nothing_is_made(store: tuple[str, str]) -> None:
    uri, _ = store
    client = connect_store(uri)
    bare = client.create_run("0", run_name="bare")
    client.set_terminated(bare.info.run_id)
    failed = client.create_run("0", run_name="broken")
    client.set_terminated(failed.info.run_id, "FAILED")
    diverged, parent = (client.create_run("0", run_name=name).info.run_id for name in ("diverged", "three"))
    client.set_tag(diverged, "end_reason", "loss became nan in epoch 2 of 5. Likely causes: many.")
    client.set_terminated(diverged, "FAILED")
    client.set_tag(failed.info.run_id, "mlflow.parentRunId", parent)
    for wrong, message in {
        diverged: r"finished run can be reproduced. To go on with it would only fail again: loss became nan in epoch 2",
        parent: rf"\(three\) is a sweep, which only holds its runs together. Give one of them: {failed.info.run_id}"
        rf" \(broken\). All of them: python scripts/compare.py --sweep {parent}$",
        bare.info.run_id: "has no artifact config/config.yaml",
        failed.info.run_id: r"\(broken\) is FAILED: only a finished run can be reproduced. Go on with it first: python",
    }.items():
        with pytest.raises(StoreError, match=message):
            find_record(wrong, uri)
    unknown = command("0" * 32, "--uri", uri, script=SCRIPT)
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1), unknown.stderr
    assert f"There is no run '{'0' * 32}'" in unknown.stderr
    assert len(runs(uri)) == 5


@pytest.mark.slow
def test_files_of_a_record_that_are_damaged_are_told_in_one_line(store: tuple[str, str]) -> None:
    folder = config_file(store).parents[1]
    for name, content, message in (
        ("config/config.yaml", b"[1, 2]", "config/config.yaml is not a mapping."),
        ("config/config.yaml", b"seed: 2020-01-01", "config/config.yaml: Object of type date is not JSON serializable"),
        ("config/config.yaml", b"&a [*a]", "config/config.yaml: Circular reference detected"),
        ("config/config.yaml", b"seed: !!python/name:os.system", "could not determine a constructor for the tag"),
        ("config/config.yaml", b"\xff\xfe", "config/config.yaml is damaged: 'utf-8' codec can't decode byte 0xff"),
        ("config/overrides.yaml", b"5", "config/overrides.yaml is not a list of texts."),
        ("environment/hardware.json", b"{", "environment/hardware.json is damaged: Expecting property name"),
        ("environment/hardware.json", b"[]", "environment/hardware.json is damaged: it is no mapping."),
        ("environment/packages.txt", b"\xff", "environment/packages.txt is damaged: 'utf-8' codec"),
    ):
        path = folder / name
        before = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            find_record(store[1], store[0])
        path.write_bytes(before)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_run_that_starts_from_weights_that_are_not_there_cannot_be_tried_or_exported(
    store: tuple[str, str], tmp_path: Path
) -> None:
    (uri, run_id), start = store, "0" * 32
    path = config_file(store)
    path.write_text(path.read_text().replace("weights: null", f"weights: '{start}'"))
    with pytest.raises(BundleError, match=rf"starts from the weights of run {start} \(model.weights\), which a bundle"):
        write_bundle(run_id, uri, tmp_path / "run.json")
    with pytest.raises(StoreError, match=f"^model.weights: There is no run '{start}' in {uri}"):
        rerun_record(find_record(run_id, uri))
    with pytest.raises(StoreError, match=f"^There is no run '{start}' in {uri}"):
        model_location(uri, start)


@pytest.mark.slow
def test_data_that_has_moved_is_read_where_it_is_now(store: tuple[str, str], tmp_path: Path) -> None:
    config = compose_job(["data=mnist", f"data.path={tmp_path}/gone"])
    found = replace(find_record(store[1], store[0]), config=config, overrides=["+data.path=x", "seed=0"])
    for folder, given in (("/data", "/data"), ("~/My data (1)", "'~/My data (1)'")):
        there = with_moved_data(found, f"data.path={given}")
        assert (there.config.data.path, there.overrides) == (folder, ["seed=0", f"data.path={given}"])
        assert there.false_overrides() == {}
        assert not any("data.path" in contradiction for contradiction in there.contradictions())
    with pytest.raises(ConfigError, match=r"mnist refers to something else\. Name the folder itself: data\.path="):
        with_moved_data(found, "data.path=${oc.env:HOME}/mnist")
    with pytest.raises(ConfigError, match=r"'data\.path=~' is not an override: .*; quote values with"):
        with_moved_data(found, "data.path=~")
    with pytest.raises(ConfigError, match=r"data\.path=/data: data=digits is read from no folder\. Leave it out"):
        with_moved_data(find_record(store[1], store[0]), "data.path=/data")


def test_data_that_is_gone_cannot_be_tried(store: tuple[str, str], tmp_path: Path) -> None:
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
