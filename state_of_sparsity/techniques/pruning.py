"""The pruning family: a mask per weight, renewed on a schedule.

A technique of the family is a file with a dataclass that says what a weight is worth,
its score. Schedule, mask and wrapper are shared. The wrapper is TF-MOT's
`PruneLowMagnitude`, with the computation of masks, mixed precision, distribution
and serialization of our own: TF-MOT's callbacks, `strip_pruning` and `isinstance`
checks work with it.
"""

import abc
import collections
import dataclasses
import inspect
from typing import Self

from state_of_sparsity import masks
from state_of_sparsity.backend import (
    DepthwiseConv,
    PruneLowMagnitude,
    keras,
    raw_variable,
    register_layer,
    smart_cond,
    tf,
)
from state_of_sparsity.checks import check_fraction, check_integer
from state_of_sparsity.counting import is_first_call_in_graph
from state_of_sparsity.schedules import CubicSchedule
from state_of_sparsity.techniques.base import (
    Technique,
    restored_technique,
    saved_technique,
)
from state_of_sparsity.weights import (
    scope_of,
    sparsifiable_weights,
    technique_name,
    weight_variable,
)

MISSING_CALLBACK = (
    "The masks of a pruned model are renewed by training step, and nothing has "
    "started to count. Pass the callbacks to fit: "
    "model.fit(..., callbacks=sos.callbacks(model))"
)


@dataclasses.dataclass(frozen=True)
class PruningTechnique(Technique):
    """Base of the techniques that mask the weights of the lowest scores.

    Attributes:
      sparsity: share of the weights of each tensor that is zero after the ramp.
      begin_step: training step at which pruning begins.
      end_step: training step at which the final sparsity is reached.
      frequency: training steps from one renewal of the masks to the next.
    """

    sparsity: float
    begin_step: int
    end_step: int
    frequency: int

    def __post_init__(self):
        check_fraction("sparsity", self.sparsity)
        check_integer("begin_step", self.begin_step, minimum=0)
        check_integer("end_step", self.end_step, minimum=0)
        check_integer("frequency", self.frequency, minimum=1)
        if self.end_step < self.begin_step:
            raise ValueError(
                "end_step must not be before begin_step. Received: "
                f"begin_step={self.begin_step}, end_step={self.end_step}"
            )

    @abc.abstractmethod
    def score(self, weight: tf.Tensor, stream: tuple[int, int]) -> tf.Tensor:
        """What each weight is worth; those with the lowest scores are masked.

        Args:
          weight: the weight tensor, in the dtype in which it is stored.
          stream: two numbers that differ from tensor to tensor of a model, for
            random scores: the index of the layer, and of the weight within it.

        Returns:
          A float tensor of the same shape.
        """

    def mask(self, score: tf.Tensor, sparsity: tf.Tensor) -> tf.Tensor:
        """Boolean mask of the shape of the scores: true where a weight stays."""
        return masks.unstructured(score, sparsity)

    def check_weight(self, name: str, shape: tf.TensorShape) -> None:
        """Raises ValueError if weights of this shape cannot be masked."""
        del name, shape

    def schedule(self):
        """When the masks are renewed, and how sparse they are then."""
        return CubicSchedule(
            self.sparsity, self.begin_step, self.end_step, self.frequency
        )

    def applies_to(self, layer):
        # As in TF-MOT: a depthwise kernel has few weights, and each of them counts.
        return not isinstance(layer, DepthwiseConv)

    def with_sparsity(self, sparsity: float) -> Self:
        return dataclasses.replace(self, sparsity=sparsity)

    def sparse_layer(self, layer, copy, index):
        if not layer.built:
            return PrunedLayer(copy(layer), self, index)
        for name in sparsifiable_weights(layer):
            self.check_weight(
                f"{layer.name}/{name}", weight_variable(layer, name).shape
            )
        wrapper = PrunedLayer(copy(layer), self, index)
        # HDF5 files go by the names of weights, which have to differ.
        with tf.name_scope(f"{scope_of(layer)}/{wrapper.name}"):
            wrapper.build(layer.get_build_config()["input_shape"])
        return wrapper


