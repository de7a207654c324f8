"""Folds of the training split: each example is in one, with its share of every class, whatever the seed."""

import numpy as np
import pytest
from composed import job, refusal

from experiments.config.facts import count_training_examples
from experiments.data.datasets import Dataset, load_dataset, load_dataset_once


def fold(number: int, *overrides: str) -> Dataset:
    config = job("data=digits", "data.folds=4", f"data.fold={number}", *overrides)
    dataset = load_dataset(config.data, config.seed)
    assert len(dataset.train.targets) == count_training_examples(config)
    assert config.data.validation == (config.data.limit or 1437) // 4
    return dataset


def test_the_folds_divide_the_training_split_with_their_share_of_every_class() -> None:
    whole = load_dataset(job("data=digits", "data.validation=0").data, 0).train
    folds = [fold(number) for number in range(4)]
    assert [len(each.validation.targets) for each in folds] == [360, 359, 359, 359]
    counts = np.array([np.bincount(each.validation.targets) for each in folds])
    assert np.ptp(counts, axis=0).max() <= 1
    images = np.concatenate([each.validation.inputs for each in folds])
    np.testing.assert_array_equal(np.sort(images.reshape(1437, -1), 0), np.sort(whole.inputs.reshape(1437, -1), 0))
    for each in folds:
        both = np.concatenate([each.train.inputs, each.validation.inputs]).reshape(1437, -1)
        np.testing.assert_array_equal(np.sort(both, 0), np.sort(whole.inputs.reshape(1437, -1), 0))


def test_folds_depend_on_their_own_seed_and_the_limit_only() -> None:
    first = fold(1).validation.inputs
    np.testing.assert_array_equal(first, fold(1, "seed=7").validation.inputs)
    assert not np.array_equal(first, fold(1, "data.split_seed=7").validation.inputs)
    assert len(fold(1, "data.limit=102").validation.targets) == 26


def test_folds_of_one_dataset_are_read_once_and_of_numbers_too() -> None:
    configs = [job("data=digits", "data.folds=4", f"data.fold={number}") for number in (0, 1)]
    first, second = (load_dataset_once(config.data, 0) for config in configs)
    assert first.test is second.test
    assert not np.array_equal(first.validation.inputs, second.validation.inputs)
    numbers = job("experiment=single_neuron", "data.folds=3", "data.fold=0")
    assert len(load_dataset(numbers.data, 0).validation.targets) == 334


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.folds=5"], "data.folds=5 needs data.fold, the part to validate on, from 0 to 4. For all of them: "),
        (["data.folds=5", "data.fold=5"], "from 0 to 4; given is 5. For all of them: python run.py -m data.folds=5"),
        (["data.fold=1"], "data.fold=1 needs data.folds, the number of parts, such as data.folds=5."),
        (["data.folds=1", "data.fold=0"], "data.folds=1 is not allowed: parts of the training split"),
        (["data.folds=5", "data.fold=0", "data.validation=99"], "data.validation and data.folds=5 do not go together"),
        (
            ["data.folds=9999", "data.fold=0", "training.batch_size=1"],
            "is too many: digits has 1,437 training",
        ),
    ],
)
def test_refuses_folds_that_are_not_complete(overrides: list[str], message: str) -> None:
    assert message in refusal("data=digits", *overrides)
