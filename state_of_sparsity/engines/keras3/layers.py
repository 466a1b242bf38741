"""Sparse layers of Keras 3, whatever their kind."""

import functools
import random
import warnings
import weakref
from typing import ClassVar

import keras
import numpy as np
from keras import ops

from state_of_sparsity.engines.keras3 import feedback, maps, private, sharing
from state_of_sparsity.engines.keras3.kinds import located_weights
from state_of_sparsity.engines.keras3.noise import Noise
from state_of_sparsity.engines.keras3.sparse_weights import SparseWeight
from state_of_sparsity.schedules import Never
from state_of_sparsity.techniques.base import Technique
from state_of_sparsity.techniques.fixed_mask import FixedMask
from state_of_sparsity.techniques.saving import restored_technique, saved_technique
from state_of_sparsity.techniques.state import RENEWAL

# Before the name of what a technique has for each weight, in files.
_EXTRA = "extra_"
# Tokens of calls of models about which a warning has been given.
_NOTICED: weakref.WeakSet = weakref.WeakSet()
_register = keras.saving.register_keras_serializable("state_of_sparsity", "Sparse")


@_register
class Sparse:
    """Put before the class of a Keras layer, computes with the weights of a technique.

    Attributes:
      plain_class: of the layer in a dense model.
      technique: with the hyperparameters.
      index: makes the random numbers of this layer differ from those of others.
      sparse_weights: a `SparseWeight` each; none until the layer is built.
      training_step: in how many training steps the layer has taken part.
      noise_seed: of a technique that draws noise, the seed.
    """

    plain_class: ClassVar[type[keras.layers.Layer]]

    def call(self, *args, training=None, **kwargs):
        if training:
            self._begin_step()
        return self._map(self, training, *args, **kwargs)

    @functools.cached_property
    def _map(self):
        return maps.map_of(self)

    def plain_call(self, values, *args, training=None, **kwargs):
        """Computes as the plain class does, with other values of some attributes."""
        if "training" in private.call_parameters(self.plain_class):
            kwargs["training"] = training
        if getattr(self, "lora_enabled", False):
            # It is in the weights already.
            values = {**values, ("lora_enabled",): False}
        # A class made by hand has a plain class further up.
        return self.plain_class.call(maps.view_of(self, values), *args, **kwargs)

    @property
    def has_noisy_outputs(self):
        """Whether the technique says what a linear map gives, not only a weight."""
        return self.technique.has_own("training_output")

    def used_weight(self, weight, training):
        """A weight as it is used in training, or as deployed, to compute with."""
        used = self.used_parts(weight, training, lambda values: values)
        return ops.cast(used, self.compute_dtype)

    def used_parts(self, weight, training, look_up):
        """What a function that looks up parts of a weight finds in the used one."""
        if training and self.technique.has_own("backward"):
            return look_up(self._with_backward_pass(weight))
        theta, state = weight.values()
        if not training:
            theta = self._noticing_gradient(theta)
        after = look_up
        if weight.is_elementwise:
            theta = look_up(theta)
            # A scalar is of all of them.
            state = {k: look_up(v) if len(v.shape) else v for k, v in state.items()}
            after = _unchanged
        if not training:
            return after(self.technique.deployed_weight(theta, state))
        noise = Noise(self, weight.position)
        step = private.in_full_precision(self.training_step)
        return after(self.technique.training_weight(theta, state, step, noise))

    def _with_backward_pass(self, weight):
        """The weight in training, once a step: what its uses send back is summed up."""
        scope, weights = private.tracing_scope(), self.present_call().weights
        if weight.position not in weights:
            weights[weight.position] = scope, feedback.used_weight(self, weight)
        known, used = weights[weight.position]
        if known != scope:
            raise ValueError(
                f"Sparse layer {self.name!r} is used within a function that is "
                "compiled by itself (a loop, a checkpoint), and outside of it, so that "
                "the gradients of its uses are not summed before "
                f"{type(self.technique).__name__} sees them. Use it in one of them."
            )
        return used

    def noisy_output(self, weight, linear, inputs, sequence_axes=()):
        """What a linear map gives in training; see `Technique.training_output`."""
        if not keras.backend.is_float_dtype(inputs.dtype):
            raise TypeError(
                f"Layer {self.name!r} ({type(self).__name__}) multiplies its inputs: "
                f"pass floating-point ones. Received: {inputs.dtype}"
            )
        return self.technique.training_output(
            linear,
            inputs,
            *weight.values(),
            private.in_full_precision(self.training_step),
            Noise(self, weight.position, sequence_axes),
        )

    def _noticing_gradient(self, theta):
        if self._has_trained:
            return theta
        token = private.step_token()
        return private.noticing_gradient(theta, lambda: self._notice(token))

    def _notice(self, token):
        """Warns, once for each call of a model, that it is trained as in inference."""
        if self._has_trained:
            return
        vars(self)["_has_trained"] = True
        step = private.number_now(self.training_step)
        is_over = (step or 0) >= self.technique.settled_step
        if token in _NOTICED or (is_over and not self.technique.has_own("backward")):
            return
        if token is not None:
            _NOTICED.add(token)
        warnings.warn(
            f"A gradient passes sparse layer {self.name!r}, which is called as in "
            "inference. If it is trained so, it counts no steps, and becomes no "
            "sparser: call the model that holds it with training=True in training, and "
            "give the `call` of a model around it an argument `training` to pass on.",
            stacklevel=2,
        )

    @private.uncompiled
    def _begin_step(self):
        """Counts the step, once however often it uses the layer, and renews masks."""
        token = private.step_token()
        if token is not None and token in self._calls:
            return
        # One without a token is followed by no other.
        key = _ALONE if token is None else token
        self._calls[key] = _Call()
        # Past Keras's tracking, which takes its time.
        vars(self)["_has_trained"] = True
        self._renew(private.counted(self.training_step))

    def present_call(self):
        """What the layer knows of the step that uses it, in training.

        Replicas of TensorFlow's take turns, each with a step of its own.
        """
        return self._calls.get(private.step_token() or _ALONE)

    def _renew(self, step):
        """Renews the state, if the schedule says so at this step."""
        schedule = self._schedule
        number = private.number(step)
        if isinstance(schedule, Never) or (
            number is not None and not schedule.is_due(number)
        ):
            return
        due, index = schedule.find(step)
        feedback.check(self, due, step)
        layers = sharing.renewed_with(self)
        weights = [
            (layer, weight) for layer in layers for weight in layer.sparse_weights
        ]
        variables = [
            weight.state[name]
            for _, weight in weights
            for name in weight.names(RENEWAL)
        ]
        if not variables:
            return

        def renewed():
            values = [
                (*map(_stopped, weight.values()), (layer.index, weight.position))
                for layer, weight in weights
            ]
            new = self.technique.renewed(values, index)
            return [
                state[name]
                for state, (_, weight) in zip(new, weights, strict=True)
                for name in weight.names(RENEWAL)
            ]

        private.assign_if(due, variables, renewed)

    @functools.cached_property
    def _schedule(self):
        return self.technique.schedule()

    def penalty(self):
        """The penalty without its weight: a float32 scalar."""
        return sum(self.technique.penalty(*w.values()) for w in self.sparse_weights)

    def penalty_weight(self):
        """The weight of the penalty at the present step: that of its first weight."""
        # Within a step, it has been counted already.
        step = ops.maximum(private.in_full_precision(self.training_step) - 1, 0)
        _, state = self.sparse_weights[0].values()
        return self.technique.current_penalty_weight(state, step)

    def quantize(self, *args, **kwargs):
        self._refuse("quantized")

    def enable_lora(self, rank, lora_alpha=None, **arguments):
        """As Keras's, where masks are fixed; see `adapters`."""
        is_fixed = isinstance(self.technique, FixedMask)
        if not (is_fixed and hasattr(self.plain_class, "enable_lora")):
            self._refuse("given LoRA weights")
        # Of a layer that is loaded, Keras knows it, and forgets it.
        alpha = self.lora_alpha if lora_alpha is None else lora_alpha
        super().enable_lora(rank, alpha, **arguments)

    def _refuse(self, what):
        raise ValueError(
            f"Sparse layer {self.name!r} cannot be {what}: call sos.strip first."
        )

    def save_own_variables(self, store):
        # Some kinds save a fixed list of their weights.
        keras.layers.Layer.save_own_variables(self, store)
        # Variables go by number: those of another technique may fit.
        store[self._mark()] = np.zeros(0)

    def load_own_variables(self, store):
        names, mark = list(store.keys()), self._mark()
        marks = [name for name in names if name.startswith(_EXTRA)]
        if marks != [mark]:
            theirs = "no such"
            for found in marks:
                theirs = f"a {found.removeprefix(_EXTRA)} for each"
            raise ValueError(
                f"Layer {self.name!r} has a {mark.removeprefix(_EXTRA)} for each "
                f"weight, and the file {theirs} (it is of another technique, of a "
                "dense model, or of an earlier version): load it into a model of that "
                "kind. To make it sparse in another way, call sos.strip, sos.sparsify."
            )
        keras.layers.Layer.load_own_variables(
            self, {name: store[name] for name in names if name != mark}
        )

    def _mark(self):
        names = {name for weight in self.sparse_weights for name in weight.state}
        return _EXTRA + "+".join(sorted(names))

    def get_config(self):
        return {
            "name": self.name,
            "plain": private.described(self, self.plain_class),
            "technique": saved_technique(self.technique, index=self.index),
        }

    @classmethod
    def from_config(cls, config):
        layer = keras.saving.deserialize_keras_object(config["plain"])
        saved = config["technique"]
        return make_sparse(layer, restored_technique(saved), saved["index"])


