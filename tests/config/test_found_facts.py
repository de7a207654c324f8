"""Facts of the user's own data that a config leaves open: found last, recorded, and never contradicted."""

from pathlib import Path

import numpy as np
import pytest
from composed import job, refusal

from experiments.config.identity import config_to_dict
from experiments.config.validation import validate_config


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "own.npz"
    images = np.arange(400, dtype=np.uint8).reshape(100, 2, 2) % 251
    np.savez(path, images=images, labels=np.array(["no", "yes"])[np.arange(100) % 2])
    return path


def test_what_is_open_is_found_and_a_fraction_becomes_a_count(file: Path) -> None:
    data = config_to_dict(job("data=arrays", f"data.path={file}"))["data"]
    facts = ("shape", "classes", "class_names", "train_examples", "test_examples", "validation", "pixel_max")
    assert [data[fact] for fact in facts] == [[2, 2], 2, ["no", "yes"], 80, 20, 8, 255]
    assert job("data.validation=0.25", "data.limit=100").data.validation == 25
    named = job("data=arrays", f"data.path={file}", "data.class_names=[n,y]", "data.mean=0.5").data
    assert (named.class_names, named.mean) == (["n", "y"], 0.5)  # type: ignore[union-attr]


def test_a_recorded_config_is_valid_without_finding_anything(file: Path) -> None:
    config = job("data=arrays", f"data.path={file}")
    plain = config_to_dict(config)
    plain["data"]["path"] = "/nowhere/own.npz"
    assert config_to_dict(validate_config(plain)) == plain


def test_other_mistakes_are_told_before_the_data_is_read(tmp_path: Path) -> None:
    missing = f"data.path={tmp_path}/none.npz"
    assert refusal("data=arrays", missing, "model.dropout=2").startswith("model.dropout=2 is not allowed")
    assert refusal("data=arrays", missing, "data.validation=1.5").startswith("data.validation=1.5 is not allowed")
    assert refusal("data.classes=null").startswith("data.classes=null is not allowed: expected a whole number")


def test_a_fact_cannot_be_other_than_the_data(file: Path) -> None:
    given = refusal("data=arrays", f"data.path={file}", "data.shape=[28,28]")
    assert given == "data.shape=[28, 28], but the data has [2, 2]. Leave it out, or correct the data."
    assert "data.mean=[0.1, 0.2] has 2 numbers for data.shape=[2, 2]. Give one number, or 1" in refusal(
        "data=arrays", f"data.path={file}", "data.mean=[0.1,0.2]"
    )
