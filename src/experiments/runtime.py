"""TensorFlow in this process: quiet, with the number of threads that the run records. Call before anything else of it."""

import logging
import os
import warnings

from experiments.errors import UserError


def start(threads: int) -> None:
    """Load TensorFlow with `threads` threads within an operation.

    The number of threads changes the last bits of a result, so it belongs to the config and cannot change once
    TensorFlow has started.

    Raises:
        UserError: TensorFlow has started in this process with another number.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
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
