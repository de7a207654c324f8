"""Runs on a user's own pictures and arrays, as commands: what they record, and what is done with their models."""

from pathlib import Path

import pytest
from conftest import command
from own_data import COLOURS, own_arrays, own_pictures
from PIL import Image
from stores import made, runs

SMALL = ["training.epochs=6", "training.batch_size=16", "training.threads=1", "optimizer.learning_rate=0.003"]


def recorded(uri: str, *parts: str) -> set[str]:
    (run,) = runs(uri)
    folder = Path(run.info.artifact_uri.removeprefix("file://"), *parts)
    return {file.name for file in folder.iterdir()}


@pytest.mark.slow
def test_a_model_of_own_pictures_is_trained_evaluated_and_used(uri: str, tmp_path: Path) -> None:
    changes = ["data.augmentation.flip=true", "data.augmentation.crop=2", "data.augmentation.color=0.2"]
    run = made(uri, "data=images", f"data.path={own_pictures()}", "data.size=[16,12]", "model=cnn", *SMALL, *changes)
    assert run.data.metrics["test_accuracy"] > 0.9
    assert (run.data.params["data.shape"], run.data.params["data.validation"]) == ("[16, 12, 3]", "10")
    note = run.data.tags["mlflow.note.content"]
    assert "inputs of 16 x 12 x 3. Examples to train and to test on in 3 classes: **blue** " in note
    assert "Pictures: 20 x 20 to 26 x 24 pixels, scaled to 16 x 12, the middle cut out, read in colour." in note
    assert "`data: mnist -> images`" in note
    assert "data.classes" not in note
    assert {"03_mistakes.png", "07_samples.png", "08_flatten.png", "11_first_layer.png"} <= recorded(uri, "figures")

    for overrides in ([], [f"data.path={own_pictures()}", "data.split_seed=7"]):
        done = command(run.info.run_id, *overrides, "--uri", uri, script="scripts/evaluate.py")
        assert done.returncode == 0, done.stderr
    (after,) = runs(uri)
    assert len([name for name in after.data.metrics if name.endswith("_accuracy") and "evaluation_images" in name]) == 2

    photo = tmp_path / "photo.jpg"
    Image.new("RGB", (400, 300), COLOURS["green"]).save(photo)
    done = command(run.info.run_id, str(photo), "--save", str(tmp_path), "--uri", uri, script="scripts/predict.py")
    assert done.returncode == 0, done.stderr
    heading, row = done.stdout.splitlines()
    assert heading.split() == ["picture", "class", "blue", "green", "red"]
    assert row.split()[:2] == [str(photo), "green"]
    seen = Image.open(tmp_path / "photo.seen.png")
    assert (seen.mode, seen.size[0] * 16 == seen.size[1] * 12) == ("RGB", True)


@pytest.mark.slow
def test_arrays_and_vectors_are_learned_and_other_classes_are_not_mixed_up(uri: str, tmp_path: Path) -> None:
    import numpy as np

    with np.load(own_arrays()) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    file, other = tmp_path / "vectors.npz", tmp_path / "other.npz"
    np.savez(file, images=images.reshape(len(images), -1) * 1.5 - 100, labels=labels)
    np.savez(other, images=images.reshape(len(images), -1) * 1.5 - 100, labels=np.char.add("dark ", labels))
    run = made(uri, "data=arrays", f"data.path={file}", *SMALL)
    assert run.data.metrics["test_accuracy"] > 0.9
    assert (
        "Inputs: vectors of float64 from -100 to 282.5, read as numbers, kept as float32. Labels: texts, in"
        in (run.data.tags["mlflow.note.content"])
    )
    assert recorded(uri, "figures") == {
        *("01_learning_curves.png", "02_confusion_matrix.png", "04_classes.png"),
        *("05_calibration.png", "09_network.png", "10_activation.png"),
    }
    done = command(run.info.run_id, f"data.path={other}", "--uri", uri, script="scripts/evaluate.py")
    assert (done.returncode, done.stderr) == (
        2,
        f"{other} has the classes dark blue, dark green, dark red, but the model of run {run.info.run_id} knows blue,"
        " green, red. Name them alike.\n",
    )
    done = command(run.info.run_id, str(own_pictures() / "red" / "00.png"), "--uri", uri, script="scripts/predict.py")
    assert done.returncode == 2
    assert "was trained on data=arrays, which are not images. Use a run on images" in done.stderr
