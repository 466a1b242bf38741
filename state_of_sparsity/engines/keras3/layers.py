"""What sparse layers have in common, whatever their kind."""

import dataclasses
import functools
import random
import weakref
from typing import ClassVar

import keras
import numpy as np
from keras import ops

from state_of_sparsity.engines.base import foreign_class
from state_of_sparsity.engines.keras3 import maps, private, sharing
from state_of_sparsity.engines.keras3.kinds import located_weights
from state_of_sparsity.engines.keras3.noise import Noise
from state_of_sparsity.masks import zero_count
from state_of_sparsity.numerics import at_least_float32
from state_of_sparsity.techniques.base import (
    VERSION,
    Technique,
    check_version,
    restored_technique,
    saved_technique,
)

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
        return maps.map_of(self.plain_class)(self, training, *args, **kwargs)

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
        theta, extra = map(look_up, weight.values())
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

    @private.uncompiled
    def _begin_step(self):
        """Counts the step, once however often it uses the layer, and renews masks."""
        token = private.step_token()
        if token is not None and self._token() is token:
            return
        # Past Keras's tracking, which takes its time.
        token = weakref.ref(token) if token is not None else _no_token
        vars(self).update(_token=token, draws=0)
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

    def load_own_variables(self, store):
        keras.layers.Layer.load_own_variables(self, store)

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


class Handmade(Sparse):
    """A sparse layer that is made with the arguments of its kind and its technique.

    Attributes:
      technique_class: whose hyperparameters are further arguments.
    """

    technique_class: ClassVar[type[Technique]]

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if Handmade in cls.__bases__:
            cls.plain_class = cls.__bases__[-1]

    def __init__(self, *args, **kwargs):
        names = {field.name for field in dataclasses.fields(self.technique_class)}
        given = {name: kwargs.pop(name) for name in names & kwargs.keys()}
        technique = self.technique_class(**given)
        super().__init__(*args, **kwargs)
        _attach(self, technique, 0)

    def get_config(self):
        plain_config = self.plain_class.get_config(self)
        ours = {**self.technique.get_config(), "keras": 3, "version": VERSION}
        return {**plain_config, **ours}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        # The layers of tf_keras have the same names.
        if config.pop("keras", None) != 3:
            return foreign_class(cls.__name__, "tf_keras", "Keras 3").from_config({})
        check_version(config.pop("version", None))
        return cls(**config)


for _name in ("PrunedLayer", "SparseContainer", "TiedEmbedding"):
    # As tf_keras names them in its files, with the package and without.
    for _saved in (f"state_of_sparsity>{_name}", _name):
        keras.saving.get_custom_objects()[_saved] = foreign_class(
            _name, "tf_keras", "Keras 3"
        )


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


def _initializer(technique, attribute):
    value = technique.extra_value(attribute)
    if value is not None:
        return lambda shape, dtype: ops.convert_to_tensor(value, dtype)
    mean, deviation = technique.extra_initial
    if deviation:
        return keras.initializers.RandomNormal(mean, deviation)
    return keras.initializers.Constant(mean)


def make_sparse(layer: keras.layers.Layer, technique: Technique, index: int):
    """Turns a plain layer into a sparse one, and gives it back.

    Raises:
      ValueError: for a layer that is quantized or has LoRA weights.
    """
    for obstacle, there in (
        ("is quantized", layer.quantization_mode is not None),
        ("has LoRA weights", getattr(layer, "lora_enabled", False)),
    ):
        if there:
            raise ValueError(
                f"Layer {layer.name!r} {obstacle}, which hides its weights. Leave it "
                "dense with an override of None, or sparsify and train first."
            )
    layer.__class__ = sparse_class(type(layer))
    _attach(layer, technique, index)
    return layer


@functools.cache
def sparse_class(plain_class: type[keras.layers.Layer]) -> type[Sparse]:
    """The class of sparse layers that derives from a plain class."""
    members = {"plain_class": plain_class, "__module__": __name__}
    # All are registered by one name, that of `Sparse`: a process that loads a model has
    # not made the class yet.
    return _register(
        type(f"Sparse{plain_class.__name__}", (Sparse, plain_class), members)
    )


def make_plain(layer: Sparse, copies: dict) -> None:
    """Has the plain copy of a sparse layer hold the deployed weights, and them alone.

    Args:
      layer: the sparse layer, which stays as it is.
      copies: by the `id` of the layer and of its weights, their copies; that of the
        layer is of the plain class.
    """
    plain = copies[id(layer)]
    for weight in layer.sparse_weights:
        theta = copies[id(weight.theta)]
        used = layer.technique.deployed_weight(*weight.values())
        # Without the sign of -0: files with one kind of zeros are smaller.
        theta.assign(ops.where(ops.equal(used, 0.0), ops.zeros_like(used), used))
        theta.regularizer = weight.regularizer
    private.remove_variables(plain, added_variables(layer))
    for name in ("technique", "index", "sparse_weights", "draws", "_token"):
        del vars(plain)[name]
    vars(plain).pop("_renewals", None)
    private.refresh_signature(plain)


def added_variables(layer: Sparse) -> dict[str, keras.Variable]:
    """The variables that a technique adds to a layer, by attribute."""
    held = {id(v): (name, v) for name, v in vars(layer).items() if _is_variable(v)}
    added = [weight.extra for weight in layer.sparse_weights]
    added += [
        vars(layer)[n] for n in ("training_step", "noise_seed") if n in vars(layer)
    ]
    return dict(held[id(variable)] for variable in added)


def _is_variable(value):
    return isinstance(value, keras.Variable)


def _attach(layer, technique, index):
    vars(layer).update(
        technique=technique, index=index, sparse_weights=[], draws=0, _token=_no_token
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


def _free_name(layer, weight_name, extra_name):
    """ "log_alpha" beside "kernel", "recurrent_log_alpha" beside "recurrent_kernel"."""
    stem = weight_name.removesuffix("kernel").removesuffix("embeddings")
    stem = f"{stem.rstrip('_')}_{extra_name}" if stem else extra_name
    name, number = stem, 1
    while hasattr(layer, name):
        name, number = f"{stem}_{number}", number + 1
    return name


def _no_token():
    return None
