"""Datasets from tiny files, from a local server, bundled and generated, and the real MNIST if available."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mnist_files import ARRAYS, CHECKSUMS, CONF, Mirror, damage, refusal, serving, shipped, tiny, write

from experiments.data.datasets import Dataset, Split, find_dataset, load_dataset, load_dataset_once
from experiments.errors import DataError

REAL = os.environ.get("EXPERIMENTS_DATA_DIR")
real_mnist = pytest.mark.skipif(
    not REAL or not (Path(REAL) / "mnist").is_dir(), reason="EXPERIMENTS_DATA_DIR names no folder with mnist/"
)


@pytest.fixture(autouse=True)
def _nothing_on_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EXPERIMENTS_DATA_DIR", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "project" / "data"


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serving() as server:
        yield server


PUBLISHED = shipped("mnist").checksums


def load_from(folder: Path, **changes: Any) -> Dataset:
    return load_dataset(tiny(path=str(folder), **changes), seed=0)


def load_downloading(cache: Path, mirror: Mirror) -> Dataset:
    return load_dataset(tiny(), 0, cache=cache, mirrors={"mnist": [mirror.url]})


def as_set(split: Split) -> set[bytes]:
    return {image.tobytes() for image in split.inputs}


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", ["gzip", "plain", "dotted", "npz"])
def test_every_file_format_gives_the_same_arrays_and_digest(tmp_path: Path, packing: str) -> None:
    dataset = load_from(write(tmp_path / "own", packing))
    np.testing.assert_array_equal(dataset.train.inputs, ARRAYS["train-images"])
    np.testing.assert_array_equal(dataset.train.targets, ARRAYS["train-labels"])
    np.testing.assert_array_equal(dataset.test.inputs, ARRAYS["test-images"])
    np.testing.assert_array_equal(dataset.test.targets, ARRAYS["test-labels"])
    assert (dataset.train.inputs.dtype, dataset.train.targets.dtype) == (np.uint8, np.int32)
    assert dataset.validation.inputs.shape == (0, 4, 3)
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.source == str(tmp_path / "own")
    assert dataset.digest == load_from(write(tmp_path / "gzip")).digest
    assert len(dataset.digest) == 36


def test_jobs_that_differ_in_the_seed_or_in_what_they_hold_out_read_the_files_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "own")
    configs = [(tiny(path=str(folder), validation=v, limit=n), seed) for v, n, seed in [(3, None, 1), (2, 10, 2)]]
    expected = [load_dataset(*config) for config in configs]
    load_dataset_once(*configs[0])
    shutil.rmtree(folder)
    for config, plain in zip(configs, expected, strict=True):
        once = load_dataset_once(*config)
        assert once.digest == plain.digest
        for ours, theirs in ((once.train, plain.train), (once.validation, plain.validation), (once.test, plain.test)):
            np.testing.assert_array_equal(ours.inputs, theirs.inputs)
            np.testing.assert_array_equal(ours.targets, theirs.targets)
    with pytest.raises(DataError):
        load_dataset_once(tiny(path=str(tmp_path)), 1)


def test_path_can_be_an_npz_file_of_any_name(tmp_path: Path) -> None:
    write(tmp_path, "npz")
    file = (tmp_path / "mnist.npz").rename(tmp_path / "scans.npz")
    assert load_from(file).source == str(file)


def test_digest_depends_on_every_pixel_but_not_on_limit_validation_or_seed(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    digest = load_from(folder).digest
    assert load_dataset(tiny(path=str(folder), limit=8, validation=3), seed=9).digest == digest
    pixels = ARRAYS["test-images"].copy()
    pixels[-1, -1, -1] ^= 1
    assert load_from(write(tmp_path / "b", test_images=pixels), checksums=None).digest != digest


def test_arrays_are_read_only(tmp_path: Path) -> None:
    dataset = load_from(write(tmp_path), validation=3)
    for split in (dataset.train, dataset.validation, dataset.test):
        assert not split.inputs.flags.writeable
        assert not split.targets.flags.writeable


# --- places ----------------------------------------------------------------------------------------------------------


def test_places_are_searched_in_order(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPERIMENTS_DATA_DIR", str(tmp_path / "shelf"))
    assert find_dataset(tiny(), cache) is None
    for place, packing in (
        (tmp_path / "keras" / "datasets" / "mnist.npz", "npz"),
        (cache / "mnist", "gzip"),
        (tmp_path / "shelf" / "mnist", "gzip"),
    ):
        write(place.parent if packing == "npz" else place, packing)
        assert find_dataset(tiny(), cache) == place
        assert load_dataset(tiny(), 0, cache=cache).source == str(place)
    own = write(tmp_path / "own")
    assert find_dataset(tiny(path=str(own)), cache) == own


def test_fashion_mnist_is_found_in_the_cache_of_keras(tmp_path: Path, cache: Path) -> None:
    place = write(tmp_path / "keras" / "datasets" / "fashion-mnist")
    assert find_dataset(tiny("fashion_mnist"), cache) == place


def test_search_skips_an_incomplete_folder(tmp_path: Path, cache: Path) -> None:
    (write(cache / "mnist") / "t10k-labels-idx1-ubyte.gz").unlink()
    keras = write(tmp_path / "keras" / "datasets", "npz") / "mnist.npz"
    assert find_dataset(tiny(), cache) == keras


def test_bundled_and_generated_data_need_no_files() -> None:
    assert find_dataset(shipped("digits")) is None
    assert find_dataset(shipped("linear")) is None


def test_refuses_a_path_without_the_files_even_if_they_are_elsewhere(tmp_path: Path, cache: Path) -> None:
    write(cache / "mnist")
    folder = tmp_path / "given"
    for call in (find_dataset, lambda config, cache: load_dataset(config, 0, cache=cache)):
        assert refusal(lambda call=call: call(tiny(path=str(folder)), cache)) == (
            f"data.path={folder}: {folder} does not exist. Expected train-images-idx3-ubyte, train-labels-idx1-ubyte,"
            " t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte (each plain or .gz), or mnist.npz with x_train, y_train,"
            " x_test, y_test. Correct data.path, or leave it out to search the usual places."
        )


# --- damage ----------------------------------------------------------------------------------------------------------


def test_refuses_a_damaged_file_of_the_user_with_advice_and_keeps_it(tmp_path: Path) -> None:
    file = damage(write(tmp_path), "train-images", lambda content: content[:50])
    assert refusal(lambda: load_from(tmp_path, checksums=PUBLISHED)) == (
        f"{file} is damaged: expected a complete gzip file, found 50 bytes (Compressed file ended before the"
        " end-of-stream marker was reached). Replace it with a good copy, such as from"
        " https://storage.googleapis.com/cvdf-datasets/mnist; for data of your own, set data.checksums=null."
    )
    assert file.exists()


def test_damaged_file_in_the_cache_is_removed_and_downloaded_again(cache: Path, mirror: Mirror) -> None:
    file = damage(write(cache / "mnist"), "train-images", lambda content: content[:50])
    message = refusal(lambda: load_dataset(tiny(checksums=PUBLISHED), 0, cache=cache))
    assert message.startswith(f"{file} is damaged: ")
    assert message.endswith(". It was removed: the next run downloads it again.")
    assert not file.exists()
    assert len(list((cache / "mnist").iterdir())) == 3
    load_downloading(cache, mirror)
    assert mirror.requests == [(file.name, None)]


def test_keeps_files_of_the_user_linked_into_the_cache(tmp_path: Path, cache: Path) -> None:
    file = damage(write(tmp_path / "own"), "train-images", lambda content: content[:50])
    cache.mkdir(parents=True)
    (cache / "mnist").symlink_to(tmp_path / "own")
    refusal(lambda: load_dataset(tiny(checksums=PUBLISHED), 0, cache=cache))
    assert file.exists()


def test_keeps_a_file_that_differs_only_from_custom_checksums(cache: Path) -> None:
    file = write(cache / "mnist") / "train-images-idx3-ubyte.gz"
    checksums = PUBLISHED | {"train-images": "sha256:typo"}
    assert refusal(lambda: load_dataset(tiny(checksums=checksums), 0, cache=cache)) == (
        f"{file} is damaged: train-images: expected sha256:typo, found {CHECKSUMS['train-images']}. Nothing was"
        " removed, because data.checksums differ from conf/data/mnist.yaml. Correct or remove them, or name the folder"
        " of the data they belong to: data.path=FOLDER"
    )
    assert len(list((cache / "mnist").iterdir())) == 4


def test_keeps_files_in_the_cache_when_checksums_are_off(cache: Path) -> None:
    file = damage(write(cache / "mnist"), "train-images", lambda content: content[:50])
    refusal(lambda: load_dataset(tiny(checksums=None), 0, cache=cache))
    assert file.exists()


def test_damage_without_checksums_gets_no_advice_about_checksums(tmp_path: Path) -> None:
    damage(write(tmp_path), "train-images", lambda content: content[:50])
    message = refusal(lambda: load_from(tmp_path, checksums=None))
    assert message.endswith("marker was reached). Replace it with a good copy.")


@pytest.mark.parametrize("facts", [{"shape": [12, 12]}, {"shape": [1, 1]}, {"train_examples": 1}])
def test_config_error_removes_nothing_from_the_cache(cache: Path, facts: dict[str, Any]) -> None:
    images = np.random.default_rng(0).integers(256, size=(12, 100, 100), dtype=np.uint8)  # more than a small shape
    write(cache / "mnist", train_images=images)
    refusal(lambda: load_dataset(tiny(**facts, checksums=PUBLISHED), 0, cache=cache))
    assert len(list((cache / "mnist").iterdir())) == 4


# --- download --------------------------------------------------------------------------------------------------------


def test_missing_dataset_is_downloaded_into_the_cache_once(cache: Path, mirror: Mirror) -> None:
    dataset = load_downloading(cache, mirror)
    np.testing.assert_array_equal(dataset.train.inputs, ARRAYS["train-images"])
    assert dataset.source == str(cache / "mnist")
    assert load_downloading(cache, mirror).digest == dataset.digest
    assert len(mirror.requests) == 4


def test_without_data_and_network_one_message_lists_the_places_and_the_options(
    tmp_path: Path, cache: Path, mirror: Mirror
) -> None:
    mirror.files = {}
    closed = "http://127.0.0.1:1"
    message = refusal(lambda: load_dataset(tiny(), 0, cache=cache, mirrors={"mnist": [mirror.url, closed]}))
    assert (
        message
        == f"""\
