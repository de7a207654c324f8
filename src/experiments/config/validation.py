"""From a composed dict to a validated Config: the schema, then the rules across fields; one line for each problem.

Nothing here loads Hydra, TensorFlow, Keras or MLflow.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from experiments.config.data_schema import ImageData, LinearData
from experiments.config.facts import (
    LARGE_NETWORK,
    available_cores,
    count_training_examples,
    estimate_weights,
    is_binary,
    network_input_shape,
)
from experiments.config.found_facts import complete_facts, open_facts
from experiments.config.goal_rules import check_loss_fits, check_metrics
from experiments.config.keras_table import LAYER_WIDE_ACTIVATIONS, keras_table
from experiments.config.model_schema import CnnConfig, KerasConfig, NeuronConfig, ResnetConfig
from experiments.config.optimizer_schema import CLIPPING_KEYS, CosineSchedule
from experiments.config.schema import Config, config_schema
from experiments.errors import ConfigError, join_sorted, unknown_key
from experiments.formatting import is_plain_text, shorten_middle

MOST_PROBLEMS = 10  # lines of a message
EXPECTED_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "a mapping",
}


def validate_config(raw: Mapping[str, Any]) -> Config:
    """Check a composed config, and return it with the facts of its data and `training.threads` resolved.

    Raise a ConfigError with a line for each problem. Facts of the data are found last, as that may take long; then a
    DataError if the data cannot be used.
    """
    raw = {key: value for key, value in raw.items() if key != "search"}  # a run has no search space
    _refuse_odd_kinds(raw)
    if unknown := [("data", key) for key in open_facts(raw.get("data"))]:
        _validate_schema(raw, unknown)
        raw["data"] = complete_facts(raw["data"])
    config = _validate_schema(raw)
    assert config is not None
    for rule in (
        _check_data,
        check_loss_fits,
        _check_model,
        _check_training,
        _check_distribution,
        check_metrics,
    ):
        rule(config)
    if config.training.threads == "auto":
        config.training.threads = 1 if estimate_weights(config) < LARGE_NETWORK else available_cores()
    return config


def _validate_schema(raw: Mapping[str, Any], unknown: Sequence[tuple[str, ...]] = ()) -> Config | None:
    """Return the config that the schema accepts, or raise a ConfigError; None if only `unknown` keys have no value."""
    try:
        # As JSON: pydantic's strict mode then accepts plain dictionaries, but still refuses "3" for 3.
        return TypeAdapter(config_schema()).validate_json(json.dumps(raw))
    except ValidationError as error:
        findings = error.errors(include_url=False)
        if told := [finding for finding in findings if _field_path(raw, finding) not in unknown]:
            raise _explain_invalid(raw, told) from None
        return None


def _refuse_odd_kinds(value: Any, path: str = "") -> None:
    """Refuse what YAML has but a config has not: keys that are not texts, bytes, dates, sets, and lone surrogates."""
    where = path or "The config"
    if isinstance(value, Mapping):
        for key, item in value.items():
            is_class_number = path == "training.class_weight" and type(key) is int  # which is a text in JSON
            if not is_class_number and (not isinstance(key, str) or not is_plain_text(key)):
                given = f"{key!r} ({type(key).__name__})"
                raise ConfigError(f"{where} has the key {given}. Keys are texts; in YAML write it in quotation marks.")
            _refuse_odd_kinds(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_odd_kinds(item, f"{path}.{index}")
    elif isinstance(value, str):
        if not is_plain_text(value):
            raise ConfigError(f"{path}={show_value(value)} contains characters that are not text. Leave them out.")
    elif not isinstance(value, int | float | None):
        raise ConfigError(
            f"{path}={shorten_middle(str(value), 200)} is not allowed: it is of YAML's kind {type(value).__name__}."
            " Write a text in quotation marks, a number, true, false, null, a list or a mapping."
        )


def _check_data(config: Config) -> None:
    data, examples = config.data, count_training_examples(config)
    if data.folds and not (data.fold is not None and data.fold < data.folds):
        raise ConfigError(
            f"data.folds={data.folds} needs data.fold, the part to validate on, from 0 to {data.folds - 1}"
            f"{'' if data.fold is None else f'; given is {data.fold}'}. For all of them: python run.py -m"
            f" data.folds={data.folds} 'data.fold=range({data.folds})'"
        )
    if data.fold is not None and not data.folds:
        raise ConfigError(f"data.fold={data.fold} needs data.folds, the number of parts, such as data.folds=5.")
    if data.folds and not data.validation:
        has = f"{data.name} has {min(data.limit or data.train_examples, data.train_examples):,} training examples"
        raise ConfigError(f"data.folds={data.folds} is too many: {has}{' (data.limit)' if data.limit else ''}.")
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
    if isinstance(data, ImageData):
        _check_images(data)


def _check_images(data: ImageData) -> None:
    if len(data.class_names) != data.classes:
        raise ConfigError(f"data.class_names has {len(data.class_names)} names for data.classes={data.classes}")
    channels = data.shape[-1] if len(data.shape) != 2 else 1
    for key in ("mean", "standard_deviation"):
        if isinstance(value := getattr(data, key), list) and len(value) != channels:
            raise ConfigError(
                f"data.{key}={value} has {len(value)} numbers for data.shape={data.shape}. Give one number, or"
                f" {channels}: one for each channel"
            )
    if (crop := data.augmentation.crop) >= (side := min(data.shape[:2])):
        raise ConfigError(f"data.augmentation.crop={crop} leaves nothing of images with a side of {side}. Use less.")
    if len(data.shape) == 1:
        for key, is_on in (("padding", data.padding), ("augmentation", data.augmentation)):
            if is_on:
                raise ConfigError(f"data.{key} changes images, but data={data.name} has vectors. Leave it out.")


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
    training, schedule, arguments = config.training, config.schedule, config.optimizer.arguments
    if isinstance(schedule, CosineSchedule) and schedule.warmup_epochs >= training.epochs:
        raise ConfigError(
            f"schedule.warmup_epochs={schedule.warmup_epochs:g} leaves nothing of training.epochs={training.epochs} for"
            f" the cosine. Allowed: 0 to less than {training.epochs}"
        )
    if training.loop == "fit" and config.distribution.strategy in ("mirrored", "multi_worker"):
        raise ConfigError(
            f"training.loop=fit with distribution={config.distribution.strategy}: Keras's fit weighs batches that do"
            " not divide wrongly, repeats dropout masks on every replica and clips before it sums the gradients. Use"
            " training.loop=compiled, which is exact on any number of devices."
        )
    if training.loop == "fit" and arguments.get("gradient_accumulation_steps"):
        raise ConfigError(
            "optimizer.gradient_accumulation_steps under training.loop=fit fails in Keras. Use training.loop=compiled."
        )
    if arguments.get("use_ema") and (training.restore_best or training.loop == "fit"):
        other, why = "training.loop=fit", "Keras's fit puts the average in place of the weights after every epoch"
        if training.restore_best:
            other, why = "training.restore_best", "one keeps the average of all steps, the other the best epoch"
        raise ConfigError(f"optimizer.use_ema and {other} do not go together: {why}. Set only one.")
    if training.initial_momentum is not None:
        if config.optimizer.name != "sgd" or not arguments.get("momentum"):
            raise ConfigError(
                f"training.initial_momentum={training.initial_momentum:g} works only with an optimizer that has"
                " momentum. Use optimizer=sgd and optimizer.momentum greater than 0."
            )
        for key in ("nesterov", "gradient_accumulation_steps"):
            if arguments.get(key):
                raise ConfigError(f"training.initial_momentum and optimizer.{key} do not go together. Set only one.")
    clips = [key for key in CLIPPING_KEYS if arguments.get(key)]
    if training.gradient_clipping and clips:
        raise ConfigError(f"training.gradient_clipping and optimizer.{clips[0]} both clip the gradients. Set only one.")


def _check_model(config: Config) -> None:
    model, data = config.model, config.data
    two_classes_of_vectors = len(data.shape) == 1 and is_binary(config)
    if isinstance(model, NeuronConfig) and not isinstance(data, LinearData) and not two_classes_of_vectors:
        raise ConfigError(
            f"model=neuron has one output, data={data.name} has {data.classes} classes. Use data=linear"
            " (experiment=single_neuron), vectors of two classes with training.loss=binary_crossentropy"
            " model.activation=sigmoid, or model=mlp 'model.units=[]' for one layer."
        )
    if isinstance(model, CnnConfig | ResnetConfig | KerasConfig) and len(data.shape) < 2:
        raise ConfigError(
            f"model={model.name} needs images, data={data.name} has inputs of shape {data.shape}. Use model=mlp"
        )
    if isinstance(model, CnnConfig):
        shape = network_input_shape(data)[:2]
        size = min(shape)
        for number, _ in enumerate(model.filters, 1):
            size = (size if model.padding == "same" else size - model.kernel_size + 1) // model.pool_size
            if size < 1:
                raise ConfigError(
                    f"model.filters={model.filters}: nothing is left of a {'x'.join(map(str, shape))} image after"
                    f" convolution {number} (kernel {model.kernel_size}, pooling {model.pool_size}, padding"
                    f" {model.padding}). Use fewer filters, a smaller kernel_size or pool_size, or model.padding=same"
                )
    if isinstance(model, KerasConfig) and isinstance(data, ImageData):
        smallest, sides = keras_table()["applications"][model.application]["smallest"], network_input_shape(data)[:2]
        if min(sides) < smallest:
            raise ConfigError(
                f"model.application={model.application} takes images of {smallest} x {smallest} pixels or more,"
                f" data={data.name} has {' x '.join(map(str, sides))}. Use"
                f" data.padding={data.padding - (min(sides) - smallest) // 2}, or larger images"
            )
    if model.weights_of != "all" and model.weights is None:
        raise ConfigError(
            f"model.weights_of={model.weights_of} needs model.weights: name a finished run or a file, or leave it out."
        )
    if isinstance(model, NeuronConfig) and model.activation in LAYER_WIDE_ACTIVATIONS:
        raise ConfigError(f"model.activation={model.activation} of one neuron is constant. Choose another, like tanh")


def _explain_invalid(raw: Mapping[str, Any], findings: Sequence[Any]) -> ConfigError:
    """Return the error for a composed config that the schema refuses: one line for each field."""
    lines, problems = dict[str, str](), dict[str, str]()
    for finding in findings:
        path = _field_path(raw, finding)
        key = finding.get("ctx", {}).get("key") or ".".join(path)
        if key not in lines:  # for a union, such as a number or a name, pydantic reports every branch
            lines[key] = _explain(raw, path, finding)
            is_unknown = finding["type"] == "unexpected_keyword_argument"
            problems[key] = "unknown_key" if is_unknown else finding["type"]
    told = list(lines.values())
    if len(told) > MOST_PROBLEMS:
        told[MOST_PROBLEMS - 1 :] = [f"and {len(told) - MOST_PROBLEMS + 1:,} more problems like these"]
    return ConfigError("\n".join(told), problems)


def show_value(value: Any) -> str:
    """Return a value as it could be given, without its middle if it is long."""
    return shorten_middle(json.dumps(value) if not isinstance(value, str) else value, 200)


def schema_fields(schema: Any) -> dict[str, Any]:
    """Return pydantic's fields of a dataclass, by their keys in a config."""
    return {field.alias or name: field for name, field in schema.__pydantic_fields__.items()}


