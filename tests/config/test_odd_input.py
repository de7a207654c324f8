"""Files, keys and values of kinds that a config cannot have: each gets one bounded line, never a traceback."""

import re
from pathlib import Path

import pytest
from composed import job, refusal

from experiments.config.composition import compose_job
from experiments.config.sweep_composition import compose_sweep
from experiments.errors import ConfigError
from experiments.formatting import clean_message


def refused_file(folder: Path, content: bytes, group: str = "experiment") -> str:
    """Return the message about a file, whose path is replaced by FILE."""
    (folder / group).mkdir()
    file = folder / group / "mine.yaml"
    file.write_bytes(content)
    return refusal(f"{group}=mine", config_dir=folder).replace(str(file), "FILE")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# @package _global_\n# Größe\n".encode("latin-1"), "FILE is not UTF-8: byte 0xf6 in line 2."),
        ("# @package _global_\nseed: 1 # ä".encode("latin-1"), "FILE is not UTF-8: byte 0xe4 in line 2."),
        ("seed: 1\n".encode("utf-16"), "FILE is not UTF-8: byte 0xff in line 1."),
        (b"", "FILE needs the first line '# @package _global_': without it, its keys are looked for in 'experiment'"),
        (b"seed: 1\n", "FILE needs the first line '# @package _global_'"),
        (b"# @package _globl_\nseed: 1\n", "FILE needs the first line '# @package _global_'"),
        (b"- a\n", "FILE is not a mapping. Write a line KEY: VALUE for each setting."),
        (b"# @package _global_\ntrue: 1\n", "The config has the key True (bool). Keys are texts;"),
        (b"# @package _global_\nmodel: {1: 2}\n", "model has the key 1 (int). Keys are texts;"),
        (b"# @package _global_\na: !!set {b}\n", "FILE cannot be read: Value 'set' is not a supported primitive type."),
        (b"# @package _global_\n!!set {b}\n", "FILE is not a mapping. Write a line KEY: VALUE for each setting."),
        (b"7\n", "FILE is not a mapping. Write a line KEY: VALUE for each setting."),
        (b"# @package _global_\n~: 1\n", "FILE cannot be read: Incompatible key type 'NoneType'."),
        (b"# @package _global_\nseed: " + b"9" * 5000, "FILE cannot be read: Exceeds the limit (4300 digits)"),
        (b"# @package _global_\nseed: *x\n", "found undefined alias 'x' in \"FILE\", line 2"),
        ("seed: 1\n".encode("utf-16-le"), "FILE has the character 0x00 in line 1, which YAML does not allow."),
        (b"# @package _global_\n\x1b: 1\n", "FILE has the character 0x1b in line 2, which YAML does not allow."),
        (
            b"# @package _global_\ntracking: {run_name: !!binary aGk=}\n",
            "tracking.run_name=b'hi' is not allowed: it is",
        ),
        (b'# @package _global_\ntracking: {run_name: "\\ud800"}\n', "tracking.run_name=\ud800 contains characters"),
    ],
)
def test_a_file_of_another_kind_is_named_with_what_to_do(tmp_path: Path, content: bytes, message: str) -> None:
    assert refused_file(tmp_path, content).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "FILE is empty. Write a line KEY: VALUE for each setting, as in conf/model."),
        (b"- a\n", "FILE is not a mapping. Write a line KEY: VALUE for each setting."),
        (
            b"foo: 1\n",
            "model.name is missing. Choose with model=NAME; choices: cnn, keras, layers, mlp, neuron, resnet",
        ),
    ],
)
def test_a_choice_of_a_group_without_its_keys_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    assert refused_file(tmp_path, content, "model") == message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=[[1]]", "model=[[1]] is not a choice. Choices of model: cnn, "),
        ("data=${oc.select:seed,1}", "data=${oc.select:seed,1} is not a choice. Choices of data: "),
        ("model.activation=true", "model.activation=true is not allowed: expected a string"),
        ("model.kernel_initializer={1:2}", "model.kernel_initializer has the key 1 (int)."),
        (
            "tracking.run_name=\udc80",
            "'tracking.run_name=\\udc80' has control characters, or bytes that are not UTF-8.",
        ),
        ("model.\x1b[31m=1", "'model.\\x1b[31m=1' has control characters, or bytes that are not UTF-8."),
        ("seed='a\x00'", "\"seed='a\\x00'\" has control characters, or bytes that are not UTF-8."),
    ],
)
def test_a_value_of_another_kind_is_told(override: str, message: str) -> None:
    assert refusal(override).startswith(message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("experiment=null", "experiment=null is not a choice. Leave it out for none. Choices of experiment: best_cpu,"),
        ("experiment=[digits,null]", "experiment=null is not a choice. Choices of experiment: best_cpu, digits,"),
        ("debug=null", "debug=null is not a choice. Leave it out for none. Choices of debug: overfit, profile, smoke"),
        ("data=null", "data=null is not a choice. Choices of data: arrays,"),
        ("data=[]", "data=[] is not a choice. Choices of data: arrays,"),
        ("schedule=null", "schedule=null is not a choice. Choices of schedule: constant,"),
        ("training=1", "training=1 is not a choice. Choices of training: default"),
        (
            "sweep=1",
            "sweep=1 is not allowed: a mapping of keys. Set its keys, as sweep.KEY=VALUE: begin_from, dry_run,",
        ),
        (
            "objective=null",
            "objective=null is not allowed: a mapping of keys. Set its keys, as objective.KEY=VALUE: ",
        ),
        (
            "training.early_stopping=5",
            "training.early_stopping=5 is not allowed: when to stop before the last epoch. Set its keys, as"
            " training.early_stopping.KEY=VALUE: goal, metric, min_delta, patience",
        ),
        ("~experiment", "'~experiment' removes the group 'experiment', of which nothing is chosen. Leave it out."),
    ],
)
def test_a_group_that_is_given_another_value_is_told(override: str, message: str) -> None:
    assert refusal(override).startswith(message)


@pytest.mark.parametrize("line", ["data: null", "schedule: [1]", "sweep: 3", "distribution: mirrored"])
def test_a_file_that_gives_a_group_another_value_is_named(tmp_path: Path, line: str) -> None:
    key, _, value = line.partition(": ")
    told = refused_file(tmp_path, f"# @package _global_\n{line}\n".encode())
    assert told == f"FILE: {key} is {value}, not a mapping. Write its keys below it."


@pytest.mark.parametrize("activation", ["true", "5", "[softmax]", "{softmax:1}"])
def test_an_activation_of_a_layer_that_is_not_a_name_is_told(activation: str) -> None:
    layers = f"model.layers=[Flatten,{{Dense:{{units:10,activation:{activation}}}}}]"
    with pytest.raises(ConfigError, match="expected the name of one of Keras's activations; received "):
        compose_job(["data=digits", "model=layers", layers])


@pytest.mark.parametrize(
    "override",
    [
        *("seed=" + "9" * 5000, "seed=" + "1," * 900 + "1", "a" * 9000 + "=1", "a" * 9000, "b" * 10**6),
        *("model.units=[" + "x," * 600 + "x]", "model.units={a:" + "x" * 9000 + "}"),
        *(f"{key}={'x' * 9000}" for key in ("model", "model.dropout", "model.kernel_initializer", "optimizer.name")),
    ],
    ids=lambda override: override[:30],
)
def test_a_message_is_short_whatever_was_typed(override: str) -> None:
    assert 0 < len(clean_message(refusal(override))) < 1600


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("choice(null,1.0)", "NoneType is incompatible with Union"),
        ("range(a,1)", "str is incompatible with Union[int, float]"),
        ("${", "extraneous input '{'"),
        ("~/x", "'model.dropout=~/x' is not an override: a special character without quotes."),
    ],
)
def test_the_reason_that_hydra_gives_is_told(value: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        compose_sweep([f"model.dropout={value}"])


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("tracking.run_name", "7", "7"),
        ("tracking.experiment", "20.24", "TEXT"),
    ],
)
def test_a_number_for_a_text_is_told_with_its_quotation_marks(key: str, value: str, text: str) -> None:
    assert refusal(f"{key}={value}").endswith(f"; a text like that needs quotation marks: '{key}=\"{text}\"'")


def test_texts_of_every_language_remain_allowed() -> None:
    name = "größer 実験\u3000\u00a0№ 7"
    assert job(f"tracking.run_name='{name}'").tracking.run_name == name
