"""TensorFlow in this process: quiet, and with the number of threads that the run records. Comes before all its use."""

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator

from experiments.errors import UserError


def start(threads: int) -> None:
    """Load TensorFlow with `threads` threads within an operation.

    The number of threads changes the last bits of a result, so it belongs to the config and cannot change once
    TensorFlow has started.

    Raises:
        UserError: TensorFlow has started in this process with another number.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _silent_start():
        import tensorflow as tf

    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"keras|tensorflow")
    tf.autograph.set_verbosity(0)
    if tf.config.threading.get_intra_op_parallelism_threads() == threads:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        # Operators of a step form a chain; a second thread between them only adds hand-overs.
        tf.config.threading.set_inter_op_parallelism_threads(2)
    except RuntimeError:
        started = tf.config.threading.get_intra_op_parallelism_threads()
        raise UserError(
            f"training.threads={threads}: TensorFlow already runs with {started} threads in this process."
            " Give all jobs of this sweep the same training.threads."
        ) from None


@contextlib.contextmanager
def _silent_start() -> Iterator[None]:
    """Hold back what TensorFlow's libraries write to stderr before any log level applies; show it if they fail."""
    if "tensorflow" in sys.modules:
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held_back, os.fdopen(os.dup(2), "wb") as stderr:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except BaseException:
            held_back.seek(0)
            stderr.write(held_back.read())
            raise
        finally:
            os.dup2(stderr.fileno(), 2)
