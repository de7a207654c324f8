"""Start and end this process quickly, and load TensorFlow quietly, with recorded threads and environment variables."""

import atexit
import contextlib
import gc
import logging
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from experiments.errors import UserError
from experiments.formatting import TOOL

# Keras imports these if they are installed, for functions that are not used here: half of its loading time.
SKIPPED_PACKAGES = ("matplotlib", "pandas", "sklearn")

# The environment variables that could change a result or end a run.
# This program gives them these values, None for not set, whatever the user's environment says.
SET_VARIABLES: dict[str, str | None] = {
    "KERAS_BACKEND": "tensorflow",
    **dict.fromkeys(("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH", "KERAS_NNX_ENABLED", "TF_USE_LEGACY_KERAS")),
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",  # loses points when the process is killed
    "MLFLOW_TRUNCATE_LONG_VALUES": "true",  # else a long param ends the run
}
# These do not change a result, as the tests show of those that could.
HARMLESS_VARIABLES = (
    *("KERAS_HOME", "PYTHONHASHSEED", "OMP_NUM_THREADS", "OMP_PROC_BIND", "KMP_BLOCKTIME", "KMP_AFFINITY"),
    *("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
    *("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"),
    *("TF_CPP_MIN_LOG_LEVEL", "TF_CPP_MAX_VLOG_LEVEL", "TF_CPP_VMODULE", "TF_DUMP_GRAPH_PREFIX", "TF_CONFIG"),
    *("TF_FORCE_GPU_ALLOW_GROWTH", "TF_GPU_ALLOCATOR", "TF_GPU_THREAD_MODE", "TF_GPU_THREAD_COUNT"),
)
# These are recorded, and part of a run's fingerprint. They are listed one by one, as TF_ is Terraform's prefix too.
RECORDED_VARIABLES = (
    *("XLA_FLAGS", "TF_XLA_FLAGS", "TF_ENABLE_ONEDNN_OPTS", "TF_SET_ONEDNN_FPMATH_MODE", "TF_ENABLE_ONEDNN_SPMM"),
    *("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),
    *("TF_ENABLE_ZENDNN_OPTS", "TF_DISABLE_JIT_KERNELS", "TF_OVERRIDE_GLOBAL_THREADPOOL", "TF_DETERMINISTIC_OPS"),
    *("TF_FUNCTION_JIT_COMPILE_DEFAULT", "TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_LEVEL", "TF_ENABLE_MAXPOOL_NANPROP"),
    *("TF_CUDNN_DETERMINISTIC", "TF_CUDNN_USE_AUTOTUNE", "TF_CUDNN_USE_RUNTIME_FUSION", "TF_USE_CUBLASLT"),
    *("TF_CUDNN_WORKSPACE_LIMIT_IN_MB", "TF_CUBLAS_WORKSPACE_LIMIT_IN_MB", "TF_CUDNN_DISABLE_CONV_1X1_OPTIMIZATION"),
    *("TF_CONV2D_USE_FP16_ACCUMULATE", "TF_FP16_CONV_USE_FP32_COMPUTE", "TF_FP16_MATMUL_USE_FP32_COMPUTE"),
    *("TF_MATMUL_AUTOTUNE_ENABLE", "TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT", "TF_USE_DEEP_CONV2D"),
    *("TF_USE_DEFAULT_CONV_ALGO", "TF_ENABLE_WINOGRAD_NONFUSED", "NVIDIA_TF32_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG"),
)
DEFAULT_VALUES = {"TF_ENABLE_ONEDNN_OPTS": "1"}
# By default XLA uses half of AVX-512, for the sake of old processors; with all of it an epoch is a tenth faster.
XLA_DEFAULT = "--xla_cpu_prefer_vector_width=512"
XLA_GPU_DEFAULTS = (
    # Only kernels that add in a fixed order, and none that is chosen because it was measured to be faster.
    *("--xla_gpu_exclude_nondeterministic_ops=true", "--xla_gpu_autotune_level=0"),
    # The loop over the steps runs on the device: from the host it takes 50 microseconds a step.
    "--xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,WHILE,CONDITIONAL",
    "--xla_gpu_graph_min_graph_size=1",
)
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
NVIDIA_IN_WINDOWS = Path("/dev/dxg")  # the same in Windows' Linux
KEPT_PROGRAMS_FLAG = "--tf_xla_persistent_cache_directory"  # which this program sets, with a quoted folder
CHECKED_VARIABLE = "EXPERIMENTS_CHECKED_XLA_FLAGS"  # the flags that a process which started this one has checked

_started = (0, 0, False)  # threads, devices and TensorFloat-32 of TensorFlow in this process


def collect_garbage_rarely() -> None:
    """Make garbage collection rare: TensorFlow and MLflow create a million permanent objects, and scanning them again
    and again takes a third of the loading time, and two seconds at the end. Every command calls this first."""
    gc.set_threshold(100_000, 50, 1000)
    atexit.register(gc.freeze)


def this_command() -> list[str]:
    """Return the words that start the command of this process again, without its arguments."""
    tool, _, name = sys.argv[0].partition(" ")
    return [sys.executable, *(["-m", "experiments.commands", name] if tool == TOOL and name else [sys.argv[0]])]


def expand_home(setting: str, path: str) -> Path:
    """Return the path that a setting gives, with the user's home for `~`; raise UserError if there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{setting}={path}: there is no such home folder. Write the path without ~.") from None


def start_tensorflow(threads: int, devices: int = 1, tensor_float_32: bool = False) -> None:
    """Load TensorFlow with this number of threads within an operation, and of logical CPU devices.

    The number of threads changes the last bits of a result, and TensorFloat-32, which rounds products on GPUs to ten
    bits, its third digit: they are part of the config. Raises UserError if TensorFlow has already started in this
    process with others, or XLA does not know a flag of the user's.
    """
    global _started
    check_xla_flags()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name, value in SET_VARIABLES.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # else it takes all memory, also from other processes
    gpu_defaults = XLA_GPU_DEFAULTS if has_nvidia_driver() else ()
    os.environ["XLA_FLAGS"] = " ".join([XLA_DEFAULT, *gpu_defaults, *xla_flags_of_user()])
    with _hold_back_stderr(), _hide_skipped_packages(), _ignore_keras_file():
        import keras
        import tensorflow as tf

    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")

    for logger in ("tensorflow", "absl"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"keras|tensorflow")
    tf.autograph.set_verbosity(0)
    if _started == (threads, devices, tensor_float_32):
        return
    try:
        if _started[0] and _started[2] != tensor_float_32:  # programs are compiled with it
            raise RuntimeError
        if has_nvidia_driver():  # to ask TensorFlow would end its reading of flags, which compiled_programs.py sets
            tf.config.experimental.enable_op_determinism()
        tf.config.experimental.enable_tensor_float_32_execution(tensor_float_32)
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        # Replicas wait for each other within a step, so each needs a thread, and spare ones.
        tf.config.threading.set_inter_op_parallelism_threads(2 * devices)
        if devices > 1:
            cpu = tf.config.list_physical_devices("CPU")[0]
            logical = [tf.config.LogicalDeviceConfiguration() for _ in range(devices)]
            tf.config.set_logical_device_configuration(cpu, logical)
    except RuntimeError:
        raise UserError(
            f"TensorFlow already runs in this process with training.threads={_started[0]}, {_started[1]} CPU devices"
            f" and training.tensor_float_32={str(_started[2]).lower()}; here these are {threads}, {devices} and"
            f" {str(tensor_float_32).lower()}. Give all jobs of this sweep the same."
        ) from None
    _started = threads, devices, tensor_float_32


def has_nvidia_driver() -> bool:
    """Return whether TensorFlow may find a GPU, without loading it."""
    return NVIDIA_DRIVER.exists() or NVIDIA_IN_WINDOWS.exists()


def recorded_variables() -> dict[str, str]:
    """Return the environment variables that can change a result and have another value than by default.

    Flags that name a file or folder change nothing but what is written there; they are left out.
    """
    found = {name: os.environ.get(name, "").split() for name in sorted(RECORDED_VARIABLES)}
    found["XLA_FLAGS"] = xla_flags_of_user()
    values = {name: " ".join(word for word in words if "/" not in word) for name, words in found.items()}
    return {name: value for name, value in values.items() if value not in ("", DEFAULT_VALUES.get(name))}


def xla_flags_of_user() -> list[str]:
    """Return the flags in XLA_FLAGS, or in the file that it names, without those that this program sets."""
    given = os.environ.get("XLA_FLAGS", "").strip()
    if given and not given.startswith("-"):
        try:
            given = Path(given).read_text()
        except (OSError, ValueError) as error:
            raise UserError(f"XLA_FLAGS={given} is neither flags nor a file that can be read: {error}") from None
    flags: list[str] = re.findall(r"""-[\w-]+=(?:'[^']*'|"[^"]*")|\S+""", given)  # as XLA splits them
    return [flag for flag in flags if flag not in (XLA_DEFAULT, *XLA_GPU_DEFAULTS)]


def check_xla_flags() -> None:
    """Raise UserError if XLA refuses flags of the user, which would end this process in the middle of a run.

    Only XLA can tell, so that this takes a process, and a few seconds, if there are any.
    """
    of_tensorflow = re.sub(f"{KEPT_PROGRAMS_FLAG}='[^']*'", "", os.environ.get("TF_XLA_FLAGS", "")).strip()
    flags = {"XLA_FLAGS": " ".join(xla_flags_of_user()), "TF_XLA_FLAGS": of_tensorflow}
    if not any(flags.values()) or os.environ.get(CHECKED_VARIABLE) == repr(flags) or "tensorflow" in sys.modules:
        return
    compiled = "import tensorflow as tf; tf.function(lambda: tf.zeros(1) + 1, jit_compile=True)()"
    environment = {**os.environ, **flags, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", compiled], env=environment, capture_output=True, errors="replace")
    if done.returncode:
        refused = re.search(r"Unknown flag.*|Couldn't interpret value.*", done.stderr)
        given = " ".join(f"{name}={value!r}" for name, value in flags.items() if value)
        raise UserError(
            f"XLA does not start with {given}: {refused[0] if refused else 'it ends the process'}. Correct"
            " the environment variable, or unset it."
        )
    os.environ[CHECKED_VARIABLE] = repr(flags)


@contextlib.contextmanager
def _ignore_keras_file() -> Iterator[None]:
    """Let Keras find no keras.json, nor write one: it would change results, and a damaged one would end the import."""
    home = os.environ.get("KERAS_HOME")
    os.environ["KERAS_HOME"] = os.devnull
    try:
        yield
    finally:
        del os.environ["KERAS_HOME"]
        if home is not None:
            os.environ["KERAS_HOME"] = home


@contextlib.contextmanager
def _hide_skipped_packages() -> Iterator[None]:
    """Make packages that are not loaded yet appear as not installed."""
    hidden = [package for package in SKIPPED_PACKAGES if package not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type] # None makes an import fail
    try:
        yield
    finally:
        for package in hidden:
            del sys.modules[package]


@contextlib.contextmanager
def _hold_back_stderr() -> Iterator[None]:
    """Hold back what TensorFlow's libraries write to stderr before log levels apply; show it if they fail."""
    if "tensorflow" in sys.modules:
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held_back, os.fdopen(os.dup(2), "wb") as stderr:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except Exception:
            held_back.seek(0)
            stderr.write(held_back.read())
            raise
        finally:
            os.dup2(stderr.fileno(), 2)
