"""From a composed dict to a validated Config: check everything once, explain what is wrong, tell what it is known by.

Nothing here loads Hydra, TensorFlow, Keras or MLflow.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from experiments.errors import ConfigError, did_you_mean, listed
from experiments.keras_checks import OF_ALL_UNITS
from experiments.schema import (
    CLASSIFICATION_LOSSES,
    REGRESSION_LOSSES,
    Augmentation,
    Cnn,
    Config,
    Cosine,
    DataConfig,
    Digits,
    EarlyStopping,
    Linear,
    Mlp,
    Neuron,
    Quick,
    ReduceOnPlateau,
    higher_is_better,
)

LARGE_NETWORK = 1_000_000  # weights; below, a second thread within an operation costs more than it gains
EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": "a mapping",
}
SAME_RESULT = (  # groups and keys that cannot change what a run comes to
    *("tracking", "report", "resume", "resume_anyway", "expected", "objective", "sweep"),
    *("data.path", "training.checkpoint_minutes", "distribution.timeout_seconds"),
)
NESTED = {
    ("training", "early_stopping"): EarlyStopping,
    ("data", "augmentation"): Augmentation,
    ("expected", "quick"): Quick,
}


def validate(raw: Mapping[str, Any]) -> Config:
    """Check a composed config against the schema and across its fields, and resolve `training.threads`.

    Raises:
        ConfigError: one line for each thing that is wrong.
    """
    raw = {key: value for key, value in raw.items() if key != "search"}  # the space of a search is in no run
    try:
        # As JSON: pydantic's strict mode then takes plain dictionaries, and still no "3" for 3.
        config = TypeAdapter(Config).validate_json(json.dumps(raw))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(raw, finding) for finding in _first_of_each_field(raw, error))) from None
    for rule in RULES:
        rule(config)
    threads = config.training.threads
    resolved = (1 if weights(config) < LARGE_NETWORK else cores()) if threads == "auto" else threads
    return dataclasses.replace(config, training=dataclasses.replace(config.training, threads=resolved))


def _first_of_each_field(raw: Mapping[str, Any], error: ValidationError) -> list[Any]:
    """Of a union (a number or a name) pydantic reports every branch; one line per field is enough."""
    first: dict[tuple[str, ...], Any] = {}
    for finding in error.errors(include_url=False):
        first.setdefault(_field(raw, finding), finding)
    return list(first.values())


def _field(raw: Mapping[str, Any], finding: Any) -> tuple[str, ...]:
    """The key's path without the names of the union's branches that pydantic puts between."""
    path: list[str] = []
    node: Any = raw
    for index, part in enumerate(finding["loc"]):
        if index == 1 and path[0] in ("data", "model", "schedule"):
            continue
        if isinstance(node, Mapping) and (part in node or finding["type"].startswith("missing")):
            path.append(part)
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int):
            path.append(str(part))
            node = node[part]
    return tuple(path)


def _explain(raw: Mapping[str, Any], finding: Any) -> str:
    path = _field(raw, finding)
    key, received = ".".join(path), finding["input"]
    match finding["type"]:
        case "refused":
            return finding["ctx"]["message"] if len(path) == 1 else f"{key}: {finding['ctx']['message']}"
        case "unexpected_keyword_argument":
            group = _known_fields(path[0], raw) if len(path) > 1 else descriptions(Config)
            return f"unknown key {key!r}{did_you_mean(path[-1], group)}. It may hold: {listed(group)}"
        case "missing" | "missing_argument":
            return (
                f"{key} is missing: {_meaning(path, raw)}. Every group is needed; leave out overrides that remove it."
            )
        case "union_tag_invalid":
            tag, choices = finding["ctx"]["tag"], finding["ctx"]["expected_tags"]
            return f"{key}.name={tag!r} is not a choice: {choices}. Choose with {key}=NAME"
        case "union_tag_not_found":
            return f"{key}.name is missing. Choose with {key}=NAME; choices: {finding['ctx']['discriminator']}"
        case kind:
            expected = f"expected {EXPECTED[kind]}: " if kind in EXPECTED else ""
            return f"{key}={shown(received)} is not allowed: {expected}{_meaning(path, raw)}"


def shown(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else value


def _meaning(path: tuple[str, ...], raw: Mapping[str, Any]) -> str:
    """The description in the schema of the field at this path; of a list's entry, that of the list."""
    names = [part for part in path if not part.isdigit()]  # of a list's entry: the list
    if len(names) == 1:
        return descriptions(Config).get(names[0]) or f"the group {names[0]!r}"
    nested = NESTED.get(tuple(names[:2]))  # type: ignore[arg-type]
    if nested and len(names) > 2:
        return descriptions(nested).get(names[2], "no such key")
    return _known_fields(names[0], raw).get(names[1]) or f"a value of {'.'.join(names)}"


