"""Renewals of the state of sparse layers in the forward pass."""

from state_of_sparsity.engines.tf_keras.backend import all_layers, tf
from state_of_sparsity.engines.tf_keras.counting import is_first_call_in_graph
from state_of_sparsity.engines.tf_keras.replicas import across_replicas, update_copies
from state_of_sparsity.engines.tf_keras.schedules import is_due
from state_of_sparsity.engines.tf_keras.weights import plain_layer_of
from state_of_sparsity.schedules import Never

MISSING_CALLBACK = (
    "The masks of a pruned model are renewed by training step, and nothing has "
    "started to count. Pass the callbacks to fit: "
    "model.fit(..., callbacks=sos.callbacks(model)). If the model was loaded and has "
    "one threshold for all layers, compile it again before."
)


class Renewal:
    """Renews the state of a layer, and of those that share a threshold with it.

    It is computed once, across replicas, and assigned to each of them.

    Args:
      layer: has a `technique`, an `index`, and four methods: `has_renewals()`, whether
        the technique renews any state of it; `step_counter()`; `weight_values()`, of
        each weight theta and the state by name; `assignments(position, theta, new)`,
        pairs of a variable and its new value, for what is renewed of the weight at a
        position.

    Attributes:
      together: the layers that are renewed when this one is, in the order of the model;
        None as long as that is not known. See `share_thresholds`.
    """

    def __init__(self, layer):
        self._layer = layer
        self._schedule = layer.technique.schedule()
        self.together = None if _has_companions(layer) else [layer]

    def begins(self, training) -> bool:
        """Whether a call of the layer is the first of all that are renewed with it."""
        if isinstance(self._schedule, Never) or not self._layer.has_renewals():
            return False
        first = (self.together or [self._layer])[0]
        return is_first_call_in_graph(first, training, "renewed")

    def renew_if_due(self) -> None:
        """Renews the state if the schedule says so at this step."""
        across_replicas(self._update)

    def _update(self, strategy):
        counter, known = self._layer.step_counter(), self.together

        # On a small model, the operations that run at every step are what pruning
        # costs. So all that a renewal needs is in the branch, and there in one node,
        # since a branch that is not taken still passes its nodes by.
        @tf.function(autograph=False, experimental_attributes={"_noinline": True})
        def renew():
            step = tf.cast(tf.convert_to_tensor(counter), tf.int32)
            _, index = self._schedule.find(step)
            self._renew(strategy, known or [self._layer], index)

        step = tf.convert_to_tensor(counter)
        due = is_due(self._schedule, step)
        not_counted = step < 1 if known else tf.constant(True)

        def check_and_renew():
            # The check is outside of the node. As soon as one fails, what other nodes
            # do is cancelled, and that might be the error that shows.
            check = tf.raw_ops.Assert(
                condition=tf.logical_not(not_counted), data=[MISSING_CALLBACK]
            )
            with tf.control_dependencies([check] if check is not None else []):
                renew()
                return tf.no_op()

        tf.cond(due | not_counted, check_and_renew, tf.no_op)

    def _renew(self, strategy, layers, index):
        places, weights = [], []
        for layer in layers:
            for position, (theta, state) in enumerate(layer.weight_values()):
                places.append((layer, position))
                weights.append((theta, state, (layer.index, position)))
        renewed = self._layer.technique.renewed(weights, index)
        for (layer, position), (theta, _, _), new in zip(
            places, weights, renewed, strict=True
        ):
            for variable, value in layer.assignments(position, theta, new):
                value = tf.cast(value, variable.dtype)
                update_copies(strategy, _assign, variable, value)


def _assign(variable, value):
    return variable.assign(value)


def share_thresholds(model) -> None:
    """Tells the layers in a model which others have one threshold with them.

    Raises:
      ValueError: if some of those are not in the model, or others like them are.
    """
    layers = [x for x in all_layers(model) if x.built and _has_companions(x)]
    for layer in layers:
        alike = [x for x in layers if x.technique == layer.technique]
        layer.technique.companions.check(
            [plain_layer_of(x).name for x in alike], [x.index for x in alike]
        )
        alike.sort(key=lambda x: x.index)
        layer.renewal.together = alike


def _has_companions(layer):
    technique = getattr(layer, "technique", None)
    return getattr(technique, "companions", None) is not None
