"""Runs as files: given to somebody else, and made by somebody who means harm."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import command
from mnist_files import refusal, write
from stores import history, made, runs

from experiments.data.datasets import load_dataset
from experiments.errors import ConfigError, UserError
from experiments.reproduction.bundle import BUNDLED_TAGS, BundleError, read_bundle, write_bundle
from experiments.tracking.store import connect_store

SCRIPT = "scripts/reproduce.py"
OVERRIDES = [
    "data=digits",
    "training.epochs=2",
    "report.figures=none",
    "tracking.log_model=false",
    "tracking.run_name=mine",
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The URI of a store with a run, and the file that it was exported to."""
    folder = tmp_path_factory.mktemp("exported")
    uri = f"sqlite:///{folder}/secret-place/mlflow.db"
    run = made(uri, *OVERRIDES)
    file = folder / "run.json"
    written = command(run.info.run_id[:8], "--uri", uri, "--export", str(file), script=SCRIPT)
    assert (written.returncode, written.stderr) == (0, "")
    assert f"python scripts/reproduce.py {file}" in written.stdout
    return uri, file


@pytest.fixture
def content(exported: tuple[str, Path]) -> dict[str, Any]:
    parts: dict[str, Any] = json.loads(exported[1].read_text())
    return parts


def changed(content: dict[str, Any], folder: Path) -> Path:
    file = folder / "changed.json"
    file.write_text(json.dumps(content))
    return file


@pytest.mark.slow
def test_a_run_is_reproduced_to_the_last_bit_where_there_is_only_its_file(exported: tuple[str, Path], uri: str) -> None:
    theirs, file = exported
    done = command(str(file), "--uri", uri, script=SCRIPT)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Asked for: equal to the last bit" in done.stdout
    assert done.stdout.endswith("Reproduced.\n")
    (first,), (new,) = runs(theirs), runs(uri)
    assert new.data.tags["reproduces"] == first.info.run_id
    assert history(uri, new.info.run_id) == history(theirs, first.info.run_id)


def test_the_file_tells_what_was_run_and_nothing_of_whom_and_where(content: dict[str, Any]) -> None:
    assert content["overrides"] == OVERRIDES[:3]
    assert content["config"]["training"]["epochs"] == 2
    assert content["tags"].keys() <= set(BUNDLED_TAGS)
    assert content["lock"] == Path("requirements.lock").read_text()
    assert "tensorflow==" in "\n".join(content["packages"])
    assert [epoch for epoch, _ in content["points"]["val_loss"]] == [1, 2]
    assert "secret-place" not in json.dumps({key: value for key, value in content.items() if key != "uncommitted_diff"})


def test_what_was_changed_in_the_file_is_found_out(content: dict[str, Any], tmp_path: Path) -> None:
    content["config"]["seed"] = 1
    content["metrics"]["test_accuracy"] = 1.0
    found = read_bundle(changed(content, tmp_path), None).contradictions()
    assert len(found) == 4
    assert found[0] == "the param seed is 0, in config/config.yaml it is 1"
    assert found[2] == "the last test_accuracy is 1, and none such in its history"
    assert found[3].startswith("test_error_percent is ")
    content["points"]["val_accuracy"] = []
    assert "and none such in its history" in read_bundle(changed(content, tmp_path), None).contradictions()[-2]


def test_overrides_and_an_environment_that_did_not_make_the_run_are_found_out(
    content: dict[str, Any], tmp_path: Path
) -> None:
    content["overrides"] = [
        "model.units=128",
        "model.dropout=2",
        "training.epochs=3",
        "training.epochs=2",
        "optimizer.beta_1=0",
        "+seed=0",
        "~report",
        "data=x",
        "model=cnn",
        "model=mlp",
        "optimizer=sgd",
        "seed=auto",
        "training.epochs=2,3",
        "seed 1",
        f"seed={'9' * 5000}",
        f"model.units.{'9' * 5000}=1",
        f"model.kernel_constraint={'[' * 120}{']' * 120}",
    ]
    content["hardware"]["threads"] = 4
    del content["hardware"]["processor"], content["hardware"]["instructions"]  # the latter is in no earlier record
    content["packages"] = []
    recorded = read_bundle(changed(content, tmp_path), None)
    versions = content["tags"]["versions"].split()
    assert recorded.contradictions() == [
        "environment/hardware.json has no processor",
        "environment/hardware.json has threads 4, in config/config.yaml training.threads is 1",
        *(f"{package} of the tag versions is not in environment/packages.txt" for package in versions),
        "the override model.dropout=2 is not what config/config.yaml says: 0.2",
        "the override optimizer.beta_1=0 is not what config/config.yaml says: 0.9",
        "the override optimizer=sgd is not what config/config.yaml says: adam",
        "the override seed=auto is not what config/config.yaml says: 0",
        "the override training.epochs=2,3 is none that a single run has",
        "the override seed 1 is none that a single run has",
        f"the override seed={'9' * 5000} is none that a single run has",
        f"the override model.units.{'9' * 5000}=1 is not what config/config.yaml says: None",
        f"the override model.kernel_constraint={'[' * 120}{']' * 120} is not what config/config.yaml says: None",
    ]
    assert recorded.overrides == content["overrides"]


