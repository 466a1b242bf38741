"""Base of the sparse layers whose weights are functions of parameters and state."""

import contextlib
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
    without_autograph,
)
from state_of_sparsity.engines.tf_keras.counting import is_first_call_in_graph
from state_of_sparsity.engines.tf_keras.families import (
    added_variables,
    deploy,
    deployed_weights,
    plain_layer,
    stored_weights,
)
from state_of_sparsity.engines.tf_keras.layers import feedback
from state_of_sparsity.engines.tf_keras.layers.sparse_weights import SparseWeight
from state_of_sparsity.engines.tf_keras.noise import Noise
from state_of_sparsity.engines.tf_keras.renewal import Renewal
from state_of_sparsity.engines.tf_keras.restoring import (
    ChecksWeights,
    refusal,
    technique_mark,
)
from state_of_sparsity.engines.tf_keras.weights import (
    add_kind,
    scope_of,
    weight_variable,
    wrapped_weights,
)
from state_of_sparsity.techniques.base import Technique
from state_of_sparsity.techniques.saving import (
    check_version,
    restored_technique,
    saved_technique,
)
from state_of_sparsity.techniques.state import RENEWAL

# The layer class for each Keras layer, whatever the technique.
KINDS: dict[type, type] = {}
# Those that have one technique, by its class and that of the Keras layer.
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
        if not isinstance(value, tf.Variable) or not is_read_by_another(layer):
            return value
        if self._name in vars(layer).get("held", {}):
            return layer.used_weight(self._name)
        return value

    def __set__(self, layer, value):
        vars(layer)[self._name] = value

    def __delete__(self, layer):
        vars(layer).pop(self._name, None)


