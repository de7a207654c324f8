"""The metrics that runs log: which direction is better."""


def higher_is_better(metric: str) -> bool:
    """Of the metrics of our runs; those of other programs tell it by their names, see compare.direction.

    >>> higher_is_better("best_val_accuracy"), higher_is_better("test_error_percent")
    (True, False)
    """
    return "accuracy" in metric
