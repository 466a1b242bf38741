"""The `tf.distribute` strategy of a run: which devices train a model."""

import os

from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.training.devices.cluster import check_tf_config
from state_of_sparsity.models.training.devices.lost_workers import (
    noticing_lost_workers,
)

DISTRIBUTIONS = ("auto", "one_device", "mirrored", "multi_worker")


def strategy(distribution: str) -> tf.distribute.Strategy:
    """The `tf.distribute` strategy of a run.

    Args:
      distribution: "one_device" (the first GPU, or else the CPU), "mirrored" (all
        GPUs of this machine), "multi_worker" (all workers that TF_CONFIG names, which
        have to see the same run's folder), or "auto": mirrored on a machine with
        several GPUs, else one device.

    Raises:
      ValueError: if TF_CONFIG is wrong.
      WorkersError: if a worker does not come, for which TensorFlow waits.
    """
    # Looking at logical devices starts TensorFlow, after which it can join no workers.
    gpus = tf.config.list_physical_devices("GPU")
    if distribution == "auto":
        distribution = "mirrored" if len(gpus) > 1 else "one_device"
    if distribution == "one_device":
        return tf.distribute.get_strategy()
    if distribution == "mirrored":
        devices = tf.config.list_logical_devices("GPU" if gpus else "CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    check_tf_config(os.environ.get("TF_CONFIG", ""))
    with noticing_lost_workers():
        return tf.distribute.MultiWorkerMirroredStrategy()


def counted(replicas: int) -> str:
    """ "1 device", "8 devices"."""
    return f"{replicas} device" + "s" * (replicas != 1)


def named(strategy: tf.distribute.Strategy) -> str:
    """What computes: "1 device (CPU)", "8 devices (NVIDIA H100 80GB HBM3)"."""
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    kinds = sorted({str(d.get("device_name", "GPU")) for d in details}) or ["CPU"]
    return f"{counted(strategy.num_replicas_in_sync)} ({', '.join(kinds)})"


def has_other_workers(strategy: tf.distribute.Strategy) -> bool:
    """Whether other processes train the same model."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes; of several workers, the first."""
    resolver = strategy.cluster_resolver
    if resolver is None or resolver.task_type in (None, "chief"):
        return True
    # Without a task called chief, the first worker is.
    return resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs
