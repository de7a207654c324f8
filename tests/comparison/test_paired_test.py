"""Two models compared by their predictions for the same test examples, on literals."""

import pytest
from run_records import a_run
from scipy import stats

from experiments.comparison.comparison import ComparisonError
from experiments.comparison.paired_test import PairedTest, compare_predictions

CLASSES = a_run(1, metrics={"test_accuracy": 0.9})
NUMBERS = a_run(1, {"training.loss": "mean_squared_error"}, {"test_mean_absolute_error": 0.1})


def classes(actual: str, predicted: str) -> str:
    """Return predictions of classes, each a letter."""
    rows = [f"{i},{a},{p},0.9" for i, (a, p) in enumerate(zip(actual, predicted, strict=True))]
    return "\n".join(["index,actual,predicted,probability", *rows]) + "\n"


def numbers(actual: list[float], predicted: list[float]) -> str:
    rows = [f"{i},{a},{p}" for i, (a, p) in enumerate(zip(actual, predicted, strict=True))]
    return "\n".join(["index,actual,predicted", *rows]) + "\n"


@pytest.mark.parametrize("objective", ["best_val_accuracy", "test_accuracy", "test_error_percent"])
def test_classes_are_compared_by_the_examples_that_only_one_model_gets_right(objective: str) -> None:
    ours = classes("a" * 20, "a" * 18 + "bb")
    theirs = classes("a" * 20, "b" * 8 + "a" * 11 + "b")  # 8 only ours, 1 only theirs
    found = compare_predictions(CLASSES, ours, theirs, objective)
    p = 20 / 2**9  # of 9 fair coins, at least 8 fall alike: (1 + 9) / 512, on either side
    assert found == PairedTest("test_accuracy", 0.9, 0.55, pytest.approx(p), "McNemar's test on 20 test examples")


def test_equal_models_do_not_differ() -> None:
    same = classes("abNA", "abNb")
    assert compare_predictions(CLASSES, same, same, "val_accuracy").p_value == 1
    same = numbers([1, 2], [1, 3])
    assert compare_predictions(NUMBERS, same, same, "val_loss").p_value == 1


@pytest.mark.parametrize(("objective", "power"), [("val_loss", 2), ("best_val_mean_absolute_error", 1)])
def test_numbers_are_compared_by_their_errors(objective: str, power: int) -> None:
    ours, theirs = numbers([1, 2, 3], [1.5, 2, 2]), numbers([1, 2, 3], [2, 4, 0])
    found = compare_predictions(NUMBERS, ours, theirs, objective)
    errors = [[0.5**power, 0, 1], [1, 2**power, 3**power]]
    assert (found.first, found.second) == pytest.approx([sum(each) / 3 for each in errors])
    assert found.p_value == pytest.approx(stats.ttest_rel(*errors).pvalue)
    assert found.metric == ("test_loss" if power == 2 else "test_mean_absolute_error")


def test_what_predictions_do_not_show_is_refused() -> None:
    with pytest.raises(ComparisonError, match="its run was tested on other examples"):
        compare_predictions(CLASSES, classes("ab", "ab"), classes("aa", "ab"), "val_accuracy")
    with pytest.raises(ComparisonError, match="predictions do not show the noise of val_loss"):
        compare_predictions(CLASSES, classes("ab", "ab"), classes("ab", "ab"), "val_loss")
