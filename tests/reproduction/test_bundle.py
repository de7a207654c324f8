"""Runs exported to files, and files with hostile contents."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import command
from mnist_files import refusal, tiny, write
from stores import history, made, runs

from experiments.config.identity import NEUTRAL_VALUES
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
    """The URI of a store with one run, and the file that the run was exported to."""
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
def test_an_exported_run_is_reproduced_to_the_last_bit(exported: tuple[str, Path], uri: str) -> None:
    original_uri, file = exported
    done = command(str(file), "--uri", uri, script=SCRIPT)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Required: equal to the last bit" in done.stdout
    assert done.stdout.endswith("Reproduced.\n")
    (first,), (new,) = runs(original_uri), runs(uri)
    assert new.data.tags["reproduces"] == first.info.run_id
    assert history(uri, new.info.run_id) == history(original_uri, first.info.run_id)


def test_the_file_names_no_user_machine_or_path(content: dict[str, Any]) -> None:
    assert content["overrides"] == OVERRIDES[:3]
    assert content["config"]["training"]["epochs"] == 2
    assert content["tags"].keys() <= set(BUNDLED_TAGS)
    assert content["lock"] == Path("requirements.lock").read_text()
    assert "tensorflow==" in "\n".join(content["packages"])
    assert [epoch for epoch, _ in content["points"]["val_loss"]] == [1, 2]
    assert "secret-place" not in json.dumps({key: value for key, value in content.items() if key != "uncommitted_diff"})


def test_a_changed_result_in_the_file_is_detected(content: dict[str, Any], tmp_path: Path) -> None:
    content["metrics"]["test_accuracy"] = 1.0
    content["points"]["val_accuracy"] = []
    changes = read_bundle(changed(content, tmp_path), None).record_changes()
    assert [change.partition(" is ")[0] for change in changes] == ["the last val_accuracy", "the last test_accuracy"]


def test_a_file_of_an_earlier_version_is_completed_with_added_keys(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NEUTRAL_VALUES, "training.mixed_precision", None)
    expected = read_bundle(changed(content, tmp_path), None).config
    del content["config"]["training"]["mixed_precision"]
    assert read_bundle(changed(content, tmp_path), None).config == expected


def test_exports_uncommitted_changes_in_any_encoding(exported: tuple[str, Path], tmp_path: Path) -> None:
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


def test_an_existing_file_is_not_overwritten(exported: tuple[str, Path], tmp_path: Path) -> None:
    uri, _ = exported
    (run,) = runs(uri)
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    for file, reason in ((mine, "File exists"), (tmp_path / "none" / "run.json", "No such file or directory")):
        with pytest.raises(BundleError) as caught:
            write_bundle(run.info.run_id, uri, file)
        assert str(caught.value) == f"The bundle {file} cannot be written: {reason}. Choose another file."
    assert mine.read_text() == "mine"


# --- hostile files ------------------------------------------------------------------------------------------------


def test_a_bundle_cannot_choose_the_store_the_data_folder_or_a_run_to_resume(
    content: dict[str, Any], tmp_path: Path, new_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = command("--cfg", "job", "data=mnist")
    import yaml

    images = yaml.safe_load(shown.stdout)["data"] | {"path": "/etc"}
    images["checksums"]["train-images"] = f"sha256:{'0' * 64}"  # which intact files do not match
    content["config"] |= {"data": images}
    content["config"] |= {"resume": "0" * 32, "resume_anyway": True}
    content["config"]["tracking"]["uri"] = "http://example.org"
    original = read_bundle(changed(content, tmp_path), new_uri)
    config = original.config
    assert (config.tracking.uri, config.resume, config.resume_anyway) == (None, None, False)
    assert getattr(config.data, "path", "") is None
    assert original.uri == new_uri
    monkeypatch.delenv("EXPERIMENTS_DATA_DIR", raising=False)
    folder = write(tmp_path / "data" / "mnist")
    facts = {
        key: getattr(tiny(), key) for key in ("shape", "classes", "class_names", "train_examples", "test_examples")
    }
    data = replace(config.data, validation=0, **facts)
    assert "Nothing was removed" in refusal(lambda: load_dataset(data, config.seed, cache=folder.parent))
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
    "an unknown key": (put("model", value="x"), "model: Unexpected keyword argument."),
    "an id that is a path": (put("run_id", value="../../etc/passwd"), "run_id: String should match pattern"),
    "hydra on the command line": (
        put("overrides", value=["hydra.launcher._target_=os.system"]),
        "overrides.0: Value error, 'hydra.launcher._target_=os.system' is not an override of an experiment.",
    ),
    "an option on the command line": (put("overrides", value=["--config-dir=/tmp"]), "is not an override of an exp"),
    "a store on the command line": (put("overrides", value=["+tracking.uri=http://x"]), "is not an override of an ex"),
    "a name that clears the screen": (put("name", value="\x1b[2J"), "name: Value error, '\\x1b[2J' is not printable."),
    "a package of two lines": (put("packages", value=["a\nb"]), "packages.0: Value error, 'a\\nb' is not printable."),
    "a class name that rings": (put("config", "data", "class_names", value=["\a"]), "'\\x07' is not printable."),
    "an unknown tag": (put("tags", "mlflow.user", value="root"), "tags.mlflow.user.[key]: Input should be 'code_d"),
    "a metric that is text": (put("metrics", "test_loss", value="1"), "metrics.test_loss: Input should be a valid n"),
    "points without metrics": (put("metrics", value={}), "is only in one of points and metrics."),
    "NaN": (put("points", "test_loss", value=[[2, float("nan")]]), "points.test_loss.0.1: Input should be a fin"),
    "a target": (put("config", "model", "_target_", value="os.system"), "unknown key 'model._target_'."),
    "hydra": (put("config", "hydra", value={"launcher": 1}), "unknown key 'hydra'."),
    "code in a layer": (put("config", "model", value=LAYERS), "layer 'Lambda' is refused: it runs code of its own"),
    "an arbitrary object": (
        put("config", "model", "kernel_initializer", value={"os.system": {}}),
        "no initializer 'os.sy",
    ),
    "a group that is a list": (put("config", "tracking", value=[1]), "tracking"),
    "a huge number": (put("config", "seed", value=10**30), "seed=1000000000000000000000000000000 is not allowed"),
    "deep nesting": (put("config", "model", "units", value=DEEP), "model.units"),
}


@pytest.mark.parametrize("harm", HOSTILE)
def test_hostile_contents_are_refused_with_a_message(harm: str, content: dict[str, Any], tmp_path: Path) -> None:
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
def test_a_file_that_is_not_a_bundle_is_refused(raw: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(raw)
    with pytest.raises(BundleError) as caught:
        read_bundle(file, None)
    assert str(caught.value).startswith(f"{file} is not a bundle of a run: ")
    assert message in str(caught.value)


def test_a_huge_file_is_read_only_up_to_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "large"
    with file.open("wb") as opened:
        opened.truncate(2**40)
    with pytest.raises(BundleError, match=r"it is larger than 67,108,864 bytes\."):
        read_bundle(file, None)


def test_only_a_regular_file_is_read_as_a_bundle(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(BundleError, match="cannot be read: it is not a regular file"):
            read_bundle(place, None)
