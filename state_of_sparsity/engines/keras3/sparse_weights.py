"""A weight of a sparse layer, and the variable beside it."""

import keras
from keras import ops

from state_of_sparsity.engines.keras3 import private
from state_of_sparsity.numerics import at_least_float32


class SparseWeight:
    """A weight of a sparse layer and what the technique holds beside it.

    Attributes:
      label: its name within the layer, "kernel".
      path: attributes that lead to it; see `kinds.Located`.
      position: among the weights of the layer.
      theta: the trainable weight.
      extra: the variable of its shape beside it: mask, log_alpha, log_sigma2.
      regularizer: of the weight in the plain layer.
    """

    def __init__(self, layer, located, position):
        self.label, self.path = located.label, located.path
        self.theta, self.position = located.variable, position
        self.regularizer = self.theta.regularizer
        technique = layer.technique
        self.extra = private.extra_variable(
            layer,
            _free_name(layer, self.theta.name, technique.extra_name),
            self.theta,
            shape=tuple(self.theta.shape),
            dtype=technique.extra_dtype,
            initializer=_initializer(technique, self.label),
            trainable=technique.extra_is_trained,
            aggregation="mean" if technique.extra_is_trained else "only_first_replica",
        )
        # The penalty is what a regularizer is: once for each variable, however often
        # the layer is used, and among the losses of every model that holds it.
        if technique.extra_is_trained:
            self.extra.regularizer = lambda extra: layer.technique.weighted_penalty(
                layer.penalty_weight(), self.values()[0], ops.convert_to_tensor(extra)
            )
        elif self.regularizer is not None:
            self.theta.regularizer = lambda theta: self.regularizer(
                technique.regularized_weight(
                    ops.convert_to_tensor(theta), self.values()[1]
                )
            )

    def values(self):
        """Theta, in float32 at least, and the extra tensor."""
        theta = at_least_float32(private.in_full_precision(self.theta))
        return theta, private.in_full_precision(self.extra)


def _initializer(technique, attribute):
    value = technique.extra_value(attribute)
    if value is not None:
        return lambda shape, dtype: ops.convert_to_tensor(value, dtype)
    mean, deviation = technique.extra_initial
    if deviation:
        return keras.initializers.RandomNormal(mean, deviation)
    return keras.initializers.Constant(mean)


def _free_name(layer, weight_name, extra_name):
    """ "log_alpha" beside "kernel", "recurrent_log_alpha" beside "recurrent_kernel"."""
    stem = weight_name.removesuffix("kernel").removesuffix("embeddings")
    stem = f"{stem.rstrip('_')}_{extra_name}" if stem else extra_name
    name, number = stem, 1
    while hasattr(layer, name):
        name, number = f"{stem}_{number}", number + 1
    return name
