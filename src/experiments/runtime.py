"""This process: quick to load and to end, and TensorFlow in it, quiet, with the threads that the run records."""

import atexit
import contextlib
import gc
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator

from experiments.errors import UserError

# Keras imports these too where they are installed, for functions that nothing here calls: half of its loading time.
SKIPPED_PACKAGES = ("matplotlib", "pandas", "sklearn")

_started = (0, 0)  # threads and devices that TensorFlow has in this process


def collect_garbage_rarely() -> None:
    """What every command does first: loading TensorFlow and MLflow makes a million objects that stay, and Python looks
    through all of them again and again, a third of the time it takes to load; and at the end, for two seconds."""
    gc.set_threshold(100_000, 50, 1000)
    atexit.register(gc.freeze)


def start_tensorflow(threads: int, devices: int = 1) -> None:
    """Load TensorFlow with `threads` threads within an operation, and the CPU as so many logical devices.

    The number of threads changes the last bits of a result, so it belongs to the config and cannot change once
    TensorFlow has started.

    Raises:
        UserError: TensorFlow has started in this process with another number.
    """
    global _started
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # XLA stays at half of AVX-512 for processors that slow down with it, long gone; an epoch takes a tenth less.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_prefer_vector_width=512")
    with _hold_back_stderr(), _hide_packages(SKIPPED_PACKAGES):
        import keras  # noqa: F401
        import tensorflow as tf

    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"keras|tensorflow")
    tf.autograph.set_verbosity(0)
    if _started == (threads, devices):
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        # Each replica waits for the others within a step, so there must be a thread for each, and one to spare.
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
def _hide_packages(packages: Iterable[str]) -> Iterator[None]:
    """Have these packages count as not installed, those that are loaded already apart."""
    hidden = [package for package in packages if package not in sys.modules]
    for package in hidden:
        sys.modules[package] = None  # type: ignore[assignment] # Python's own mark for "not there"
    try:
        yield
    finally:
        for package in hidden:
            del sys.modules[package]


@contextlib.contextmanager
def _hold_back_stderr() -> Iterator[None]:
    """Hold back what TensorFlow's libraries write to stderr before any log level applies; show it if they fail."""
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