def _known_fields(group: str, raw: Mapping[str, Any]) -> dict[str, str]:
    hint = next(field.type for field in dataclasses.fields(Config) if field.name == group)
    choices = [choice for choice in getattr(hint, "__args__", (hint,)) if choice is not type(None)]
    given = raw[group].get("name") if isinstance(raw[group], Mapping) else None
    for choice in choices:
        names = getattr(choice.__annotations__.get("name"), "__args__", ())
        if len(choices) == 1 or given in names:
            return descriptions(choice)
    return {}


def descriptions(cls: Any) -> dict[str, str]:
    return {name: field.description or "" for name, field in cls.__pydantic_fields__.items()}


def training_examples(config: Config) -> int:
    """Examples that are trained on: the official training split, limited, less validation."""
    data = config.data
    return min(data.limit or data.train_examples, data.train_examples) - data.validation


def network_shape(data: DataConfig) -> list[int]:
    """The shape of one input as the layers of the network receive it: with `data.padding`."""
    if isinstance(data, Linear):
        return data.shape
    height, width, *channels = data.shape
    return [height + 2 * data.padding, width + 2 * data.padding, *channels]


def _check_data(config: Config) -> None:
    data, examples = config.data, training_examples(config)
    if examples < 1:
        available = examples + data.validation
        raise ConfigError(
            f"data.validation={data.validation} leaves no training image: {data.name} has {available:,} training"
            f" examples{' (data.limit)' if data.limit else ''}. Allowed: 0 to {available - 1:,}"
        )
    if config.training.batch_size > examples:
        raise ConfigError(
            f"training.batch_size={config.training.batch_size} is larger than the training split: {examples:,} examples"
            f" ({data.name} less data.validation={data.validation}). Allowed: 1 to {examples:,}"
        )
    if isinstance(data, Digits) and len(data.class_names) != data.classes:
        raise ConfigError(f"data.class_names has {len(data.class_names)} names for data.classes={data.classes}")


def _check_loss(config: Config) -> None:
    regression = isinstance(config.data, Linear)
    allowed = REGRESSION_LOSSES if regression else CLASSIFICATION_LOSSES
    if config.training.loss not in allowed:
        what = "numbers" if regression else "classes"
        raise ConfigError(
            f"training.loss={config.training.loss} does not fit data={config.data.name}, whose targets are {what}."
            f" Choose training.loss from: {listed(allowed)}"
        )


def _check_schedule(config: Config) -> None:
    schedule, epochs = config.schedule, config.training.epochs
    if isinstance(schedule, Cosine) and schedule.warmup_epochs >= epochs:
        raise ConfigError(
            f"schedule.warmup_epochs={schedule.warmup_epochs:g} leaves nothing of training.epochs={epochs} for the"
            f" cosine. Allowed: 0 to less than {epochs}"
        )


def _check_distribution(config: Config) -> None:
    wanted = config.distribution
    if wanted.workers is not None and wanted.strategy != "multi_worker":
        raise ConfigError(
            f"distribution.workers={wanted.workers} needs distribution=multi_worker. Add it, or leave it out."
        )
    if (wanted.devices or 1) > 1 and wanted.strategy in ("one_device", "multi_worker"):
        raise ConfigError(
            f"distribution.devices={wanted.devices} does not go with distribution={wanted.strategy}, which has one"
            " device in each process. Use distribution=mirrored."
        )


