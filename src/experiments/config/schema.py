"""The schema of a config: one dataclass per group, every field with its meaning and range.

The files of conf/ give the values; there are no defaults here. Users read the description of a field when its value is
refused, so each says what is allowed.
"""

import re
from functools import cache
from typing import Annotated, Any, Literal, Union, cast

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from experiments.config.data_schema import DataConfig, OwnFunctionData
from experiments.config.fields import (
    LARGEST_SEED,
    STRICT_FIELDS,
    Count,
    NotNegative,
    Positive,
    PositiveFloat,
    Rate,
    described,
)
from experiments.config.keras_table import refusal
from experiments.config.losses import check_loss
from experiments.config.model_schema import ModelConfig, StartConfig
from experiments.config.optimizer_schema import EPOCH_UNIT, WATCHED_METRIC, OptimizerConfig, ScheduleConfig
from experiments.config.own_schema import own_schema
from experiments.config.registry import own_functions
from experiments.errors import join_sorted


@dataclass(config=STRICT_FIELDS, kw_only=True)
class EarlyStoppingConfig:
    patience: Positive | None = described("epochs without improvement before training stops, 1 or more, or null")
    metric: str = described(WATCHED_METRIC)
    min_delta: float = Field(ge=0, description="smallest change that counts as improvement, 0 or more")
    goal: float | None = described("value of the metric (smallest accuracy, largest loss) that ends training, or null")


@dataclass(config=STRICT_FIELDS, kw_only=True)
class DistributionConfig:
    strategy: Literal["auto", "one_device", "mirrored", "multi_worker"] = described(
        "auto (all local GPUs, else one CPU device), one_device, mirrored (GPUs or CPU devices) or multi_worker"
    )
    devices: Annotated[int, Field(ge=1, le=16)] | None = described(
        "devices that share each batch, from 1 to 16, or null: all GPUs, else one CPU device"
    )
    workers: Annotated[int, Field(ge=2, le=16)] | None = described(
        "processes that multi_worker starts on this machine, from 2 to 16, or null: TF_CONFIG or Slurm"
    )
    timeout_seconds: PositiveFloat = described(
        "how long multi_worker waits for a worker to start or to make progress, in seconds, greater than 0"
    )


@dataclass(config=STRICT_FIELDS, kw_only=True)
class TrainingConfig:
    epochs: Positive = described("passes over the training examples, 1 or more")
    batch_size: Positive = described("examples per step, from 1 to the number of training examples")
    loss: Annotated[
        Any,
        AfterValidator(check_loss),
        described("a loss of Keras that fits classes or numbers: a name, or {name: {argument: value}}"),
    ]
    label_smoothing: Rate = described("part of each target that is spread over all classes, from 0 to below 1")
    class_weight: Literal["balanced"] | dict[str, NotNegative] | None = described(
        "factor on the training loss of each class: {class: 0 or more} (1 if left out), balanced, or null: none"
    )
    threads: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = described(
        "threads within one operation, from 1 to 256, or auto: 1 for a small network, all cores for a large one"
    )
    loop: Literal["compiled", "fit"] = described("compiled (fast, any strategy) or fit (Keras's own, one device)")
    gradient_clipping: PositiveFloat | None = described("largest norm of all gradients together, above 0, or null")
    initial_momentum: Rate | None = described(
        "momentum of the first step of sgd, from 0 up to but not including 1, or null: optimizer.momentum"
    )
    momentum_epochs: PositiveFloat = described(f"time in which it changes to optimizer.momentum, {EPOCH_UNIT}, above 0")
    mixed_precision: Literal["bfloat16"] | None = described("type of the computation: bfloat16, or null: float32")
    tensor_float_32: bool = described(
        "on a GPU, round the factors of products to ten bits, which is faster and less exact: true or false"
    )
    early_stopping: EarlyStoppingConfig = described("when to stop before the last epoch")
    restore_best: bool = described("end with the weights of the epoch best by early_stopping.metric: true or false")
    checkpoint_minutes: Annotated[float, Field(ge=0)] | None = described(
        "minutes between checkpoints within an epoch, 0 or more, or null: only after each epoch"
    )
    freeze: list[str] = described(
        "layers that keep their weights: a list of names with * and ?, and after ! of those that do not; [] for none"
    )
    keep_state: bool = described("keep the final state as an artifact, for model.continue: true or false")


@dataclass(config=STRICT_FIELDS, kw_only=True)
class ReportConfig:
    style: Literal["light", "dark"] = described("colours of the figures: light or dark")
    figures: Literal["full", "light", "none"] = described("full, light (learning curves, confusion matrix) or none")
    profile: bool = described("record where the time went, as a table and as a trace for a browser: true or false")


@dataclass(config=STRICT_FIELDS, kw_only=True)
class TrackingConfig:
    uri: str | None = described("MLflow tracking URI, or null: $MLFLOW_TRACKING_URI, else mlruns/mlflow.db")
    experiment: str = Field(
        min_length=1, max_length=500, description="MLflow experiment of the run, 1 to 500 characters"
    )
    run_name: str | None = described("name of the run, or null: made from what differs from the defaults")
    log_model: bool = described("store the trained model with the run: true or false")
    system_metrics: bool = described("log the load of processors, memory and GPUs every five seconds: true or false")


