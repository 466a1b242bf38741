"""Which devices train a model."""

import collections
import os

from state_of_sparsity.engines.tf_keras.backend import limit_coordination, tf
from state_of_sparsity.models.training.cluster import Cluster
from state_of_sparsity.models.training.execution import Execution
from state_of_sparsity.models.training.rendezvous import wait_for_all

DISTRIBUTIONS = ("auto", "one_device", "mirrored", "multi_worker")


def strategy(
    distribution: str,
    execution: Execution = Execution(),  # noqa: B008
) -> tf.distribute.Strategy:
    """The `tf.distribute` strategy of a run.

    Args:
      distribution: "one_device" (the first GPU, or else the CPU), "mirrored" (all
        GPUs of this machine), "multi_worker" (all workers that TF_CONFIG names, which
        have to see the same run's folder), or "auto": mirrored on a machine with
        several GPUs, else one device.
      execution: into how many devices the CPU is divided, and how long workers are
        waited for.

    Raises:
      ValueError: for another one, if TF_CONFIG is wrong, or if the CPU cannot be
        divided any more.
      WorkersError: if a worker does not come.
    """
    # Looking at logical devices starts TensorFlow, after which it can join no workers.
    gpus = tf.config.list_physical_devices("GPU")
    if distribution == "auto":
        distribution = "mirrored" if len(gpus) > 1 else "one_device"
    if distribution == "one_device":
        return tf.distribute.get_strategy()
    if distribution == "mirrored":
        if execution.cpu_devices is not None:
            return _mirrored(_divided_cpu(execution.cpu_devices))
        return _mirrored(tf.config.list_logical_devices("GPU" if gpus else "CPU"))
    if distribution == "multi_worker":
        cluster = Cluster.from_text(os.environ.get("TF_CONFIG", ""))
        cluster.check_hosts()
        wait_for_all(cluster, execution.worker_timeout)
        types = collections.Counter(kind for kind, _ in cluster.addresses)
        leader = "chief" if "chief" in types else "worker"
        limit_coordination(leader, types, execution.worker_timeout)
        return tf.distribute.MultiWorkerMirroredStrategy()
    raise ValueError(
        f"distribution must be one of {', '.join(DISTRIBUTIONS)}. "
        f"Received: {distribution!r}"
    )


def _mirrored(devices):
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _divided_cpu(count):
    """So many logical devices, which have to be asked for before TensorFlow starts."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError as error:
        # A process that trains several runs has divided it for the first one.
        if len(tf.config.list_logical_devices("CPU")) != count:
            raise ValueError(
                "the CPU cannot be divided once TensorFlow has started. "
                f"Received: cpu_devices={count}"
            ) from error
    return tf.config.list_logical_devices("CPU")


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
