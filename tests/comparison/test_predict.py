"""Pictures classified by the model of a real, small run."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import command
from PIL import Image
from stores import made, runs

from experiments.comparison.predict import Prediction
from experiments.data.picture_files import PictureError

RUN = ["data.limit=20000", "training.epochs=3", "training.batch_size=64", "report.figures=none"]


def predict(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return command(*map(str, arguments), script="scripts/predict.py")


@pytest.mark.slow
def test_pictures_are_classified_and_saved_as_the_network_saw_them(uri: str, tmp_path: Path, mnist: Path) -> None:
    from experiments.config.composition import compose_job
    from experiments.data.datasets import load_dataset

    before = made(uri, *RUN)
    test = load_dataset(compose_job([]).data, 0).test
    files = [tmp_path / f"a picture of mine, number {number}.png" for number in range(20)]
    for file, image in zip(files, test.inputs, strict=False):
        Image.fromarray(255 - image).resize((200, 200)).save(file)
    bad, sheet = tmp_path / "bad.png", tmp_path / "sheet.png"
    bad.write_bytes(b"no picture")
    Image.fromarray(np.hstack([255 - image for image in test.inputs[:3]]).repeat(6, 0).repeat(6, 1)).save(sheet)
    done = predict(before.info.run_id[:12], bad, *files, sheet, "--save", tmp_path, "--uri", uri)
    assert done.returncode == 1, done.stderr
    assert f"{bad} is not a PNG, JPEG, WebP, BMP or GIF picture.\n" in done.stderr
    assert f"{sheet}: 3 pieces of ink were found, and each is classified.\n" in done.stderr
    assert f"What the network saw of {sheet} (3 of 3): {tmp_path}/sheet-3.seen.png\n" in done.stderr
    heading, *rows = done.stdout.splitlines()
    rows, on_sheet = rows[:-3], rows[-3:]
    for number, row in enumerate(on_sheet):
        assert row.startswith(f"{sheet} ({number + 1} of 3) ")
    assert heading.split() == ["picture", "class", *"0123456789"]
    classes = []
    for file, row in zip(files, rows, strict=True):
        assert row.startswith(str(file))
        name, *probabilities = row.removeprefix(str(file)).split()
        percent = [float(value.removesuffix("%")) for value in probabilities]
        assert int(name) == np.argmax(percent)
        assert sum(percent) == pytest.approx(100, abs=0.5)
        classes.append(int(name))
    assert np.count_nonzero(classes == test.targets[:20]) >= 18
    seen = Image.open(tmp_path / "a picture of mine, number 0.seen.png")
    assert (seen.size, seen.mode) == ((280, 280), "L")
    assert f"{files[0]}: {tmp_path}/a picture of mine, number 0.seen.png\n" in done.stderr
    (after,) = runs(uri)
    assert (after.data.metrics, after.data.tags) == (before.data.metrics, before.data.tags)


def test_saving_never_overwrites_another_picture(tmp_path: Path) -> None:
    files = [Path("a/seven.png"), Path("a/seven.jpg"), Path("b/seven.png")]
    seen = [np.full((28, 28), level, np.uint8) for level in (0, 100, 200)]
    for _ in range(2):  # saving the same again adds nothing
        saved = [Prediction(*each, np.zeros(10), "0123456789").save(tmp_path) for each in zip(files, seen, strict=True)]
        assert [file.name for file in saved] == ["seven.seen.png", "seven-2.seen.png", "seven-3.seen.png"]
        assert [np.asarray(Image.open(file))[0, 0] for file in saved] == [0, 100, 200]
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(PictureError, match=r"cannot be saved in .*/none: No such file or directory"):
        Prediction(files[0], seen[0], np.zeros(10), "0123456789").save(tmp_path / "none")


def test_mistakes_are_reported_before_a_model_is_loaded(tmp_path: Path, new_uri: str) -> None:
    picture = tmp_path / "one.png"
    Image.fromarray(np.pad(np.zeros((40, 8), np.uint8), 30, constant_values=255)).save(picture)
    for arguments, message in [
        (
            ["0" * 32, tmp_path / "none.png"],
            f"{tmp_path}/none.png is not a file. Expected a picture: PNG, JPEG, WebP, BMP or GIF.\n",
        ),
        (["0" * 32, picture, "--save", tmp_path / "none"], f"--save={tmp_path}/none is not a folder."),
        (["0" * 32, picture, "--uri", new_uri], f"There is no tracking store {new_uri} yet"),
    ]:
        done = predict(*arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert done.stderr.startswith(message)