@dataclass(config=STRICT_FIELDS, kw_only=True)
class ObjectiveConfig:
    metric: str = described("metric that ranks a sweep's runs: one they log, or auto: best_val_accuracy or val_loss")
    mode: Literal["auto", "max", "min"] = described("whether more is better: max, min, or auto (by the metric)")


@dataclass(config=STRICT_FIELDS, kw_only=True)
class SweepConfig:
    retries: Count = described("how often a failed job is retried immediately, 0 or more")
    on_error: Literal["continue", "stop"] = described("if a job fails: continue with the rest, or stop: start no more")
    rerun: bool = described("run all jobs again as a new sweep, finished ones too: true or false")
    zip: list[str] | None = described("keys whose values go together one to one, as [KEY,KEY], or null")
    minutes: PositiveFloat | None = described("time after which no more jobs are started, in minutes, above 0, or null")
    begin_from: str | None = described("id of a finished search, whose trials a new one learns from, or null")
    dry_run: bool = described("show what would run, and stop: true or false")


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

    overrides: list[Annotated[str, AfterValidator(check_quick_override)]] = Field(
        min_length=1, description="what shrinks the experiment: a list of key=value, such as training.epochs=1"
    )
    mean: float = described("value of the metric with the first of expected.seeds, a number")
    tolerance: PositiveFloat = described("largest difference from expected.quick.mean, greater than 0")


@dataclass(config=STRICT_FIELDS, kw_only=True)
class Expectation:
    """The result of a config: as it was published, and as it was measured here over seeds."""

    metric: str = described("metric to compare: one of a finished run, such as test_accuracy or best_val_accuracy")
    published: float | None = described("published value in the metric's unit, or null: none")
    mean: float | None = described("mean measured here over expected.seeds, or null: not measured")
    standard_deviation: Annotated[float, Field(ge=0)] | None = described(
        "of a single run, over expected.seeds (n - 1), 0 or more, or null: one seed only, or not measured"
    )
    tolerance: PositiveFloat | None = described(f"largest difference from expected.mean, above 0, {MEASURED_TOGETHER}")
    seeds: list[Annotated[int, Field(ge=0, le=LARGEST_SEED)]] = Field(
        min_length=1, description="seeds to run, each from 0 to 4294967295, each only once"
    )
    versions: dict[str, str] | None = described(f"package -> version that gave the mean, {MEASURED_TOGETHER}")
    quick: QuickExpectation | None = described("shrunk version: overrides, mean and tolerance, or null: none")

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


@dataclass(config=STRICT_FIELDS, kw_only=True)
class Config:
    """A whole experiment. The groups are the folders of conf/."""

    seed: int = Field(ge=0, le=LARGEST_SEED, description="seed of all randomness, from 0 to 4294967295")
    data: DataConfig = Field(discriminator="name")
    model: ModelConfig = Field(discriminator="name")
    optimizer: OptimizerConfig
    schedule: ScheduleConfig = Field(discriminator="name")
    resume: Annotated[str, Field(min_length=1)] | None = described("id of an interrupted run to continue, or null")
    resume_anyway: bool = described(
        "resume or continue although code, packages or data have changed, or it cannot be judged from here whether the"
        " run is alive: true or false"
    )
    metrics: list[str] = described("further metrics, a list of scikit-learn's names, such as [f1_macro,roc_auc_ovr]")
    expected: Expectation | None = described("the result expected of a published config, or null: none")
    training: TrainingConfig
    distribution: DistributionConfig
    report: ReportConfig
    tracking: TrackingConfig
    objective: ObjectiveConfig
    sweep: SweepConfig


def config_schema() -> type[Config]:
    """Return the schema of a whole config: Config, with the choices of the user's own code if any is loaded."""
    models = tuple(own_schema(own, StartConfig) for own in own_functions("model").values())
    datasets = tuple(own_schema(own, OwnFunctionData) for own in own_functions("dataset").values())
    return extended_schema(models, datasets) if models or datasets else Config


@cache
def extended_schema(models: tuple[type, ...], datasets: tuple[type, ...]) -> type[Config]:
    """Return Config with further choices of the groups `model` and `data`."""
    fields: dict[str, Any] = {"data": Union[DataConfig, *datasets], "model": Union[ModelConfig, *models]}
    body = {key: Field(discriminator="name") for key in fields}
    extended: Any = type("ExtendedConfig", (Config,), {**body, "__annotations__": fields, "__module__": __name__})
    return cast(type[Config], dataclass(extended, config=STRICT_FIELDS, kw_only=True))


def __getattr__(name: str) -> Any:
    """Return the schema with the user's own choices, which pickle looks up by its name."""
    if name == "ExtendedConfig":
        return config_schema()
    raise AttributeError(name)
