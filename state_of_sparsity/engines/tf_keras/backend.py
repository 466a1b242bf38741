"""The one place that names `tf_keras` and the private parts of it and of TF-MOT.

Every other file of the engine takes `keras` from here.
"""

import contextlib
import copy
import functools
import inspect
import os
import sys
from collections.abc import Iterator

# TF-MOT asks `tf.keras` for its version, and `tf.keras` decides once and for all
# which Keras it is when it is first touched.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import keras as keras3
import tensorflow as tf
import tf_keras as keras
from tensorflow.python.eager.polymorphic_function.tf_method_target import TfMethodTarget
from tensorflow_model_optimization.python.core.keras.utils import smart_cond
from tensorflow_model_optimization.python.core.quantization.keras import (
    quantize_aware_activation,
    quantize_wrapper,
)
from tensorflow_model_optimization.python.core.sparsity.keras import (
    pruning_callbacks,
    pruning_wrapper,
)
from tensorflow_model_optimization.python.core.sparsity.keras.prune_registry import (
    PruneRegistry,
)
from tf_keras.src.engine import base_layer_utils
from tf_keras.src.engine.functional import Functional, has_functional_like_constructor
from tf_keras.src.engine.keras_tensor import KerasTensor
from tf_keras.src.layers.convolutional.base_depthwise_conv import DepthwiseConv
from tf_keras.src.layers.convolutional.base_separable_conv import SeparableConv
from tf_keras.src.layers.rnn.base_conv_lstm import ConvLSTMCell
from tf_keras.src.mixed_precision import autocast_variable
from tf_keras.src.models import cloning

from state_of_sparsity.engines.foreign import foreign_class
from state_of_sparsity.engines.recording import replaced_attributes

TracedFunction = tf.types.experimental.PolymorphicFunction
QuantizeWrapper = quantize_wrapper.QuantizeWrapper
# Is no layer, and holds variables of its wrapper.
QuantizedActivation = quantize_aware_activation.QuantizeAwareActivation
PruneLowMagnitude = pruning_wrapper.PruneLowMagnitude
UpdatePruningStep = pruning_callbacks.UpdatePruningStep


def check_keras_backend(name: str) -> None:
    """Raises ValueError if Keras 3, in which the mathematics are, is not TensorFlow's.

    Args:
      name: of the model or layer that needs it.
    """
    if keras3.backend.backend() != "tensorflow":
        raise ValueError(
            f"{name!r} is of tf_keras, which needs the mathematics of Keras on "
            "TensorFlow: set KERAS_BACKEND=tensorflow before Keras is imported. "
            f"Received: {keras3.backend.backend()!r}"
        )


def keras3_layers(model: keras.Model) -> Iterator[keras3.Layer]:
    """The layers of Keras 3 that a model, or a layer in it, holds."""
    for layer in all_layers(model):
        held = list(getattr(layer, "_self_tracked_trackables", ()))
        while held:
            value = held.pop()
            if isinstance(value, keras3.Layer):
                yield value
            elif isinstance(value, tf.__internal__.tracking.TrackableDataStructure):
                held.extend(value._values)


def raw_variable(variable: tf.Variable) -> tf.Variable:
    """The variable behind a Keras weight, in the dtype in which it is stored.

    Under a mixed-precision policy Keras hands out a view that casts when it is
    read within a layer's call.
    """
    if isinstance(variable, autocast_variable.AutoCastVariable):
        return variable._variable
    return variable


def copy_variable(variable: tf.Variable) -> tf.Variable:
    """A new variable with the value and the properties of another one.

    Created under the distribution strategy whose scope the caller is in.
    """
    raw = raw_variable(variable)
    new = tf.Variable(
        raw.read_value(),
        trainable=raw.trainable,
        name=raw.name.split(":")[0],
        dtype=raw.dtype,
        shape=raw.shape,
        constraint=raw.constraint,
        synchronization=raw.synchronization,
        aggregation=raw.aggregation,
    )
    if raw is not variable:
        return autocast_variable.create_autocast_variable(new)
    return new


