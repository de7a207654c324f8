"""The devices of a run, as a tf.distribute strategy."""

import os
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.config.schema import Config, DistributionConfig
from experiments.errors import UserError
from experiments.formatting import plural
from experiments.profiling import span
from experiments.runtime import start_tensorflow
from experiments.training.cluster import on_slurm, read_tf_config
from experiments.training.compiled_programs import kept_programs

if TYPE_CHECKING:
    import tensorflow as tf


@span("importing TensorFlow and Keras")
def start_strategy(config: DistributionConfig, threads: int, tensor_float_32: bool = False) -> "tf.distribute.Strategy":
    """Load TensorFlow with `threads` within an operation, and make the strategy, before any other use of TensorFlow.

    Raise a UserError if there are fewer devices than requested.
    """
    devices = logical_devices(config)
    with kept_programs(threads, devices, tensor_float_32):
        start_tensorflow(threads, devices, tensor_float_32)
        return _make_strategy(config)


def _make_strategy(config: DistributionConfig) -> "tf.distribute.Strategy":
    import keras
    import tensorflow as tf

    wanted = config.devices or 0
    keras.backend.clear_session()  # layer names must not depend on earlier models of this process
    if config.strategy == "multi_worker":
        return _multi_worker_strategy(config.timeout_seconds)
    gpus = tf.config.list_logical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.reset_memory_stats(_short_name(gpu))  # of an earlier run of this process
    if config.strategy == "one_device" or (config.strategy == "auto" and len(gpus) < 2 and wanted < 2):
        return tf.distribute.get_strategy()
    if config.strategy == "auto" and len(gpus) < max(wanted, 2):
        raise UserError(
            f"distribution.devices={wanted}, but there {_count(gpus)} here. Use distribution=mirrored"
            f" distribution.devices={wanted} for logical CPU devices, or leave distribution.devices out."
        )
    if gpus:
        if wanted > len(gpus):
            raise UserError(f"distribution.devices={wanted}, but there {_count(gpus)} here. Use at most that.")
        return tf.distribute.MirroredStrategy([device.name for device in gpus[: wanted or None]])
    if not wanted:
        raise UserError(
            "distribution=mirrored found no GPU. For N logical devices on this CPU add distribution.devices=N."
        )
    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(wanted)])


def _count(gpus: Sequence[object]) -> str:
    return f"{'is' if len(gpus) == 1 else 'are'} {plural(len(gpus), 'GPU')}"


def process_settings(config: Config) -> tuple[int, int, bool]:
    """Return what TensorFlow takes once per process, as start_tensorflow takes it."""
    return int(config.training.threads), logical_devices(config.distribution), config.training.tensor_float_32


def logical_devices(config: DistributionConfig) -> int:
    """Return the number of logical devices that the CPU is split into, which is fixed once TensorFlow has started."""
    return config.devices or 1 if config.strategy == "mirrored" else 1


def peak_gpu_memory() -> int:
    """Return the most bytes that the run of this process has had in use on one GPU; 0 without GPUs."""
    import tensorflow as tf

    gpus = tf.config.list_logical_devices("GPU")
    return max((tf.config.experimental.get_memory_info(_short_name(gpu))["peak"] for gpu in gpus), default=0)


def _short_name(gpu: "tf.config.LogicalDevice") -> str:
    """Return a name such as GPU:0."""
    return str(gpu.name.partition("device:")[2])


def _multi_worker_strategy(timeout: float) -> "tf.distribute.Strategy":
    import tensorflow as tf
    from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob
    from tensorflow.python.eager import context

    resolvers = tf.distribute.cluster_resolver
    if read_tf_config() is None and on_slurm():
        # It asks nvidia-smi for the GPUs and fails if there are none: in that case, claim one per task.
        tasks = int(os.environ["SLURM_STEP_NUM_TASKS"])
        cpus = {} if shutil.which("nvidia-smi") else {"gpus_per_node": tasks, "gpus_per_task": 1, "auto_set_gpu": False}
        resolver = resolvers.SlurmClusterResolver(**cpus)
    else:
        resolver = resolvers.TFConfigClusterResolver()
    # By default TensorFlow gives up a worker after 10 silent seconds, and there is no public setting for that. Half the
    # timeout lets the chief name that worker before its supervisor takes the chief itself for hanging.
    context.context().configure_coordination_service(
        "standalone",
        service_leader="/job:worker/replica:0/task:0",
        coordinated_jobs=[CoordinatedJob(name="worker", num_tasks=resolver.cluster_spec().num_tasks("worker"))],
        heartbeat_timeout_in_ms=int(500 * timeout),
    )
    communication = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=communication.AUTO if tf.config.list_physical_devices("GPU") else communication.RING
    )
    return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver, communication_options=options)
