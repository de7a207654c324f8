"""What the schema accepts and refuses, key by key."""

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from composed import job, refusal

from experiments.config.choices import CONFIG_FOLDER
from experiments.config.schema import Config


def shipped(group: str) -> str:
    return ", ".join(sorted(file.stem for file in (CONFIG_FOLDER / group).glob("*.yaml")))


MISTAKES = {
    "seed=-1": "seed=-1 is not allowed: seed of all randomness, from 0 to 4294967295",
    "seed=4294967296": "seed=4294967296 is not allowed: seed of all randomness, from 0 to 4294967295",
    "seed=1.0": "seed=1.0 is not allowed: expected a whole number: seed of all randomness, from 0 to 4294967295",
    "seed=true": "seed=true is not allowed: expected a whole number: seed of all",
    "seed='3'": "seed=3 is not allowed: expected a whole number: seed of all",
    "data.validation=-1": "data.validation=-1 is not allowed: number of training examples held out for validation",
    "data.validation=60000": "data.validation=60000 leaves no training image: mnist has 60,000 training examples."
    " Allowed: 0 to 59,999",
    "data.limit=0": "data.limit=0 is not allowed: number of training examples to use, the first ones, 1 or more, or",
    "data.limit=100": "data.validation=5000 leaves no training image: mnist has 100 training examples (data.limit).",
    "data.path=5": "data.path=5 is not allowed: expected a string: folder with the IDX or npz files, or null to search",
    "data.shape=[]": "data.shape=[] is not allowed: height and width of an image, in pixels (and channels: 1 or 3)",
    "data.shape=[8,8,2]": "data.shape=[8, 8, 2] is not allowed: height and width of an image, in pixels (and channels",
    "data.classes=1": "data.classes=1 is not allowed: number of classes, 2 or more",
    "data.class_names=[a,b]": "data.class_names has 2 names for data.classes=10",
    "data.checksums.train-images=5": "data.checksums.train-images=5 is not allowed: expected a string: file -> 'sha256",
    "data=null": f"data=null is not a choice. Choices of data: {shipped('data')}",
    "data=mnits": f"data=mnits is not a choice (did you mean 'mnist'?). Choices of data: {shipped('data')}",
    "data.name=mnits": "data.name='mnits' is not a choice: 'digits', ",
    "model={}": f"model={{}} is not a choice. Choices of model: {shipped('model')}",
    "model.units=0": "model.units=0 is not allowed: units of each hidden dense layer, 1 or more: a number or a list",
    "model.units=[8,0]": "model.units.1=0 is not allowed: units of each hidden dense layer, 1 or more",
    "model.units=[8.5]": "model.units.0=8.5 is not allowed: expected a whole number: units of each hidden dense layer",
    "model.units=true": "model.units=true is not allowed: expected a list: units of each hidden dense layer",
    "model.units=null": "model.units=null is not allowed: expected a list: units of each hidden dense layer",
    "model.dropout=1": "model.dropout=1 is not allowed: fraction of values set to zero in training, from 0 up to but",
    "model.dropout=-0.1": "model.dropout=-0.1 is not allowed: fraction of values set to zero in training",
    "model.dropout=nan": "model.dropout=NaN is not allowed",
    "model.dropout=high": "model.dropout=high is not allowed: expected a number: fraction of values set to zero",
    "model.activation=rellu": "model.activation: Keras has no activation 'rellu' (did you mean 'relu'?); choices: celu",
    "model.activation=glu": "model.activation: Keras has no activation 'glu'",
    "model.activation=null": "model.activation=null is not allowed: expected a string: activation function, a name",
    "model.kernel_initializer=null": "model.kernel_initializer: an initializer is a name, or one name with its"
    " arguments as {name: {argument: value}}; received None",
    "model.kernel_initializer={he_normal:{seed:1}}": "initializer he_normal has no argument 'seed'",
    "model.kernel_regularizer=false": "model.kernel_regularizer: a regularizer is a name, or one name with its",
    "model.kernel_regularizer=''": "model.kernel_regularizer: Keras has no regularizer ''; choices: l1, l1_l2, l2",
    "model.kernel_regularizer={l2:{l2:x}}": "model.kernel_regularizer: regularizer l2: l2 takes a number; received 'x'",
    "model.kernel_regularizer={l2:{l3:1}}": "regularizer l2 has no argument 'l3'; it has: l2",
    "model.kernel_constraint=[]": "model.kernel_constraint: a constraint is a name, or one name with its arguments",
    "model.kernel_constraint={max_norm:{max_value:inf}}": "max_value takes a finite number",
    "model.batch_normalization=1": "model.batch_normalization=1 is not allowed: expected true or false: normalize each",
    "optimizer.learning_rate=0": "optimizer.learning_rate=0 is not allowed: step size, any finite number greater than",
    "optimizer.learning_rate=inf": "optimizer.learning_rate=Infinity is not allowed",
    "training.batch_size=0": "training.batch_size=0 is not allowed: examples per step, from 1 to the number",
    "optimizer.learning_rate=nan": "optimizer.learning_rate=NaN is not allowed",
    "+model.extra=1": "unknown key 'model.extra'. Keys of model: activation, batch_normalization, continue",
    "optimizer.momentum=0.9": "unknown key 'optimizer.momentum' (did you mean 'optimizer.ema_momentum'?).",
    "optimizer.name=adma": "optimizer.name: there is no optimizer 'adma' (did you mean 'adam",
    "optimizer.beta_1=1": "optimizer.beta_1 must be from 0 up to but not including 1; received 1",
    "optimizer.amsgrad=1": "optimizer adam: amsgrad takes true or false; received 1",
    "optimizer.amsgrad=[false]": "optimizer adam: amsgrad takes true or false; received [False]",
    "~model.units.0": "~model.units.0: an item of a list cannot be deleted. Give the whole list, such as model.units=",
    f"model.units={'[' * 120}{']' * 120}": "A value is nested too deeply: a hundred or more lists within lists.",
    "optimizer.clipnorm=0": "optimizer.clipnorm must be greater than 0; received 0",
    "+optimizer.arguments=1": "unknown key 'optimizer.arguments'. Keys of optimizer: amsgrad",
    "+optimizer.__post_init__=1": "unknown key 'optimizer.__post_init__'. Keys of optimizer: amsgrad",
    "schedule.name=linear": "schedule.name='linear' is not a choice: 'constant', 'exponential', 'cosine'",
    "training.epochs=0": "training.epochs=0 is not allowed: passes over the training examples, 1 or more",
    "training.batch_size=55001": "training.batch_size=55001 is larger than the training split: 55,000 examples (mnist"
    " less data.validation=5000). Allowed: 1 to 55,000",
    "training.loss=mean_absolute_percentage_error": "does not fit data=mnist, whose targets are classes. Choose"
    " training.loss from: categorical_crossentropy, categorical_focal_crossentropy, ",
    "training.loss=mse": "training.loss: Keras has no loss 'mse'; choices: binary_crossentropy, ",
    "training.threads=0": "training.threads=0 is not allowed: threads within one operation, from 1 to 256, or auto",
    "training.threads=two": "training.threads=two is not allowed",
    "training.threads=[1]": "training.threads=[1] is not allowed",
    "report.style=blue": "report.style=blue is not allowed: colours of the figures: light or dark",
    "report.figures=all": "report.figures=all is not allowed: full, light (learning curves, confusion matrix) or none",
    "tracking.experiment=''": "tracking.experiment= is not allowed: MLflow experiment of the run, 1 to",
    f"tracking.experiment={'x' * 501}": " is not allowed: MLflow experiment of the run, 1 to 500 characters",
    "tracking.log_model=yes": "tracking.log_model=yes is not allowed: expected true or false: store the trained model",
    "model=neuron": "model=neuron has one output, data=mnist has 10 classes. Use data=linear",
    "data=linear": "does not fit data=linear, whose targets are numbers. Choose training.loss from: huber, log_cosh",
    "~seed": "seed is missing: seed of all randomness",
    "~data": "'~data' removes the group 'data', which every run needs. Leave it out.",
    "~model.dropout": "model.dropout is missing: fraction of values set to zero in training",
    "+foo-bar=1": "unknown key 'foo-bar'. Keys: data,",
    "+model.foo-bar=1": "unknown key 'model.foo-bar'. Keys of model: activation",
    "dropout=0.3": "unknown key 'dropout' (did you mean 'model.dropout'?). Keys: data, ",
    "seed": "'seed' is not an override: ",
    "=5": "'=5' is not an override: the key is missing. Write key=value, for example model.dropout=0.3",
    "hydra.searchpath=[file:///tmp]": "is not supported. Use --config-dir FOLDER for your own files.",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_is_reported_in_one_line(override: str) -> None:
    message = refusal(override)
    assert MISTAKES[override] in message
    assert "\n" not in message


def test_a_number_stands_for_a_list_of_one() -> None:
    assert job("model.units=256").model.units == [256]
    assert job("data=digits", "model=cnn", "model.filters=8").model.filters == [8]


def test_an_empty_list_of_units_is_a_linear_model() -> None:
    assert job("model.units=[]").model.units == []


def test_any_finite_positive_learning_rate_is_accepted() -> None:
    rates = [job(f"optimizer.learning_rate={rate}").optimizer.learning_rate for rate in ("1", "1e-30", "1e30")]
    assert rates == [1.0, 1e-30, 1e30]


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_the_ends_of_the_seeds_are_accepted(seed: int) -> None:
    assert job(f"seed={seed}").seed == seed


def test_every_field_of_the_schema_is_described() -> None:
    def fields(cls: Any) -> Iterator[tuple[str, str]]:
        for name, field in cls.__pydantic_fields__.items():
            yield f"{cls.__name__}.{name}", field.description or ""

    groups = [hint for hint in typing.get_type_hints(Config).values() if hint not in (int, bool, str)]
    classes = {cls for hint in groups for cls in (typing.get_args(hint) or (hint,)) if dataclasses.is_dataclass(cls)}
    undescribed = [
        name for cls in classes for name, text in fields(cls) if not text and not name.endswith((".name", "_check"))
    ]
    assert undescribed == []
