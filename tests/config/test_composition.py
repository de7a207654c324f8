"""Composing the config of a run from the files of conf/, of the user, and from overrides."""

from pathlib import Path

import pytest
from composed import job, refusal


def test_the_default_is_the_network_of_the_walkthrough() -> None:
    config = job()
    assert (config.data.name, config.data.validation, config.seed) == ("mnist", 5000, 0)
    model = config.model
    assert (model.name, model.units, model.activation, model.dropout) == ("mlp", [128], "relu", 0.2)
    assert (config.optimizer.name, config.optimizer.learning_rate) == ("adam", 0.001)
    assert (config.training.epochs, config.training.batch_size) == (10, 32)


def test_several_values_without_multirun_are_refused_with_the_fix() -> None:
    assert refusal("seed=0,1") == (
        "'seed=0,1' has several values. For a sweep add -m: python run.py -m seed=0,1; for one list, write it in"
        " brackets: key=[a,b]."
    )


def test_an_experiment_is_a_delta_which_the_command_line_overrides() -> None:
    assert job("experiment=walkthrough").data.validation == 0
    config = job("experiment=single_neuron", "training.epochs=3")
    assert (config.data.name, config.model.name, config.training.epochs) == ("linear", "neuron", 3)


def test_an_interpolation_takes_the_value_of_another_key() -> None:
    assert job("model.units=${data.shape}").model.units == [28, 28]
    assert refusal("model.dropout=${training.epochs}").startswith("model.dropout=10 is not allowed")
    assert "Interpolation key 'nowhere' not found" in refusal("model.dropout=${nowhere}")


REFUSED_ENVIRONMENT = "${oc.env:SECRET} is not supported: a config may not read the environment. Let the shell put"


@pytest.mark.parametrize(
    "override",
    [
        "report.profile=${oc.env:SECRET}",
        "tracking.run_name=${oc.env:SECRET}",
        "tracking.run_name='${oc.decode:${oc.env:SECRET}}'",
        "model.units=['${oc.env:SECRET,8}']",
    ],
)
def test_an_override_cannot_read_the_environment(override: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the user")
    assert refusal(override).startswith(REFUSED_ENVIRONMENT)


@pytest.mark.parametrize(
    "text",
    [
        "# @package _global_\ntracking: {run_name: '${oc.env:SECRET}'}\n",
        "# @package _global_\ndefaults: [{override /data: '${oc.env:SECRET}'}]\n",
    ],
)
def test_a_file_cannot_read_the_environment(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "mnist")
    own_file(tmp_path, text)
    assert refusal("experiment=mine", config_dir=tmp_path).startswith(REFUSED_ENVIRONMENT)


def test_a_target_in_a_config_is_data_and_refused_as_any_unknown_key() -> None:
    assert refusal("+model._target_=os.getcwd").startswith("unknown key 'model._target_'. Keys of model: activation")
    assert "received {'_target_': 'os.getcwd', 'x': 1}" in refusal(
        "model=layers", "model.layers=[{_target_: os.getcwd, x: 1}]"
    )
    assert "Keras has no regularizer '_target_'" in refusal("model.kernel_regularizer={_target_: {}}")


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
