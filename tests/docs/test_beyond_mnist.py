"""docs/beyond-mnist.md works: its commands are run on a small archive in CIFAR-10's format, and on a few pictures."""

import io
import re
import shlex
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PROJECT, command
from own_code import loaded
from stores import made, runs

from experiments.config.composition import compose_job
from experiments.config.sweep_composition import compose_sweep

PAGE = (PROJECT / "docs" / "beyond-mnist.md").read_text()
COMMANDS = re.findall(r"^python run\.py (.*)$", PAGE, re.MULTILINE)
SINGLE = [line for line in COMMANDS if not line.startswith("-m ")]
SWEEPS = [line.removeprefix("-m ") for line in COMMANDS if line.startswith("-m ")]
TRAIN, TEST = 300, 60


def archive(folder: Path) -> Path:
    """Write an archive in CIFAR-10's format whose images have the colour of their class."""
    draw, count = np.random.default_rng(0), TRAIN + TEST
    labels = (np.arange(count) % 10).astype(np.uint8)
    colours = draw.integers(0, 256, (10, 3, 1))
    pixels = np.clip(colours[labels] + draw.integers(-30, 31, (count, 3, 1024)), 0, 255).astype(np.uint8)
    rows = np.hstack([labels[:, None], pixels.reshape(count, -1)])
    parts = [*np.split(rows[:TRAIN], 5), rows[TRAIN:]]
    file = folder / "cifar-10-binary.tar.gz"
    with tarfile.open(file, "w:gz") as opened:
        for part, name in zip(parts, [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"], strict=True):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = part.nbytes
            opened.addfile(member, io.BytesIO(part.tobytes()))
    return file


def pictures(folder: Path) -> Path:
    from PIL import Image

    draw = np.random.default_rng(1)
    for name, colour in (("blue", (30, 60, 220)), ("green", (30, 200, 60))):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            noise = draw.integers(0, 30, (40, 50, 3))
            Image.fromarray((np.array(colour) + noise).astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("beyond")
    archive(folder)
    pictures(folder / "my-pictures")
    (folder / "my-project").mkdir()
    for name, text in re.findall(r"^`my-project/(\w+\.py)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE):
        (folder / "my-project" / name).write_text(text)
    return folder


def shrunk(line: str, place: Path, started_from: str = "") -> list[str]:
    """Return the overrides of a command of the page, for the small archive and pictures, one epoch and few weights."""
    words = [word.replace("RUN_ID", started_from) for word in shlex.split(line) if word not in ("--code", "my-project")]
    words = [word.replace("FOLDER", str(place / "my-pictures")) for word in words]
    small = ["training.epochs=1", "training.batch_size=20", "training.threads=1", "report.figures=none"]
    if "data=cifar10" in words or "experiment=" in words[0]:
        folds = any(word.startswith("data.folds") for word in words)
        small += [f"data.path={place}", "data.checksums=null", f"data.train_examples={TRAIN}"]
        small += [f"data.test_examples={TEST}", "data.limit=null", *([] if folds else ["data.validation=50"])]
    if not any(word.startswith(("model=keras", "model=resnet", "experiment=")) for word in words):
        small += ["model.filters=[4]", "model.units=8"]
    if "experiment=he2016_resnet20" in words or "model=resnet" in words:
        small += ["model.depth=8"]
    return [*words, *small]


@pytest.mark.parametrize("line", SWEEPS)
def test_a_sweep_of_the_page_is_composed(line: str, place: Path) -> None:
    assert len(compose_sweep(shrunk(line, place)).jobs) in (6, 10)


@pytest.mark.slow
def test_the_runs_of_the_page_finish(place: Path, uri: str) -> None:
    with loaded(place / "my-project"):
        for line in SINGLE:
            before = runs(uri)
            made(uri, *shrunk(line, place, before[-1].info.run_id if before else ""))
    recorded: list[Any] = runs(uri)
    assert len(recorded) == len(SINGLE)
    assert {run.info.status for run in recorded} == {"FINISHED"}
    assert any("best_val_absurd_errors" in run.data.metrics for run in recorded)
    (frozen,) = (run for run in recorded if run.data.params["training.freeze"] != "[]")
    assert frozen.data.params["data.name"] == "images"
    assert frozen.data.params["data.classes"] == "2"


def test_without_the_archive_its_places_are_named(place: Path) -> None:
    done = command("data=cifar10", f"data.path={place}/nowhere", "training.epochs=1")
    assert done.returncode == 2
    assert "cifar-10-binary.tar.gz" in done.stderr


def test_the_page_composes_with_the_shipped_files() -> None:
    compose_job(["experiment=he2016_resnet20"])