class Reparameterized(ChecksWeights):
    """Put before a Keras layer, gives its weights to a technique.

    A class that derives from it and from a Keras layer is the one that `sparsify` takes
    for that layer, unless there is another one already: with any technique, or with
    that of its `technique_class`, whose hyperparameters then are its arguments.

    Args:
      *args: of the Keras layer.
      technique: with the hyperparameters.
      index: makes the random scores of this layer differ from those of others.
      **kwargs: of the Keras layer.

    Attributes:
      technique: with the hyperparameters.
      held: by name, the weights that are sparse, each a `SparseWeight`.
      training_step: how many training steps the layer has taken part in.
      noise_seed: of what it draws, beside the step; also says which technique it has.
    """

    technique_class: ClassVar[type[Technique] | None] = None
    # The Keras layer.
    keras_class: ClassVar[type[keras.layers.Layer]]
    # Dotted attributes that hold the trainable weights, and what the names of the
    # technique's variables for each begin with: "log_alpha", "recurrent_log_alpha".
    sparse_weights: ClassVar[dict[str, str]] = {"kernel": ""}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for base in cls.__mro__:
            if issubclass(base, keras.layers.Layer) and not issubclass(
                base, Reparameterized
            ):
                cls.keras_class = base
                if cls.technique_class is None:
                    KINDS.setdefault(base, cls)
                else:
                    LAYERS.setdefault((cls.technique_class, base), cls)
                add_kind(base, list(cls.sparse_weights))
                break
        for weight in cls.sparse_weights:
            if "." not in weight:
                setattr(cls, weight, UsedWeight(weight))

    def __init__(self, *args, technique=None, index=0, **kwargs):
        if technique is None and self.technique_class is not None:
            names = {field.name for field in dataclasses.fields(self.technique_class)}
            given = {name: kwargs.pop(name) for name in names & kwargs.keys()}
            technique = self.technique_class(**given)
        if not isinstance(technique, self.technique_class or Technique):
            raise TypeError(
                f"{type(self).__name__} needs a technique. Received: {technique!r}"
            )
        self.technique, self.index = technique, index
        super().__init__(*args, **kwargs)
        check_keras_backend(self.name)

    def build(self, input_shape):
        super().build(input_shape)
        self.add_technique()

    def add_technique(self):
        """Makes what the technique adds to the weights of the Keras layer."""
        names = [
            name
            for name in wrapped_weights(self, self.technique)
            if name in self.sparse_weights
        ]
        # Past Keras's tracking.
        vars(self)["held"] = {
            name: SparseWeight(self, name, position)
            for position, name in enumerate(names)
        }
        vars(self)["renewal"] = Renewal(self)
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
        if self.technique.has_own("penalty"):
            self.add_loss(self.weighted_penalty)

    def penalty(self):
        """The penalty without its weight: a float32 scalar."""
        return tf.add_n(
            [self.technique.penalty(*w.values()) for w in self.held.values()]
        )

    def penalty_weight(self):
        """The weight of the penalty at the present step: that of its first weight."""
        first = next(iter(self.held.values()))
        _, state = first.values()
        return self.technique.current_penalty_weight(state, self._step_before())

    def weighted_penalty(self):
        """What the layer adds to the loss."""
        step = self._step_before()
        return tf.add_n(
            [
                self.technique.weighted_penalty(*weight.values(), step)
                for weight in self.held.values()
            ]
        )

    def _step_before(self):
        # Within a step, it has been counted already.
        return tf.maximum(self._step() - 1, 0)

    def _step(self):
        return tf.cast(self.training_step, tf.int32)

    def has_renewals(self):
        """Whether the forward pass renews any of the state."""
        return any(weight.names(RENEWAL) for weight in self.held.values())

    def step_counter(self):
        """The variable that counts training steps."""
        return self.training_step

    def weight_values(self):
        """Of each sparse weight theta and its state by name."""
        return [weight.values() for weight in self.held.values()]

    def assignments(self, position, theta, new):
        """Pairs of a variable and its value after a renewal of a weight's state."""
        del theta
        weight = list(self.held.values())[position]
        return [(weight.state[name], new[name]) for name in weight.names(RENEWAL)]

    def in_phase(self, training, drawn, deployed):
        """`drawn(use)` in training, which counts the step, `deployed()` in inference.

        Where a step uses the layer several times, `use` says how often it has before.
        """
        if training is None:
            training = keras.backend.learning_phase()
        if is_first_call_in_graph(self, training):
            self.begin_step(training)
        uses, phase = of_thread(self)["uses"], _phase(training)
        uses[phase] += 1
        use = uses[phase]
        return smart_cond(training, lambda: drawn(use), deployed)

    def begin_step(self, training):
        """Counts a step, if in training, and renews what is due: before the first use.

        Args:
          training: as of a call.
        """
        begins = self.renewal.begins(training)
        begin = self._count_step_and_renew if begins else self._count_step
        smart_cond(training, begin, tf.no_op)
        phase = _phase(training)
        of_thread(self).setdefault("uses", {})[phase] = -1
        if phase:
            of_thread(self)["used"] = {}

    @without_autograph
    def _count_step(self):
        self.training_step.assign_add(1)
        return tf.no_op()

    @without_autograph
    def _count_step_and_renew(self):
        self._count_step()
        self.renewal.renew_if_due()
        return tf.no_op()

    def used_weight(self, weight):
        """A weight as the layer computes with it now: with noise if in training."""
        used = self.in_phase(
            training_of_call(),
            lambda use: self.training_weight(weight, use),
            lambda: self.deployed_weight(weight),
        )
        return tf.cast(used, self.compute_dtype)

    def training_weight(self, name, use):
        """A weight in one use of a training step: a float32 tensor."""
        if name not in self.held:
            return self._dense_weight(name)
        weight, noise = self.held[name], Noise(self, name, use)
        if not self.technique.has_own("backward"):
            values = weight.values()
            return self.technique.training_weight(*values, self._step(), noise)
        # Once a step, in its graph: what its uses send back is summed up.
        used = of_thread(self)["used"]
        graph = tf.compat.v1.get_default_graph()
        if name in used and used[name].graph is graph:
            return used[name]
        tensor = feedback.used_weight(self.technique, weight, self._step(), noise)
        if not tf.executing_eagerly():
            used[name] = tensor
        return tensor

    def use_weights(self, weights):
        """Has the uses of a step compute with given tensors, by name.

        For weights whose technique has a backward pass, which is of the whole step.
        """
        of_thread(self)["used"].update(weights)

    def training_output(self, name, linear, inputs, use, sequence_axes=()):
        """What a linear map gives in training; see `Technique.training_output`."""
        if name not in self.held or not self.technique.has_own("training_output"):
            return linear(inputs, self.training_weight(name, use))
        return self.technique.training_output(
            linear,
            inputs,
            *self.held[name].values(),
            self._step(),
            Noise(self, name, use, sequence_axes),
        )

    def deployed_weight(self, name):
        """A weight without noise, with its zeros: a float32 tensor."""
        if name not in self.held:
            return self._dense_weight(name)
        return self.technique.deployed_weight(*self.held[name].values())

    def _dense_weight(self, name):
        return tf.cast(raw_variable(weight_variable(self, name)), tf.float32)

    def training_rows(self, name, rows, use):
        """Rows of a table in one use of a training step, as float32.

        Args:
          name: of the weight.
          rows: `rows(table)` looks them up.
          use: as of `in_phase`.
        """
        weight = self.held[name]
        if not weight.is_elementwise:
            return rows(self.training_weight(name, use))
        return self.technique.training_weight(
            *weight.values(rows), self._step(), Noise(self, name, use)
        )

    def deployed_rows(self, name, rows):
        """Rows of a table as deployed; see `training_rows`."""
        weight = self.held[name]
        if not weight.is_elementwise:
            return rows(self.deployed_weight(name))
        return self.technique.deployed_weight(*weight.values(rows))

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
        self.check_mark()

    def get_config(self):
        saved = saved_technique(self.technique, index=self.index)
        return {**super().get_config(), "technique": saved}

    @classmethod
    def from_config(cls, config):
        # The layers of Keras 3 have the same names.
        if "keras" in config:
            return foreign_class(cls.__name__, "keras", "tf_keras").from_config({})
        config = dict(config)
        if "technique" in config:
            saved = config["technique"]
            config |= {"technique": restored_technique(saved), "index": saved["index"]}
        else:
            # As earlier releases saved the layers that are made by hand.
            check_version(config.pop("version", None))
        return super().from_config(config)


