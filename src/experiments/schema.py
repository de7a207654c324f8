"""What a config may hold: one dataclass per group, every field with its meaning and range.

YAML under conf/ gives the values (there are no defaults here); compose.py reads them, config.py checks them. The
description of a field is what a user reads when its value is refused, so each says what is allowed.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from experiments import own_optimizers
from experiments.errors import did_you_mean, listed
from experiments.keras_api import table
from experiments.keras_checks import DROPOUT_RATE, check_arguments, check_layer, keras_object, one_of, or_none, refuse

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

LARGEST_SEED = 2**32 - 1


def as_list(value: Any) -> Any:
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Examples = Annotated[int, Field(ge=1, le=10_000_000)]
Rate = Annotated[float, Field(ge=0, lt=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Activation = Annotated[str, AfterValidator(one_of("activations"))]
Initializer = Annotated[Any, AfterValidator(keras_object("initializers"))]
Regularizer = Annotated[Any, AfterValidator(or_none(keras_object("regularizers")))]
Constraint = Annotated[Any, AfterValidator(or_none(keras_object("constraints")))]


def text(description: str) -> Any:
    return Field(description=description)


def higher_is_better(metric: str) -> bool:
    """Of the metrics of our runs; those of other programs tell it by their names, see compare.direction.

    >>> higher_is_better("best_val_accuracy"), higher_is_better("test_error_percent")
    (True, False)
    """
    return "accuracy" in metric


# --- data ---------------------------------------------------------------------------------------------------------

VALIDATION = text("number of training examples held out for validation, by seed; 0 trains on everything")
LIMIT = text("use only the first so many training examples: a count from 1 on, or null for all")
TRAIN = text("number of examples in the official training split, from 1 to 10 million")
TEST = text("number of examples in the official test split, from 1 to 10 million")


@dataclass(config=STRICT, kw_only=True)
class Linear:
    """A line with noise, generated: y = slope * x + N(0, noise), x in [0, 1]."""

    name: Literal["linear"]
    validation: Annotated[Count, VALIDATION]
    limit: Annotated[Positive | None, LIMIT]
    shape: Annotated[
        list[Annotated[int, Field(ge=1, le=1)]],
        Field(min_length=1, max_length=1, description="shape of one input, always [1]"),
    ]
    slope: Annotated[float, text("slope of the line, a finite number")]
    noise: Annotated[float, Field(ge=0, description="standard deviation of the noise, 0 or more")]
    train_examples: Annotated[Examples, TRAIN]
    test_examples: Annotated[Examples, TEST]


NOT_NEGATIVE = "0 (none) or more"


@dataclass(config=STRICT, kw_only=True, frozen=True)
class Augmentation:
    """Random changes to each training image, anew in every epoch."""

    shift: Annotated[float, Field(ge=0, description=f"largest move along each axis, in pixels, {NOT_NEGATIVE}")]
    rotation: Annotated[float, Field(ge=0, le=180, description="largest turn either way, in degrees, 0 (none) to 180")]
    scale: Annotated[
        float, Field(ge=0, lt=1, description="largest change of size either way, a fraction, from 0 (none) to below 1")
    ]
    elastic: Annotated[
        float, Field(ge=0, description=f"size of the field of elastic distortions, in pixels, {NOT_NEGATIVE}")
    ]
    smoothness: Annotated[
        PositiveFloat, text("standard deviation of the Gaussian that smooths that field, in pixels, greater than 0")
    ]

    def __bool__(self) -> bool:
        return any((self.shift, self.rotation, self.scale, self.elastic))


def grey_or_colour(shape: list[int]) -> list[int]:
    if shape[2:] not in ([], [1], [3]):
        raise ValueError("the figures can show no other channels")
    return shape


@dataclass(config=STRICT, kw_only=True)
class Digits:
    """Images with classes; this one is bundled with scikit-learn."""

    name: Literal["digits"]
    validation: Annotated[Count, VALIDATION]
    limit: Annotated[Positive | None, LIMIT]
    shape: Annotated[
        list[Positive],
        Field(min_length=2, max_length=3, description="height and width of an image, in pixels (and channels: 1 or 3)"),
        AfterValidator(grey_or_colour),
    ]
    classes: Annotated[int, Field(ge=2, description="number of classes, from 2 on")]
    class_names: Annotated[list[str], text("one name per class, in the order of the labels")]
    pixel_max: Annotated[Positive, text("value of a full pixel, from 1 on: pixels are divided by it")]
    mean: Annotated[float, text("what is subtracted from the pixels, after that division, a finite number")]
    standard_deviation: Annotated[PositiveFloat, text("what the pixels are then divided by, greater than 0")]
    padding: Annotated[Count, text("pixels of background put around an image for the network, from 0 on")]
    augmentation: Annotated[Augmentation, text("random changes to each training image: shift, rotation, ...")]
    train_examples: Annotated[Examples, TRAIN]
    test_examples: Annotated[Examples, TEST]
    checksums: Annotated[
        dict[str, str] | None, text("file -> 'sha256:...' or 'md5-gzip:...', or null to accept any content")
    ]


@dataclass(config=STRICT, kw_only=True)
class ImageFiles(Digits):
    """Images with classes in MNIST's file format."""

    name: Literal["mnist", "fashion_mnist"]  # type: ignore[assignment]
    path: Annotated[str | None, text("folder with the IDX or npz files, or null to search the usual places")]


