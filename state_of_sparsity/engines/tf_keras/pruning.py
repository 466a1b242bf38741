"""The pruning family in `tf_keras`, built on TF-MOT's `PruneLowMagnitude`.

The computation of masks, mixed precision, distribution and serialization are our own;
TF-MOT's callbacks, `strip_pruning` and `isinstance` checks work with it.
"""

import collections
import functools
import inspect
import math
import warnings

import numpy as np

from state_of_sparsity import masks
from state_of_sparsity.engines.tf_keras.backend import (
    PruneLowMagnitude,
    UpdatePruningStep,
    all_layers,
    carry_activity_regularizer,
    keras,
    raw_variable,
    register_layer,
    smart_cond,
    tf,
)
from state_of_sparsity.engines.tf_keras.counting import is_first_call_in_graph
from state_of_sparsity.engines.tf_keras.families import is_sparse, sparse_layer
from state_of_sparsity.engines.tf_keras.restoring import ChecksWeights, refusal
from state_of_sparsity.engines.tf_keras.schedules import Schedule, zero_count
from state_of_sparsity.engines.tf_keras.weights import (
    scope_of,
    weight_variable,
    wrapped_weights,
)
from state_of_sparsity.schedules import Never
from state_of_sparsity.techniques.masked import MaskingTechnique
from state_of_sparsity.techniques.saving import restored_technique, saved_technique

MISSING_CALLBACK = (
    "The masks of a pruned model are renewed by training step, and nothing has "
    "started to count. Pass the callbacks to fit: "
    "model.fit(..., callbacks=sos.callbacks(model)). If the model was loaded and has "
    "one threshold for all layers, compile it again before."
)