def variables(layer: keras.layers.Layer) -> list[tf.Variable]:
    """The weights of a model or layer that are variables; some are lookup tables."""
    return [weight for weight in layer.weights if isinstance(weight, tf.Variable)]


def custom_weights(
    model: keras.Model,
) -> Iterator[tuple[keras.layers.Layer, tf.Variable]]:
    """The weights to train, frozen or not, that custom layers hold themselves.

    Layers whose class derives from one of Keras's kinds have weights of that kind.
    """
    for layer in all_layers(model):
        classes = type(layer).__mro__
        kind = next(cls for cls in classes if cls.__module__.startswith("tf_keras."))
        if kind in (keras.layers.Layer, keras.Model):
            yield from ((layer, weight) for weight in layer._trainable_weights)


def is_functional(model: keras.layers.Layer) -> bool:
    """Whether a model is Sequential or functional: a graph of layers."""
    return isinstance(model, keras.Sequential) or (
        isinstance(model, keras.Model) and model._is_graph_network
    )


def input_signature(model: keras.Model):
    """The `TensorSpec`, or a structure of them, of what a built model is called on.

    Raises:
      ValueError: for a model that was never called and says nothing of its input.
    """
    if is_functional(model) and model.inputs:
        return tf.nest.map_structure(
            lambda x: tf.TensorSpec(x.shape, x.dtype, x.name), model.input
        )
    if model._saved_model_inputs_spec is None:
        raise ValueError(
            f"The input of model {model.name!r} is not known: call the model on a "
            "batch once before you export it."
        )
    return tf.nest.map_structure(
        # The batch that it was called on is one of many sizes.
        lambda x: tf.TensorSpec([None, *x.shape[1:]], x.dtype, x.name),
        model._saved_model_inputs_spec,
    )


def fresh_layer(layer: keras.layers.Layer, cls: type) -> keras.layers.Layer:
    """A layer of class `cls` as Keras makes it, before the class's own `__init__`.

    It has the name and dtype policy of `layer`, and nothing else of it yet.
    """
    new = cls.__new__(cls)
    base = keras.Model if isinstance(layer, keras.Model) else keras.layers.Layer
    base.__init__(new, name=layer.name, dtype=layer.dtype_policy)
    return new


# What Keras's own `__init__` makes anew, and yet belongs to a copy.
_SETTINGS = (
    "_activity_regularizer",
    "_auto_config",
    "_auto_get_config",
    "_dynamic",
    "_saved_model_arg_spec",
    "_saved_model_inputs_spec",
    "_trainable",
)
# A graph makes these for its copy.
_SETTINGS_OF_LAYERS = (
    "_autocast",
    "_build_input_shape",
    "_input_spec",
    "_stateful",
    "_supports_masking",
    "built",
)


def carry_settings(layer: keras.layers.Layer, new: keras.layers.Layer) -> None:
    """Gives a copy of a layer the settings that Keras's `__init__` has not given it."""
    names = _SETTINGS if is_functional(layer) else (*_SETTINGS, *_SETTINGS_OF_LAYERS)
    vars(new).update({n: vars(layer)[n] for n in names if n in vars(layer)})


def weight_lists(layer: keras.layers.Layer) -> tuple[list, list]:
    """The weights that a layer holds itself: those to train, and all others."""
    return layer._trainable_weights, layer._non_trainable_weights


def tracked_names(layer: keras.layers.Layer) -> dict:
    """The attributes of a layer that Keras tracks, by name."""
    # Keras makes the dictionary with the first thing that it tracks.
    return vars(layer).get("_self_unconditional_dependency_names", {})


def loss_functions(layer: keras.layers.Layer) -> list:
    """The functions without arguments that a layer was given in `add_loss`."""
    return layer._callable_losses


def regularization_of(layer: keras.layers.Layer, variable: tf.Variable) -> int | None:
    """Where among the losses of a layer the regularization of a weight of it is."""
    for place, tagged in enumerate(layer._callable_losses):
        loss = tagged.args[0]
        of = loss.args if isinstance(loss, functools.partial) else ()
        if any(raw_variable(held) is variable for held in of):
            return place
    return None