def _phase(training):
    return training if isinstance(training, bool | int) else "decided in the graph"


@deployed_weights.register
def _(layer: Reparameterized) -> list[DeployedWeight]:
    sparse = {
        name: DeployedWeight(
            name,
            layer.deployed_weight(name).numpy(),
            layer.technique.keeps(*weight.values()).numpy(),
            True,
        )
        for name, weight in layer.held.items()
    }
    # Of a separable convolution, a part may stay dense.
    dense = {weight.attribute: weight for weight in stored_weights(layer)}
    return list((dense | sparse).values())


@added_variables.register
def _(layer: Reparameterized) -> list[tf.Variable]:
    state = [v for weight in layer.held.values() for v in weight.state.values()]
    return [*state, layer.training_step, layer.noise_seed]


@plain_layer.register
def _(layer: Reparameterized, copy):
    if not layer.built:
        # A Bidirectional layer keeps the one that its two were made from.
        return copy(layer, layer.keras_class, _SETTINGS)
    weights = layer.held.values()
    state = [name for weight in weights for name in weight.attributes.values()]
    added = ("held", "renewal", "training_step", "noise_seed", "weighted_penalty")
    with _as_plain(layer):
        plain = copy(layer, layer.keras_class, (*_SETTINGS, *added, *state))
    deploy(layer, plain)
    return plain


_SETTINGS = ("technique", "index")


@contextlib.contextmanager
def _as_plain(layer):
    """Gives the weights of a layer, for a while, what the plain one has them obey."""
    for weight in layer.held.values():
        weight.step_back()
    try:
        yield
    finally:
        for weight in layer.held.values():
            weight.take_part()


def reparameterized_layer(technique, layer, copy, index):
    """The layer that stands in the sparse model for a dense layer of a known kind.

    The arguments are those of `sparse_layers.sparse_layer`.
    """
    kind = type(layer)
    cls = KINDS.get(kind) or LAYERS.get((type(technique), kind))
    if cls is None:
        raise ValueError(
            f"{type(technique).__name__} has no linear map for layer {layer.name!r} of "
            f"kind {kind.__name__}; it has some for "
            f"{', '.join(known.__name__ for known in KINDS)}. Leave the layer dense "
            "with an override of None, or define a class that derives from a map of "
            "state_of_sparsity.layers.tf_keras (Linear, ...) and from its kind."
        )
    sparse = copy(layer, cls)
    sparse.technique, sparse.index = technique, index
    if layer.built:
        with tf.name_scope(scope_of(layer)):
            sparse.add_technique()
    return sparse