Data = Digits | ImageFiles | Linear
DataConfig = Annotated[Data, Field(discriminator="name")]


# --- model --------------------------------------------------------------------------------------------------------

DROPOUT = text(DROPOUT_RATE)
ACTIVATION = text("activation function, a name that Keras knows, such as relu, tanh, gelu, or scaled_tanh")
INITIALIZER = text("initial weights, a name that Keras knows, such as glorot_uniform, or {name: {argument: value}}")
REGULARIZER = text("penalty on the weights, such as {l2: {l2: 0.0001}}, or null for none")
CONSTRAINT = text("limit on the weights, such as {max_norm: {max_value: 2, axis: 0}}, or null for none")
BATCH_NORMALIZATION = text("normalize each layer's values over the batch before the activation: true or false")
Weights = Annotated[
    Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None,
    text("id of a finished run whose model's weights to start from, 32 hex digits, or null: drawn by seed"),
]
UNITS = text("units of each hidden dense layer, from 1 on: a number or a list; [] for none")


@dataclass(config=STRICT, kw_only=True)
class Mlp:
    """Dense hidden layers between the flattened input and the output layer."""

    name: Literal["mlp"]
    weights: Weights
    units: Annotated[list[Positive], BeforeValidator(as_list), UNITS]
    activation: Annotated[Activation, ACTIVATION]
    dropout: Annotated[Rate, DROPOUT]
    input_dropout: Annotated[Rate, DROPOUT]
    kernel_initializer: Annotated[Initializer, INITIALIZER]
    kernel_regularizer: Annotated[Regularizer, REGULARIZER]
    kernel_constraint: Annotated[Constraint, CONSTRAINT]
    batch_normalization: Annotated[bool, BATCH_NORMALIZATION]
    output_activation: Annotated[
        Activation | None, text("activation of the output layer, or null: softmax for classes, none for a number")
    ]


@dataclass(config=STRICT, kw_only=True)
class Cnn:
    """Blocks of convolution and max pooling, then dense layers."""

    name: Literal["cnn"]
    weights: Weights
    filters: Annotated[list[Positive], BeforeValidator(as_list), text("filters of each convolution, from 1 on")]
    kernel_size: Annotated[Positive, text("height and width of each convolution, in pixels, from 1 on")]
    pool_size: Annotated[Positive, text("height and width of the max pooling after each convolution, from 1 (none) on")]
    padding: Annotated[Literal["valid", "same"], text("border of a convolution: valid (shrinks the image) or same")]
    units: Annotated[list[Positive], BeforeValidator(as_list), UNITS]
    activation: Annotated[Activation, ACTIVATION]
    dropout: Annotated[Rate, DROPOUT]
    kernel_initializer: Annotated[Initializer, INITIALIZER]
    kernel_regularizer: Annotated[Regularizer, REGULARIZER]
    batch_normalization: Annotated[bool, BATCH_NORMALIZATION]


@dataclass(config=STRICT, kw_only=True)
class Neuron:
    """One artificial neuron: activation(weight * x + bias)."""

    name: Literal["neuron"]
    weights: Weights
    activation: Annotated[Activation, ACTIVATION]
    kernel_initializer: Annotated[Initializer, INITIALIZER]