def _check_training(config: Config) -> None:
    training, schedule, optimizer = config.training, config.schedule, config.optimizer
    watched = {"training.early_stopping.metric": training.early_stopping.metric}
    if (training.early_stopping.patience, training.early_stopping.goal) == (None, None) and not training.restore_best:
        watched = {}
    if isinstance(schedule, ReduceOnPlateau):
        watched["schedule.metric"] = schedule.metric
    known = epoch_metrics(config)
    for key, metric in watched.items():
        if metric not in known:
            why = " (data.validation=0 leaves nothing to validate on)" if metric.startswith("val_") else ""
            raise ConfigError(f"{key}={metric} is not a metric of each epoch{why}. Choices: {listed(known)}")
    if training.loop == "fit" and config.distribution.strategy in ("mirrored", "multi_worker"):
        raise ConfigError(
            f"training.loop=fit with distribution={config.distribution.strategy}: Keras's fit weighs batches that do"
            " not divide wrongly, repeats dropout masks on every replica and clips before it sums the gradients. Use"
            " training.loop=compiled, which is exact on any number of devices."
        )
    if training.loop == "fit" and optimizer.arguments.get("gradient_accumulation_steps"):
        raise ConfigError(
            "optimizer.gradient_accumulation_steps under training.loop=fit fails in Keras. Use training.loop=compiled."
        )
    if optimizer.arguments.get("use_ema") and (training.restore_best or training.loop == "fit"):
        other = "training.restore_best" if training.restore_best else "training.loop=fit"
        why = (
            "the average of all steps and the best epoch are two answers to which weights to keep"
            if training.restore_best
            else "Keras's fit puts the average in place of the weights after every epoch"
        )
        raise ConfigError(f"optimizer.use_ema and {other} do not go together: {why}. Set only one.")
    if training.initial_momentum is not None:
        arguments = optimizer.arguments
        if optimizer.name != "sgd" or not arguments.get("momentum"):
            raise ConfigError(
                f"training.initial_momentum={training.initial_momentum:g} needs an optimizer whose momentum it leads"
                " to. Use optimizer=sgd and optimizer.momentum greater than 0."
            )
        for key in ("nesterov", "gradient_accumulation_steps"):
            if arguments.get(key):
                raise ConfigError(f"training.initial_momentum and optimizer.{key} do not go together. Set only one.")
    clips = [key for key in ("clipnorm", "clipvalue", "global_clipnorm") if optimizer.arguments.get(key)]
    if training.gradient_clipping and clips:
        raise ConfigError(f"training.gradient_clipping and optimizer.{clips[0]} both clip the gradients. Set only one.")


def epoch_metrics(config: Config) -> list[str]:
    """The names of what tells after each epoch how good the model is."""
    names = ["loss", _quality(config)]
    return names + ([f"val_{name}" for name in names] if config.data.validation else [])


def _quality(config: Config) -> str:
    return "mean_absolute_error" if isinstance(config.data, Linear) else "accuracy"


def _final_metrics(config: Config) -> list[str]:
    quality = _quality(config)
    names = ["test_loss", f"test_{quality}"] + [f"best_val_{quality}"] * bool(config.data.validation)
    return names + ["test_error_percent"] * (quality == "accuracy")


def _check_objective(config: Config) -> None:
    metric = config.objective.metric
    known = [*epoch_metrics(config), *_final_metrics(config), "train_seconds"]
    if metric not in ("auto", *known):
        nothing = metric.startswith(("val_", "best_val_")) and not config.data.validation
        why = " (data.validation=0 leaves nothing to validate on)" if nothing else ""
        raise ConfigError(
            f"objective.metric={metric} is not a metric of these runs{why}{did_you_mean(metric, known)}."
            f" Choices: auto, {listed(known)}"
        )


def _check_expected(config: Config) -> None:
    if config.expected is not None and config.expected.metric not in _final_metrics(config):
        raise ConfigError(
            f"expected.metric={config.expected.metric} is not a metric of a run with data={config.data.name} and"
            f" data.validation={config.data.validation}. Choices: {listed(_final_metrics(config))}"
        )


def objective(config: Config) -> tuple[str, Literal["max", "min"]]:
    """The metric that ranks runs of this config, and whether its greatest or least value is best."""
    metric, mode = config.objective.metric, config.objective.mode
    if metric == "auto":
        classes = not isinstance(config.data, Linear)
        validated, tested = ("best_val_accuracy", "test_accuracy") if classes else ("val_loss", "test_loss")
        metric = validated if config.data.validation else tested
    return metric, mode if mode != "auto" else "max" if higher_is_better(metric) else "min"


