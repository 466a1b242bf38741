"""The masks of runs that prune before their first step: SNIP, GraSP, SynFlow."""

from collections.abc import Iterator

import numpy as np

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import all_layers, keras, tf
from state_of_sparsity.models.training.loop.building import build_dense
from state_of_sparsity.models.training.loop.sparsification import Sparsification
from state_of_sparsity.models.training.loop.task import Task
from state_of_sparsity.models.training.rewinding.kept_weights import Start


def initial_masks(
    task: Task, sparsification: Sparsification, start: Start
) -> dict[str, np.ndarray]:
    """Which of the initial weights stay, by name: see `sos.one_shot`.

    Gradients are those of the task's loss, without weight decay, in training mode.
    Scales of batch normalization that are zero, as at the end of a residual block,
    count as ones: behind a zero, no weight would have a score.

    Args:
      task: what to train, made outside of the scope of a strategy: on one device.
      sparsification: `is_initial`.
      start: the initial values, and the number of training batches.
    """
    dense = build_dense(task, start)
    for norm in filter(_is_scaled_norm, all_layers(dense)):
        if not norm.gamma.numpy().any():
            norm.gamma.assign(tf.ones_like(norm.gamma))
    task.compile(dense)

    def loss(targets, outputs):
        labels, *weights = targets
        return dense.loss(labels, outputs, *weights)

    sparse = sos.one_shot(
        dense,
        sparsification.technique,
        _examples(task, start.mask_batches) if start.mask_batches else None,
        sparsification.budget_of_layers,
        sparsification.overrides,
        loss=loss,
    )
    return sos.weight_masks(sparse)


def _is_scaled_norm(layer):
    return isinstance(layer, keras.layers.BatchNormalization) and layer.scale


def _examples(task, batches) -> Iterator[tuple]:
    """Inputs and targets of the first batches, in as many parts as in training."""
    parts = task.options.accumulate_steps
    for batch in task.training_data(0).take(batches):
        for part in range(parts):
            inputs, *targets = tf.nest.map_structure(
                lambda x, part=part: x[part::parts], batch
            )
            yield inputs, targets