@register_layer
class PrunedLayer(PruneLowMagnitude):
    """A layer whose weights are multiplied with masks that a technique renews.

    At each training step the masks are renewed if the schedule says so, then the
    weights that they mask are set to zero, then the layer computes as ever. A
    layer that is used several times in a step counts the step once. The gradient of
    a masked weight is not masked: it moves the optimizer's state, and the weight
    for as long as until the next step begins.

    Args:
      layer: a layer with weights to prune.
      technique: a `PruningTechnique`.
      index: makes the random numbers of this layer differ from those of others.
      **kwargs: of a Keras layer.
    """

    def __init__(self, layer, technique, index=0, **kwargs):
        if not hasattr(type(layer), "get_prunable_weights"):
            layer.get_prunable_weights = lambda: [
                weight_variable(layer, name) for name in sparsifiable_weights(layer)
            ]
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(layer, pruning_schedule=technique.schedule(), **kwargs)
        self.technique = technique
        self.index = index
        # Not an attribute to Keras, which would save it.
        vars(self)["_names_given"] = collections.Counter()

    def build(self, input_shape):
        super().build(input_shape)
        self.pruning_obj = _MaskUpdate(self)

    def add_weight(self, name, *args, **kwargs):
        # HDF5 files go by the names of variables, and TF-MOT names all masks alike.
        earlier = self._names_given[name]
        self._names_given[name] += 1
        unique = f"{name}_{earlier}" if earlier else name
        return super().add_weight(unique, *args, **kwargs)

    def call(self, inputs, *args, **kwargs):
        training = kwargs.get("training")
        if training is None:
            training = keras.backend.learning_phase()
        if is_first_call_in_graph(self, training):
            smart_cond(training, self._count_step_and_renew, tf.no_op)
            self.pruning_obj.weight_mask_op()
        return self.layer.call(inputs, *args, **self._expected_by_layer(kwargs))

    # Nothing here is for AutoGraph, which takes its time to find that out.
    @tf.autograph.experimental.do_not_convert
    def _count_step_and_renew(self):
        self.pruning_step.assign_add(1)
        self.pruning_obj.conditional_mask_update()
        return tf.no_op()

    def _expected_by_layer(self, kwargs):
        """Keras offers a wrapper `training` and `mask`; its layer may take neither."""
        parameters = inspect.signature(self.layer.call).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return kwargs
        return {
            name: value
            for name, value in kwargs.items()
            if name in parameters or name not in ("training", "mask")
        }

    def compute_mask(self, inputs, mask=None):
        if not self.layer.supports_masking:
            return None
        return self.layer.compute_mask(inputs, mask)

    def get_config(self):
        config = keras.layers.Wrapper.get_config(self)
        config["technique"] = saved_technique(self)
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        layer = keras.layers.deserialize(config.pop("layer"))
        saved = config.pop("technique")
        return cls(layer, restored_technique(saved), saved["index"], **config)


@technique_name.register
def _(layer: PrunedLayer) -> str:
    return layer.technique.technique_name()


class _MaskUpdate:
    """What TF-MOT's wrapper and callbacks ask of a wrapper's `pruning_obj`.

    Masks are computed once, across replicas, and assigned to each of them; weights
    are masked by each replica for itself.
    """

    def __init__(self, wrapper: PrunedLayer):
        self._wrapper = wrapper

    def conditional_mask_update(self):
        """Renews the masks if the schedule says so at this step."""
        _across_replicas(self._update)

    def _update(self, strategy):
        schedule = self._wrapper.pruning_schedule
        counter = self._wrapper.pruning_step

        # On a small model, the operations that run at every step are what pruning
        # costs. So all that a renewal needs is in the branch, and there in one node,
        # since a branch that is not taken still passes its nodes by.
        @tf.function(autograph=False, experimental_attributes={"_noinline": True})
        def renew():
            _, sparsity = schedule(tf.convert_to_tensor(counter))
            for position, variables in enumerate(self._wrapper.pruning_vars):
                self._renew(strategy, position, *map(raw_variable, variables), sparsity)

        step = tf.convert_to_tensor(counter)
        due, _ = schedule(step)
        not_counted = step < 1

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

    def _renew(self, strategy, position, weight, mask, threshold, sparsity):
        technique = self._wrapper.technique
        # The optimizer has moved what is pruned by a step since it was last masked. Its
        # score is that of zero, or else momentum alone would bring it back.
        score = technique.score(weight * mask, (self._wrapper.index, position))
        keep = technique.mask(score, sparsity)
        # For TF-MOT's PruningSummaries: the lowest score that stays.
        lowest_kept = tf.reduce_min(tf.where(keep, score, score.dtype.max))
        for variable, value in ((mask, keep), (threshold, lowest_kept)):
            value = tf.cast(value, variable.dtype)
            _update(strategy, _assign, variable, value)

    @tf.autograph.experimental.do_not_convert
    def weight_mask_op(self):
        """Sets the masked weights to zero."""

        def apply(strategy):
            for variables in self._wrapper.pruning_vars:
                weight, mask, _ = map(raw_variable, variables)
                _update(strategy, _multiply, weight, mask)

        _across_replicas(apply)


def _across_replicas(update):
    """Calls `update(strategy)` in cross-replica context."""
    context = tf.distribute.get_replica_context()
    if context is None:
        update(tf.distribute.get_strategy())
    else:
        context.merge_call(update)


def _update(strategy, function, variable, value):
    """Calls `function(variable, value)` for the copy of each replica."""
    if tf.distribute.has_strategy():
        strategy.extended.update(variable, function, args=(value,))
    else:
        # Outside of its strategy's scope, a variable takes care of its copies.
        function(variable, value)


def _assign(variable, value):
    return variable.assign(value)


def _multiply(variable, factor):
    return variable.assign(variable * factor)
