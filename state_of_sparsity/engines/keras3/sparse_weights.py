"""A weight of a sparse layer, and the variables beside it."""

import keras
import numpy as np
from keras import ops

from state_of_sparsity.engines.keras3 import adapters, private
from state_of_sparsity.numerics import at_least_float32
from state_of_sparsity.techniques.state import BACKWARD, OPTIMIZER, Place, State


class SparseWeight:
    """A weight of a sparse layer and what the technique keeps beside it.

    Attributes:
      label: its name within the layer, "kernel".
      path: attributes that lead to it; see `kinds.Located`.
      position: among the weights of the layer.
      theta: the trainable weight.
      state: the variables beside it, by the names that the technique has for them.
      regularizer: of the weight in the plain layer.
      constraint: likewise.
      is_elementwise: whether a part of the weight that is used needs no more than that
        part of theta and of the state.
    """

    def __init__(self, layer, located, position):
        self._layer = layer
        self.label, self.path = located.label, located.path
        self.theta, self.position = located.variable, position
        technique = layer.technique
        states = technique.state(
            Place(tuple(self.theta.shape), self.label, (layer.index, position))
        )
        self._changed_by = {name: state.changed_by for name, state in states.items()}
        self.state = {
            name: _variable(layer, self.theta, name, state)
            for name, state in states.items()
        }
        self.is_elementwise = not technique.has_own("backward") and all(
            state.shape in (None, ()) for state in states.values()
        )
        if technique.has_own("initial_theta"):
            self.theta.assign(technique.initial_theta(self.values()[0]))
        self.regularizer, self.constraint = (
            self.theta.regularizer,
            self.theta.constraint,
        )
        self._take_part_in_training()

    def _take_part_in_training(self):
        technique = self._layer.technique
        if technique.has_own("projected"):
            self.theta.constraint = self._projected
        if self.regularizer is not None and technique.has_own("regularized_weight"):
            self.theta.regularizer = self._regularized
        if technique.has_own("penalty"):
            # It is what a regularizer is: once for each variable, however often the
            # layer is used, and among the losses of every model that holds it.
            trained = self.names(OPTIMIZER)
            if trained:
                self.state[trained[0]].regularizer = self._penalized
            else:
                of_layer = self.theta.regularizer or _nothing
                self.theta.regularizer = lambda theta: (
                    of_layer(theta) + self._penalized(theta)
                )

    def names(self, changed_by: str) -> list[str]:
        """The names of the state that something changes; see `State`."""
        return [name for name, by in self._changed_by.items() if by == changed_by]

    def values(self):
        """Theta, in float32 at least, and the state by name."""
        theta, state = self.differentiable_values()
        # What is overwritten with its gradient gets none but from the backward pass.
        stopped = {
            name: ops.stop_gradient(state[name]) for name in self.names(BACKWARD)
        }
        return theta, state | stopped

    def differentiable_values(self):
        """The same, through which the backward pass hands over the new state."""
        theta = at_least_float32(private.in_full_precision(self.theta))
        theta = adapters.with_adapters(self._layer, self.label, theta)
        return theta, self._state_now(self.state)

    def _state_now(self, names):
        return {
            # On TensorFlow, the value of a variable is a variable.
            name: ops.convert_to_tensor(private.in_full_precision(self.state[name]))
            for name in names
        }

    def _projected(self, theta):
        if self.constraint is not None:
            theta = self.constraint(theta)
        # On JAX, an optimizer has the values of variables that are trained, alone.
        state = self._state_now(self.names(BACKWARD))
        theta = ops.convert_to_tensor(theta)
        return self._layer.technique.projected(theta, state)

    def _regularized(self, theta):
        theta = ops.convert_to_tensor(theta)
        used = self._layer.technique.regularized_weight(theta, self.values()[1])
        return self.regularizer(used)

    def _penalized(self, _):
        # Within a step, it has been counted already.
        step = ops.maximum(private.in_full_precision(self._layer.training_step) - 1, 0)
        return self._layer.technique.weighted_penalty(*self.values(), step)


def _nothing(_):
    return 0.0


def _variable(layer, theta, name, state: State):
    is_trained = state.changed_by == OPTIMIZER
    return private.extra_variable(
        layer,
        _free_name(layer, theta.name, name),
        theta if state.shape is None else None,
        shape=tuple(theta.shape) if state.shape is None else state.shape,
        dtype=state.dtype,
        initializer=_initializer(state),
        trainable=is_trained or state.changed_by == BACKWARD,
        overwrite_with_gradient=state.changed_by == BACKWARD,
        aggregation="mean" if is_trained else "only_first_replica",
    )


def _initializer(state):
    if state.deviation:
        return keras.initializers.RandomNormal(state.initial, state.deviation)
    if isinstance(state.initial, np.ndarray):
        return lambda shape, dtype: ops.convert_to_tensor(state.initial, dtype)
    return keras.initializers.Constant(state.initial)


def _free_name(layer, weight_name, state_name):
    """ "log_alpha" beside "kernel", "recurrent_log_alpha" beside "recurrent_kernel"."""
    stem = weight_name.removesuffix("kernel").removesuffix("embeddings")
    stem = f"{stem.rstrip('_')}_{state_name}" if stem else state_name
    name, number = stem, 1
    while hasattr(layer, name):
        name, number = f"{stem}_{number}", number + 1
    return name
