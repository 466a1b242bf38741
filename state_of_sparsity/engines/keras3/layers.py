"""Sparse layers of Keras 3, whatever their kind."""

import functools
import random
import warnings
import weakref
from typing import ClassVar

import keras
import numpy as np
from keras import ops

from state_of_sparsity.engines.keras3 import maps, private, sharing
from state_of_sparsity.engines.keras3.kinds import located_weights
from state_of_sparsity.engines.keras3.noise import Noise
from state_of_sparsity.engines.keras3.sparse_weights import SparseWeight
from state_of_sparsity.masks import zero_count
from state_of_sparsity.techniques.base import Technique
from state_of_sparsity.techniques.saving import restored_technique, saved_technique

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
      draws: how often noise was drawn for the present step.
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
        # A class made by hand has a plain class further up.
        return self.plain_class.call(maps.view_of(self, values), *args, **kwargs)

    @property
    def has_noisy_outputs(self):
        """Whether the technique says what a linear map gives, not only a weight."""
        return type(self.technique).training_output is not Technique.training_output

    def used_weight(self, weight, training):
        """A weight as it is used in training, or as deployed, to compute with."""
        used = self.used_parts(weight, training, lambda values: values)
        return ops.cast(used, self.compute_dtype)

    def used_parts(self, weight, training, look_up):
        """What a function that looks up parts of a weight finds in the used one."""
        theta, extra = weight.values()
        if not (training or self._has_trained):
            token = private.step_token()
            theta = private.noticing_gradient(theta, lambda: self._notice(token))
        theta, extra = look_up(theta), look_up(extra)
        if not training:
            return self.technique.deployed_weight(theta, extra)
        noise = Noise(self, weight.position)
        return self.technique.training_weight(theta, extra, noise)

    def noisy_output(self, weight, linear, inputs, sequence_axes=()):
        """What a linear map gives in training; see `Technique.training_output`."""
        if not keras.backend.is_float_dtype(inputs.dtype):
            raise TypeError(
                f"Layer {self.name!r} ({type(self).__name__}) multiplies its inputs: "
                f"pass floating-point ones. Received: {inputs.dtype}"
            )
        noise = Noise(self, weight.position, sequence_axes)
        return self.technique.training_output(linear, inputs, *weight.values(), noise)

    def _notice(self, token):
        """Warns, once for each call of a model, that it is trained as in inference."""
        if self._has_trained:
            return
        vars(self)["_has_trained"] = True
        step = private.number_now(self.training_step)
        if token in _NOTICED or (step or 0) >= self.technique.settled_step:
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
        if token is not None and self._token() is token:
            return
        # Past Keras's tracking, which takes its time.
        token = weakref.ref(token) if token is not None else _no_token
        vars(self).update(_token=token, draws=0, _has_trained=True)
        step = private.counted(self.training_step)
        if not self.technique.extra_is_trained:
            self._renew_masks(step)

    def _renew_masks(self, step):
        steps = self._renewals
        number = private.number(step)
        if not len(steps) or (number is not None and number not in steps):
            return
        layers = sharing.renewed_with(self)
        weights = [(x.index, weight) for x in layers for weight in x.sparse_weights]
        if not weights:
            return
        at_step = ops.equal(step, steps)

        def renewed():
            place = ops.argmax(ops.cast(at_step, "int32"))
            values = [
                (*map(ops.stop_gradient, weight.values()), (index, weight.position))
                for index, weight in weights
            ]
            shapes = tuple(tuple(weight.theta.shape) for _, weight in weights)
            zeros = _zeros(self.technique, shapes)
            return self.technique.renewed_masks(
                values, [ops.take(number, place) for number in zeros]
            )

        masks = [weight.extra for _, weight in weights]
        private.assign_if(ops.any(at_step), masks, renewed)

    @functools.cached_property
    def _renewals(self):
        """Steps of the renewals."""
        return np.asarray(self.technique.schedule().renewals(), "int32")

    def penalty(self):
        """The penalty without its weight: a float32 scalar."""
        return sum(self.technique.penalty(*w.values()) for w in self.sparse_weights)

    def penalty_weight(self):
        """The weight of the penalty at the present step."""
        # Within a step, it has been counted already.
        step = ops.maximum(private.in_full_precision(self.training_step) - 1, 0)
        return self.technique.current_penalty_weight(step)

    def quantize(self, *args, **kwargs):
        self._refuse("quantized")

    def enable_lora(self, *args, **kwargs):
        self._refuse("given LoRA weights")

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
                f"Layer {self.name!r} has a {self.technique.extra_name} for each "
                f"weight, and the file {theirs} (it is of another technique, of a "
                "dense model, or of an earlier version): load it into a model of that "
                "kind. To make it sparse in another way, call sos.strip, sos.sparsify."
            )
        keras.layers.Layer.load_own_variables(
            self, {name: store[name] for name in names if name != mark}
        )

    def _mark(self):
        return _EXTRA + self.technique.extra_name

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


@functools.cache
def _zeros(technique, shapes):
    """How many of each of a technique's `units` go at each renewal."""
    # Counted in Python, since a float32 counts no further than 2**24.
    schedule = technique.schedule()
    sparsities = [schedule.sparsity(step) for step in schedule.renewals()]
    zeros = [
        [zero_count(sparsity, *number) for sparsity in sparsities]
        for number in technique.units(shapes)
    ]
    return np.asarray(zeros, "int32")


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
        technique=technique, index=index, sparse_weights=[], **_STATE_OF_CALLS
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


def _no_token():
    return None


# What a layer knows of its calls in this process: how often noise was drawn in the
# present step, which that is, and whether it was ever one of training.
_STATE_OF_CALLS = {"draws": 0, "_token": _no_token, "_has_trained": False}
ATTRIBUTES = (
    "technique",
    "index",
    "sparse_weights",
    "_map",
    "_renewals",
    *_STATE_OF_CALLS,
)