data=mnist is not on this machine, and the download failed.
Searched:
  $EXPERIMENTS_DATA_DIR: not set
  the project: {cache / "mnist"} does not exist
  the cache of Keras: {tmp_path / "keras" / "datasets" / "mnist.npz"} does not exist
Download:
  {mirror.url}/train-images-idx3-ubyte.gz: HTTP Error 404: Not Found
  {closed}/train-images-idx3-ubyte.gz: [Errno 111] Connection refused
Expected train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte \
(each plain or .gz), or mnist.npz with x_train, y_train, x_test, y_test.
Do one of the following:
  put the files into {cache / "mnist"}
  set data.path=FOLDER to the folder that contains them
  set EXPERIMENTS_DATA_DIR=FOLDER to the folder that contains them in mnist/
  use data=digits or data=linear, which need no files"""
    )
    assert not cache.exists()


def test_reports_a_cache_that_is_not_writable(cache: Path, mirror: Mirror) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    assert f"[Errno 20] Not a directory: '{cache / 'mnist'}'" in refusal(lambda: load_downloading(cache, mirror))


# --- splits ----------------------------------------------------------------------------------------------------------


def test_validation_comes_from_training_and_the_test_split_is_untouched(tmp_path: Path) -> None:
    folder = write(tmp_path)
    whole, dataset = load_from(folder), load_from(folder, validation=5)
    assert [len(split.inputs) for split in (dataset.train, dataset.validation, dataset.test)] == [7, 5, 5]
    assert as_set(dataset.train) | as_set(dataset.validation) == as_set(whole.train)
    assert not as_set(dataset.train) & as_set(dataset.validation)
    np.testing.assert_array_equal(dataset.test.inputs, ARRAYS["test-images"])
    # Each image keeps its label, and what is left for training the order of the file.
    first_pixels = dataset.train.inputs[:, 0, 0].astype(int)
    assert sorted(first_pixels) == list(first_pixels)
    np.testing.assert_array_equal(dataset.train.targets, first_pixels // 12 % 3)
    np.testing.assert_array_equal(dataset.validation.targets, dataset.validation.inputs[:, 0, 0] // 12 % 3)


def test_limit_applies_before_validation_is_held_out(tmp_path: Path) -> None:
    folder = write(tmp_path)
    dataset = load_from(folder, limit=8, validation=3)
    assert [len(split.inputs) for split in (dataset.train, dataset.validation, dataset.test)] == [5, 3, 5]
    first = {image.tobytes() for image in ARRAYS["train-images"][:8]}
    assert as_set(dataset.train) | as_set(dataset.validation) == first


def test_validation_split_follows_the_seed_including_seed_0() -> None:
    held_out = {seed: load_dataset(shipped("digits"), seed).validation.inputs for seed in (0, 1, 2**32 - 1)}
    for seed, inputs in held_out.items():
        np.testing.assert_array_equal(load_dataset(shipped("digits"), seed).validation.inputs, inputs)
    assert not np.array_equal(held_out[0], held_out[1])
    assert not np.array_equal(held_out[0], held_out[2**32 - 1])


# --- bundled and generated data --------------------------------------------------------------------------------------


def test_digits_equal_those_of_scikit_learn_in_order() -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    dataset = load_dataset(shipped("digits", validation=0), seed=0)
    np.testing.assert_array_equal(np.concatenate([dataset.train.inputs, dataset.test.inputs]).reshape(-1, 64), images)
    np.testing.assert_array_equal(np.concatenate([dataset.train.targets, dataset.test.targets]), labels)
    assert dataset.train.inputs.shape == (1437, 8, 8)
    assert dataset.test.inputs.shape == (360, 8, 8)
    assert dataset.train.inputs.max() == 16
    assert dataset.source.startswith("scikit-learn 1.")


def test_digits_are_checked_against_their_config() -> None:
    assert refusal(lambda: load_dataset(shipped("digits", train_examples=1436, checksums=None), 0)) == (
        f"data=digits, test split in {load_dataset(shipped('digits'), 0).source}: expected images (360, 8, 8)"
        " (data.test_examples and data.shape), found (361, 8, 8)"
    )


def test_line_has_the_slope_and_noise_of_its_config() -> None:
    dataset = load_dataset(shipped("linear"), seed=0)
    for split in (dataset.train, dataset.test):
        assert (split.inputs.dtype, split.inputs.shape) == (np.float32, (1000, 1))
        assert (split.targets.dtype, split.targets.shape) == (np.float32, (1000, 1))
        assert split.inputs.min() >= 0
        assert split.inputs.max() <= 1
        slope, intercept = np.polyfit(split.inputs[:, 0], split.targets[:, 0], 1)
        assert slope == pytest.approx(0.8, abs=0.1)
        assert intercept == pytest.approx(0, abs=0.05)
        assert np.std(split.targets - 0.8 * split.inputs) == pytest.approx(0.2, abs=0.02)
    assert not np.intersect1d(dataset.train.inputs, dataset.test.inputs).size
    assert dataset.class_names == ()


def test_line_does_not_depend_on_the_seed_but_its_validation_does() -> None:
    first, second = (load_dataset(shipped("linear", validation=100), seed) for seed in (0, 1))
    assert first.digest == second.digest
    assert len(first.train.inputs) == 900
    assert not np.array_equal(first.validation.inputs, second.validation.inputs)


def test_reading_data_imports_no_heavy_package() -> None:
    code = (
        "import sys; from pydantic import TypeAdapter; from experiments.config.data_schema import DigitsData;"
        "from experiments.data.datasets import load_dataset;"
        "load_dataset(TypeAdapter(DigitsData).validate_json(sys.argv[1]), 0);"
        "print([name for name in ('tensorflow', 'keras', 'sklearn', 'scipy', 'pandas') if name in sys.modules])"
    )
    config = json.dumps(yaml.safe_load((CONF / "digits.yaml").read_text()))
    assert subprocess.check_output([sys.executable, "-c", code, config], text=True) == "[]\n"


# --- the real thing --------------------------------------------------------------------------------------------------


@real_mnist
def test_mnist_is_as_published_and_split_without_leaks() -> None:
    dataset = load_dataset(shipped("mnist", path=f"{REAL}/mnist"), seed=0)
    assert dataset.train.inputs.shape == (55_000, 28, 28)
    assert dataset.validation.inputs.shape == (5_000, 28, 28)
    assert dataset.test.inputs.shape == (10_000, 28, 28)
    assert np.bincount(dataset.test.targets).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert dataset.digest == "212193ceac1fe2216e4f17b722bd51164092"
    test = as_set(dataset.test)
    assert not test & as_set(dataset.train)
    assert not test & as_set(dataset.validation)


@real_mnist
def test_mnist_from_the_npz_of_keras_is_the_same_dataset(tmp_path: Path) -> None:
    whole = load_dataset(shipped("mnist", path=f"{REAL}/mnist", validation=0), seed=0)
    np.savez(
        tmp_path / "mnist.npz",
        x_train=whole.train.inputs,
        y_train=whole.train.targets.astype(np.uint8),
        x_test=whole.test.inputs,
        y_test=whole.test.targets.astype(np.uint8),
    )
    assert load_dataset(shipped("mnist", path=str(tmp_path)), seed=0).digest == whole.digest
