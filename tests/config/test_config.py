"""Composing and validating: what a command may contain, the errors for the rest, and fingerprints of configs."""

import dataclasses
import json
import re
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.config.choices import CONFIG_FOLDER, group_names
from experiments.config.composition import compose_job
from experiments.config.facts import count_training_examples
from experiments.config.identity import config_to_dict, flatten_config, identity_tags
from experiments.config.optimizer_schema import optimizer_arguments
from experiments.config.overrides import PRESETS
from experiments.config.schema import Config
from experiments.config.sweep_composition import compose_sweep
from experiments.config.validation import validate_config
from experiments.errors import ConfigError

GROUP_FILES = sorted(
    file for file in CONFIG_FOLDER.glob("*/*.yaml") if file.parent.name not in (*PRESETS, "hydra", "search")
)
NEEDS = {  # what a choice does not run without
    "data=linear": ["training.loss=mean_squared_error"],
    "model=neuron": ["data=linear", "training.loss=mean_squared_error"],
}


def job(*overrides: str, config_dir: Path | None = None) -> Config:
    return compose_job(overrides, str(config_dir) if config_dir else None)


def refusal(*overrides: str, config_dir: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        job(*overrides, config_dir=config_dir)
    return str(caught.value)


def fingerprint(config: Config, data_digest: str) -> str:
    return identity_tags(config, data_digest)["fingerprint"]


def shipped(group: str) -> str:
    return ", ".join(sorted(file.stem for file in (CONFIG_FOLDER / group).glob("*.yaml")))


def name_of(file: Path) -> str:
    return f"{file.parent.name}={file.stem}"


# --- the files under conf/ ----------------------------------------------------------------------------------------


@cache
def shipped_choice(file: Path) -> Config:
    return job(*NEEDS.get(name_of(file), []), name_of(file))


@pytest.mark.parametrize("file", GROUP_FILES, ids=name_of)
def test_every_choice_composes_and_is_what_its_file_says(file: Path) -> None:
    composed = shipped_choice(file)
    given = {k: v for k, v in yaml.safe_load(file.read_text()).items() if not str(v).startswith("${")}
    assert {key: config_to_dict(composed)[file.parent.name][key] for key in given} == given | (
        {"threads": composed.training.threads} if "threads" in given else {}
    )


@pytest.mark.parametrize("file", sorted(CONFIG_FOLDER.glob("experiment/*.yaml")), ids=name_of)
def test_every_experiment_composes_and_names_its_command(file: Path) -> None:
    assert job(name_of(file))
    assert f"# Command: python run.py {name_of(file)}" in file.read_text()


@pytest.mark.parametrize("file", GROUP_FILES, ids=name_of)
def test_the_files_give_exactly_the_fields_of_the_schema(file: Path) -> None:
    group = getattr(shipped_choice(file), file.parent.name)
    if file.parent.name == "optimizer":
        fields = {"name", "learning_rate", *optimizer_arguments()[file.stem]}
    else:
        fields = {field.name for field in dataclasses.fields(group)}
    assert set(yaml.safe_load(file.read_text())) == fields


def test_the_groups_are_the_fields_of_the_config() -> None:
    top_level = {
        key for key in yaml.safe_load((CONFIG_FOLDER / "config.yaml").read_text()) if key not in ("defaults", "hydra")
    }
    assert {field.name for field in dataclasses.fields(Config)} - top_level <= set(group_names())
    entries = yaml.safe_load((CONFIG_FOLDER / "config.yaml").read_text())["defaults"]
    chosen = {key for entry in entries if isinstance(entry, dict) for key in entry}
    assert {key for key in chosen if not key.startswith("override hydra/")} <= set(group_names())


def uncommented_keys(text: str) -> Iterator[str]:
    """Keys with no comment on their line, above it, or beside the key that they belong to."""
    explained_until, previous = 10**9, ""
    for line in text.splitlines():
        match = re.match(r"( *)(- )?([\w.-]+):( |$)", line)
        if match and not line.lstrip().startswith("#"):
            indent = len(match[1])
            if indent <= explained_until:  # not inside a value that was explained
                explained = " #" in line or previous.lstrip().startswith("#")
                explained_until = indent if explained else 10**9
                if not explained:
                    yield match[3]
        previous = line


@pytest.mark.parametrize("file", [CONFIG_FOLDER / "config.yaml", *GROUP_FILES], ids=lambda file: file.stem)
def test_every_key_has_a_comment(file: Path) -> None:
    text = file.read_text().partition("\nhydra:")[0]
    assert text.startswith("#")
    assert list(uncommented_keys(text)) == []


def test_a_key_without_a_comment_would_be_found() -> None:
    assert list(uncommented_keys("a: 1  # first\nb: 2\nc:  # a mapping\n  d: 1\n# above\ne: 3\n")) == ["b"]


# --- composing ----------------------------------------------------------------------------------------------------


def test_the_default_is_the_network_of_the_walkthrough() -> None:
    config = job()
    assert (config.data.name, config.data.validation, config.seed) == ("mnist", 5000, 0)
    model = config.model
    assert (model.name, model.units, model.activation, model.dropout) == ("mlp", [128], "relu", 0.2)
    assert (config.optimizer.name, config.optimizer.learning_rate) == ("adam", 0.001)
    assert (config.training.epochs, config.training.batch_size) == (10, 32)


def test_a_sweep_is_every_combination_in_order() -> None:
    jobs = [job.config for job in compose_sweep(["seed=0,1", "model.units=[8],[8,4]"]).jobs]
    assert [(config.seed, config.model.units) for config in jobs] == [(0, [8]), (0, [8, 4]), (1, [8]), (1, [8, 4])]


def test_a_range_in_a_sweep_is_expanded() -> None:
    assert [job.config.seed for job in compose_sweep(["seed=range(3)"]).jobs] == [0, 1, 2]


def test_one_bad_job_refuses_the_sweep() -> None:
    with pytest.raises(ConfigError, match=r"model\.dropout=1\.5 is not allowed"):
        compose_sweep(["model.dropout=0.1,1.5"])


def test_several_values_without_multirun_are_refused_with_the_fix() -> None:
    assert refusal("seed=0,1") == (
        "'seed=0,1' has several values. For a sweep add -m: python run.py -m seed=0,1; for one list, write it in"
        " brackets: key=[a,b]."
    )


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


def test_an_experiment_is_a_delta_which_the_command_line_overrides() -> None:
    assert job("experiment=walkthrough").data.validation == 0
    config = job("experiment=single_neuron", "training.epochs=3")
    assert (config.data.name, config.model.name, config.training.epochs) == ("linear", "neuron", 3)


def test_an_interpolation_takes_the_value_of_another_key() -> None:
    assert job("model.units=${data.shape}").model.units == [28, 28]
    assert refusal("model.dropout=${training.epochs}").startswith("model.dropout=10 is not allowed")
    assert "Interpolation key 'nowhere' not found" in refusal("model.dropout=${nowhere}")


def test_a_target_in_a_config_is_data_and_refused_as_any_unknown_key() -> None:
    assert refusal("+model._target_=os.getcwd").startswith("unknown key 'model._target_'. Keys of model: activation")
    assert "received {'_target_': 'os.getcwd', 'x': 1}" in refusal(
        "model=layers", "model.layers=[{_target_: os.getcwd, x: 1}]"
    )
    assert "Keras has no regularizer '_target_'" in refusal("model.kernel_regularizer={_target_: {}}")


# --- mistakes on the command line ---------------------------------------------------------------------------------

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
    "optimizer.learning_rate=-1": "optimizer.learning_rate=-1 is not allowed: step size, any finite number",
    "optimizer.learning_rate=nan": "optimizer.learning_rate=NaN is not allowed",
    "+model.extra=1": "unknown key 'model.extra'. Keys of model: activation, batch_normalization, dropout",
    "optimizer.momentum=0.9": "unknown key 'optimizer.momentum' (did you mean 'optimizer.ema_momentum'?).",
    "optimizer.name=adma": "optimizer.name: there is no optimizer 'adma' (did you mean 'adam",
    "optimizer.beta_1=1": "optimizer.beta_1 must be from 0 up to but not including 1; received 1",
    "optimizer.amsgrad=1": "optimizer adam: amsgrad takes true or false; received 1",
    "optimizer.amsgrad=[false]": "optimizer adam: amsgrad takes true or false; received [False]",
    "~model.units.0": "~model.units.0: an item of a list cannot be deleted. Give the whole list, such as model.units=",
    f"model.units={'[' * 120}{']' * 120}": "A value is nested too deeply: a hundred or more lists within lists.",
    "optimizer.clipnorm=0": "optimizer.clipnorm must be greater than 0; received 0",
    "+optimizer.momentum=0.9": "unknown key 'optimizer.momentum' (did you mean 'optimizer.ema_momentum'?).",
    "+optimizer.arguments=1": "unknown key 'optimizer.arguments'. Keys of optimizer: amsgrad",
    "+optimizer.__post_init__=1": "unknown key 'optimizer.__post_init__'. Keys of optimizer: amsgrad",
    "schedule.name=linear": "schedule.name='linear' is not a choice: 'constant', 'exponential', 'cosine'",
    "training.epochs=0": "training.epochs=0 is not allowed: passes over the training examples, 1 or more",
    "training.batch_size=55001": "training.batch_size=55001 is larger than the training split: 55,000 examples (mnist"
    " less data.validation=5000). Allowed: 1 to 55,000",
    "training.loss=huber": "training.loss=huber does not fit data=mnist, whose targets are classes. Choose"
    " training.loss from: categorical_crossentropy, mean_squared_error, sparse_categorical_crossentropy",
    "training.loss=mse": "training.loss=mse is not allowed: classes: sparse_categorical_crossentropy, categorical_",
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
    "+foo=1": "unknown key 'foo'. Keys: data,",
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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("optimizer=adamw optimizer.weight_decay=null", "optimizer.weight_decay must be 0 or more; received None"),
        ("optimizer=lion optimizer.beta_1=0", "optimizer.beta_1 of lion must be greater than 0 and less than 1"),
        ("optimizer=schedulefreeadamw optimizer.beta_1=0.0", "optimizer.beta_1 of schedulefreeadamw must be greater"),
        (
            "optimizer=muon optimizer.exclude_layers=dense",
            "optimizer.exclude_layers must be a list of names, or null; received 'dense'",
        ),
        (
            "optimizer=muon optimizer.exclude_layers=[1]",
            "optimizer.exclude_layers must be a list of names, or null; received [1]",
        ),
        (
            "optimizer.clipnorm=1 optimizer.clipvalue=1",
            "only one of clipnorm, clipvalue, global_clipnorm may be set; received clipnorm, clipvalue",
        ),
        (
            "schedule=cosine schedule.warmup_epochs=10",
            "schedule.warmup_epochs=10 leaves nothing of training.epochs=10 for the cosine. Allowed: 0 to less than 10",
        ),
        (
            "schedule=piecewise schedule.factors=[1]",
            "schedule.boundaries must rise and schedule.factors have one entry per boundary; received [5.0, 8.0] and",
        ),
        ("schedule=piecewise schedule.boundaries=[8,5]", "schedule.boundaries must rise"),
        ("schedule=exponential schedule.decay_rate=1.5", "schedule.decay_rate=1.5 is not allowed: factor per decay"),
        ("experiment=walkthrough expected.metric=error", "expected.metric=error is not allowed: metric to compare: "),
        (
            "experiment=walkthrough expected.metric=best_val_accuracy",
            "expected.metric=best_val_accuracy is not a metric of a run with data=mnist and data.validation=0. Choices:"
            " test_accuracy, test_error_percent, test_loss",
        ),
        ("experiment=walkthrough expected.mean=null", "expected.mean, tolerance and versions belong together, and"),
        ("experiment=walkthrough expected.tolerance=0", "expected.tolerance=0 is not allowed: largest difference from"),
        ("experiment=walkthrough expected.seeds=[]", "expected.seeds=[] is not allowed: seeds to run, each from 0 to"),
        ("experiment=walkthrough expected.seeds=[1,1]", "expected.seeds=[1, 1] names a seed twice"),
        ("experiment=walkthrough expected.seeds=[-1]", "expected.seeds.0=-1 is not allowed: seeds to run, each from 0"),
        ("experiment=walkthrough +expected.means=1", "unknown key 'expected.means' (did you mean 'expected.mean'?)."),
        ("experiment=walkthrough expected.quick.mean=low", "expected.quick.mean=low is not allowed: expected a number"),
        (
            'experiment=walkthrough expected.quick.overrides=["hydra.launcher=x"]',
            "'hydra.launcher=x' is not allowed: key=value of the experiment itself, such as training.epochs=1, but not",
        ),
        ("training.initial_momentum=0.5", "works only with an optimizer that has momentum. Use optimizer=sgd and"),
        ("training.initial_momentum=0.5 optimizer=sgd", "optimizer.momentum greater than 0."),
        ("training.initial_momentum=0.5 optimizer=sgd ~optimizer.momentum", "optimizer.momentum greater than 0."),
        (
            "training.initial_momentum=0.5 optimizer=sgd optimizer.momentum=0.9 optimizer.nesterov=true",
            "training.initial_momentum and optimizer.nesterov do not go together. Set only one.",
        ),
        (
            "model=layers model.layers=[{SimpleRNN:{units:2,activation:scaled_tanh}}]",
            "layer 'SimpleRNN' is refused with scaled_tanh, which is made of layers behind it; use tanh",
        ),
        ("data.augmentation.shift=-1", "data.augmentation.shift=-1 is not allowed: largest move along each axis, in"),
        ("data.augmentation.elastic=high", "data.augmentation.elastic=high is not allowed: expected a number: size of"),
        ("+data.augmentation.shear=1", "unknown key 'data.augmentation.shear'"),
        ("data.standard_deviation=0", "data.standard_deviation=0 is not allowed: the pixels are then divided by it"),
        ("expected=5", "expected=5 is not allowed: the result expected of a published config, or null: none"),
        ("schedule=one_cycle schedule.warmup_fraction=0", "schedule.warmup_fraction=0 is not allowed: share of all"),
        ("experiment=single_neuron data.shape=[2]", "data.shape.0=2 is not allowed: shape of one input, always [1]"),
        ("experiment=single_neuron data.shape=[1,1]", "data.shape=[1, 1] is not allowed: shape of one input, always"),
        ("experiment=single_neuron model=cnn", "model=cnn needs images, data=linear has inputs of shape [1]"),
        ("experiment=single_neuron model.activation=softmax", "model.activation=softmax of one neuron is constant"),
        (
            "data=digits model=cnn model.filters=[8,8,8,8]",
            "model.filters=[8, 8, 8, 8]: nothing is left of a 8x8 image after convolution 4 (kernel 3, pooling 2,",
        ),
        ("model=layers model.layers=[]", "model.layers=[] is not allowed: Keras layers from input to output"),
        ("model=layers model.layers=[dense]", "model.layers.0: Keras has no layer 'dense' (did you mean 'Dense'?)"),
        ("model=layers model.layers=[Flatten,5]", "model.layers.1: a layer is a name, or one name with its arguments"),
        ("model=layers model.layers=[Dense]", "model.layers.0: layer Dense needs units"),
        ("model=layers model.layers=[{Lambda:{}}]", "layer 'Lambda' is refused: it runs code of its own"),
        ("model=layers model.layers=[Equalization]", "'Equalization' is refused: Keras cannot build it into a network"),
        (
            "model=layers model.layers=[{GaussianNoise:{stddev:1}}]",
            "could not be repeated exactly; these are exact and allowed: Dropout, SpatialDropout1D",
        ),
        (
            "model=layers model.layers=[{Dropout:{rate:1}}]",
            "layer Dropout: rate=1 is not allowed: fraction of values set to zero in training, from 0 up to but not",
        ),
        ("model=layers model.layers=[{SpatialDropout2D:{rate:a}}]", "layer SpatialDropout2D: rate='a' is not allowed"),
        ("model=layers model.layers=[{GRU:{units:2,dropout:0.5}}]", "layer 'GRU' is refused with a dropout rate"),
        (
            "model=layers model.layers=[Normalization]",
            "layer 'Normalization' needs mean and variance: it is not adapted to the data; or use BatchNormalization",
        ),
        (
            "model=layers model.layers=[{Resizing:{height:4,width:4,interpolation:bicubic}}]",
            "layer Resizing: interpolation='bicubic' is refused: XLA cannot compile it; choices: bilinear, nearest",
        ),
        ("model=layers model.layers=[{Resizing:{height:4,width:4,antialias:true}}]", "antialias=True is refused"),
        ("model=layers model.layers=[{Dense:{units:2,name:a}}]", "layer Dense has no argument 'name'"),
        ("model=layers model.layers=[{Dense:{units:2,bias_constraint:1}}]", "a constraint is a name, or one name"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: str, message: str) -> None:
    found = refusal(*overrides.split())
    assert message in found
    assert "\n" not in found


@pytest.mark.parametrize(
    "overrides",
    [
        "optimizer=adam optimizer.weight_decay=null",
        "optimizer=adamw optimizer.weight_decay=0",
        "optimizer=muon optimizer.weight_decay=null",
        "optimizer=muon optimizer.exclude_layers=[dense]",
        "schedule=piecewise training.epochs=2",
        "schedule=cosine schedule.warmup_epochs=0 training.epochs=1",
        "schedule=cosine schedule.warmup_epochs=9.5",
        "model=layers model.layers=[{Dropout:{rate:0}}]",
        "model.kernel_regularizer=l2",
        "model.kernel_regularizer={l2:null}",
        "training.batch_size=55000",
        "data.limit=60000",
        "training.initial_momentum=0.5 optimizer=sgd optimizer.momentum=0.9 ~optimizer.nesterov",
    ],
)
def test_what_makes_sense_is_accepted(overrides: str) -> None:
    assert job(*overrides.split())


def test_two_mistakes_are_two_lines() -> None:
    message = refusal("model.dropout=2", "training.epochs=0")
    assert [line.partition(" ")[0] for line in message.split("\n")] == ["model.dropout=2", "training.epochs=0"]


# --- config files of one's own ------------------------------------------------------------------------------------


def own_file(folder: Path, text: str, name: str = "mine", group: str = "experiment") -> Path:
    (folder / group).mkdir(parents=True, exist_ok=True)
    file = folder / group / f"{name}.yaml"
    file.write_text(text)
    return file


def test_an_experiment_in_the_users_folder_is_found(tmp_path: Path) -> None:
    own_file(tmp_path, "# @package _global_\nseed: 5\n")
    assert job("experiment=mine", config_dir=tmp_path).seed == 5
    assert "experiment=mien is not a choice (did you mean 'mine'?)" in refusal("experiment=mien", config_dir=tmp_path)


def test_the_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "my configs, [new]='1' $x"
    own_file(folder, "# @package _global_\nseed: 5\n")
    assert job("experiment=mine", config_dir=folder).seed == 5


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert refusal(config_dir=missing) == (
        f"--config-dir={missing} is not a folder. Name one that contains experiment/NAME.yaml."
    )


def test_a_folder_of_configs_cannot_stand_in_for_what_names_code(tmp_path: Path) -> None:
    (tmp_path / "hydra" / "launcher").mkdir(parents=True)
    (tmp_path / "hydra" / "launcher" / "pool.yaml").write_text("_target_: os.system\n")
    assert refusal(config_dir=tmp_path) == (
        f"--config-dir={tmp_path} has a folder 'hydra', whose files could name code to run, but config files may"
        " contain only data. Remove it, or give hydra.* on the command line."
    )


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("# @package _global_\nhydra: {job: {chdir: true}}\n", "hydra"),
        ("# @package _global_\nhydra:\n  sweeper:\n    _target_: os.system\n", "hydra"),
        ("# @package _global_\nhydra: {searchpath: [file:///tmp]}\n", "hydra"),
        ("# @package _global_\ndefaults:\n  - override /hydra/launcher: basic\n", "/hydra/launcher"),
        ("# @package _global_\ndefaults:\n  - /hydra/launcher/basic@hydra.launcher\n", "/hydra/launcher/basic"),
        ("# @package hydra.job\nchdir: true\n", "@package hydra.job"),
        ("# @package hydra\njob: {chdir: true}\n", "@package hydra"),
    ],
)
def test_a_config_file_may_not_set_hydras_own_keys(tmp_path: Path, text: str, key: str) -> None:
    file = own_file(tmp_path, text)
    assert refusal("experiment=mine", config_dir=tmp_path) == (
        f"{file} sets {key!r}, but Hydra's own keys can name code to run, and config files may contain only data."
        " Remove it, or give hydra.* on the command line."
    )