def _stopped(values):
    return keras.tree.map_structure(ops.stop_gradient, values)


def _unchanged(values):
    return values


def check_plain(layer: keras.layers.Layer) -> None:
    """Raises ValueError for a layer that is quantized or has LoRA weights."""
    for obstacle, there in (
        ("is quantized", layer.quantization_mode is not None),
        ("has LoRA weights", getattr(layer, "lora_enabled", False)),
    ):
        if there:
            raise ValueError(
                f"Layer {layer.name!r} {obstacle}, which hides its weights. Leave it "
                "dense with an override of None, or sparsify and train first."
            )


def make_sparse(layer: keras.layers.Layer, technique: Technique, index: int):
    """Turns a plain layer into a sparse one, and gives it back."""
    private.give_class(layer, sparse_class(type(layer)))
    attach(layer, technique, index)
    return layer


@functools.cache
def sparse_class(plain_class: type[keras.layers.Layer]) -> type[Sparse]:
    """The class of sparse layers that derives from a plain class."""
    members = {"plain_class": plain_class, "__module__": __name__}
    # All are registered by one name, that of `Sparse`: a process that loads a model has
    # not made the class yet.
    name = f"Sparse{plain_class.__name__}"
    return _register(private.derived_class(name, (Sparse, plain_class), members))


