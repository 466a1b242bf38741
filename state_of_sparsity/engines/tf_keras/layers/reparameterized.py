"""Base of the layers of the reparameterization family."""

import dataclasses
import random
from typing import ClassVar

from state_of_sparsity.engines.foreign import foreign_class
from state_of_sparsity.engines.inspection import DeployedWeight
from state_of_sparsity.engines.tf_keras.backend import (
    check_keras_backend,
    is_read_by_another,
    keras,
    of_thread,
    raw_variable,
    smart_cond,
    tf,
    training_of_call,
    weight_lists,
)
from state_of_sparsity.engines.tf_keras.counting import is_first_call_in_graph
from state_of_sparsity.engines.tf_keras.families import (
    added_variables,
    deploy,
    deployed_weights,
    plain_layer,
    sparse_layer,
)
from state_of_sparsity.engines.tf_keras.noise import Noise
from state_of_sparsity.engines.tf_keras.restoring import (
    ChecksWeights,
    refusal,
    technique_mark,
)
from state_of_sparsity.engines.tf_keras.weights import (
    add_kind,
    scope_of,
    weight_variable,
)
from state_of_sparsity.techniques.reparameterization import ReparameterizationTechnique
from state_of_sparsity.techniques.saving import VERSION, check_version

# The layer class for each technique and Keras layer.
LAYERS: dict[tuple[type, type], type] = {}


class UsedWeight:
    """The attribute of a weight: in the call of another layer, what is computed with.

    So one that shares the weight, as a tied decoder does, has the zeros as well, and in
    training the noise of the step. Elsewhere it is the variable.
    """

    def __init__(self, name):
        self._name = name

    def __get__(self, layer, cls=None):
        # The class has none: Keras does not track what it takes for a property.
        if layer is None or self._name not in vars(layer):
            raise AttributeError(f"{cls.__name__} has no attribute {self._name!r}")
        value = vars(layer)[self._name]
        if isinstance(value, tf.Variable) and is_read_by_another(layer):
            return layer.used_weight(self._name)
        return value

    def __set__(self, layer, value):
        vars(layer)[self._name] = value

    def __delete__(self, layer):
        vars(layer).pop(self._name, None)