def test_refuses_hydras_keys_in_an_included_file(tmp_path: Path) -> None:
    inner = own_file(tmp_path, "# @package _global_\nhydra: {verbose: true}\n", name="inner")
    own_file(tmp_path, "# @package _global_\ndefaults:\n  - inner\n", name="outer")
    assert refusal("experiment=outer", config_dir=tmp_path).startswith(f"{inner} sets 'hydra'")


def test_refuses_hydras_keys_in_a_choice_of_another_group(tmp_path: Path) -> None:
    file = own_file(tmp_path, "# @package _global_\nhydra: {verbose: true}\n", group="training")
    assert refusal("training=mine", config_dir=tmp_path).startswith(f"{file} sets 'hydra'")


def test_refuses_a_group_placed_in_hydras_keys(tmp_path: Path) -> None:
    own_file(tmp_path, "# @package _global_\ndefaults:\n  - /training@hydra.job: default\n")
    assert "sets '@package hydra.job'" in refusal("experiment=mine", config_dir=tmp_path)


@pytest.mark.parametrize("key", ["hydra.job.chdir: true", "job: 1", "model: {_target_: os.system}"])
def test_other_keys_of_a_config_file_are_checked_against_the_schema(tmp_path: Path, key: str) -> None:
    own_file(tmp_path, f"# @package _global_\n{key}\n")
    assert refusal("experiment=mine", config_dir=tmp_path).startswith("unknown key")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# @package _global_\ndefaults: {model: cnn}\n", "defaults must be a list (got mapping)"),
        ("# @package _global_\ndefaults:\n  - override model: cnn\n", "Could not override 'experiment/model@model'"),
        ("- model: cnn\n", "mine.yaml is not a mapping. Write a line KEY: VALUE for each setting."),
        ("# @package _global_\nmodel: {units: [1\n", "expected ',' or ']'"),
        ("# @package _global_\nmodel:\n  units: ${nowhere}\n", "Interpolation key 'nowhere' not found"),
    ],
)
def test_a_broken_config_file_is_reported_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    own_file(tmp_path, text)
    found = refusal("experiment=mine", config_dir=tmp_path)
    assert message in found
    assert "\n" not in found