def test_overrides_that_made_the_run_together_are_true(content: dict[str, Any], tmp_path: Path) -> None:
    true = ["data.augmentation={shift:2,rotation:0}", "data.augmentation.shift=0", "model.units.0=128"]
    true += ["model.kernel_regularizer.l2.l2=0.1", "model.kernel_regularizer=null", "training.threads=auto"]
    true += ["distribution.strategy=auto", "distribution=one_device", "optimizer=sgd", "optimizer=adam"]
    true += ["data.augmentation={shift:0}", "expected={quick:{mean:1}}", "expected=null"]
    true = ["seed=3", "seed=${training.epochs}", "training.threads=2", "model.layers.3.Dropout.rate=1", *true]
    true += ["model=cnn", "model=mine", "model.layers=shuffle([1])", "+optimizer.x=1", "~optimizer.x"]
    recorded = read_bundle(changed(content | {"overrides": [*content["overrides"], *true]}, tmp_path), None)
    assert recorded.contradictions() == []


def test_uncommitted_changes_to_files_in_any_encoding_can_be_exported(
    exported: tuple[str, Path], tmp_path: Path
) -> None:
    uri, _ = exported
    (run,) = runs(uri)
    diff = Path(run.info.artifact_uri.removeprefix("file://"), "environment", "uncommitted.diff")
    before = diff.read_bytes()
    diff.write_bytes(b"+caf\xe9\r\n")
    digests = run.data.tags["record_digests"]
    now = json.loads(digests) | {"environment/uncommitted.diff": hashlib.sha256(b"+caf\xe9\r\n").hexdigest()}
    connect_store(uri).set_tag(run.info.run_id, "record_digests", json.dumps(now))
    write_bundle(run.info.run_id, uri, tmp_path / "run.json")
    diff.write_bytes(before)
    connect_store(uri).set_tag(run.info.run_id, "record_digests", digests)
    assert json.loads((tmp_path / "run.json").read_text())["uncommitted_diff"] == "+caf\\xe9\r\n"


def test_a_file_that_exists_is_not_written_over(exported: tuple[str, Path], tmp_path: Path) -> None:
    uri, _ = exported
    (run,) = runs(uri)
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    for file, reason in ((mine, "File exists"), (tmp_path / "none" / "run.json", "No such file or directory")):
        with pytest.raises(BundleError) as caught:
            write_bundle(run.info.run_id, uri, file)
        assert str(caught.value) == f"The bundle {file} cannot be written: {reason}. Choose another file."
    assert mine.read_text() == "mine"


# --- files that mean harm -----------------------------------------------------------------------------------------


