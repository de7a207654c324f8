"""Start and end this process quickly, and load TensorFlow quietly, with a recorded number of threads."""

import atexit
import contextlib
import gc
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator

from experiments.errors import UserError

# Keras imports these if they are installed, for functions that are not used here: half of its loading time.
SKIPPED_PACKAGES = ("matplotlib", "pandas", "sklearn")

_started = (0, 0)  # threads and devices of TensorFlow in this process


def collect_garbage_rarely() -> None:
    """Make garbage collection rare: TensorFlow and MLflow create a million permanent objects, and scanning them again
    and again takes a third of the loading time, and two seconds at the end. Every command calls this first."""
    gc.set_threshold(100_000, 50, 1000)
    atexit.register(gc.freeze)


def start_tensorflow(threads: int, devices: int = 1) -> None:
    """Load TensorFlow with this number of threads within an operation, and of logical CPU devices.

    The number of threads changes the last bits of a result, so it is part of the config. Raises UserError if TensorFlow
    has already started in this process with other numbers.
    """
    global _started
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # By default XLA uses half of AVX-512, for the sake of old processors; with all of it an epoch is a tenth faster.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_prefer_vector_width=512")
    with _hold_back_stderr(), _hide_skipped_packages():
        import keras  # noqa: F401
        import tensorflow as tf

    for logger in ("tensorflow", "absl"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"keras|tensorflow")
    tf.autograph.set_verbosity(0)
    if _started == (threads, devices):
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        # Replicas wait for each other within a step, so each needs a thread, and spare ones.
        tf.config.threading.set_inter_op_parallelism_threads(2 * devices)
        if devices > 1:
            cpu = tf.config.list_physical_devices("CPU")[0]
            logical = [tf.config.LogicalDeviceConfiguration() for _ in range(devices)]
            tf.config.set_logical_device_configuration(cpu, logical)
    except RuntimeError:
        raise UserError(
            f"training.threads={threads} on {devices} devices: TensorFlow already runs with {_started[0]} threads on"
            f" {_started[1]} devices in this process. Give all jobs of this sweep the same training.threads and"
            " distribution.devices."
        ) from None
    _started = threads, devices


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