@register_layer
class PrunedLayer(ChecksWeights, PruneLowMagnitude):
    """A layer whose weights are multiplied with masks that a technique renews.

    At each training step the masks are renewed if the schedule says so, then the
    weights that they mask are set to zero, then the layer computes as ever. A
    layer that is used several times in a step counts the step once. The gradient of
    a masked weight is not masked: it moves the optimizer's state, and the weight
    for as long as until the next step begins.

    Args:
      layer: a layer with weights to prune.
      technique: a `MaskingTechnique`.
      index: makes the random numbers of this layer differ from those of others.
      **kwargs: of a Keras layer.
    """

    def __init__(self, layer, technique, index=0, **kwargs):
        if not hasattr(type(layer), "get_prunable_weights"):
            layer.get_prunable_weights = lambda: [
                weight_variable(layer, name)
                for name in wrapped_weights(layer, technique)
            ]
        kwargs.setdefault("dtype", layer.dtype_policy)
        schedule = Schedule(technique.schedule())
        super().__init__(layer, pruning_schedule=schedule, **kwargs)
        # The layer within is not called as Keras calls layers, which regularizes.
        carry_activity_regularizer(layer, self)
        self.technique = technique
        self.index = index
        # Not an attribute to Keras, which would save it.
        vars(self)["_names_given"] = collections.Counter()

    def build(self, input_shape):
        super().build(input_shape)
        self.pruning_obj = _MaskUpdate(self)
        names = wrapped_weights(self.layer, self.technique)
        for name, (_, mask, _) in zip(names, self.pruning_vars, strict=True):
            value = self.technique.extra_value(name)
            if value is not None:
                mask.assign(tf.cast(value, mask.dtype))

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
            count = self._count_step
            if self._is_first_of_all_in_graph(training):
                count = self._count_step_and_renew
            smart_cond(training, count, tf.no_op)
            self.pruning_obj.weight_mask_op()
        return self.layer.call(inputs, *args, **self._expected_by_layer(kwargs))

    def _is_first_of_all_in_graph(self, training):
        """Whether no layer that is renewed with this one was called before it."""
        first = (self.pruning_obj.renewed_together or [self])[0]
        return is_first_call_in_graph(first, training, "renewed")

    # Nothing here is for AutoGraph, which takes its time to find that out.
    @tf.autograph.experimental.do_not_convert
    def _count_step(self):
        self.pruning_step.assign_add(1)
        return tf.no_op()

    @tf.autograph.experimental.do_not_convert
    def _count_step_and_renew(self):
        self._count_step()
        if not isinstance(self.technique.schedule(), Never):
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

    @property
    def kernel(self):
        """The weight of that name of the layer, which Keras's wrappers look for."""
        return self.layer.kernel

    @property
    def embeddings(self):
        """As `kernel`."""
        return self.layer.embeddings

    @property
    def states(self):
        """Those of a recurrent layer."""
        return self.layer.states

    def reset_states(self, states=None):
        """Sets the states of a recurrent layer, to zero unless some are given."""
        self.layer.reset_states(states)

    def compute_mask(self, inputs, mask=None):
        if not self.layer.supports_masking:
            return None
        return self.layer.compute_mask(inputs, mask)

    def save_own_variables(self, store):
        """Saves what is not in the wrapped layer, which saves its own weights.

        Of each mask a bit per weight, in the order of memory.
        """
        for position, (_, mask, _) in enumerate(self.pruning_vars):
            keep = raw_variable(mask).numpy() != 0
            store[f"mask_{position}"] = np.packbits(keep)
        # One read less for each weight.
        thresholds = [raw_variable(t).numpy() for _, _, t in self.pruning_vars]
        store["thresholds"] = np.asarray(thresholds, np.float32)
        store["pruning_step"] = self.pruning_step.numpy()

    def load_own_variables(self, store):
        """Loads what `save_own_variables` has saved."""
        thresholds = np.asarray(store.get("thresholds", []))
        if len(thresholds) != len(self.pruning_vars):
            masks_here = len(self.pruning_vars)
            raise refusal(
                self, f"a layer with {len(thresholds)} masks, not {masks_here}"
            )
        for position, (_, mask, threshold) in enumerate(self.pruning_vars):
            packed, size = np.asarray(store[f"mask_{position}"]), math.prod(mask.shape)
            if len(packed) != math.ceil(size / 8):
                raise ValueError(
                    f"A mask of layer {self.layer.name!r} is of shape {mask.shape}, "
                    f"and that in the file of {len(packed)} bytes: it is of another "
                    "model."
                )
            keep = np.unpackbits(packed, count=size).reshape(mask.shape)
            mask.assign(tf.cast(keep, mask.dtype))
            threshold.assign(tf.cast(thresholds[position], threshold.dtype))
        self.pruning_step.assign(store["pruning_step"][()])

    def marked_variable(self):
        return self.pruning_step

    def lacks_weight(self, name):
        super().lacks_weight(name)
        weights = wrapped_weights(self.layer, self.technique)
        if name in {weight.partition(".")[0] for weight in weights}:
            raise refusal(self, "a layer that is not pruned")

    def get_config(self):
        config = keras.layers.Wrapper.get_config(self)
        config["technique"] = saved_technique(self.technique, index=self.index)
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        layer = keras.layers.deserialize(config.pop("layer"))
        saved = config.pop("technique")
        return cls(layer, restored_technique(saved), saved["index"], **config)


@sparse_layer.register
def _(technique: MaskingTechnique, layer, copy, index):
    wrapper = PrunedLayer(copy(layer), technique, index)
    if layer.built:
        # HDF5 files go by the names of weights, which have to differ.
        with tf.name_scope(f"{scope_of(layer)}/{wrapper.name}"):
            wrapper.build(layer.get_build_config()["input_shape"])
    return wrapper


def share_thresholds(model) -> None:
    """Tells the wrappers in a model which others have one threshold with them.

    Raises:
      ValueError: if some of those are not in the model, or others like them are.
    """
    wrappers = [x for x in all_layers(model) if _has_companions(x)]
    for wrapper in wrappers:
        alike = [x for x in wrappers if x.technique == wrapper.technique]
        wrapper.technique.shared_threshold.check(
            [x.layer.name for x in alike], [x.index for x in alike]
        )
        alike.sort(key=lambda x: x.index)
        wrapper.pruning_obj.renewed_together = alike


def _has_companions(layer):
    technique = getattr(layer, "technique", None)
    return getattr(technique, "shared_threshold", None) is not None