def test_store_data_and_the_run_to_go_on_with_are_those_of_whoever_runs_it(
    content: dict[str, Any], tmp_path: Path, new_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = command("--cfg", "job", "data=mnist")
    import yaml

    images = yaml.safe_load(shown.stdout)["data"] | {"path": "/etc"}
    images["checksums"]["train-images"] = f"sha256:{'0' * 64}"  # by which good files are none
    content["config"] |= {"data": images}
    content["config"] |= {"resume": "0" * 32, "resume_anyway": True}
    content["config"]["tracking"]["uri"] = "http://example.org"
    recorded = read_bundle(changed(content, tmp_path), new_uri)
    config = recorded.config
    assert (config.tracking.uri, config.resume, config.resume_anyway) == (None, None, False)
    assert getattr(config.data, "path", "") is None
    assert recorded.uri == new_uri
    monkeypatch.delenv("EXPERIMENTS_DATA_DIR", raising=False)
    folder = write(tmp_path / "data" / "mnist")
    assert "Nothing was removed" in refusal(lambda: load_dataset(config.data, config.seed, cache=folder.parent))
    assert len(list(folder.iterdir())) == 4


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        node: Any = content
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value

    return change


DEEP: list[Any] = []
for _ in range(150):
    DEEP = [DEEP]

LAYERS = {"name": "layers", "weights": None, "layers": [{"Lambda": {"function": "print"}}]}
HOSTILE = {
    "another format": (put("format", value="zip"), "format: Input should be 'keras-hydra-experiments run 1'."),
    "a key too many": (put("model", value="x"), "model: Unexpected keyword argument."),
    "an id that is a path": (put("run_id", value="../../etc/passwd"), "run_id: String should match pattern"),
    "hydra on the command line": (
        put("overrides", value=["hydra.launcher._target_=os.system"]),
        "overrides.0: Value error, 'hydra.launcher._target_=os.system' is not an override of an experiment.",
    ),
    "an option on the command line": (put("overrides", value=["--config-dir=/tmp"]), "is not an override of an exp"),
    "a store on the command line": (put("overrides", value=["+tracking.uri=http://x"]), "is not an override of an ex"),
    "a name that clears the screen": (put("name", value="\x1b[2J"), "name: Value error, '\\x1b[2J' is not printable."),
    "a package of two lines": (put("packages", value=["a\nb"]), "packages.0: Value error, 'a\\nb' is not printable."),
    "a class that rings": (put("config", "data", "class_names", value=["\a"]), "'\\x07' is not printable."),
    "a tag of its own": (put("tags", "mlflow.user", value="root"), "tags.mlflow.user.[key]: Input should be 'code_d"),
    "a metric that is text": (put("metrics", "test_loss", value="1"), "metrics.test_loss: Input should be a valid n"),
    "points without metrics": (put("metrics", value={}), "is in only one of points and metrics."),
    "no number": (put("points", "test_loss", value=[[2, float("nan")]]), "points.test_loss.0.1: Input should be a fin"),
    "a target": (put("config", "model", "_target_", value="os.system"), "unknown key 'model._target_'."),
    "hydra": (put("config", "hydra", value={"launcher": 1}), "unknown key 'hydra'."),
    "code in a layer": (put("config", "model", value=LAYERS), "layer 'Lambda' is refused: it runs code of its own"),
    "another object": (put("config", "model", "kernel_initializer", value={"os.system": {}}), "no initializer 'os.sy"),
    "a group that is a list": (put("config", "tracking", value=[1]), "tracking"),
    "another machine": (put("config", "seed", value=10**30), "seed=1000000000000000000000000000000 is not allowed"),
    "a mountain": (put("config", "model", "units", value=DEEP), "model.units"),
}


@pytest.mark.parametrize("harm", HOSTILE)
def test_what_is_no_record_of_a_run_is_refused_in_words(harm: str, content: dict[str, Any], tmp_path: Path) -> None:
    change, message = HOSTILE[harm]
    change(content)
    with pytest.raises(UserError) as caught:
        read_bundle(changed(content, tmp_path), None)
    assert isinstance(caught.value, BundleError | ConfigError)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "Invalid JSON: EOF while parsing"),
        (b"\x80\x04\x95cos\nsystem\n", "Invalid JSON"),  # how a pickle begins
        (b"PK\x03\x04", "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON: recursion limit exceeded"),
        (b"[]", "the file: "),
        (b'{"format": 1e999}', "format: "),
    ],
)
def test_what_is_no_json_of_a_run_is_refused(raw: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(raw)
    with pytest.raises(BundleError) as caught:
        read_bundle(file, None)
    assert str(caught.value).startswith(f"{file} is no bundle of a run: ")
    assert message in str(caught.value)


def test_a_file_without_end_is_read_up_to_the_limit_only(tmp_path: Path) -> None:
    file = tmp_path / "large"
    with file.open("wb") as opened:
        opened.truncate(2**40)
    with pytest.raises(BundleError, match=r"it is larger than 67,108,864 bytes\."):
        read_bundle(file, None)
