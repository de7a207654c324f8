"""Runs in MLflow, with real processes, a real server on loopback and real kills."""

import json
import re
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT
from servers import Server

from experiments.errors import StoreError, Terminated, UserError
from experiments.tracking import spool
from experiments.tracking.addresses import check_tracking_uri, database_file, resolve_tracking_uri
from experiments.tracking.artifacts import download_model, read_artifact_text
from experiments.tracking.liveness import mark_dead_runs, process_tags
from experiments.tracking.run import open_run, reopen_ended_run
from experiments.tracking.spool import SPOOL_FOLDER, Spool, find_abandoned_spools
from experiments.tracking.store import connect_store

PROCESS = """
import signal, sys, time
from experiments.errors import raise_terminated
from experiments.tracking.run import open_run

signal.signal(signal.SIGTERM, raise_terminated)
uri, name, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
with open_run(uri, "digits", name, {"seed": 0}, {}) as run:
    run.log_metrics({"loss": 0.5}, epoch=1)
    run.log_dataset("digits", "d" * 36, "scikit-learn", {"train": 1500})
    print(run.run_id, flush=True)
    time.sleep(seconds)
"""


@pytest.fixture(autouse=True)
def spools(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "SPOOL_FOLDER", tmp_path / "spool")
    return tmp_path / "spool"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A local store in a folder with a name that needs quoting."""
    uri = resolve_tracking_uri(f"sqlite:///{tmp_path_factory.mktemp('a store') / '50%' / 'mlflow.db'}")
    connect_store(uri)
    return uri


def start(uri, name="run", seconds=0.0):
    command = [sys.executable, "-c", PROCESS, uri, name, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stored(run):
    return connect_store(run.uri).get_run(run.run_id)


def artifact(run, path):
    return Path(connect_store(run.uri).download_artifacts(run.run_id, path)).read_text()


def history(run, key):
    points = connect_store(run.uri).get_metric_history(run.run_id, key)
    return [(point.step, point.value) for point in points]


def test_the_uri_comes_from_the_config_the_environment_or_the_project(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve_tracking_uri(None) == f"sqlite:///{PROJECT}/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert resolve_tracking_uri(None) == "http://tracking:5000"
    monkeypatch.chdir(tmp_path)
    assert resolve_tracking_uri("sqlite:///runs/mlflow.db") == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert resolve_tracking_uri("sqlite:///~/mlflow.db") == f"sqlite:///{tmp_path}/home/mlflow.db"


def test_addresses_do_not_import_mlflow():
    code = "import sys; from experiments.tracking import addresses; uri = addresses.resolve_tracking_uri(None); "
    code += "addresses.check_tracking_uri(uri); "
    subprocess.run([sys.executable, "-c", code + "assert not {'mlflow', 'pandas'} & set(sys.modules)"], check=True)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("mlruns", "MLflow no longer supports file stores. Use a SQLite store in it: tracking.uri=sqlite:///"),
        ("file:///data/mlruns", "Use a SQLite store in it: tracking.uri=sqlite:////data/mlruns/mlflow.db"),
        ("htp://host:5000", "tracking.uri=htp://host:5000 is not supported. Choices: sqlite:///PATH/mlflow.db, http"),
        ("postgresql://me:secret@host/mlflow", "tracking.uri=postgresql://host/mlflow is not supported. Choices: "),
        ("sqlite:///:memory:", "tracking.uri=sqlite:///:memory: must end with the name of a file"),
        ("localhost:5000", "is neither a file nor a URL. For a tracking server: tracking.uri=http://localhost:5000"),
        ("me:secret@host:5000/ml", "tracking.uri=host:5000/ml is neither a file nor a URL. For a tracking server: "),
        ("http://me:my secret@host", "tracking.uri=http://host is not supported. Choices: sqlite:///PATH/mlflow.db"),
        ("runs/mlflow.db", "is not a URL. For a SQLite store: tracking.uri=sqlite:////"),
        ("sqlite:////tmp/folder/", "tracking.uri=sqlite:////tmp/folder/ must end with the name of a file"),
        ("sqlite:////tmp/a%20b/mlflow.db", "MLflow reads '%20' in a path as ' '. Rename the folder, or choose another"),
        ("sqlite:///~nobody-here/mlflow.db", "~nobody-here is not the home of a user. Write the whole path."),
        ("sqlite:////proc/mlflow/mlflow.db", "The tracking store sqlite:////proc/mlflow/mlflow.db cannot be"),
    ],
)
def test_an_unusable_store_is_refused_with_advice(uri, message):
    with pytest.raises(StoreError) as refusal:
        connect_store(resolve_tracking_uri(uri))
    assert message in str(refusal.value)


def test_a_file_that_is_not_a_database_is_refused_and_unchanged(tmp_path):
    (tmp_path / "mlflow.db").write_text("these are my notes, not a database")
    with pytest.raises(StoreError, match="is not a SQLite database"):
        check_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert (tmp_path / "mlflow.db").read_text() == "these are my notes, not a database"


def test_the_database_of_another_program_is_refused_and_unchanged(tmp_path):
    with closing(sqlite3.connect(tmp_path / "photos.db")) as database:
        database.execute("CREATE TABLE pictures (name TEXT)")
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")  # many programs have one
    before = (tmp_path / "photos.db").read_bytes()
    with pytest.raises(StoreError, match=r"another program, with the tables alembic_version, pictures\. MLflow would"):
        connect_store(f"sqlite:///{tmp_path / 'photos.db'}")
    assert (tmp_path / "photos.db").read_bytes() == before


def test_checking_a_store_keeps_the_locks_of_this_process(store):
    client = connect_store(store)
    check_tracking_uri(store)
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM runs').fetchall(); c.close()"
    )
    # Without the locks, the other process would act as the last one and delete the write-ahead log.
    subprocess.run([sys.executable, "-c", code, store.removeprefix("sqlite:///")], check=True)
    client.set_terminated(client.create_run("0").info.run_id)


@pytest.mark.parametrize("silent", [False, True])
def test_a_silent_server_is_given_up_after_one_try(silent):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        if silent:
            sock.listen()
        uri, started = f"http://me:secret@127.0.0.1:{sock.getsockname()[1]}", time.monotonic()
        with pytest.raises(StoreError) as refusal:
            connect_store(uri)
        tries = 0
        sock.setblocking(False)
        with suppress(OSError):  # until there are no more
            while sock.accept():
                tries += 1
    assert tries == silent
    assert time.monotonic() - started < 60
    message = str(refusal.value)
    assert f"The tracking server {uri.replace('me:secret@', '')} does not answer" in message
    assert "tracking.uri=sqlite:///" in message


@pytest.mark.parametrize(("store", "size"), [("new_uri", 50_000), ("uri", 30_000)])
def test_a_store_that_a_limit_of_file_size_holds_up_is_told(store, size, request):
    address, before = request.getfixturevalue(store), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(StoreError, match=r"mlflow\.db cannot be used: File too large\. .* `ulimit -f`"):
            connect_store(address)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("link", ["a", "a/mlflow.db"])
def test_a_link_that_leads_nowhere_is_named(link, tmp_path):
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to("/nowhere/else")
    with pytest.raises(UserError, match=f"{link} is a link to /nowhere/else, which does not exist. Make it, or delete"):
        connect_store(f"sqlite:///{tmp_path}/a/mlflow.db")


@pytest.mark.soak
def test_eight_processes_can_create_the_store_together(tmp_path):
    uri = f"sqlite:///{tmp_path / 'new store' / 'mlflow.db'}"
    processes = [start(uri, f"run {i}") for i in range(8)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert errors == [""] * 8
    client = connect_store(uri)
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert sorted(run.info.run_name for run in runs) == [f"run {i}" for i in range(8)]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.metrics["loss"] for run in runs} == {0.5}
    assert {run.inputs.dataset_inputs[0].dataset.name for run in runs} == {"digits"}
    assert len(client.search_runs(["0"])) == 0
    assert not [path for run in runs for path in SPOOL_FOLDER.glob(f"{run.info.run_id}*")]


@pytest.mark.soak
@pytest.mark.parametrize("after", [0.0, 0.1])
def test_a_kill_during_creation_leaves_no_broken_store(tmp_path, after):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    creator = start(uri)
    while not (tmp_path / ".mlflow.db.tmp").exists():
        assert creator.poll() is None
        time.sleep(0.005)
    time.sleep(after)
    creator.kill()
    creator.communicate()
    assert not (tmp_path / "mlflow.db").exists()
    with open_run(uri, "digits", None, {}, {}) as run:
        pass
    assert stored(run).info.status == "FINISHED"
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {".mlflow.db.lock", "artifacts", "mlflow.db", "mlflow.db-wal", "mlflow.db-shm"}


@pytest.mark.slow
def test_the_next_command_marks_killed_runs_but_not_live_ones(store):
    killed, terminated = start(store, "killed", 60), start(store, "terminated", 60)
    killed_id, terminated_id = (process.stdout.readline().strip() for process in (killed, terminated))
    killed.kill()
    killed.wait()
    client = connect_store(store)
    with open_run(store, "digits", "next", {}, {}):
        pass
    run = client.get_run(killed_id)
    assert (run.info.status, client.get_run(terminated_id).info.status) == ("KILLED", "RUNNING")
    assert run.data.tags["end_reason"] == "the process disappeared: it was killed, or the machine went down"
    assert run.info.end_time == client.get_metric_history(killed_id, "loss")[0].timestamp

    with (
        pytest.raises(StoreError, match=f"Run {terminated_id} is still running, in process {terminated.pid} on"),
        open_run(store, "digits", None, {}, {}, run_id=terminated_id),
    ):
        pass
    terminated.terminate()
    terminated.wait()
    run = client.get_run(terminated_id)
    assert (run.info.status, run.data.tags["end_reason"]) == ("KILLED", "terminated by SIGTERM")


def test_ended_runs_of_this_machine_are_dead_and_those_of_other_hosts_stay(store):
    client = connect_store(store)
    experiment_id = client.create_experiment("ended")
    before = {**process_tags(), "process.start_time": "1"}
    ended = client.create_run(experiment_id, tags=before)
    elsewhere = client.create_run(experiment_id, tags={**before, "process.host": "elsewhere"})
    untagged = client.create_run(experiment_id)
    assert mark_dead_runs(client, [experiment_id]) == [ended.info.run_id]
    for run in (elsewhere, untagged):
        client.set_terminated(run.info.run_id, "KILLED")


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (None, "FINISHED", None),
        (SystemExit(0), "FINISHED", None),
        (SystemExit(3), "FAILED", "exit code 3"),
        (ValueError("loss is nan\nat step 7"), "FAILED", "loss is nan"),
        (ZeroDivisionError(), "FAILED", "ZeroDivisionError"),
        (KeyboardInterrupt(), "KILLED", "interrupted by Ctrl-C"),
        (Terminated(), "KILLED", "terminated by SIGTERM"),
    ],
)
def test_a_run_ends_with_its_true_status(store, error, status, reason):
    def body():
        with open_run(store, "digits", "ending", {}, {}) as run:
            runs.append(run)
            if error is not None:
                raise error

    runs = []
    if error is None:
        body()
    else:
        with pytest.raises(type(error)) as raised:
            body()
        assert raised.value is error
    ended = stored(runs[0])
    assert (ended.info.status, ended.data.tags.get("end_reason")) == (status, reason)
    assert ended.data.tags.get("end_error") == (type(error).__name__ if status == "FAILED" else None)
    if status == "FAILED":
        assert type(error).__name__ in artifact(runs[0], "error/traceback.txt")


def test_everything_logged_can_be_read_back(store, tmp_path):
    (tmp_path / "a.png").write_bytes(b"png")
    tags = {"fingerprint": "abc"}
    with open_run(store, "digits", "lr=0.1", {"model.units": [64, 32], "model.dropout": 0.2}, tags) as run:
        run.log_metrics({"loss": np.float32(0.5), "accuracy": 1}, epoch=1)
        run.log_metrics({"loss": float("nan")}, epoch=2)
        run.log_metrics({"test_loss": 0.25})
        run.log_artifacts(tmp_path, "figures")
        run.log_text("seed: 0\n", "config/config.yaml")
        for rows in (1, 2):  # a table logged again is replaced
            run.log_table({"digit": list(range(rows)), "errors": list(range(rows))}, "tables/errors.json")
        run.log_dataset("digits", "e" * 36, "/data/digits", {"train": 1500})
        run.log_dataset("mnist", "f" * 36, "/data/mnist", {"test": 10000}, context="evaluation")
    found, client = stored(run), connect_store(store)
    assert found.data.params == {"model.units": "[64, 32]", "model.dropout": "0.2"}
    assert found.data.metrics.keys() == {"loss", "accuracy", "test_loss"}
    assert history(run, "loss")[0] == (1, 0.5)
    assert np.isnan(found.data.metrics["loss"])
    assert found.data.tags["fingerprint"] == "abc"
    assert found.data.tags["mlflow.loggedArtifacts"] == '[{"path": "tables/errors.json", "type": "table"}]'
    assert {file.path for file in client.list_artifacts(run.run_id)} == {"figures", "config", "tables"}
    assert artifact(run, "config/config.yaml") == "seed: 0\n"
    assert json.loads(artifact(run, "tables/errors.json")) == {"columns": ["digit", "errors"], "data": [[0, 0], [1, 1]]}
    datasets = {use.dataset.name: (use.dataset, use.tags[0].value) for use in found.inputs.dataset_inputs}
    train, context = datasets["digits"]
    assert (train.digest, context) == ("e" * 36, "training")
    assert json.loads(train.source) == {"uri": "/data/digits"}
    assert json.loads(train.profile) == {"train": 1500}
    assert datasets["mnist"][1] == "evaluation"


def test_what_is_too_long_for_mlflow_is_cut_with_a_mark_that_tells_it_from_others(store):
    found = []
    for last in "ab":
        long = "x" * 9000 + last
        with open_run(store, "digits", long, {"model.layers": long}, {"command": long}) as run:
            run.set_tags({"mlflow.note.content": long})
        found.append(stored(run))
    for values in (
        [run.data.params["model.layers"] for run in found],
        [run.data.tags["command"] for run in found],
        [run.data.tags["mlflow.note.content"] for run in found],
        [run.info.run_name for run in found],
    ):
        assert values[0] != values[1]
        assert all(re.search(r"^x{200,}… \(9,001 characters, [0-9a-f]{8}\)$", value) for value in values)
    assert len(found[0].info.run_name) == 250


def test_a_re_entered_run_gets_no_point_twice_and_loses_its_end(store):
    with suppress(KeyboardInterrupt), open_run(store, "digits", "first", {"seed": 0}, {}) as run:
        for epoch in (1, 2, 3):
            run.log_metrics({"loss": 1 / epoch}, epoch)
        raise KeyboardInterrupt
    with open_run(store, "digits", "second", {"seed": 1}, {}, run_id=run.run_id) as again:
        assert (stored(run).info.status, "end_reason" in stored(run).data.tags) == ("RUNNING", False)
        for epoch in (3, 4):  # the checkpoint was of epoch 2
            again.log_metrics({"loss": 1 / epoch}, epoch)
        again.log_metrics({"test_loss": 0.1})
        again.log_params({"seed": 1, "epochs": 4})
    assert (again.run_id, again.name) == (run.run_id, "first")
    assert history(run, "loss") == [(1, 1.0), (2, 1 / 2), (3, 1 / 3), (4, 1 / 4)]
    assert stored(run).data.params == {"seed": "0", "epochs": "4"}
    assert stored(run).info.status == "FINISHED"


def test_an_unknown_run_is_refused(store):
    with (
        pytest.raises(StoreError, match=r"There is no run 'abc' in sqlite:///.*mlflow\.db"),
        open_run(store, "digits", None, {}, {}, run_id="abc"),
    ):
        pass


def test_errors_while_adding_to_a_run_are_not_blamed_on_the_store(store):
    with pytest.raises(StoreError, match=r"There is no run 'abc' in"), reopen_ended_run(store, "abc"):
        pass
    run_id = connect_store(store).create_run("0").info.run_id

    def add():
        with reopen_ended_run(store, run_id) as run:
            run.spool.append({"tags": {}})
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        add()
    assert [left.run_id for left in find_abandoned_spools(store)] == [run_id]
    connect_store(store).set_terminated(run_id)


def test_a_deleted_experiment_is_refused_with_the_command_to_restore_it(store):
    client = connect_store(store)
    experiment_id = client.create_experiment("deleted")
    client.delete_experiment(experiment_id)
    with (
        pytest.raises(StoreError, match=f"mlflow experiments restore --experiment-id {experiment_id} - or choose"),
        open_run(store, "deleted", None, {}, {}),
    ):
        pass


@pytest.mark.slow
@pytest.mark.usefixtures("tensorflow")
def test_the_model_loads_without_this_project(store, tmp_path):
    import keras

    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    model = keras.Sequential([keras.layers.Input((28, 28), dtype="uint8"), *layers])
    images = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
    outputs = model.predict(images, verbose=0)
    with open_run(store, "digits", "model", {}, {}) as run:
        run.log_model(model, images, outputs)
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        run.log_model(model, images, outputs)  # again, as a run does that was cut off right after it
        # By default, MLflow has another process load TensorFlow and the model.
        assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1
    code = """