@dataclass(config=STRICT, kw_only=True)
class Layers:
    """Any sequential network, written out as Keras layers."""

    name: Literal["layers"]
    weights: Weights
    layers: Annotated[
        list[Annotated[Any, AfterValidator(check_layer)]],
        Field(min_length=1, description="Keras layers from input to output, each a name or {name: {argument: value}}"),
    ]


Model = Mlp | Cnn | Neuron | Layers
ModelConfig = Annotated[Model, Field(discriminator="name")]


# --- optimizer and schedule ---------------------------------------------------------------------------------------

OPTIMIZER_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    **dict.fromkeys(
        ["beta_1", "beta_2", "adam_beta_1", "adam_beta_2", "rho", "momentum", "ema_momentum"],
        (lambda value: 0 <= value < 1, "from 0 up to but not including 1"),
    ),
    **dict.fromkeys(["epsilon", "epsilon_1", "epsilon_2"], (lambda value: value > 0, "greater than 0")),
    **dict.fromkeys(
        ["clipnorm", "clipvalue", "global_clipnorm", "clip_threshold", "loss_scale_factor"],
        (lambda value: value > 0, "greater than 0"),
    ),
    **dict.fromkeys(["weight_decay", "adam_weight_decay"], (lambda value: value >= 0, "0 or more")),
    **dict.fromkeys(
        ["initial_accumulator_value", "l1_regularization_strength", "l2_regularization_strength"],
        (lambda value: value >= 0, "0 or more"),
    ),
    "l2_shrinkage_regularization_strength": (lambda value: value >= 0, "0 or more"),
    "learning_rate_power": (lambda value: value <= 0, "0 or less"),
    "beta_2_decay": (lambda value: value < 0, "less than 0"),
    "rms_rate": (lambda value: value > 0, "greater than 0"),
    **dict.fromkeys(["beta", "muon_a", "muon_b", "muon_c", "adam_lr_ratio"], (lambda value: True, "a finite number")),
    **dict.fromkeys(
        ["ema_overwrite_frequency", "ns_steps"],
        (lambda value: isinstance(value, int) and value >= 1, "a count from 1 on"),
    ),
    "gradient_accumulation_steps": (lambda value: isinstance(value, int) and value >= 2, "a count from 2 on"),
    "warmup_steps": (lambda value: isinstance(value, int) and value >= 0, "a count of steps from 0 on"),
}
# Where Keras takes None although its default is a number; elsewhere null is refused.
NULL_FOR_NONE = {("muon", "weight_decay"), ("muon", "adam_weight_decay"), ("muon", "rms_rate")}
BETA_1_ABOVE_0 = ("lion", "schedulefreeadamw")
CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")


def optimizers() -> dict[str, dict[str, Any]]:
    """By name of the optimizer, Keras's and our own: its arguments and their defaults."""
    return {name: entry["arguments"] for name, entry in table()["optimizers"].items()} | own_optimizers.arguments()


def known_optimizer(name: str) -> str:
    known = optimizers()
    if name not in known:
        raise refuse(f"there is no optimizer {name!r}{did_you_mean(name, known)}; choices: {listed(known)}")
    return name


@dataclass(config=ConfigDict(extra="allow", strict=True, allow_inf_nan=False), kw_only=True)
class Optimizer:
    """An optimizer by its name (Keras's in lower case), with its own arguments beside name and learning rate."""

    name: Annotated[str, AfterValidator(known_optimizer), text("a Keras optimizer, in lower case, such as adam")]
    learning_rate: Annotated[PositiveFloat, text("step size, any finite number greater than 0")]

    @property
    def arguments(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("name", "learning_rate")}

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = optimizers()[self.name]
        check_arguments(f"optimizer {self.name}", self.arguments, known)
        for key, value in self.arguments.items():
            null_is_meant = value is None and (known[key] is None or (self.name, key) in NULL_FOR_NONE)
            if key in OPTIMIZER_RANGES and not null_is_meant:
                allowed, words = OPTIMIZER_RANGES[key]
                if isinstance(value, str | bool | list | None) or not allowed(value):
                    raise refuse(f"optimizer.{key} must be {words}; received {value!r}")
        if self.name in BETA_1_ABOVE_0 and self.arguments.get("beta_1") == 0:
            raise refuse(f"optimizer.beta_1 of {self.name} must be greater than 0 and less than 1; received 0")
        excluded = self.arguments.get("exclude_layers")
        if not (excluded is None or (isinstance(excluded, list) and all(isinstance(name, str) for name in excluded))):
            raise refuse(f"optimizer.exclude_layers must be a list of names, or null; received {excluded!r}")
        clipping = [key for key in CLIPPING if self.arguments.get(key) is not None]
        if len(clipping) > 1:
            raise refuse(f"optimizer: only one of {listed(CLIPPING)} may be set; received {listed(clipping)}")
        return self