class Reparameterized(ChecksWeights):
    """Put before a Keras layer, gives its weights to a technique.

    A class that derives from it and from a Keras layer is the one that `sparsify` takes
    for that layer, unless there is another one already.

    Attributes:
      technique: with the hyperparameters.
      training_step: how many training steps the layer has taken part in.
      noise_seed: of what it draws, beside the step.
    """

    technique_class: ClassVar[type[ReparameterizationTechnique]]
    # The Keras layer.
    keras_class: ClassVar[type[keras.layers.Layer]]
    # Dotted attributes that hold the trainable weights, and what the name of the
    # technique's parameter for each begins with: "log_alpha", "recurrent_log_alpha".
    sparse_weights: ClassVar[dict[str, str]] = {"kernel": ""}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for base in cls.__mro__:
            if issubclass(base, keras.layers.Layer) and not issubclass(
                base, Reparameterized
            ):
                cls.keras_class = base
                if hasattr(cls, "technique_class"):
                    LAYERS.setdefault((cls.technique_class, base), cls)
                    add_kind(base, list(cls.sparse_weights))
                break
        for weight in cls.sparse_weights:
            if "." not in weight:
                setattr(cls, weight, UsedWeight(weight))

    def __init__(self, *args, **kwargs):
        names = {field.name for field in dataclasses.fields(self.technique_class)}
        given = {name: kwargs.pop(name) for name in names & kwargs.keys()}
        self.technique = self.technique_class(**given)
        super().__init__(*args, **kwargs)
        check_keras_backend(self.name)

    def build(self, input_shape):
        super().build(input_shape)
        self.add_technique()

    def add_technique(self):
        """Makes what the technique adds to the weights of the Keras layer."""
        for weight in self.sparse_weights:
            name = self.extra_name(weight)
            extra = self.add_weight(
                name,
                shape=weight_variable(self, weight).shape,
                initializer=_initializer(*self.technique.extra_initial),
                dtype=tf.float32,
                experimental_autocast=False,
            )
            setattr(self, name, extra)
        self.training_step = self.add_weight(
            "training_step",
            shape=(),
            dtype=tf.int64,
            initializer="zeros",
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        # As Keras seeds its generators: `keras.utils.set_random_seed` decides.
        seed = technique_mark(self.technique) + random.randint(0, 2**31 - 1)
        self.noise_seed = self.add_weight(
            "noise_seed",
            shape=(),
            dtype=tf.int64,
            initializer=keras.initializers.Constant(seed),
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self.add_loss(self.weighted_penalty)

    def extra_name(self, weight):
        """The attribute that holds the technique's parameter for a weight."""
        return self.sparse_weights[weight] + self.technique.extra_name

    def parameters(self, weight):
        """Theta and the technique's parameter of a weight, in float32."""
        theta = tf.cast(raw_variable(weight_variable(self, weight)), tf.float32)
        return theta, tf.convert_to_tensor(getattr(self, self.extra_name(weight)))

    def penalty(self):
        """The penalty without its weight: a float32 scalar."""
        return tf.add_n(
            [self.technique.penalty(*self.parameters(w)) for w in self.sparse_weights]
        )

    def penalty_weight(self):
        """The weight of the penalty at the present step."""
        # Within a step, it has been counted already.
        step = tf.maximum(self.training_step - 1, 0)
        return self.technique.current_penalty_weight(step)

    def weighted_penalty(self):
        """What the layer adds to the loss."""
        weight = self.penalty_weight()
        return tf.add_n(
            [
                self.technique.weighted_penalty(weight, *self.parameters(name))
                for name in self.sparse_weights
            ]
        )

    def in_phase(self, training, drawn, deployed):
        """`drawn(use)` in training, which counts the step, `deployed()` in inference.

        Where a step uses the layer several times, `use` says how often it has before.
        """
        if training is None:
            training = keras.backend.learning_phase()
        uses = of_thread(self).setdefault("uses", {})
        phase = training if isinstance(training, bool | int) else "decided in the graph"
        if is_first_call_in_graph(self, training):
            smart_cond(training, self._count_step, tf.no_op)
            uses[phase] = 0
        else:
            uses[phase] += 1
        use = uses[phase]
        return smart_cond(training, lambda: drawn(use), deployed)

    def _count_step(self):
        self.training_step.assign_add(1)
        return tf.no_op()

    def used_weight(self, weight):
        """A weight as the layer computes with it now: with noise if in training."""
        used = self.in_phase(
            training_of_call(),
            lambda use: self.technique.training_weight(
                *self.parameters(weight), Noise(self, weight, use)
            ),
            lambda: self.deployed_weight(weight),
        )
        return tf.cast(used, self.compute_dtype)

    def deployed_weight(self, weight):
        """A weight without noise, with its zeros: a float32 tensor."""
        return self.technique.deployed_weight(*self.parameters(weight))

    def check_inputs(self, inputs):
        """Raises for inputs that no gradient can pass, naming the layer."""
        if not inputs.dtype.is_floating:
            raise TypeError(
                f"Layer {self.name!r} ({type(self).__name__}) takes floating-point "
                f"inputs: cast them. Received: {inputs.dtype.name}"
            )

    def marked_variable(self):
        return self.noise_seed

    def load_own_variables(self, store):
        if self.built and len(store.keys()) != sum(map(len, weight_lists(self))):
            raise refusal(self, "a dense layer or of another technique")
        super().load_own_variables(store)

    def get_config(self):
        technique_config = self.technique.get_config()
        return {**super().get_config(), **technique_config, "version": VERSION}

    @classmethod
    def from_config(cls, config):
        # The layers of Keras 3 have the same names.
        if "keras" in config:
            return foreign_class(cls.__name__, "keras", "tf_keras").from_config({})
        config = dict(config)
        check_version(config.pop("version", None))
        return super().from_config(config)


@deployed_weights.register
def _(layer: Reparameterized) -> list[DeployedWeight]:
    return [
        DeployedWeight(
            weight,
            layer.deployed_weight(weight).numpy(),
            layer.technique.keeps(*layer.parameters(weight)).numpy(),
            True,
        )
        for weight in layer.sparse_weights
    ]


@added_variables.register
def _(layer: Reparameterized) -> list[tf.Variable]:
    extras = [getattr(layer, layer.extra_name(w)) for w in layer.sparse_weights]
    return [*extras, layer.training_step, layer.noise_seed]


@plain_layer.register
def _(layer: Reparameterized, copy):
    if not layer.built:
        # A Bidirectional layer keeps the one that its two were made from.
        return copy(layer, layer.keras_class, ("technique",))
    extras = map(layer.extra_name, layer.sparse_weights)
    without = ("technique", "training_step", "noise_seed", "weighted_penalty", *extras)
    plain = copy(layer, layer.keras_class, without)
    deploy(layer, plain)
    return plain


@sparse_layer.register
def _(technique: ReparameterizationTechnique, layer, copy, index):
    del index
    kinds = {plain: cls for (t, plain), cls in LAYERS.items() if t is type(technique)}
    if type(layer) not in kinds:
        raise ValueError(
            f"{type(technique).__name__} has no linear map for layer {layer.name!r} of "
            f"kind {type(layer).__name__}; it has some for "
            f"{', '.join(kind.__name__ for kind in kinds)}. Leave the layer dense "
            "with an override of None, or define a class that derives from a map of "
            "state_of_sparsity.layers.tf_keras (Linear, ...) and from its kind."
        )
    sparse = copy(layer, kinds[type(layer)])
    sparse.technique = technique
    if layer.built:
        with tf.name_scope(scope_of(layer)):
            sparse.add_technique()
    return sparse


def _initializer(mean, deviation):
    if deviation:
        return keras.initializers.RandomNormal(mean, deviation)
    return keras.initializers.Constant(mean)