def _check_model(config: Config) -> None:
    model, data = config.model, config.data
    if isinstance(model, Neuron) and not isinstance(data, Linear):
        raise ConfigError(
            f"model=neuron has one output, data={data.name} has {data.classes} classes. Use data=linear"
            " (experiment=single_neuron), or model=mlp 'model.units=[]' for one layer."
        )
    if isinstance(model, Cnn):
        if len(data.shape) < 2:
            raise ConfigError(
                f"model=cnn needs images, data={data.name} has inputs of shape {data.shape}. Use model=mlp"
            )
        shape = network_shape(data)
        size = min(shape[:2])
        for number, _ in enumerate(model.filters, 1):
            shrunk = (size if model.padding == "same" else size - model.kernel_size + 1) // model.pool_size
            if shrunk < 1:
                raise ConfigError(
                    f"model.filters={model.filters}: nothing is left of a {'x'.join(map(str, shape[:2]))} image after"
                    f" convolution {number} (kernel {model.kernel_size}, pooling {model.pool_size}, padding"
                    f" {model.padding}). Use fewer filters, a smaller kernel_size or pool_size, or model.padding=same"
                )
            size = shrunk
    if isinstance(model, Neuron) and model.activation in OF_ALL_UNITS:
        raise ConfigError(
            f"model.activation={model.activation} of one neuron is constant. Choose another, such as tanh"
        )


RULES = (
    _check_data,
    _check_loss,
    _check_model,
    _check_schedule,
    _check_training,
    _check_distribution,
    _check_objective,
    _check_expected,
)


def weights(config: Config) -> float:
    """About how many weights the network has; infinite where only Keras could tell, and for convolutions."""
    match config.model:
        case Mlp():
            outputs = 1 if isinstance(config.data, Linear) else config.data.classes
            sizes = [prod(network_shape(config.data)), *config.model.units, outputs]
            return sum(a * b for a, b in pairwise(sizes))
        case Neuron():
            return prod(config.data.shape) + 1
        case _:
            return float("inf")  # convolutions gain from all cores at any size


def cores() -> int:
    """How many cores this process may use, which a scheduler such as Slurm can have made fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# --- what a config is known by --------------------------------------------------------------------------------------


def as_dict(config: Config) -> dict[str, Any]:
    """The config as plain dictionaries, in the order of the schema."""
    plain: dict[str, Any] = TypeAdapter(Config).dump_python(config, mode="json")
    plain["optimizer"] |= config.optimizer.arguments  # pydantic leaves out what the schema does not name
    return plain


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"model": {"units": [128]}}` -> `{"model.units": "[128]"}`; lists and nested objects of a value as JSON.

    >>> flatten({"seed": 0, "model": {"units": [128, 64]}})
    {'seed': 0, 'model.units': '[128, 64]'}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        # Below a group a mapping is a value, such as a Keras object with its arguments, but for these.
        if isinstance(value, Mapping) and (not prefix or key in ("early_stopping", "augmentation")):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value) if isinstance(value, list | Mapping) else value
    return flat


def identity(config: Config, data_digest: str) -> dict[str, str]:
    """What a result depends on, as tags: digests of code and data, versions, and a fingerprint of all.

    Returns:
        code_digest (of the package's sources), versions (of the libraries that compute), data_digest, and fingerprint:
        SHA-256 (hex) of these three and the config, less what cannot change a result.
    """
    parts = {**_code_and_versions(), "data_digest": data_digest}
    return {**parts, "fingerprint": fingerprint(config, parts)}


@cache  # what this process has loaded stays as it is when a file is edited
def _code_and_versions() -> dict[str, str]:
    code = hashlib.sha256()
    sources = Path(__file__).parent.rglob("*.py")
    for source in sorted(path for path in sources if path.is_file()):  # an editor's lock is a broken link
        code.update(source.relative_to(Path(__file__).parent).as_posix().encode() + source.read_bytes())
    versions = " ".join(f"{package}=={version(package)}" for package in ("tensorflow", "keras", "numpy"))
    return {"code_digest": code.hexdigest()[:36], "versions": versions}


def can_change_the_result(key: str) -> bool:
    """Whether a run can come to something else by a dotted key, or a group.

    >>> [can_change_the_result(key) for key in ("seed", "data.path", "report.style", "report", "data.pathological")]
    [True, False, False, False, True]
    """
    return not any(key == same or key.startswith(f"{same}.") for same in SAME_RESULT)


def fingerprint(config: Config, parts: Mapping[str, str]) -> str:
    """SHA-256 (hex) of the config, less what cannot change a result, and of the digests and versions in `parts`."""
    tree = as_dict(config)
    for key in SAME_RESULT:
        group, _, name = key.partition(".")
        (tree[group] if name else tree).pop(name or group, None)
    whole = json.dumps([tree, dict(parts)], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()
