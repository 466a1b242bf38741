"""Gradient accumulation: a training step that takes its batch in parts.

Part after part goes through the model and back, in a loop, so that the activations of
one are in memory at a time. The gradients add up, and the optimizer takes one step,
that of the whole batch. What belongs to a step is done once: layers count it and renew
masks before the first part, penalties count once, and a technique with a backward pass
gets the gradient of the batch. Noise differs between parts as it does between replicas.
"""

import types

from state_of_sparsity.engines.tf_keras.backend import (
    all_layers,
    keras,
    tf,
    without_autograph,
)
from state_of_sparsity.engines.tf_keras.parts import Part, StepInParts


def accumulate(model: keras.Model, parts: int) -> None:
    """Has `fit` take each batch of a replica in parts, one after the other.

    Batch normalization is over the examples of a part; its moving averages take the
    mean over the parts, as `tf.distribute` takes it over replicas.

    Args:
      model: compiled with one loss: a mean over examples, or a sum with weights.
      parts: how many, of equal size: they have to divide the examples of a batch.
    """

    @without_autograph
    def train_step(self, data):
        return _train_step(self, data, parts)

    # Past Keras's tracking; copies of a model leave its methods out.
    vars(model)["train_step"] = types.MethodType(train_step, model)


def _train_step(model, data, parts):
    optimizer, variables = model.optimizer, model.trainable_variables
    # float16 needs a loss that is scaled.
    scales = isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer)
    with tf.GradientTape() as tape:
        step = StepInParts(model)
        penalty = tf.add_n([tf.zeros(()), *model.losses])
        common = [penalty, *step.weights]
    averages = _Averages(model)

    def add_part(number, sums, sums_of_common, totals):
        x, y, weights = _part_of(data, number, parts, model.loss.reduction)
        # In the graph of the loop, where a tape sees them.
        penalty, *used = inside = [tf.identity(tensor) for tensor in common]
        with tf.GradientTape() as tape, step.part(Part(number, parts), used):
            tape.watch(inside)
            outputs = model(x, training=True)
            loss = model.compiled_loss(y, outputs, weights, [penalty]) / parts
            loss = optimizer.get_scaled_loss(loss) if scales else loss
        model.compiled_metrics.update_state(y, outputs, weights)
        found = tape.gradient(loss, [variables, inside], unconnected_gradients=_ZERO)
        added = tf.nest.map_structure(tf.add, [sums, sums_of_common], found)
        return number + 1, *added, averages.plus_part(totals)

    zeros = tf.nest.map_structure(tf.zeros_like, [variables, common])
    start = (tf.constant(0), *zeros, averages.zeros())
    _, sums, sums_of_common, totals = tf.while_loop(
        lambda number, *_: number < parts, add_part, start, parallel_iterations=1
    )
    averages.set_to_mean(totals, parts)
    behind = tape.gradient(common, variables, sums_of_common, _ZERO)
    gradients = [tf.add(*pair) for pair in zip(sums, behind, strict=True)]
    if scales:
        gradients = optimizer.get_unscaled_gradients(gradients)
    optimizer.apply_gradients(zip(gradients, variables, strict=True))
    return model.get_metrics_result()


_ZERO = tf.UnconnectedGradients.ZERO


def _part_of(data, number, parts, reduction):
    """A part of `(x, y)` or of `(x, y, weights)`.

    Where a loss is a sum, weights make the mean over the parts what the sum is.
    """
    x, y, weights = keras.utils.unpack_x_y_sample_weight(
        tf.nest.map_structure(
            lambda t: tf.reshape(t, [parts, -1, *t.shape[1:]])[number], data
        )
    )
    if reduction == keras.losses.Reduction.SUM and weights is not None:
        weights *= parts
    return x, y, weights


class _Averages:
    """The moving averages of batch normalization, which each part changes.

    All parts change those of before the step, and the step ends with the mean.
    """

    def __init__(self, model):
        self._variables = [
            variable
            for layer in all_layers(model)
            if isinstance(layer, keras.layers.BatchNormalization)
            for variable in (layer.moving_mean, layer.moving_variance)
        ]
        self._before = [variable.read_value() for variable in self._variables]

    def zeros(self):
        return [tf.zeros_like(value) for value in self._before]

    def plus_part(self, totals):
        """Adds what a part has made of the averages, and sets them back."""
        added = [
            t + v.read_value() for t, v in zip(totals, self._variables, strict=True)
        ]
        self._set(self._before)
        return added

    def set_to_mean(self, totals, parts):
        self._set([total / parts for total in totals])

    def _set(self, values):
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)