def other_regularization(tagged, weight_of):
    """The regularization of a weight, of what a function makes of that.

    Args:
      tagged: what Keras has among the losses of a layer.
      weight_of: gives a tensor from the variable.
    """
    of_weight, (variable,) = tagged.args[0].func, tagged.args[0].args
    return functools.partial(tagged.func, lambda: of_weight(weight_of(variable)))


def set_constraint(variable: tf.Variable, constraint) -> None:
    """Gives a variable another function that projects it after each update."""
    raw = raw_variable(variable)
    # Of the copies of a strategy, an optimizer asks the first.
    for name in ("_primary", "_v"):
        raw = getattr(raw, name, raw)
    raw._constraint = constraint


def module_variables(layer: keras.layers.Layer) -> list[tf.Variable]:
    """The variables in what a layer holds of `tf.Module` that is no layer."""
    modules = layer._flatten_modules(recursive=False, include_self=False)
    plain = (x for x in modules if not isinstance(x, keras.layers.Layer))
    return [variable for module in plain for variable in module.variables]


def traced_anew(function: TracedFunction, python_function) -> TracedFunction:
    """A `tf.function` with the options of another one."""
    return function._clone(python_function)


def holder_of(function: TracedFunction) -> object | None:
    """The object that a `tf.function` is a method of."""
    method = getattr(function.python_function, "__original_wrapped__", None)
    target = getattr(method, "__self__", None)
    return target.target if isinstance(target, TfMethodTarget) else None


def is_preprocessing(layer: keras.layers.Layer) -> bool:
    """Whether a layer has state that is in no variable, as one that adapts to data."""
    return layer._must_restore_from_config


def of_thread(layer: keras.layers.Layer) -> dict:
    """What is kept with a layer for the thread: each replica is traced in its own."""
    return vars(layer._thread_local)


def is_read_by_another(layer: keras.layers.Layer) -> bool:
    """Whether what asks is in the call of another layer than this one."""
    context = base_layer_utils.call_context()
    if not context.in_call or context.layer is layer:
        return False
    # What a layer takes of another one when it is built, it keeps. Keras notes nowhere
    # that a `build` is under way.
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "__call__":
        if (
            frame.f_code.co_name == "build"
            and frame.f_locals.get("self") is context.layer
        ):
            return False
        frame = frame.f_back
    return True


def training_of_call() -> bool | tf.Tensor | None:
    """Whether the call that is under way is in training, if that was said."""
    return base_layer_utils.call_context().training


def call_arguments(layer: keras.layers.Layer) -> list:
    """What a layer is called on in graphs, symbolic tensors and others."""
    return [(node.call_args, node.call_kwargs) for node in layer._inbound_nodes]


def carry_batch_shape(layer: keras.layers.Layer, new: keras.layers.Layer) -> None:
    """Gives a layer the input shape that a Sequential model takes from its first."""
    if hasattr(layer, "_batch_input_shape"):
        new._batch_input_shape = layer._batch_input_shape


def carry_activity_regularizer(layer: keras.layers.Layer, wrapper) -> None:
    """Has a wrapper penalize outputs as the layer in it would."""
    wrapper._activity_regularizer = layer._activity_regularizer


class AsksForWeights:
    """Put before a class of layers, hears which weights of a checkpoint they lack."""

    def _lookup_dependency(self, name, cached_dependencies=None):
        found = super()._lookup_dependency(name, cached_dependencies)
        # Given when a checkpoint is restored, and not when an attribute is set.
        if found is None and cached_dependencies is not None:
            self.lacks_weight(name)
        return found


def has_own_build(cls: type[keras.layers.Layer]) -> bool:
    """Whether a class of layers has a `build`; Keras asks so, too."""
    return not hasattr(cls.build, "_is_default")