def field_descriptions(schema: Any) -> dict[str, str]:
    return {name: field.description or "" for name, field in schema_fields(schema).items()}


def mapping_keys() -> list[str]:
    """Return the keys of a config that each have keys of their own in every run."""
    return [key for key, field in schema_fields(Config).items() if field.description is None]


def _field_path(raw: Mapping[str, Any], finding: Any) -> tuple[str, ...]:
    """Return the key's path, without the names of union branches that pydantic inserts."""
    path: list[str] = []
    node: Any = raw
    for index, part in enumerate(finding["loc"]):
        if index == 1 and config_schema().__pydantic_fields__[path[0]].discriminator:  # type: ignore[attr-defined]
            continue
        if isinstance(node, Mapping) and (part in node or finding["type"].startswith("missing")):
            path.append(part)
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int):
            path.append(str(part))
            node = node[part]
    return tuple(path)


def _explain(raw: Mapping[str, Any], path: tuple[str, ...], finding: Any) -> str:
    key = ".".join(path)
    match finding["type"]:
        case "unknown_key":
            return finding["ctx"]["message"]
        case "refused":
            return finding["ctx"]["message"] if len(path) == 1 else f"{key}: {finding['ctx']['message']}"
        case "unexpected_keyword_argument":
            group, prefix = schema_at(path[:-1], raw)[0], "".join(f"{part}." for part in path[:-1])
            return unknown_key(key, [prefix + name for name in field_descriptions(group)])
        case "missing" | "missing_argument":
            return f"{key} is missing: {schema_at(path, raw)[1]}. Leave out the override that removes it."
        case "dataclass_type":
            schema, meaning = schema_at(path, raw)
            keys = f" Set its keys, as {key}.KEY=VALUE: {join_sorted(field_descriptions(schema))}" if schema else ""
            return f"{key}={show_value(finding['input'])} is not allowed: {meaning}.{keys}"
        case "union_tag_invalid":
            tag, choices = finding["ctx"]["tag"], finding["ctx"]["expected_tags"]
            return f"{key}.name={tag!r} is not a choice: {choices}. Choose with {key}=NAME"
        case "union_tag_not_found":
            kinds = get_args(config_schema().__pydantic_fields__[path[0]].annotation)  # type: ignore[attr-defined]
            names = join_sorted(name for kind in kinds for name in get_args(kind.__annotations__["name"]))
            return f"{key}.name is missing. Choose with {key}=NAME; choices: {names}"
        case kind:
            expected = f"expected {EXPECTED_TYPES[kind]}: " if kind in EXPECTED_TYPES else ""
            number_for_text = kind == "string_type" and isinstance(finding["input"], int | float)
            text = finding["input"] if type(finding["input"]) is int else "TEXT"  # which may have been written 1e9
            quoted = f"; a text like that needs quotation marks: '{key}=\"{text}\"'" if number_for_text else ""
            return f"{key}={show_value(finding['input'])} is not allowed: {expected}{schema_at(path, raw)[1]}{quoted}"


def schema_at(path: tuple[str, ...], raw: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the dataclass at this path of a config, None for a value, and the description of the nearest field."""
    schema: Any = config_schema()
    node: Any = raw
    meaning = ""
    for part in path:
        if schema is None or part not in (fields := schema_fields(schema)):
            break  # below a field is its value, such as a list
        field = fields[part]
        meaning = field.description or "a mapping of keys"
        node = node.get(part) if isinstance(node, Mapping) else None
        choices = [kind for kind in get_args(field.annotation) or (field.annotation,) if dataclasses.is_dataclass(kind)]
        name = node.get("name") if isinstance(node, Mapping) else None
        named = [kind for kind in choices if name in get_args(kind.__annotations__.get("name"))]
        schema = (choices if len(choices) == 1 else [*named, None])[0] if choices else None
    return schema, meaning