EPOCHS = "in epochs (fractions allowed)"
WATCHED = "a metric of each epoch, such as val_loss or val_accuracy"


@dataclass(config=STRICT, kw_only=True)
class Constant:
    """The optimizer's learning rate throughout."""

    name: Literal["constant"]


@dataclass(config=STRICT, kw_only=True)
class Exponential:
    """learning_rate * decay_rate ** (epochs / decay_epochs)."""

    name: Literal["exponential"]
    decay_rate: Annotated[float, Field(gt=0, le=1, description="factor per decay_epochs, above 0 up to 1")]
    decay_epochs: Annotated[PositiveFloat, text(f"length of one decay, {EPOCHS}, greater than 0")]
    staircase: Annotated[bool, text("decay in steps, once per decay_epochs, rather than smoothly: true or false")]


@dataclass(config=STRICT, kw_only=True)
class Cosine:
    """Linear warm-up from 0, then half a cosine down to the final fraction at the last step."""

    name: Literal["cosine"]
    warmup_epochs: Annotated[float, Field(ge=0, description=f"length of the warm-up, {EPOCHS}, 0 or more")]
    final_fraction: Annotated[float, Field(ge=0, le=1, description="last over peak learning rate, from 0 to 1")]


@dataclass(config=STRICT, kw_only=True)
class Piecewise:
    """The learning rate times factors[i] from boundaries[i] on."""

    name: Literal["piecewise"]
    boundaries: Annotated[list[PositiveFloat], text(f"where the rate changes, rising, {EPOCHS}, greater than 0")]
    factors: Annotated[list[PositiveFloat], text("learning rate from each boundary on, over optimizer.learning_rate")]

    def __post_init__(self) -> None:
        if len(self.boundaries) != len(self.factors) or sorted(set(self.boundaries)) != self.boundaries:
            raise refuse(
                "schedule.boundaries must rise and schedule.factors have one entry per boundary; received"
                f" {self.boundaries} and {self.factors}"
            )


@dataclass(config=STRICT, kw_only=True)
class OneCycle:
    """Cosine up from initial_fraction to the peak, then cosine down to final_fraction (Smith & Topin 2017)."""

    name: Literal["one_cycle"]
    warmup_fraction: Annotated[
        float, Field(gt=0, lt=1, description="share of all steps before the peak, between 0 and 1")
    ]
    initial_fraction: Annotated[float, Field(ge=0, le=1, description="first over peak learning rate, from 0 to 1")]
    final_fraction: Annotated[float, Field(ge=0, le=1, description="last over peak learning rate, from 0 to 1")]


@dataclass(config=STRICT, kw_only=True)
class ReduceOnPlateau:
    """The learning rate times `factor` whenever the metric has not improved for `patience` epochs."""

    name: Literal["reduce_on_plateau"]
    metric: Annotated[str, text(WATCHED)]
    factor: Annotated[float, Field(gt=0, lt=1, description="what the learning rate is multiplied by, between 0 and 1")]
    patience: Annotated[Positive, text("epochs without improvement before the rate falls, from 1 on")]
    min_delta: Annotated[float, Field(ge=0, description="smallest change that counts as improvement, 0 or more")]
    smallest_fraction: Annotated[float, Field(ge=0, le=1, description="smallest over first learning rate, from 0 to 1")]


Schedule = Constant | Exponential | Cosine | Piecewise | OneCycle | ReduceOnPlateau
ScheduleConfig = Annotated[Schedule, Field(discriminator="name")]


# --- the rest -----------------------------------------------------------------------------------------------------

CLASSIFICATION_LOSSES = ("sparse_categorical_crossentropy", "categorical_crossentropy", "mean_squared_error")
REGRESSION_LOSSES = ("mean_squared_error", "mean_absolute_error", "huber", "log_cosh")


@dataclass(config=STRICT, kw_only=True)
class EarlyStopping:
    patience: Annotated[Positive | None, text("epochs without improvement before training stops, from 1 on, or null")]
    metric: Annotated[str, text(WATCHED)]
    min_delta: Annotated[float, Field(ge=0, description="smallest change that counts as improvement, 0 or more")]
    goal: Annotated[
        float | None,
        text("value of the metric (least accuracy, largest loss) that ends training once reached, or null"),
    ]