def test_the_command_line_may_set_hydras_keys() -> None:
    assert job("hydra.job.chdir=false").seed == 0


# --- threads, counts ----------------------------------------------------------------------------------------------


def test_threads_are_resolved_by_the_size_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 4, 5})  # the cores that this process may use
    assert job().training.threads == 1
    assert job("model.units=[1024,1024]").training.threads == 3
    assert job("model=cnn").training.threads == 3
    assert job("experiment=single_neuron").training.threads == 1
    assert job("training.threads=2").training.threads == 2


def test_the_training_examples_are_those_left_after_limit_and_validation() -> None:
    assert count_training_examples(job()) == 55_000
    assert count_training_examples(job("data.limit=1200", "data.validation=200")) == 1000
    assert count_training_examples(job("data.limit=70000")) == 55_000


# --- what a config is known by ------------------------------------------------------------------------------------


def test_a_validated_config_is_its_own_plain_form() -> None:
    config = job("optimizer=muon", "model.kernel_regularizer={l2:{l2:0.1}}", "schedule=piecewise")
    plain = config_to_dict(config)
    assert validate_config(json.loads(json.dumps(plain))) == config
    assert plain["optimizer"]["ns_steps"] == 5
    assert plain["model"]["kernel_regularizer"] == {"l2": {"l2": 0.1}}


