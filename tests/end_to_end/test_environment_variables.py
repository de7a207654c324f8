"""Environment variables that could change a result or end a run, and Keras's own settings: none does so unrecorded."""

import json
from pathlib import Path

import pytest
from composed import job
from conftest import command
from stores import history, runs

from experiments.config.identity import identity_tags
from experiments.errors import UserError
from experiments.runtime import (
    HARMLESS_VARIABLES,
    RECORDED_VARIABLES,
    SET_VARIABLES,
    XLA_DEFAULT,
    XLA_GPU_DEFAULTS,
    recorded_variables,
    xla_flags_of_user,
)

HOSTILE = {
    "KERAS_BACKEND": "jax",
    "KERAS_MAX_EPOCHS": "1",
    "KERAS_MAX_STEPS_PER_EPOCH": "2",
    "KERAS_NNX_ENABLED": "true",
    "TF_USE_LEGACY_KERAS": "1",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
    "MLFLOW_TRUNCATE_LONG_VALUES": "false",
    "PYTHONHASHSEED": "7",
    "OMP_NUM_THREADS": "3",
    "OMP_PROC_BIND": "true",
    "KMP_BLOCKTIME": "0",
    "KMP_AFFINITY": "disabled",
    "MKL_NUM_THREADS": "3",
    "OPENBLAS_NUM_THREADS": "3",
    "TF_NUM_INTRAOP_THREADS": "3",
    "TF_NUM_INTEROP_THREADS": "3",
    "MLFLOW_RUN_ID": "0" * 32,
    "MLFLOW_EXPERIMENT_ID": "77",
    "MLFLOW_EXPERIMENT_NAME": "elsewhere",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "true",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_CPP_MAX_VLOG_LEVEL": "0",
    "TF_CPP_VMODULE": "nothing=1",
    "TF_DUMP_GRAPH_PREFIX": "/dev/null",
    "TF_CONFIG": "{}",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "TF_GPU_ALLOCATOR": "cuda_malloc_async",
    "TF_GPU_THREAD_MODE": "gpu_private",
    "TF_GPU_THREAD_COUNT": "3",
}
KERAS_FILE = {"backend": "jax", "floatx": "float64", "epsilon": 0.1, "image_data_format": "channels_first"}


@pytest.mark.slow
def test_hostile_variables_and_settings_of_keras_leave_the_result_and_the_fingerprint(tmp_path: Path, uri: str) -> None:
    (tmp_path / "keras.json").write_text(json.dumps(KERAS_FILE))
    environment = {**HOSTILE, "KERAS_HOME": str(tmp_path)}
    assert set(environment) == {*SET_VARIABLES, *HARMLESS_VARIABLES}
    overrides = ["experiment=digits", "training.epochs=2", "training.loop=fit", f"tracking.uri={uri}"]
    plain = command(*overrides)
    hostile = command(*overrides, **environment)
    assert (plain.returncode, hostile.returncode) == (0, 0), plain.stderr + hostile.stderr
    one, other = runs(uri)
    assert one.data.tags["fingerprint"] == other.data.tags["fingerprint"]
    assert history(uri, one.info.run_id) == history(uri, other.info.run_id)


def test_every_other_variable_is_part_of_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", XLA_DEFAULT)
    monkeypatch.setenv("TF_VAR_password", "of Terraform")
    assert recorded_variables() == {}
    plain = identity_tags(job(), "data")
    assert "environment_variables" not in plain
    for name in RECORDED_VARIABLES:
        with monkeypatch.context() as other:
            other.setenv(name, "--xla_dump_to=/tmp/x")
            assert recorded_variables() == {}, name
            other.setenv(name, "--value=2")
            tags = identity_tags(job(), "data")
            assert tags["environment_variables"] == f"{name}=--value=2"
            assert tags["fingerprint"] != plain["fingerprint"]
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    assert identity_tags(job(), "data") == plain


def test_the_users_flags_of_xla_are_kept_beside_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XLA_FLAGS", f"{XLA_DEFAULT} --a=1 {' '.join(XLA_GPU_DEFAULTS)}  --b='2 3'")
    assert xla_flags_of_user() == ["--a=1", "--b='2 3'"]
    file = tmp_path / "flags"
    file.write_text("--a=1\n--c\n")
    monkeypatch.setenv("XLA_FLAGS", str(file))
    assert xla_flags_of_user() == ["--a=1", "--c"]
    monkeypatch.setenv("XLA_FLAGS", "bogus")
    with pytest.raises(UserError, match="XLA_FLAGS=bogus is neither flags nor a file"):
        xla_flags_of_user()


@pytest.mark.parametrize(
    ("name", "flag", "reason"),
    [
        ("XLA_FLAGS", "--bogus", "Unknown flag in XLA_FLAGS: --bogus"),
        pytest.param("TF_XLA_FLAGS", "--bogus", "Unknown flag in TF_XLA_FLAGS: --bogus", marks=pytest.mark.soak),
    ],
)
@pytest.mark.slow
def test_a_flag_that_xla_does_not_know_is_found_before_a_run_is_made(
    new_uri: str, name: str, flag: str, reason: str
) -> None:
    done = command("data=digits", f"tracking.uri={new_uri}", **{name: flag})
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        f"XLA does not start with {name}={flag!r}: {reason}. Correct the environment variable, or unset it.\n"
    )
    assert not Path(new_uri.removeprefix("sqlite:///")).exists()