def plain_clone(model: keras.Model, clone_function, copy_of) -> keras.Model:
    """A Sequential or functional model of Keras's own class, with a graph like another.

    Keras's `clone_model` would call the constructor of a class whose arguments are
    those of its own, and take the graph from its configuration, in which some calls of
    TensorFlow functions lose arguments: those of `tf.einsum`.

    Args:
      model: of any class.
      clone_function: as of `keras.models.clone_model`.
      copy_of: gives what stands in the copy for an argument of a call.
    """
    if isinstance(model, keras.Sequential):
        return keras.models.clone_model(model, clone_function=clone_function)
    layers = {id(layer): _cloned(layer, clone_function) for layer in model.layers}
    tensors, nodes = {}, set()

    def copied(structure):
        return tf.nest.map_structure(
            lambda t: tensors[id(t)] if id(t) in tensors else copy_of(t), structure
        )

    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            layer = layers[id(node.layer)]
            if node.is_input:
                outputs = layer.output
            else:
                outputs = layer(*copied(node.call_args), **copied(node.call_kwargs))
            pairs = [tf.nest.flatten(x) for x in (node.outputs, outputs)]
            tensors |= {id(t): new for t, new in zip(*pairs, strict=True)}
            nodes.add(layer._inbound_nodes[pairs[1][0]._keras_history.node_index])
    ends = map(copied, (model._nested_inputs, model._nested_outputs))
    new = Functional(*ends, name=model.name)
    # Those that only add a loss or a metric, or that are in no call.
    beside = [x for x in layers.values() if all(x is not y for y in new.layers)]
    if beside:
        cloning._insert_ancillary_layers(new, beside, model.metrics_names, nodes)
    return new


def _cloned(layer, clone_function):
    if isinstance(layer, keras.layers.InputLayer):
        return type(layer).from_config(layer.get_config())
    return clone_function(layer)


def give_class(new: keras.Model, model: keras.Model, cls: type) -> None:
    """Gives the clone of a Sequential or functional model the class that it is to have.

    Raises:
      ValueError: if Python cannot, naming the class.
    """
    if type(new) is not cls:
        try:
            new.__class__ = cls
        except TypeError as error:
            raise ValueError(
                f"Model {model.name!r} cannot be copied as a {cls.__name__} ({error}): "
                "define the class without __slots__, as one that derives from "
                "keras.Sequential or keras.Model alone."
            ) from error
    # What Keras knows of the arguments of `call`, which the class may have of its own.
    new._call_spec = copy.copy(model._call_spec)


def graph_tensors(model: keras.Model, new: keras.Model, layers) -> Iterator[tuple]:
    """Pairs of a symbolic tensor of a graph and the one in its place in the clone.

    Args:
      model: a Sequential or functional model.
      new: its clone.
      layers: pairs of a layer of the model and the one in its place in the clone.
    """
    if model.inputs and new.inputs:
        yield from zip(model.inputs, new.inputs, strict=True)
    for old, copied in layers:
        for one, other in zip(
            _calls_in(model, old), _calls_in(new, copied), strict=False
        ):
            outputs = (tf.nest.flatten(node.outputs) for node in (one, other))
            yield from zip(*outputs, strict=True)


def _calls_in(model, layer):
    """The calls of a layer in the graph of a model."""
    network = getattr(model, "_network_nodes", ())
    return [
        node
        for number, node in enumerate(layer._inbound_nodes)
        if f"{layer.name}_ib-{number}" in network
    ]


def forget_layers(model: keras.Model, layers) -> None:
    """Has a Sequential or functional model track some layers only if it calls them."""
    forgotten = {id(layer) for layer in layers if not _calls_in(model, layer)}
    tracked = model._self_tracked_trackables
    tracked[:] = [layer for layer in tracked if id(layer) not in forgotten]


def saves_its_layers(model: keras.Model) -> bool:
    """Whether Keras saves a Sequential or functional model with the layers in it.

    It does unless the class has a constructor or a configuration of its own.
    """
    cls = type(model)
    plain = keras.Sequential if isinstance(model, keras.Sequential) else Functional
    if plain is Functional:
        same_arguments = has_functional_like_constructor(cls)
    else:
        same_arguments = cls.__init__ is plain.__init__
    return (
        same_arguments
        and cls.get_config is plain.get_config
        and cls.from_config.__func__ is plain.from_config.__func__
    )