@dataclass(config=STRICT, kw_only=True)
class Distribution:
    strategy: Annotated[
        Literal["auto", "one_device", "mirrored", "multi_worker"],
        text("auto (all local GPUs, else one CPU device), one_device, mirrored (GPUs or CPU devices) or multi_worker"),
    ]
    devices: Annotated[
        Annotated[int, Field(ge=1, le=16)] | None,
        text("devices that share each batch, from 1 to 16, or null: all GPUs, else one CPU device"),
    ]
    workers: Annotated[
        Annotated[int, Field(ge=2, le=16)] | None,
        text("processes of multi_worker to start on this machine, from 2 to 16, or null: TF_CONFIG or Slurm says"),
    ]
    timeout_seconds: Annotated[
        PositiveFloat,
        text("how long multi_worker waits for a worker to come up or to move, in seconds, greater than 0"),
    ]


@dataclass(config=STRICT, kw_only=True)
class Training:
    epochs: Annotated[Positive, text("passes over the training examples, from 1 on")]
    batch_size: Annotated[Positive, text("examples per step, from 1 to the number of training examples")]
    loss: Annotated[
        Literal[(*CLASSIFICATION_LOSSES, *REGRESSION_LOSSES)],  # type: ignore[valid-type]
        text(f"classes: {', '.join(CLASSIFICATION_LOSSES)}; numbers: {', '.join(REGRESSION_LOSSES)}"),
    ]
    threads: Annotated[
        Annotated[int, Field(ge=1, le=256)] | Literal["auto"],
        text("threads within one operation, from 1 to 256, or auto: 1 for a small network, all cores for a large one"),
    ]
    loop: Annotated[Literal["compiled", "fit"], text("compiled (fast, any strategy) or fit (Keras's own, one device)")]
    gradient_clipping: Annotated[
        PositiveFloat | None, text("largest norm of all gradients together, greater than 0, or null")
    ]
    initial_momentum: Annotated[
        Rate | None,
        text("momentum of the first step of sgd, from 0 up to but not including 1, or null: optimizer.momentum"),
    ]
    momentum_epochs: Annotated[
        PositiveFloat, text(f"time in which it then changes to optimizer.momentum, {EPOCHS}, greater than 0")
    ]
    mixed_precision: Annotated[
        Literal["bfloat16"] | None, text("type of the computation: bfloat16, or null for float32 throughout")
    ]
    early_stopping: Annotated[EarlyStopping, text("when to stop before the last epoch")]
    restore_best: Annotated[
        bool, text("end with the weights of the epoch best by early_stopping.metric: true or false")
    ]
    checkpoint_minutes: Annotated[
        Annotated[float, Field(ge=0)] | None,
        text("minutes between checkpoints within an epoch, 0 or more, or null: only after each epoch"),
    ]


@dataclass(config=STRICT, kw_only=True)
class Report:
    style: Annotated[Literal["light", "dark"], text("colours of the figures: light or dark")]
    figures: Annotated[
        Literal["full", "light", "none"], text("full, light (learning curves, confusion matrix) or none")
    ]
    profile: Annotated[bool, text("keep where the time went, as a table and as a trace for a browser: true or false")]


@dataclass(config=STRICT, kw_only=True)
class Tracking:
    uri: Annotated[str | None, text("MLflow tracking URI, or null: $MLFLOW_TRACKING_URI, else mlruns/mlflow.db")]
    experiment: Annotated[
        str,
        Field(min_length=1, max_length=500, description="MLflow experiment that holds the run, 1 to 500 characters"),
    ]
    run_name: Annotated[str | None, text("name of the run, or null: made from what differs from the defaults")]
    log_model: Annotated[bool, text("store the trained model with the run: true or false")]


# --- what a published config is expected to give --------------------------------------------------------------------

EXPECTED_METRICS = (
    "test_accuracy",
    "test_error_percent",
    "test_loss",
    "test_mean_absolute_error",
    "best_val_accuracy",
    "best_val_mean_absolute_error",
)
NOT_FOR_QUICK = ("hydra", "seed", "expected", "experiment", "tracking", "report", "resume", "resume_anyway")
MEASURED = "given with expected.mean, or null: not measured"