class PruningStep(UpdatePruningStep):
    """Starts the count of steps, and zeroes masked weights after each epoch.

    TF-MOT's callback, which finds the wrappers of subclassed models and of custom
    layers, too.
    """

    def on_train_begin(self, logs=None):
        self.prunable_layers = [
            layer
            for layer in all_layers(self.model)
            if isinstance(layer, PruneLowMagnitude)
        ]
        share_thresholds(self.model)
        for layer in self.prunable_layers:
            # It is -1 until training begins; a restored model counts on.
            if layer.pruning_step.numpy() < 0:
                layer.pruning_step.assign(0)
        self._begun_at = self._steps()

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if self._begun_at == self._steps() != []:
            warnings.warn(
                f"No sparse layer of model {self.model.name!r} has counted a step in "
                "this epoch: they are called as in inference. Give the `call` of the "
                "model around them an argument `training`, and pass it on.",
                stacklevel=2,
            )
        self._begun_at = None

    def _steps(self):
        """What the sparse layers have counted."""
        layers = [x for x in all_layers(self.model) if x.built and is_sparse(x)]
        names = ("pruning_step", "training_step")
        steps = [getattr(x, n) for x in layers for n in names if hasattr(x, n)]
        return [int(step.numpy()) for step in steps]


class _MaskUpdate:
    """What TF-MOT's wrapper and callbacks ask of a wrapper's `pruning_obj`.

    Masks are computed once, across replicas, and assigned to each of them; weights
    are masked by each replica for itself.

    Args:
      wrapper: whose masks they are.

    Attributes:
      renewed_together: the wrappers that are renewed when this one is, in the order of
        the model; None as long as that is not known. See `share_thresholds`.
    """

    def __init__(self, wrapper: PrunedLayer):
        self._wrapper = wrapper
        self.renewed_together = None if _has_companions(wrapper) else [wrapper]

    def conditional_mask_update(self):
        """Renews the masks if the schedule says so at this step."""
        _across_replicas(self._update)

    def _update(self, strategy):
        schedule = self._wrapper.pruning_schedule
        known = self.renewed_together
        counter = self._wrapper.pruning_step

        # On a small model, the operations that run at every step are what pruning
        # costs. So all that a renewal needs is in the branch, and there in one node,
        # since a branch that is not taken still passes its nodes by.
        @tf.function(autograph=False, experimental_attributes={"_noinline": True})
        def renew():
            _, sparsity = schedule(tf.convert_to_tensor(counter))
            self._renew(strategy, known or [self._wrapper], sparsity)

        step = tf.convert_to_tensor(counter)
        due, _ = schedule(step)
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

    def _renew(self, strategy, wrappers, sparsity):
        technique = self._wrapper.technique
        variables, weights = [], []
        for wrapper in wrappers:
            for position, held in enumerate(wrapper.pruning_vars):
                weight, mask, threshold = map(raw_variable, held)
                theta, old = tf.convert_to_tensor(weight), tf.cast(mask, tf.bool)
                weights.append((theta, old, (wrapper.index, position)))
                variables.append((mask, threshold))
        units = technique.units([theta.shape for theta, _, _ in weights])
        zeros = [zero_count(sparsity, *number) for number in units]
        renewed = technique.renewed_masks(weights, zeros, _lowest)
        for (mask, threshold), (theta, _, _), keep in zip(
            variables, weights, renewed, strict=True
        ):
            # For TF-MOT's PruningSummaries: the smallest magnitude that stays.
            kept = tf.reduce_min(tf.where(keep, tf.abs(theta), theta.dtype.max))
            for variable, value in ((mask, keep), (threshold, kept)):
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


def _lowest(scores, count):
    """`masks.lowest` in a graph that all tensors of a size have in common.

    A model has many of them, and the graph of a training step would repeat it for each.
    """
    vector = tf.reshape(tf.cast(scores, tf.float32), [-1])
    marked = _lowest_of(vector.shape[0])(vector, count)
    return tf.reshape(marked, scores.shape)


@functools.cache
def _lowest_of(size):
    signature = [tf.TensorSpec([size], tf.float32), tf.TensorSpec([], tf.int32)]
    return tf.function(masks.lowest, input_signature=signature, autograph=False)


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
