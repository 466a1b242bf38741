"""The pruning family in `tf_keras`, built on TF-MOT's `PruneLowMagnitude`.

The computation of masks, mixed precision, distribution and serialization are our own;
TF-MOT's callbacks, `strip_pruning` and `isinstance` checks work with it.
"""

import collections
import inspect
import math
import warnings

import numpy as np

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
from state_of_sparsity.engines.tf_keras.families import is_sparse
from state_of_sparsity.engines.tf_keras.renewal import Renewal, share_thresholds
from state_of_sparsity.engines.tf_keras.replicas import across_replicas, update_copies
from state_of_sparsity.engines.tf_keras.restoring import NO_MARK, ChecksWeights, refusal
from state_of_sparsity.engines.tf_keras.schedules import Schedule
from state_of_sparsity.engines.tf_keras.weights import (
    scope_of,
    weight_variable,
    wrapped_weights,
)
from state_of_sparsity.techniques.saving import restored_technique, saved_technique
from state_of_sparsity.techniques.state import Place


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
      technique: a `MaskingTechnique` whose masked weights stay masked.
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
        for position, (_, mask, _) in enumerate(self.pruning_vars):
            stream = self.index, position
            place = Place(tuple(mask.shape), names[position], stream)
            value = self.technique.state(place)["mask"].initial
            # TF-MOT's masks are ones already.
            if isinstance(value, np.ndarray):
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
            self.begin_step(training)
        return self.layer.call(inputs, *args, **self._expected_by_layer(kwargs))

    def begin_step(self, training):
        """Counts a step, if in training, renews masks if it is due, and masks weights.

        Args:
          training: as of a call.
        """
        count = self._count_step
        if self.renewal.begins(training):
            count = self._count_step_and_renew
        smart_cond(training, count, tf.no_op)
        self.pruning_obj.weight_mask_op()

    # Nothing here is for AutoGraph, which takes its time to find that out.
    @tf.autograph.experimental.do_not_convert
    def _count_step(self):
        self.pruning_step.assign_add(1)
        return tf.no_op()

    @tf.autograph.experimental.do_not_convert
    def _count_step_and_renew(self):
        self._count_step()
        self.renewal.renew_if_due()
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
    def renewal(self):
        """Of its masks."""
        return self.pruning_obj

    def has_renewals(self):
        """Whether masks are renewed: if the schedule says so."""
        return True

    def step_counter(self):
        """The variable that counts training steps."""
        return self.pruning_step

    def weight_values(self):
        """Of each weight that is masked its values and its mask."""
        pairs = [map(raw_variable, held[:2]) for held in self.pruning_vars]
        return [
            (tf.convert_to_tensor(weight), {"mask": tf.cast(mask, tf.bool)})
            for weight, mask in pairs
        ]

    def assignments(self, position, theta, new):
        """Pairs of a variable and its value after a renewal of a weight's mask."""
        _, mask, threshold = map(raw_variable, self.pruning_vars[position])
        # For TF-MOT's PruningSummaries: the smallest magnitude that stays.
        kept = tf.reduce_min(tf.where(new["mask"], tf.abs(theta), theta.dtype.max))
        return [(mask, new["mask"]), (threshold, kept)]

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

    @property
    def mark(self):
        return NO_MARK

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


def pruned_layer(technique, layer, copy, index):
    """The wrapper that stands in the sparse model for a dense layer.

    The arguments are those of `sparse_layers.sparse_layer`.
    """
    wrapper = PrunedLayer(copy(layer), technique, index)
    if layer.built:
        # HDF5 files go by the names of weights, which have to differ.
        with tf.name_scope(f"{scope_of(layer)}/{wrapper.name}"):
            wrapper.build(layer.get_build_config()["input_shape"])
    return wrapper


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


class _MaskUpdate(Renewal):
    """The `pruning_obj` of a wrapper, which TF-MOT's callbacks ask to mask weights.

    Each replica masks them for itself.
    """

    def __init__(self, wrapper: PrunedLayer):
        super().__init__(wrapper)
        self._wrapper = wrapper

    @tf.autograph.experimental.do_not_convert
    def weight_mask_op(self):
        """Sets the masked weights to zero."""

        def apply(strategy):
            for variables in self._wrapper.pruning_vars:
                weight, mask, _ = map(raw_variable, variables)
                update_copies(strategy, _multiply, weight, mask)

        across_replicas(apply)


def _multiply(variable, factor):
    return variable.assign(variable * factor)
