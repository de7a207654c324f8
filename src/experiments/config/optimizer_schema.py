"""The groups `optimizer` and `schedule` of a config: how the weights and the learning rate change."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from experiments.config.extra_optimizers import EXTRA_OPTIMIZERS
from experiments.config.fields import STRICT_FIELDS, Positive, PositiveFloat, described
from experiments.config.keras_table import check_arguments, configurable_arguments, keras_table, refusal
from experiments.config.own_code import call_own
from experiments.config.own_schema import check_own_arguments
from experiments.config.registry import own_functions
from experiments.errors import did_you_mean, join_sorted, unknown_key

RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "from 0 up to but not including 1": (
        "beta_1 beta_2 adam_beta_1 adam_beta_2 rho momentum ema_momentum",
        lambda value: 0 <= value < 1,
    ),
    "greater than 0": (
        "epsilon epsilon_1 epsilon_2 clipnorm clipvalue global_clipnorm clip_threshold loss_scale_factor rms_rate",
        lambda value: value > 0,
    ),
    "0 or more": (
        "weight_decay adam_weight_decay initial_accumulator_value l1_regularization_strength l2_regularization_strength"
        " l2_shrinkage_regularization_strength",
        lambda value: value >= 0,
    ),
    "0 or less": ("learning_rate_power", lambda value: value <= 0),
    "less than 0": ("beta_2_decay", lambda value: value < 0),
    "a finite number": ("beta muon_a muon_b muon_c adam_lr_ratio", lambda value: True),
    "a whole number, 1 or more": ("ema_overwrite_frequency ns_steps", lambda n: isinstance(n, int) and n >= 1),
    "a whole number, 2 or more": ("gradient_accumulation_steps", lambda n: isinstance(n, int) and n >= 2),
    "a number of steps, 0 or more": ("warmup_steps", lambda n: isinstance(n, int) and n >= 0),
}
OPTIMIZER_RANGES = {key: (allowed, words) for words, (keys, allowed) in RANGES.items() for key in keys.split()}
# Where Keras takes None although its default is a number; elsewhere null is refused.
NULL_FOR_NONE = {("muon", "weight_decay"), ("muon", "adam_weight_decay"), ("muon", "rms_rate")}
BETA_1_ABOVE_0 = ("lion", "schedulefreeadamw")
CLIPPING_KEYS = ("clipnorm", "clipvalue", "global_clipnorm")


def optimizer_arguments() -> dict[str, dict[str, Any]]:
    """Return the arguments of each optimizer by its name, with their defaults."""
    of_keras = {name: entry["arguments"] for name, entry in keras_table()["optimizers"].items()}
    own = {name: choice.function for name, choice in own_functions("optimizer").items()}
    return of_keras | {name: configurable_arguments(function) for name, function in {**EXTRA_OPTIMIZERS, **own}.items()}


def optimizer_builder(name: str) -> Callable[..., Any]:
    """Return what builds the optimizer of this name: a class of Keras, or a function of ours (imports Keras)."""
    import keras

    if own := own_functions("optimizer").get(name):
        return lambda learning_rate, **arguments: call_own(own, learning_rate, **arguments)
    return EXTRA_OPTIMIZERS.get(name) or getattr(keras.optimizers, keras_table()["optimizers"][name]["class"])


def check_optimizer_name(name: str) -> str:
    known = optimizer_arguments()
    if name not in known:
        raise refusal(f"there is no optimizer {name!r}{did_you_mean(name, known)}; choices: {join_sorted(known)}")
    return name


@dataclass(config=ConfigDict(extra="allow", strict=True, allow_inf_nan=False), kw_only=True)
class OptimizerConfig:
    """An optimizer by its name (Keras's in lower case), with its own arguments beside name and learning rate."""

    name: Annotated[str, AfterValidator(check_optimizer_name)] = described("a Keras optimizer in lower case, like adam")
    learning_rate: PositiveFloat = described("step size, any finite number greater than 0")

    @property
    def arguments(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("name", "learning_rate")}

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = optimizer_arguments()[self.name]
        for key in set(self.arguments) - set(known):
            names = [f"optimizer.{name}" for name in ("name", "learning_rate", *known)]
            message = unknown_key(f"optimizer.{key}", names)
            raise PydanticCustomError("unknown_key", "{message}", {"message": message, "key": f"optimizer.{key}"})
        if own := own_functions("optimizer").get(self.name):
            check_own_arguments(own, self.arguments)
            return self
        check_arguments(f"optimizer {self.name}", self.arguments, known)
        for key, value in self.arguments.items():
            null_is_meant = value is None and (known[key] is None or (self.name, key) in NULL_FOR_NONE)
            if key in OPTIMIZER_RANGES and not null_is_meant:
                allows, words = OPTIMIZER_RANGES[key]
                if isinstance(value, str | bool | list | None) or not allows(value):
                    raise refusal(f"optimizer.{key} must be {words}; received {value!r}")
        if self.name in BETA_1_ABOVE_0 and self.arguments.get("beta_1") == 0:
            raise refusal(f"optimizer.beta_1 of {self.name} must be greater than 0 and less than 1; received 0")
        if len(given := [key for key in CLIPPING_KEYS if self.arguments.get(key) is not None]) > 1:
            only = f"only one of {join_sorted(CLIPPING_KEYS)} may be set"
            raise refusal(f"optimizer: {only}; received {join_sorted(given)}")
        return self


EPOCH_UNIT = "in epochs (fractions allowed)"
WATCHED_METRIC = "a metric of each epoch, such as val_loss or val_accuracy"


@dataclass(config=STRICT_FIELDS, kw_only=True)
class ConstantSchedule:
    """The optimizer's learning rate throughout."""

    name: Literal["constant"]


@dataclass(config=STRICT_FIELDS, kw_only=True)
class ExponentialSchedule:
    """learning_rate * decay_rate ** (epochs / decay_epochs)."""

    name: Literal["exponential"]
    decay_rate: float = Field(gt=0, le=1, description="factor per decay_epochs, above 0 up to 1")
    decay_epochs: PositiveFloat = described(f"length of one decay, {EPOCH_UNIT}, greater than 0")
    staircase: bool = described("decay in steps, once per decay_epochs, rather than smoothly: true or false")


@dataclass(config=STRICT_FIELDS, kw_only=True)
class CosineSchedule:
    """Linear warm-up from 0, then half a cosine down to the final fraction at the last step."""

    name: Literal["cosine"]
    warmup_epochs: float = Field(ge=0, description=f"length of the warm-up, {EPOCH_UNIT}, 0 or more")
    final_fraction: float = Field(ge=0, le=1, description="last learning rate over its peak, from 0 to 1")


@dataclass(config=STRICT_FIELDS, kw_only=True)
class PiecewiseSchedule:
    """The learning rate times factors[i] from boundaries[i] on."""

    name: Literal["piecewise"]
    boundaries: list[PositiveFloat] = described(f"where the rate changes, rising, {EPOCH_UNIT}, greater than 0")
    factors: list[PositiveFloat] = described("learning rate from each boundary on, over optimizer.learning_rate")

    def __post_init__(self) -> None:
        if len(self.boundaries) != len(self.factors) or sorted(set(self.boundaries)) != self.boundaries:
            raise refusal(
                "schedule.boundaries must rise and schedule.factors have one entry per boundary; received"
                f" {self.boundaries} and {self.factors}"
            )


@dataclass(config=STRICT_FIELDS, kw_only=True)
class OneCycleSchedule:
    """Cosine up from initial_fraction to the peak, then cosine down to final_fraction (Smith & Topin 2017)."""

    name: Literal["one_cycle"]
    warmup_fraction: float = Field(gt=0, lt=1, description="share of all steps before the peak, between 0 and 1")
    initial_fraction: float = Field(ge=0, le=1, description="first learning rate over its peak, from 0 to 1")
    final_fraction: float = Field(ge=0, le=1, description="last learning rate over its peak, from 0 to 1")


@dataclass(config=STRICT_FIELDS, kw_only=True)
class ReduceOnPlateauSchedule:
    """The learning rate times `factor` whenever the metric has not improved for `patience` epochs."""

    name: Literal["reduce_on_plateau"]
    metric: str = described(WATCHED_METRIC)
    factor: float = Field(gt=0, lt=1, description="what the learning rate is multiplied by, between 0 and 1")
    patience: Positive = described("epochs without improvement before the rate falls, 1 or more")
    min_delta: float = Field(ge=0, description="smallest change that counts as improvement, 0 or more")
    smallest_fraction: float = Field(ge=0, le=1, description="smallest share of the first learning rate, from 0 to 1")


ScheduleConfig = (
    ConstantSchedule
    | ExponentialSchedule
    | CosineSchedule
    | PiecewiseSchedule
    | OneCycleSchedule
    | ReduceOnPlateauSchedule
)
WHOLE_RUN_SCHEDULES = (CosineSchedule, OneCycleSchedule)  # their learning rates depend on training.epochs