def check_quick_override(value: str) -> str:
    key = re.match(r"([a-z_]+)(\.\w+)*=", value)
    if key is None or key[1] in NOT_FOR_QUICK:
        raise refuse(
            f"{value!r} is not allowed: key=value of the experiment itself, such as training.epochs=1; not of"
            f" {', '.join(NOT_FOR_QUICK)}"
        )
    return value


@dataclass(config=STRICT, kw_only=True)
class Quick:
    """A shrunk version of a published config, with what it gave: shows in seconds that it still trains as it did."""

    overrides: Annotated[
        list[Annotated[str, AfterValidator(check_quick_override)]],
        Field(min_length=1, description="what shrinks the experiment: a list of key=value, such as training.epochs=1"),
    ]
    mean: Annotated[float, text("what the metric came to with the first of expected.seeds, a number")]
    tolerance: Annotated[PositiveFloat, text("largest difference to expected.quick.mean, greater than 0")]


@dataclass(config=STRICT, kw_only=True)
class Expected:
    """What a config gives: as somebody published it, and as it was measured here over seeds."""

    metric: Annotated[Literal[EXPECTED_METRICS], text(f"what is compared: {', '.join(EXPECTED_METRICS)}")]  # type: ignore[valid-type]
    published: Annotated[float | None, text("the published number in the metric's unit, or null: none was given")]
    mean: Annotated[float | None, text("ours, the mean over expected.seeds, or null: not measured")]
    standard_deviation: Annotated[
        Annotated[float, Field(ge=0)] | None,
        text("of a single run, over expected.seeds (n - 1), 0 or more, or null: one seed only, or not measured"),
    ]
    tolerance: Annotated[PositiveFloat | None, text(f"largest difference to expected.mean, greater than 0, {MEASURED}")]
    seeds: Annotated[
        list[Annotated[int, Field(ge=0, le=LARGEST_SEED)]],
        Field(min_length=1, description="seeds to run, each from 0 to 4294967295, each once"),
    ]
    versions: Annotated[dict[str, str] | None, text(f"package -> version that gave the mean, {MEASURED}")]
    quick: Annotated[Quick | None, text("the shrunk version: overrides, mean and tolerance; or null: none")]

    def __post_init__(self) -> None:
        if len(set(self.seeds)) != len(self.seeds):
            raise refuse(f"expected.seeds={self.seeds} names a seed twice")
        measured = {"mean": self.mean, "tolerance": self.tolerance, "versions": self.versions}
        missing = [key for key, value in measured.items() if value is None]
        if 0 < len(missing) < len(measured) or (self.mean is None and self.standard_deviation is not None):
            given = [key for key in (*measured, "standard_deviation") if getattr(self, key) is not None]
            raise refuse(
                f"expected.mean, tolerance and versions belong together, as does standard_deviation: given are"
                f" {listed(given)}, null are {listed(missing)}. Give all that were measured, or null for all"
            )


@dataclass(config=STRICT, kw_only=True)
class Objective:
    metric: Annotated[
        str, text("what to rank the runs of a sweep by: a metric that they log, or auto: best_val_accuracy or val_loss")
    ]
    mode: Annotated[Literal["auto", "max", "min"], text("whether more is better: max, min, or auto (by the metric)")]


@dataclass(config=STRICT, kw_only=True)
class SweepOptions:
    retries: Annotated[Count, text("how often a failed job is tried again at once, 0 or more")]
    on_error: Annotated[
        Literal["continue", "stop"], text("after a failed job: continue with the others, or stop: start no further one")
    ]
    rerun: Annotated[bool, text("run all jobs again, as a new sweep, also those that are finished: true or false")]
    dry_run: Annotated[bool, text("show what would run, and stop: true or false")]


@dataclass(config=STRICT, kw_only=True)
class Config:
    """A whole experiment, validated. The groups are the folders of conf/."""

    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED, description="seed of all randomness, from 0 to 4294967295")]
    data: Data = Field(discriminator="name")
    model: Model = Field(discriminator="name")
    optimizer: Optimizer
    schedule: Schedule = Field(discriminator="name")
    resume: Annotated[str | None, text("id of a run that was cut off, to go on with, or null")]
    resume_anyway: Annotated[bool, text("resume although code, packages or data have changed: true or false")]
    expected: Expected | None = text("what a published config gives, or null: nothing is expected")
    training: Training
    distribution: Distribution
    report: Report
    tracking: Tracking
    objective: Objective
    sweep: SweepOptions