def attach(layer, technique, index):
    vars(layer).update(
        technique=technique, index=index, sparse_weights=[], **_state_of_calls()
    )
    sharing.note(layer)
    # Around that of the plain class.
    vars(layer).pop("quantize", None)
    private.refresh_signature(layer)
    if layer.built:
        _add_variables(layer)
        return
    plain_build = vars(layer)["build"]

    @functools.wraps(plain_build)
    def build(*args, **kwargs):
        plain_build(*args, **kwargs)
        _add_variables(layer)

    vars(layer)["build"] = build


def _add_variables(layer):
    technique = layer.technique
    for position, located in enumerate(located_weights(layer, technique)):
        layer.sparse_weights.append(SparseWeight(layer, located, position))
    counter = {
        "shape": (),
        "dtype": "int32",
        "trainable": False,
        "aggregation": "only_first_replica",
    }
    private.extra_variable(layer, "training_step", None, initializer="zeros", **counter)
    feedback.add_variable(layer)
    if technique.draws_noise:
        # As Keras seeds its generators: `keras.utils.set_random_seed` decides.
        seed = random.randint(0, 2**31 - 1)
        private.extra_variable(
            layer,
            "noise_seed",
            None,
            initializer=lambda shape, dtype: ops.full(shape, seed, dtype),
            **counter,
        )


class _Call:
    """What a layer knows of a step.

    Attributes:
      draws: how often noise was drawn for it.
      weights: by position, the weights that it uses, and where they were made.
    """

    def __init__(self):
        self.draws, self.weights = 0, {}


# Stands for calls that no outermost one holds.
_ALONE = _Call()


def _state_of_calls():
    """What a layer knows of its calls in this process.

    By token of a step, what it knows of that; and whether it was ever trained.
    """
    return {"_calls": weakref.WeakKeyDictionary(), "_has_trained": False}


# Variables of a sparse layer itself, by attribute.
OF_LAYERS = ("training_step", "noise_seed", feedback.HEARD)
ATTRIBUTES = (
    "technique",
    "index",
    "sparse_weights",
    "_map",
    "_schedule",
    *_state_of_calls(),
)
