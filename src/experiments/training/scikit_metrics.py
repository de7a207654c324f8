"""Metrics of scikit-learn, computed by its own scorers, for a network whose outputs are known."""

import warnings

import numpy as np


class UndefinedScoreError(Exception):
    """A metric that has no value on these examples: why."""


def scikit_score(name: str, targets: np.ndarray, outputs: np.ndarray) -> float:
    """Return the score of this name, without its prefix `neg_`: then the least is best.

    Arguments are those of a function in SPLIT_METRICS; where there are two classes, the second is the positive one.
    Raise an UndefinedScoreError if it has no finite value.
    """
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.metrics import get_scorer, get_scorer_names

    class KnownClassifier(ClassifierMixin, BaseEstimator):
        """Answers for an example what the network did."""

        def __init__(self) -> None:
            self.classes_ = np.arange(outputs.shape[1])

        def predict(self, outputs: np.ndarray) -> np.ndarray:
            return outputs.argmax(1)

        def predict_proba(self, outputs: np.ndarray) -> np.ndarray:
            if outputs.min() < 0 or abs(outputs.sum(1) - 1).max() > 1e-3:
                raise ValueError("the outputs of the network are not probabilities.")
            return outputs / outputs.sum(1, keepdims=True)

    class KnownRegressor(RegressorMixin, BaseEstimator):
        """Answers for an example what the network did."""

        def __init__(self) -> None:
            self.fitted_ = True

        def predict(self, outputs: np.ndarray) -> np.ndarray:
            return outputs

    numbers = outputs.shape[1] == 1
    network, answers = (KnownRegressor(), outputs.ravel()) if numbers else (KnownClassifier(), outputs)
    negative = f"neg_{name}" in get_scorer_names()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            score = get_scorer(f"neg_{name}" if negative else name)(
                network, answers.astype(np.float64), targets.ravel()
            )
        except ValueError as error:
            raise UndefinedScoreError(str(error).split("\n")[0]) from None
    if not np.isfinite(score):
        raise UndefinedScoreError(str(warned[0].message).split("\n")[0] if warned else f"it is {score}.")
    return float(-score if negative else score)