def view_of(
    layer: keras.layers.Layer, values: dict, dtype: tf.DType | None = None
) -> keras.layers.Layer:
    """A layer that shares all attributes with another one, but for some of its own.

    For one call: other threads that call the layer see nothing of it.

    Args:
      layer: any.
      values: by attribute, what the view has instead.
      dtype: in which the view computes, if in another one.
    """
    view = object.__new__(type(layer))
    # TensorFlow traces it for each object: what it has traced for the layer serves.
    grouped = "_jit_compiled_convolution_op"
    traced = {grouped: getattr(layer, grouped)} if hasattr(layer, grouped) else {}
    computes = {} if dtype is None else {"_compute_dtype_object": dtype}
    # Past Keras's tracking.
    vars(view).update(vars(layer) | traced | computes | values)
    return view


def pad_causally(layer: keras.layers.Layer, inputs: tf.Tensor) -> tf.Tensor:
    """The inputs of a causal convolution with the zeros that it sees before them."""
    return tf.pad(inputs, layer._compute_causal_padding(inputs))


# Of a view of a convolution: what a causal one does with its inputs is done.
NOT_CAUSAL = {"padding": "valid", "_is_causal": False}


def names_in_tf_mot(cls: type[keras.layers.Layer]) -> list[str]:
    """The weights of a kind of layer that TF-MOT prunes, or nothing."""
    return list(PruneRegistry._LAYERS_WEIGHTS_MAP.get(cls, ()))


def quantized_variables(wrapper: QuantizeWrapper) -> dict[str, tf.Variable]:
    """By name, the weights that TF-MOT quantizes: their layer holds tensors instead."""
    variables = (weight for weight, *_ in getattr(wrapper, "_weight_vars", ()))
    return {wrapper._weight_name(variable.name): variable for variable in variables}


def without_autograph(method):
    """Marks a method that AutoGraph need not convert, which takes its time."""
    marked = tf.autograph.experimental.do_not_convert(method)
    # Keras goes by the names of the arguments of a `call`.
    marked.__signature__ = inspect.signature(method)
    return marked


def register_layer(cls: type) -> type:
    """Registers a class of layers, so that Keras loads what it saves of them."""
    keras.utils.register_keras_serializable("state_of_sparsity")(cls)
    # Keras's wrappers, such as TimeDistributed, look for the bare name.
    keras.utils.get_custom_objects()[cls.__name__] = cls
    return cls


def attention_shapes(layer: keras.layers.MultiHeadAttention) -> dict:
    """The shapes that a layer of attention was built from, or nothing."""
    shapes = {n: getattr(layer, f"_{n}_shape") for n in ("query", "value", "key")}
    if None in shapes.values():
        return {}
    return {name: list(tf.TensorShape(shape)) for name, shape in shapes.items()}


def build_attention(layer: keras.layers.MultiHeadAttention, shapes: dict) -> None:
    """Has a layer of attention make the layers inside of it."""
    if not layer._built_from_signature:
        layer._build_from_signature(**shapes)


def is_operator(layer: keras.layers.Layer) -> bool:
    """Whether a layer stands for a TensorFlow function in a functional model."""
    return type(layer).__module__.endswith("tf_op_layer")


def all_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """A layer and the layers inside of it at any depth, each layer once."""
    return list({id(x): x for x in layer._flatten_layers()}.values())


def child_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers directly inside of a layer or model, in order of creation.

    Metrics, which Keras makes layers too, are left out.
    """
    children = layer._flatten_layers(recursive=False, include_self=False)
    return [child for child in children if not isinstance(child, keras.metrics.Metric)]


# What the Keras 3 engine saves in a subclassed model.
for _name in ("Sparse", "Container"):
    register_layer(foreign_class(_name, "keras", "tf_keras"))