def test_flatten_gives_dotted_names_and_json_for_lists_and_mappings() -> None:
    tree: dict[str, Any] = {
        "seed": 0,
        "model": {"units": [128, 64], "penalty": {"l2": {"l2": 0.1}}, "constraint": None, "name": "mlp"},
    }
    assert flatten_config(tree) == {
        "seed": 0,
        "model.units": "[128, 64]",
        "model.penalty": '{"l2": {"l2": 0.1}}',
        "model.constraint": None,
        "model.name": "mlp",
    }


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "model.dropout=0.3",
        "optimizer.beta_1=0.8",
        "training.epochs=3",
        "data.validation=10",
        "schedule=cosine",
    ],
)
def test_whatever_can_change_a_result_changes_the_fingerprint(override: str) -> None:
    assert fingerprint(job(override), "digest") != fingerprint(job(), "digest")


@pytest.mark.parametrize(
    "override",
    [
        "tracking.experiment=other",
        "tracking.run_name=other",
        "tracking.log_model=false",
        "report.figures=none",
        "data.path=/elsewhere",
        "resume=0123",
        "model.units=128",
    ],
)
def test_what_cannot_change_a_result_leaves_the_fingerprint(override: str) -> None:
    assert fingerprint(job(override), "digest") == fingerprint(job(), "digest")


def test_what_is_expected_of_a_config_leaves_the_fingerprint() -> None:
    with_it, without = (fingerprint(job("experiment=walkthrough", *more), "d") for more in ([], ["expected=null"]))
    assert with_it == without == fingerprint(job("data.validation=0"), "d")


def test_the_data_is_part_of_the_fingerprint() -> None:
    assert fingerprint(job(), "digest") != fingerprint(job(), "other")
    assert re.fullmatch("[0-9a-f]{64}", fingerprint(job(), "digest"))


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