import sys; sys.modules["experiments"] = None
import json, os, keras, mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
images = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
folder = mlflow.artifacts.download_artifacts(f"runs:/{sys.argv[2]}/model")
model = mlflow.pyfunc.load_model(f"runs:/{sys.argv[2]}/model")
plain = keras.saving.load_model(os.path.join(folder, "data", "model.keras"))
predictions = [predict.tolist() for predict in (model.predict(images), plain.predict(images, verbose=0))]
print(json.dumps([*predictions, str(model.metadata.signature.inputs)]))
"""
    command = [sys.executable, "-c", code, store, run.run_id]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    by_mlflow, by_keras, signature = json.loads(result.stdout.splitlines()[-1])
    np.testing.assert_array_equal(np.float32(by_mlflow), outputs)
    np.testing.assert_array_equal(np.float32(by_keras), outputs)
    assert "uint8" in signature
    client = connect_store(store)
    [logged] = client.search_logged_models([run.experiment_id])
    assert (logged.name, str(logged.status), logged.source_run_id) == ("model", "READY", run.run_id)
    assert [output.model_id for output in stored(run).outputs.model_outputs] == [logged.model_id]

    file = download_model(store, run.run_id, tmp_path)
    (place,) = database_file(store).parent.rglob(f"{logged.model_id}/**/model.keras")
    place.write_bytes(file.read_bytes() + b"!")
    with pytest.raises(StoreError, match="was changed after the run: its file does not match the tag model_digest"):
        download_model(store, run.run_id, tmp_path)
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("model.weights.h5", bytes(80 * 2**20))
    for accept_changed in (False, True):
        with pytest.raises(StoreError, match="bytes unpacks to 83,886,080, which no model does"):
            download_model(store, run.run_id, tmp_path, accept_changed)


def test_skips_spools_that_another_process_has_replayed(spools):
    for run_id in ("a", "b", "c"):
        kept = Spool("http://host", run_id)
        kept.append({"tags": {"run": run_id}})
        kept.close()
    found = find_abandoned_spools("http://host")
    assert next(found).run_id == "a"
    (spools / "b.jsonl").unlink()
    assert [left.run_id for left in found] == ["c"]


@pytest.mark.soak
@pytest.mark.usefixtures("tensorflow")
def test_an_outage_of_the_server_loses_nothing_and_does_not_stall_the_run(tmp_path, spools, monkeypatch, capfd):
    import keras

    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text("kept")
    server = Server(tmp_path / "server")
    server.start()
    try:
        with open_run(server.uri, "digits", "outage", {"seed": 0}, {}) as run:
            run.log_metrics({"loss": 1.0}, epoch=1)
            capfd.readouterr()
            server.kill()
            started = time.monotonic()
            for epoch in (2, 3, 4):
                run.log_metrics({"loss": 1 / epoch}, epoch)
            run.log_artifacts(tmp_path / "files", "files")
            shutil.rmtree(tmp_path / "files")
            run.log_text("text", "texts/b.txt")
            run.log_dataset("digits", "d" * 36, "/data", {"train": 1})
            run.log_model(model, np.zeros((1, 4), np.float32), np.zeros((1, 2), np.float32))
            assert time.monotonic() - started < 30  # MLflow itself would retry for minutes
            warning = capfd.readouterr().err
            assert warning.count("\n") == 1
            assert f"The tracking store {server.uri} does not answer; the run continues." in warning

            server.start()
            monkeypatch.setattr(run, "_next_try", 0.0)  # instead of waiting five seconds
            run.log_metrics({"loss": 1 / 5}, epoch=5)
            assert "answers again and has received everything" in capfd.readouterr().err
            assert list(spools.iterdir()) == []
            assert history(run, "loss") == [(epoch, 1 / epoch) for epoch in (1, 2, 3, 4, 5)]

            # Down again until after the end; what is sent then is sent twice, as after an interrupted replay.
            server.kill()
            run.log_metrics({"loss": 1 / 6}, epoch=6)
            run.log_metrics({"loss": 1 / 7}, epoch=7)
        assert f"(FINISHED) these wait in {spools / run.run_id}.jsonl: metrics" in capfd.readouterr().err
        with (spools / f"{run.run_id}.jsonl").open("a") as file:
            file.write('{"metr')  # an interrupted write

        server.start()
        again = shutil.copy(spools / f"{run.run_id}.jsonl", tmp_path)
        with open_run(server.uri, "digits", "next", {}, {}):
            assert list(spools.iterdir()) == []
        shutil.copy(again, spools)
        with open_run(server.uri, "digits", "next", {}, {}):
            pass
        assert capfd.readouterr().err == ""
        assert list(spools.iterdir()) == []

        ended = stored(run)
        assert (ended.info.status, ended.data.params) == ("FINISHED", {"seed": "0"})
        assert history(run, "loss") == [(epoch, 1 / epoch) for epoch in range(1, 8)]
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
        (tmp_path / "temporary").mkdir()
        for name, text in (("files/a.txt", "kept"), ("texts/b.txt", "text")):
            assert read_artifact_text(server.uri, run.run_id, name) == text
        assert list((tmp_path / "temporary").iterdir()) == []
        assert [use.dataset.digest for use in ended.inputs.dataset_inputs] == ["d" * 36]
        assert len(ended.outputs.model_outputs) == 1

        def fail():
            with open_run(server.uri, "digits", "outage", {}, {}) as run:
                server.kill()
                runs.append(run)
                raise RuntimeError("the real reason")

        runs = []
        with pytest.raises(RuntimeError, match="the real reason"):
            fail()
        [failed] = runs
        assert f"Of run {failed.run_id} (FAILED) these wait in" in capfd.readouterr().err
        operations = [json.loads(line) for line in (spools / f"{failed.run_id}.jsonl").read_text().splitlines()]
        assert [operation["status"] for operation in operations if "status" in operation] == ["FAILED"]
    finally:
        server.kill()
