"""The group `expected` of a published config: the published result, and the one measured here."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from experiments.config.fields import LARGEST_SEED, STRICT_FIELDS, PositiveFloat, described
from experiments.config.keras_checks import refusal
from experiments.config.metrics import EXPECTED_METRICS
from experiments.errors import join_sorted

NOT_FOR_QUICK = ("hydra", "seed", "expected", "experiment", "tracking", "report", "resume", "resume_anyway")
MEASURED_TOGETHER = "given with expected.mean, or null: not measured"


def check_quick_override(value: str) -> str:
    key = re.match(r"([a-z_]+)(\.\w+)*=", value)
    if key is None or key[1] in NOT_FOR_QUICK:
        raise refusal(
            f"{value!r} is not allowed: key=value of the experiment itself, such as training.epochs=1, but not of"
            f" {', '.join(NOT_FOR_QUICK)}"
        )
    return value


@dataclass(config=STRICT_FIELDS, kw_only=True)
class QuickExpectation:
    """A shrunk version of a published config with its result, which shows in seconds that training is unchanged."""

    overrides: Annotated[
        list[Annotated[str, AfterValidator(check_quick_override)]],
        Field(
            min_length=1,
            description="what shrinks the experiment: a list of key=value, such as training.epochs=1",
        ),
    ]
    mean: Annotated[float, described("value of the metric with the first of expected.seeds, a number")]
    tolerance: Annotated[PositiveFloat, described("largest difference from expected.quick.mean, greater than 0")]


@dataclass(config=STRICT_FIELDS, kw_only=True)
class Expectation:
    """The result of a config: as it was published, and as it was measured here over seeds."""

    metric: Annotated[
        Literal[tuple(EXPECTED_METRICS)],  # type: ignore[valid-type]
        described(f"metric to compare: {', '.join(EXPECTED_METRICS)}"),
    ]
    published: Annotated[float | None, described("published value in the metric's unit, or null: none")]
    mean: Annotated[float | None, described("mean measured here over expected.seeds, or null: not measured")]
    standard_deviation: Annotated[
        Annotated[float, Field(ge=0)] | None,
        described("of a single run, over expected.seeds (n - 1), 0 or more, or null: one seed only, or not measured"),
    ]
    tolerance: Annotated[
        PositiveFloat | None, described(f"largest difference from expected.mean, greater than 0, {MEASURED_TOGETHER}")
    ]
    seeds: Annotated[
        list[Annotated[int, Field(ge=0, le=LARGEST_SEED)]],
        Field(min_length=1, description="seeds to run, each from 0 to 4294967295, each only once"),
    ]
    versions: Annotated[dict[str, str] | None, described(f"package -> version that gave the mean, {MEASURED_TOGETHER}")]
    quick: Annotated[QuickExpectation | None, described("shrunk version: overrides, mean and tolerance, or null: none")]

    def __post_init__(self) -> None:
        if len(set(self.seeds)) != len(self.seeds):
            raise refusal(f"expected.seeds={self.seeds} names a seed twice")
        measured = {"mean": self.mean, "tolerance": self.tolerance, "versions": self.versions}
        missing = [key for key, value in measured.items() if value is None]
        if 0 < len(missing) < len(measured) or (self.mean is None and self.standard_deviation is not None):
            given = [key for key in (*measured, "standard_deviation") if getattr(self, key) is not None]
            raise refusal(
                f"expected.mean, tolerance and versions belong together, and standard_deviation needs them: set are"
                f" {join_sorted(given)}; null are {join_sorted(missing)}. Set all of them, or none"
            )
