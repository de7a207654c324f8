"""The schema of a config: one dataclass per group, every field with its meaning and range.

The files of conf/ give the values; there are no defaults here. Users read the description of a field when its value is
refused, so each says what is allowed.
"""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from experiments.config.data_schema import DataConfig
from experiments.config.expected_schema import Expectation
from experiments.config.fields import LARGEST_SEED, STRICT_FIELDS, Count, Positive, PositiveFloat, Rate, described
from experiments.config.model_schema import ModelConfig
from experiments.config.optimizer_schema import EPOCH_UNIT, WATCHED_METRIC, OptimizerConfig, ScheduleConfig

CLASSIFICATION_LOSSES = ("sparse_categorical_crossentropy", "categorical_crossentropy", "mean_squared_error")
REGRESSION_LOSSES = ("mean_squared_error", "mean_absolute_error", "huber", "log_cosh")


@dataclass(config=STRICT_FIELDS, kw_only=True)
class EarlyStoppingConfig:
    patience: Annotated[
        Positive | None, described("epochs without improvement before training stops, 1 or more, or null")
    ]
    metric: Annotated[str, described(WATCHED_METRIC)]
    min_delta: Annotated[float, Field(ge=0, description="smallest change that counts as improvement, 0 or more")]
    goal: Annotated[
        float | None,
        described("value of the metric (smallest accuracy, largest loss) at which training ends, or null"),
    ]


@dataclass(config=STRICT_FIELDS, kw_only=True)
class DistributionConfig:
    strategy: Annotated[
        Literal["auto", "one_device", "mirrored", "multi_worker"],
        described(
            "auto (all local GPUs, else one CPU device), one_device, mirrored (GPUs or CPU devices) or multi_worker"
        ),
    ]
    devices: Annotated[
        Annotated[int, Field(ge=1, le=16)] | None,
        described("devices that share each batch, from 1 to 16, or null: all GPUs, else one CPU device"),
    ]
    workers: Annotated[
        Annotated[int, Field(ge=2, le=16)] | None,
        described("processes that multi_worker starts on this machine, from 2 to 16, or null: TF_CONFIG or Slurm"),
    ]
    timeout_seconds: Annotated[
        PositiveFloat,
        described("how long multi_worker waits for a worker to start or to make progress, in seconds, greater than 0"),
    ]


@dataclass(config=STRICT_FIELDS, kw_only=True)
class TrainingConfig:
    epochs: Annotated[Positive, described("passes over the training examples, 1 or more")]
    batch_size: Annotated[Positive, described("examples per step, from 1 to the number of training examples")]
    loss: Annotated[
        Literal[(*CLASSIFICATION_LOSSES, *REGRESSION_LOSSES)],  # type: ignore[valid-type]
        described(f"classes: {', '.join(CLASSIFICATION_LOSSES)}; numbers: {', '.join(REGRESSION_LOSSES)}"),
    ]
    threads: Annotated[
        Annotated[int, Field(ge=1, le=256)] | Literal["auto"],
        described(
            "threads within one operation, from 1 to 256, or auto: 1 for a small network, all cores for a large one"
        ),
    ]
    loop: Annotated[
        Literal["compiled", "fit"], described("compiled (fast, any strategy) or fit (Keras's own, one device)")
    ]
    gradient_clipping: Annotated[
        PositiveFloat | None, described("largest norm of all gradients together, greater than 0, or null")
    ]
    initial_momentum: Annotated[
        Rate | None,
        described("momentum of the first step of sgd, from 0 up to but not including 1, or null: optimizer.momentum"),
    ]
    momentum_epochs: Annotated[
        PositiveFloat, described(f"time in which it then changes to optimizer.momentum, {EPOCH_UNIT}, greater than 0")
    ]
    mixed_precision: Annotated[
        Literal["bfloat16"] | None, described("type of the computation: bfloat16, or null for float32 throughout")
    ]
    early_stopping: Annotated[EarlyStoppingConfig, described("when to stop before the last epoch")]
    restore_best: Annotated[
        bool, described("end with the weights of the epoch best by early_stopping.metric: true or false")
    ]
    checkpoint_minutes: Annotated[
        Annotated[float, Field(ge=0)] | None,
        described("minutes between checkpoints within an epoch, 0 or more, or null: only after each epoch"),
    ]


@dataclass(config=STRICT_FIELDS, kw_only=True)
class ReportConfig:
    style: Annotated[Literal["light", "dark"], described("colours of the figures: light or dark")]
    figures: Annotated[
        Literal["full", "light", "none"], described("full, light (learning curves, confusion matrix) or none")
    ]
    profile: Annotated[
        bool, described("record where the time went, as a table and as a trace for a browser: true or false")
    ]


@dataclass(config=STRICT_FIELDS, kw_only=True)
class TrackingConfig:
    uri: Annotated[str | None, described("MLflow tracking URI, or null: $MLFLOW_TRACKING_URI, else mlruns/mlflow.db")]
    experiment: Annotated[
        str,
        Field(min_length=1, max_length=500, description="MLflow experiment of the run, 1 to 500 characters"),
    ]
    run_name: Annotated[str | None, described("name of the run, or null: made from what differs from the defaults")]
    log_model: Annotated[bool, described("store the trained model with the run: true or false")]


@dataclass(config=STRICT_FIELDS, kw_only=True)
class ObjectiveConfig:
    metric: Annotated[
        str,
        described("metric that ranks the runs of a sweep: one that they log, or auto: best_val_accuracy or val_loss"),
    ]
    mode: Annotated[
        Literal["auto", "max", "min"],
        described("whether more is better: max, min, or auto (by the metric)"),
    ]


@dataclass(config=STRICT_FIELDS, kw_only=True)
class SweepConfig:
    retries: Annotated[Count, described("how often a failed job is retried immediately, 0 or more")]
    on_error: Annotated[
        Literal["continue", "stop"],
        described("after a failed job: continue with the others, or stop: start no more jobs"),
    ]
    rerun: Annotated[bool, described("run all jobs again as a new sweep, finished ones too: true or false")]
    dry_run: Annotated[bool, described("show what would run, and stop: true or false")]


@dataclass(config=STRICT_FIELDS, kw_only=True)
class Config:
    """A whole experiment. The groups are the folders of conf/."""

    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED, description="seed of all randomness, from 0 to 4294967295")]
    data: DataConfig = Field(discriminator="name")
    model: ModelConfig = Field(discriminator="name")
    optimizer: OptimizerConfig
    schedule: ScheduleConfig = Field(discriminator="name")
    resume: Annotated[str | None, described("id of an interrupted run to continue, or null")]
    resume_anyway: Annotated[bool, described("resume although code, packages or data have changed: true or false")]
    expected: Expectation | None = described("the result expected of a published config, or null: none")
    training: TrainingConfig
    distribution: DistributionConfig
    report: ReportConfig
    tracking: TrackingConfig
    objective: ObjectiveConfig
    sweep: SweepConfig
