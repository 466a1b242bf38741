"""Which devices train a model."""

import json
import os

import tensorflow as tf

DISTRIBUTIONS = ("auto", "one_device", "mirrored", "multi_worker")


def strategy(distribution: str) -> tf.distribute.Strategy:
    """The `tf.distribute` strategy of a run.

    Args:
      distribution: "one_device" (the first GPU, or else the CPU), "mirrored" (all
        GPUs of this machine), "multi_worker" (all workers that TF_CONFIG names, which
        have to see the same run's folder), or "auto": mirrored on a machine with
        several GPUs, else one device.

    Raises:
      ValueError: for another one, or if TF_CONFIG names no workers.
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
    if distribution == "multi_worker":
        _check_tf_config()
        return tf.distribute.MultiWorkerMirroredStrategy()
    raise ValueError(
        f"distribution must be one of {', '.join(DISTRIBUTIONS)}. "
        f"Received: {distribution!r}"
    )


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


def _check_tf_config():
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text)
        config["cluster"], config["task"]["type"], config["task"]["index"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "distribution=multi_worker reads from the environment variable TF_CONFIG "
            'who the workers are: {"cluster": {"worker": ["host:port", ...]}, '
            '"task": {"type": "worker", "index": 0}}. '
            f"Received: TF_CONFIG={text!r}"
        ) from error
