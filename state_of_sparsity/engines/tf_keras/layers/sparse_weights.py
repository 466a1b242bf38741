"""A weight of a learned layer, and the variables beside it."""

import numpy as np

from state_of_sparsity.engines.tf_keras.backend import (
    keras,
    loss_functions,
    other_regularization,
    raw_variable,
    regularization_of,
    set_constraint,
    tf,
)
from state_of_sparsity.engines.tf_keras.weights import weight_variable
from state_of_sparsity.techniques.state import BACKWARD, OPTIMIZER, Place, State


class SparseWeight:
    """A weight of a learned layer and what the technique keeps beside it.

    Attributes:
      name: dotted attribute of the layer, "cell.kernel".
      position: among the weights of the layer that are sparse.
      theta: the trainable weight.
      attributes: of the layer, which hold the state, by the names that the technique
        has for it.
      state: the variables beside it, likewise.
      is_elementwise: whether a part of the weight that is used needs no more than that
        part of theta and of the state.
    """

    def __init__(self, layer, name, position):
        self._layer = layer
        self.name, self.position = name, position
        self.theta = raw_variable(weight_variable(layer, name))
        technique = layer.technique
        place = Place(tuple(self.theta.shape), name, (layer.index, position))
        states = technique.state(place)
        self._changed_by = {key: state.changed_by for key, state in states.items()}
        prefix = layer.sparse_weights[name]
        self.attributes = {key: _free_name(layer, prefix + key) for key in states}
        self.state = {
            key: _added(layer, self.attributes[key], self.theta, state)
            for key, state in states.items()
        }
        self.is_elementwise = not technique.has_own("backward") and all(
            state.shape in (None, ()) for state in states.values()
        )
        if technique.has_own("initial_theta"):
            theta = technique.initial_theta(tf.cast(self.theta, tf.float32))
            self.theta.assign(tf.cast(theta, self.theta.dtype))
        self._constraint = self.theta.constraint
        self._place, self._regularization = None, None
        if technique.has_own("regularized_weight"):
            self._place = regularization_of(layer, self.theta)
        if self._place is not None:
            self._regularization = loss_functions(layer)[self._place]
        self.take_part()

    def take_part(self):
        """Has an optimizer project theta, and a regularizer see what it is to see."""
        if self._layer.technique.has_own("projected"):
            set_constraint(self.theta, self._projected)
        if self._place is not None:
            loss = other_regularization(self._regularization, self._regularized)
            loss_functions(self._layer)[self._place] = loss

    def step_back(self):
        """Gives theta the constraint and the regularization of the plain layer."""
        set_constraint(self.theta, self._constraint)
        if self._place is not None:
            loss_functions(self._layer)[self._place] = self._regularization

    def names(self, changed_by: str) -> list[str]:
        """The names of the state that something changes; see `State`."""
        return [name for name, by in self._changed_by.items() if by == changed_by]

    def values(self, part=tf.convert_to_tensor):
        """Theta, in float32, and the state by name, or a part of each of them."""
        theta = part(tf.cast(self.theta, tf.float32))
        # A scalar is of all of them.
        return theta, {
            name: part(value) if value.shape.rank else tf.convert_to_tensor(value)
            for name, value in self.state.items()
        }

    def _projected(self, theta):
        if self._constraint is not None:
            theta = self._constraint(theta)
        theta = tf.convert_to_tensor(theta)
        state = {n: tf.convert_to_tensor(self.state[n]) for n in self.names(BACKWARD)}
        technique = self._layer.technique
        projected = technique.projected(tf.cast(theta, tf.float32), state)
        return tf.cast(projected, theta.dtype)

    def _regularized(self, theta):
        _, state = self.values()
        theta = tf.convert_to_tensor(theta)
        return self._layer.technique.regularized_weight(theta, state)


def _added(layer, attribute, theta, state: State):
    """A new weight of a layer, in an attribute of that name."""
    is_trained = state.changed_by == OPTIMIZER
    further = {} if is_trained else {"aggregation": _FIRST}
    variable = layer.add_weight(
        attribute,
        shape=theta.shape if state.shape is None else state.shape,
        initializer=_initializer(state),
        dtype=state.dtype,
        trainable=is_trained,
        experimental_autocast=False,
        **further,
    )
    setattr(layer, attribute, variable)
    return variable


_FIRST = tf.VariableAggregation.ONLY_FIRST_REPLICA


def _initializer(state):
    if state.deviation:
        return keras.initializers.RandomNormal(state.initial, state.deviation)
    initial = np.asarray(state.initial)

    def broadcast(shape, dtype=None, **kwargs):
        del kwargs
        return tf.cast(tf.broadcast_to(initial, shape), dtype)

    return broadcast


def _free_name(layer, stem):
    name, number = stem, 1
    while hasattr(layer, name):
        name, number = f"{stem}_{number}", number + 1
    return name
