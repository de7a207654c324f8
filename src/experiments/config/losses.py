"""Losses that `training.loss` may name: Keras's, as far as they judge one example by its target and its outputs."""

from collections.abc import Callable
from typing import Any

from experiments.config.keras_table import check_arguments, keras_table, refusal, split_named
from experiments.config.own_schema import check_own_arguments, own_defaults
from experiments.config.registry import own_functions
from experiments.errors import did_you_mean, join_sorted

SPARSE_LOSSES = ("sparse_categorical_crossentropy", "categorical_generalized_cross_entropy")  # take class numbers
CROSS_ENTROPIES = (
    *("sparse_categorical_crossentropy", "categorical_crossentropy", "categorical_focal_crossentropy"),
    "kl_divergence",
)
BINARY_LOSSES = ("binary_crossentropy", "binary_focal_crossentropy")  # for two classes and one probability
CLASS_LOSSES = (
    *CROSS_ENTROPIES,
    *(
        "categorical_generalized_cross_entropy",
        "categorical_hinge",
        "hinge",
        "squared_hinge",
        "poisson",
        "cosine_similarity",
    ),
    *("mean_squared_error", "mean_absolute_error", "mean_squared_logarithmic_error", "huber", "log_cosh"),
)
NUMBER_LOSSES = (
    *("mean_squared_error", "mean_absolute_error", "mean_absolute_percentage_error", "mean_squared_logarithmic_error"),
    *("huber", "log_cosh"),
)
# Those that have no value for other outputs.
PROBABILITY_LOSSES = (*CROSS_ENTROPIES, *BINARY_LOSSES, "categorical_generalized_cross_entropy", "poisson")
SMOOTHED_LOSSES = (*CROSS_ENTROPIES, *BINARY_LOSSES)
REFUSED_LOSSES = {
    "ctc": "it compares sequences",
    "circle": "it compares embeddings within a batch",
    "dice": "it judges a batch as a whole, as for segmentation",
    "tversky": "it judges a batch as a whole, as for segmentation",
}
LOSS_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "alpha": ("from 0 to 1", lambda value: 0 <= value <= 1),
    "gamma": ("0 or more", lambda value: value >= 0),
    "delta": ("greater than 0", lambda value: value > 0),
    "q": ("greater than 0, at most 1", lambda value: 0 < value <= 1),
}


def check_loss(value: Any) -> Any:
    """Return a loss, a name or {name: {argument: value}}, or refuse it."""
    name, arguments = split_named(value, "loss")
    if "label_smoothing" in arguments:
        raise refusal("label_smoothing is a key of its own. Use training.label_smoothing")
    if "from_logits" in arguments:
        raise refusal("from_logits follows from the last layer, which gives probabilities. Leave it out")
    if name in REFUSED_LOSSES:
        raise refusal(f"loss {name} does not fit: {REFUSED_LOSSES[name]}")
    if own := own_functions("loss").get(name):
        check_own_arguments(own, arguments)
        return value
    known = {name: of["arguments"] for name, of in keras_table()["losses"].items() if name not in REFUSED_LOSSES}
    if name not in known:
        choices = [*known, *own_functions("loss")]
        raise refusal(f"Keras has no loss {name!r}{did_you_mean(name, choices)}; choices: {join_sorted(choices)}")
    check_arguments(f"loss {name}", arguments, known[name])
    for argument, given in arguments.items():
        if argument in LOSS_RANGES:
            words, allows = LOSS_RANGES[argument]
            if isinstance(given, list | str | None) or not allows(given):
                raise refusal(f"loss {name}: {argument} must be {words}; received {given!r}")
    return value


def loss_and_arguments(value: Any) -> tuple[str, dict[str, Any]]:
    """Return the name of a checked loss, and all its arguments: the function's defaults where the config gives none."""
    name, given = split_named(value, "loss")
    if own := own_functions("loss").get(name):
        return name, {**own_defaults(own), **given}
    return name, {**keras_table()["losses"][name]["arguments"], **given}
