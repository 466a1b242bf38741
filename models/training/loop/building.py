"""The model of a run, dense and sparse, with the values that it begins with."""

import contextlib
from collections.abc import Mapping

import numpy as np

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.models.training.loop.accumulation import accumulate
from state_of_sparsity.models.training.loop.sparsification import Sparsification
from state_of_sparsity.models.training.loop.task import Task
from state_of_sparsity.models.training.rewinding.kept_weights import Start


def build_dense(
    task: Task,
    start: Start = Start(),  # noqa: B008
    masks: Mapping[str, np.ndarray] | None = None,
) -> keras.Model:
    """The dense model of a run with the values that it begins with.

    They are another run's, or those that the seed fixes.

    Args:
      task: what to train.
      start: where the values come from.
      masks: that will be fixed, if any; for `--init=sparse`.

    Raises:
      ValueError: if the other run has none that fit.
    """
    # tf.data takes no seed of an epoch from a tensor while the global seed is 0.
    keras.utils.set_random_seed(task.options.seed + 1)
    with _precision(task.options.precision):
        model = task.build()
    start.set_weights(model)
    if start.init == "sparse":
        sos.augment(model, masks, task.options.seed)
    return model


def build_model(
    task: Task, sparsification: Sparsification, dense: keras.Model | None = None
) -> keras.Model:
    """The compiled model of a run.

    Args:
      task: what to train.
      sparsification: how it is made sparse.
      dense: of `build_dense`, which is called if it is not given.
    """
    dense = build_dense(task) if dense is None else dense
    with _precision(task.options.precision):
        model = sparsification.apply(dense)
        # Here Keras adds the loss scaling that float16 needs.
        task.compile(model)
    if task.options.accumulate_steps > 1:
        accumulate(model, task.options.accumulate_steps)
    return model


@contextlib.contextmanager
def _precision(policy):
    """Layers are made under a mixed-precision policy; each keeps it."""
    previous = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(previous)
