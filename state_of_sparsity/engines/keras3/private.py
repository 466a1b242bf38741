"""Private names of Keras 3, behind functions that say what is meant."""

import contextlib
import copy
import functools
import inspect
import math
import re
import sys
import types
from typing import Any

import keras
import numpy as np
from keras.src import backend
from keras.src.backend.common import global_state, stateless_scope
from keras.src.layers.convolutional.base_conv import BaseConv
from keras.src.layers.convolutional.base_conv_transpose import BaseConvTranspose
from keras.src.layers.convolutional.base_depthwise_conv import BaseDepthwiseConv
from keras.src.layers.convolutional.base_separable_conv import BaseSeparableConv
from keras.src.layers.layer import CallContext
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell
from keras.src.models.functional import Functional
from keras.src.models.model import Trainer
from keras.src.ops.function import Function
from keras.src.ops.node import Node
from keras.src.ops.symbolic_arguments import SymbolicArguments
from keras.src.quantizers import awq_core, gptq, gptq_core
from keras.src.quantizers.utils import should_quantize_layer
from keras.src.saving import serialization_lib
from keras.src.utils.tracking import Tracker

from state_of_sparsity.engines.recording import replaced_attributes

# What a model is made of besides operations, metrics, tensors and seeds.
PARTS_OF_MODELS = (Function, Node, SymbolicArguments, Tracker)
_CONTEXT = "current_call_ctx"
# Keras makes them for each object; PyTorch's list of parameters is made when it is
# asked for.
_MADE_ANEW = {"build", "quantize", "_torch_params"}
# Belongs to a call that is over.
_OF_A_CALL = {"_losses": list, "_loss_ids": set, "_losses_override": list}
_OF_FIT = {"history", "_eval_epoch_iterator", "_jax_state"}
# Attributes in which Keras lists what others hold.
_LISTS = re.compile("_self_|_tracke|_layers$|_modules$|.*trainable_variables$")
set_mask = backend.set_keras_mask
compute_output_spec = backend.compute_output_spec


def children(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers directly inside of a layer or model, in order of creation."""
    return layer._flatten_layers(include_self=False, recursive=False)


def all_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """A layer and the layers inside of it at any depth."""
    return layer._flatten_layers()


@functools.cache
def call_parameters(cls: type) -> frozenset[str]:
    """Names of the arguments that the `call` of a class takes.

    One that takes any keyword takes `training`.
    """
    parameters = inspect.signature(cls.call).parameters.values()
    names = {p.name for p in parameters}
    any_keyword = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return frozenset(names | {"training"} if any_keyword else names)


def scope_of(model: keras.Model):
    """The scope in which to make the variables of a copy of a model."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf  # The backend, which has imported it.

    strategy = getattr(model, "_distribute_strategy", None)
    if tf.distribute.has_strategy() or strategy is None:
        return tf.distribute.get_strategy().scope()
    return strategy.scope()


def graph_nodes(model: keras.Model) -> list[Node] | None:
    """The calls of layers that make up a model, or None if it is subclassed."""
    if isinstance(model, keras.Sequential):
        model = model._functional
    if not isinstance(model, Functional):
        return None
    return [node for nodes in model._nodes_by_depth.values() for node in nodes]


def functional_of(layer: keras.layers.Layer) -> Functional | None:
    """The functional model as which a layer computes, or None."""
    call = getattr(type(layer), "call", None)
    if call is keras.Sequential.call:
        return layer._functional
    return layer if call is Functional.call else None


def steps(model: Functional) -> list[Node]:
    """The calls that a functional model makes, in order."""
    depths = sorted(model._nodes_by_depth, reverse=True)
    nodes = [node for depth in depths for node in model._nodes_by_depth[depth]]
    return [node for node in nodes if not node.is_input]


def given(model: Functional, inputs, mask=None, **context) -> dict:
    """The inputs of a call of a functional model, by the `id` of its symbolic ones.

    Of the context, which its layers are told, nothing is needed.
    """
    del context
    values = model._standardize_inputs(inputs)
    masks = [None] * len(values) if mask is None else keras.tree.flatten(mask)
    for value, of_value in zip(values, masks, strict=True):
        if of_value is not None:
            set_mask(value, of_value)
    return dict(zip(map(id, model._inputs), values, strict=True))


def arguments_of(node: Node, values: dict, around: dict) -> tuple[tuple, dict]:
    """What a call in a functional model is given.

    Args:
      node: the call.
      values: by the `id` of symbolic tensors.
      around: keywords of the call of the model, which override those in it.
    """
    args, kwargs = node.arguments.fill_in(values)
    told = getattr(node.operation, "_call_context_args", ())
    context = {k: v for k, v in around.items() if k in told and v is not None}
    return args, kwargs | context


def named(node: Node, outputs) -> dict:
    """The outputs of a call, by the `id` of its symbolic ones."""
    values = keras.tree.flatten(outputs)
    return dict(zip(map(id, node.outputs), values, strict=True))


def packed(model: Functional, values: dict):
    """What a functional model returns, of values by the `id` of symbolic tensors."""
    outputs = [values[id(x)] for x in model._outputs]
    packed = keras.tree.pack_sequence_as(model._outputs_struct, outputs)
    is_single = isinstance(packed, list | tuple) and len(packed) == 1
    return packed[0] if is_single else packed


def sizes(x: keras.KerasTensor) -> list[int]:
    """The shape of a symbolic tensor, with numbers for lengths that are not defined."""
    return [n or (8 if axis else 2) for axis, n in enumerate(x.shape)]


def computed(function, *arrays: np.ndarray) -> np.ndarray:
    """What a function of tensors gives, without a change of any state."""
    with stateless_scope.StatelessScope(), without_gradients():
        output = function(*map(keras.ops.convert_to_tensor, arrays))
        return keras.ops.convert_to_numpy(output).astype("float32")


def is_changed(layer: keras.layers.Layer) -> bool:
    """Whether a layer is quantized, computes with adapters of LoRA, or has gates."""
    flags = ("quantization_mode", "lora_enabled", "_use_gate")
    return any(getattr(x, flag, None) for x in all_layers(layer) for flag in flags)


def inside_of(node: Node) -> tuple[Function, dict[int, int]] | None:
    """The calls that a call consists of.

    Returns:
      A graph, and by the `id` of each of its inputs that of the tensor it is given.
      None for what is a kind of layer of Keras, or cannot be called on symbols.
    """
    layer = node.operation
    if not isinstance(layer, keras.layers.Layer):
        return None
    graph = functional_of(layer)
    if graph is not None:
        return graph, {id(x): id(y) for x, y in _entries(graph, node)}
    is_attention = isinstance(layer, keras.layers.MultiHeadAttention)
    of_keras = type(layer).__module__.startswith("keras.")
    if of_keras or is_attention or not children(layer):
        return None
    with contextlib.suppress(Exception):
        return _traced(node)
    return None


def _entries(graph, node):
    """The inputs of a functional model, and what a call in another one gives it."""
    args, kwargs = node.arguments.args, node.arguments.kwargs
    inputs = args[0] if args else kwargs["inputs"]
    if isinstance(inputs, dict) and not isinstance(graph._inputs_struct, dict):
        inputs = [inputs[x.name] for x in graph._inputs]
    return zip(graph._inputs, keras.tree.flatten(inputs), strict=True)


def _traced(node):
    """The graph of what `call` does with symbols, which leaves no trace in layers."""
    layer = node.operation
    symbols = {id(x): keras.KerasTensor(sizes(x), x.dtype) for x in node.input_tensors}
    args, kwargs = node.arguments.fill_in(symbols)
    if "training" in call_parameters(type(layer)):
        kwargs["training"] = False
    held = [
        (x, len(x._inbound_nodes), len(x._outbound_nodes)) for x in all_layers(layer)
    ]
    with contextlib.ExitStack() as stack:
        for inner in all_layers(layer):
            spec = {"compute_output_spec": _without_none(inner.compute_output_spec)}
            stack.enter_context(replaced_attributes(inner, spec))
        try:
            outputs = layer.call(*args, **kwargs)
            used = {i: x for i, x in symbols.items() if hasattr(x, "_keras_history")}
            graph = Function(list(used.values()), outputs)
        finally:
            for inner, inbound, outbound in held:
                del inner._inbound_nodes[inbound:], inner._outbound_nodes[outbound:]
    return graph, {id(x): i for i, x in used.items()}


def _without_none(spec):
    """That of KerasHub's attention does not know its caches, which are None here."""
    return lambda *args, **kwargs: spec(
        *args, **{name: value for name, value in kwargs.items() if value is not None}
    )


def infer_shapes(graph: Functional) -> None:
    """Has the symbolic tensors of a graph have the shapes that its layers give."""
    for node in steps(graph):
        layer, given = node.operation, node.arguments
        inner = functional_of(layer) if isinstance(layer, keras.layers.Layer) else None
        if inner is not None:
            for x, outer in _entries(inner, node):
                _resize(x, outer.shape)
                vars(x._keras_history.operation)["_batch_shape"] = x.shape
            infer_shapes(inner)
            outputs = inner.outputs
        else:
            if isinstance(layer, keras.layers.Reshape):
                _fit_reshape(layer, node.input_tensors[0].shape[1:])
            outputs = layer.compute_output_spec(*given.args, **given.kwargs)
        for x, y in zip(node.outputs, keras.tree.flatten(outputs), strict=True):
            _resize(x, y.shape)


def _resize(x, shape):
    pairs = zip(x.shape, shape, strict=True)
    x._shape = tuple(new if old and new else old for old, new in pairs)


def _fit_reshape(layer, given):
    *others, last = layer.target_shape
    if last != -1 and None not in given and -1 not in others:
        layer.target_shape = (*others, math.prod(given) // math.prod(others))


def projections(layer: keras.layers.MultiHeadAttention) -> tuple[tuple, Any]:
    """Those of queries, keys and values of an attention layer, and that of outputs."""
    return (
        layer._query_dense,
        layer._key_dense,
        layer._value_dense,
    ), layer._output_dense


def fit_attention(layer: keras.layers.MultiHeadAttention) -> None:
    """Has an attention layer say how many heads, and outputs, its weights have."""
    maps, out = projections(layer)
    (inputs, heads, _), outputs = maps[0].kernel.shape, out.kernel.shape[-1]
    vars(layer)["_num_heads"] = heads
    if outputs != (layer._output_shape or (inputs,))[-1]:
        vars(layer)["_output_shape"] = (outputs,)
    for dense in maps:
        *free, _, size = dense.partial_output_shape
        dense.partial_output_shape = (*free, heads, size)
    out.partial_output_shape = (*out.partial_output_shape[:-1], outputs)


def forget_build(layer: keras.layers.Layer) -> None:
    """Has a layer that is loaded built when it is called, by the shape it is given."""
    vars(layer)["_build_shapes_dict"] = None


def own_attributes(layer: keras.layers.Layer) -> list[tuple[str, Any]]:
    """Names and values of what a layer holds, without the lists that Keras keeps."""
    # PyTorch keeps layers apart from other attributes.
    held = {**vars(layer), **vars(layer).get("_modules", {})}
    # What Keras keeps for itself comes last: what it holds has a better name.
    names = sorted(held, key=lambda name: name == "_kernel")
    return [(name, held[name]) for name in names if not _LISTS.match(name)]


def own_trainable(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The variables of a layer itself that were made to be trained."""
    return layer._trainable_variables


def step_token():
    """An object that lives as long as one call of the outermost layer."""
    if stateless_scope.in_stateless_scope():
        return stateless_scope.get_stateless_scope()
    return global_state.get_global_attribute(_CONTEXT)


def has_no_state(variable: keras.Variable) -> bool:
    """Whether a call asks for shapes only, and is given no value of a variable."""
    scope = stateless_scope.get_stateless_scope()
    return scope is not None and scope.get_current_value(variable) is None


def those_in_call(layers, weight_of) -> list:
    """Those of some layers that the outermost one that is being called holds.

    Args:
      layers: built ones.
      weight_of: a weight of a layer: a pure function is given values, and no layer.
    """
    if stateless_scope.in_stateless_scope():
        return [layer for layer in layers if not has_no_state(weight_of(layer))]
    context = global_state.get_global_attribute(_CONTEXT)
    called = [] if context is None else all_layers(context.entry_layer)
    held = set(map(id, called))
    return [layer for layer in layers if id(layer) in held]


@contextlib.contextmanager
def entry_call(layer: keras.layers.Layer, training):
    """Tells the layers inside of one about `training`, as `Layer.__call__` does.

    On JAX, `fit` calls the `call` of a model. Within a call nothing is changed.
    """
    if global_state.get_global_attribute(_CONTEXT) is not None:
        yield
        return
    context = CallContext(entry_layer=layer)
    context.set_value("training", training)
    global_state.set_global_attribute(_CONTEXT, context)
    try:
        yield
    finally:
        global_state.set_global_attribute(_CONTEXT, None)


def uncompiled(method):
    """A method that `torch.compile` calls and does not trace.

    It would compile anew for each number that Python has read from a tensor.
    """
    if keras.backend.backend() != "torch":
        return method
    import torch  # The backend, which has imported it.

    return torch.compiler.disable(method)


def in_full_precision(variable: keras.Variable):
    """The value of a variable in the dtype in which it is stored."""
    with backend.AutocastScope(None):
        return variable.value


def to_numpy(variable: keras.Variable) -> np.ndarray:
    """The value of a variable, also within the scope of a strategy of TensorFlow."""
    value = in_full_precision(variable)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf  # The backend, which has imported it.

        value = tf.distribute.get_strategy().experimental_local_results(value)[0]
    return keras.ops.convert_to_numpy(value)


def without_gradients():
    """A context in which PyTorch keeps nothing for a backward pass."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch  # The backend, which has imported it.

    return torch.no_grad()


def list_parameters(model: keras.Model) -> None:
    """Has PyTorch know the weights of a copy, which Keras lists when it builds."""
    if keras.backend.backend() == "torch":
        held = [x for x in model.modules() if isinstance(x, keras.layers.Layer)]
        for layer in {*held, *all_layers(model)}:
            layer._track_variables()


def refresh_signature(layer: keras.layers.Layer) -> None:
    """Has Keras know what the `call` of a layer takes now that its class is another.

    A sparse layer and a container take `training` besides what their plain class does.
    """
    plain_class = getattr(type(layer), "plain_class", None)
    signature = inspect.signature((plain_class or type(layer)).call)
    parameters = list(signature.parameters.values())[1:]
    if plain_class and all(p.name != "training" for p in parameters):
        training = inspect.Parameter(
            "training", inspect.Parameter.KEYWORD_ONLY, default=None
        )
        further = [p for p in parameters if p.kind is p.VAR_KEYWORD]
        parameters = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
        parameters += [training, *further]
    names = [p.name for p in parameters]
    vars(layer).update(
        _call_signature=signature.replace(parameters=parameters),
        call_signature_parameters=names,
        _call_has_training_arg="training" in names,
        _call_has_mask_arg="mask" in names,
        _call_has_context_arg={a: a in names for a in layer._call_context_args},
    )


def assign_if(condition, variables: list[keras.Variable], values) -> None:
    """Assigns what `values()` gives to variables, if a condition holds."""

    def assign():
        for variable, value in zip(variables, values(), strict=True):
            variable.assign(value)
        return 0

    if _branches_may_assign():
        # Nothing is written where nothing changes.
        keras.ops.cond(condition, assign, lambda: 0)
        return
    present = [in_full_precision(variable) for variable in variables]
    new = keras.ops.cond(
        condition,
        lambda: tuple(values()),
        lambda: tuple(keras.ops.convert_to_tensor(value) for value in present),
    )
    for variable, value in zip(variables, new, strict=True):
        variable.assign(value)


def _branches_may_assign():
    """Whether assignments count that are made in a branch of a graph.

    Not in pure functions, and not under a strategy of TensorFlow. PyTorch is eager.
    """
    if keras.backend.backend() == "torch":
        return True
    if stateless_scope.in_stateless_scope() or keras.backend.backend() == "jax":
        return False
    import tensorflow as tf  # The backend, which has imported it.

    return not tf.distribute.has_strategy()


def counted(variable: keras.Variable):
    """The value of a counter, which it has from now on: one more than before."""
    in_place = keras.backend.backend() == "torch"
    if in_place and not stateless_scope.in_stateless_scope():
        # A third of what `assign` takes, which eager code pays for each layer and step.
        return variable.value.detach().add_(1)
    value = in_full_precision(variable) + 1
    variable.assign(value)
    return value


def number(value) -> int | None:
    """An integer tensor as a number, where that is computed at once, on the CPU.

    Elsewhere, Python would wait for a device or has only a symbol.
    """
    is_torch = keras.backend.backend() == "torch"
    return int(value) if is_torch and value.device.type == "cpu" else None


def copied_variable(variable: keras.Variable, value=None) -> keras.Variable:
    """A new variable like another one, with its value or one of any shape."""
    # Through NumPy: on JAX, `fit` gives buffers away.
    new = keras.Variable(
        to_numpy(variable) if value is None else value,
        dtype=variable._dtype,
        trainable=variable.trainable,
        autocast=variable._autocast,
        aggregation=variable.aggregation,
        synchronization=variable.synchronization,
        name=variable.name,
        layout=variable._layout,
    )
    new._path = variable.path
    new.regularizer, new.constraint = variable.regularizer, variable.constraint
    new.overwrite_with_gradient = variable.overwrite_with_gradient
    return new


def is_node(value) -> bool:
    """Whether a value is the call of an operation in a graph."""
    return isinstance(value, Node)


def is_made_anew(name: str) -> bool:
    """Whether the attribute of a layer is made anew when the copy is asked for it."""
    return name == "_torch_params"


def metrics_of_compile(value) -> list:
    """The metrics that a compiled model has among its own."""
    if not isinstance(value, keras.Model):
        return []
    names = {"_loss_tracker", "_compile_metrics"} & _compiled_names()
    held = [vars(value).get(name) for name in names]
    return [metric for metric in held if metric is not None]


def derived_class(name: str, bases: tuple[type, ...], members: dict) -> type:
    """A class that derives from a plain one, which is the last of its bases.

    Raises:
      ValueError: if the metaclass of the plain one, or what it does with classes that
        derive from it, does not allow that.
    """
    try:
        # As a class statement does, which asks for the metaclass of all.
        return types.new_class(name, bases, exec_body=lambda x: x.update(members))
    except Exception as error:
        raise ValueError(_no_class(bases[-1], error)) from error


def _no_class(plain_class, error):
    return (
        f"Layers of class {plain_class.__module__}.{plain_class.__name__} cannot be "
        "made sparse, nor hold sparse ones, since no class can derive from it: leave "
        "them dense with an override of None, or use layers of Keras. Received: "
        f"{type(error).__name__}: {error}"
    )


def noticing_gradient(value, notice):
    """A tensor; `notice()` is called when its gradient is computed or traced."""
    backend_name = keras.backend.backend()
    if backend_name == "jax":
        import jax  # The backend, which has imported it.

        # Of reverse and of forward mode.
        noticed = jax.custom_jvp(lambda tensor: tensor)

        @noticed.defjvp
        def _(primals, tangents):
            notice()
            return primals[0], tangents[0]

        return noticed(value)
    if backend_name == "torch":
        import torch  # The backend, which has imported it.

        compiles = torch.compiler.is_compiling()
        if compiles or not (torch.is_grad_enabled() and value.requires_grad):
            return value
        tensor = value.view_as(value)
        tensor.register_hook(lambda gradient: notice())
        return tensor
    import tensorflow as tf  # The backend, which has imported it.

    @tf.custom_gradient
    def noticed(tensor):
        def backward(upstream):
            notice()
            return upstream

        return tensor, backward

    return noticed(value)


def number_now(variable: keras.Variable) -> int | None:
    """The number that a variable holds, also while a graph is traced, or None."""
    # JAX may have a symbol, and TensorFlow a variable of replicas.
    with contextlib.suppress(TypeError, ValueError, RuntimeError):
        if keras.backend.backend() != "tensorflow":
            return int(in_full_precision(variable))
        import tensorflow as tf  # The backend, which has imported it.

        with tf.init_scope():
            return int(to_numpy(variable))
    return None


def with_gradient(forward, backward, *tensors):
    """What `forward(*tensors)` gives, with a backward pass of its own.

    Args:
      forward: a function of the tensors.
      backward: gives the gradient of each of them from that of the result, and them.
      *tensors: of floating-point dtypes.
    """

    @keras.ops.custom_gradient
    def function(*values):
        def gradients(*gradient, upstream=None):
            # PyTorch gives it by its name.
            given = gradient[0] if upstream is None else upstream
            return backward(_whole(given), *values)

        return forward(*values), gradients

    return function(*tensors)


def _whole(gradient):
    """That of a table, which TensorFlow gives by the rows that were looked up."""
    if keras.backend.backend() != "tensorflow":
        return gradient
    import tensorflow as tf  # The backend, which has imported it.

    return tf.convert_to_tensor(gradient)


def gradients(model, variables: list[keras.Variable], inputs, loss, training) -> list:
    """As of `Conversion.gradients`, in tensors."""
    if keras.backend.backend() == "jax":
        return _gradients_of_jax(model, variables, inputs, loss, training)
    before = [(v, to_numpy(v)) for v in model.non_trainable_variables]
    values = [variable.value for variable in variables]
    if keras.backend.backend() == "torch":
        import torch  # The backend, which has imported it.

        result = loss(model(inputs, training=training))
        found = torch.autograd.grad(result, values)
    else:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            result = loss(model(inputs, training=training))
        found = map(_whole, tape.gradient(result, values))
    for variable, value in before:
        variable.assign(value)
    return list(found)


def _gradients_of_jax(model, variables, inputs, loss, training):
    import jax  # The backend, which has imported it.

    state = [v.value for v in model.non_trainable_variables]
    trained = {id(v): v.value for v in model.trainable_variables}

    def of_values(values):
        now = trained | dict(zip(map(id, variables), values, strict=True))
        outputs, _ = model.stateless_call(
            list(now.values()), state, inputs, training=training
        )
        return loss(outputs)

    return jax.grad(of_values)([variable.value for variable in variables])


def tracing_scope():
    """The function that is being traced, within which alone its tensors can be used."""
    backend_name = keras.backend.backend()
    if backend_name == "jax":
        import jax  # The backend, which has imported it.

        return jax.core.get_opaque_trace_state(convention="flax")
    if backend_name == "torch":
        return None
    import tensorflow as tf  # The backend, which has imported it.

    return None if tf.executing_eagerly() else id(tf.compat.v1.get_default_graph())


def summed_over_replicas(tensor):
    """The sum over the replicas of a strategy; the tensor itself where there is one."""
    if replica() is None:
        return tensor
    import tensorflow as tf  # The backend, which has imported it.

    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensor)


def fail_if(condition, message: str) -> None:
    """Has a step fail if a condition holds: at once, or when it is computed.

    Raises:
      RuntimeError: or what the backend makes of it, with the message. What XLA compiles
        for TensorFlow goes on.
    """
    backend_name = keras.backend.backend()
    if backend_name == "torch":
        if bool(condition):
            raise RuntimeError(message)
        return
    if backend_name == "tensorflow":
        import tensorflow as tf  # The backend, which has imported it.

        tf.debugging.Assert(tf.logical_not(condition), [message])
        return
    import jax  # The backend, which has imported it.

    def fail():
        raise RuntimeError(message)

    # The callback itself is one of the host, which a step waits for.
    jax.lax.cond(condition, lambda: jax.debug.callback(fail), lambda: None)


@contextlib.contextmanager
def noticing_reads(variable: keras.Variable, notice):
    """Calls `notice(variable)` whenever the value of a variable is read."""
    cls = type(variable)

    def value(self):
        notice(self)
        return cls.value.fget(self)

    # Its value is a property, which belongs to a class.
    variable.__class__ = type(cls.__name__, (cls,), {"value": property(value)})
    try:
        yield
    finally:
        variable.__class__ = cls


@contextlib.contextmanager
def gptq_by(quantize_matrix):
    """Has Keras's GPTQ quantize each matrix by another function than its own.

    GPTQ and AWQ of Keras 3.15 listen to the `call` of layers, whose policy is a
    quantized one by then, so that `quantized_call` runs, and nothing is heard of the
    data (keras-team/keras#23512). Here they hear it.
    """
    replaced = (
        (gptq, "gptq_quantize_matrix", quantize_matrix),
        (gptq_core, "stream_hessians", _heard(gptq_core.stream_hessians)),
        (awq_core, "stream_activations", _heard(awq_core.stream_activations)),
    )
    plain = [getattr(module, name) for module, name, _ in replaced]
    for module, name, new in replaced:
        setattr(module, name, new)
    try:
        yield
    finally:
        for (module, name, _), old in zip(replaced, plain, strict=True):
            setattr(module, name, old)


def filter_of_blocks(model: keras.Model, config, filters):
    """Filters for `keras.Model.quantize`, by which GPTQ and AWQ leave layers as they
    are that are in none of the blocks which they go through.

    Keras 3.15 has these compute with their weights, and yet saves them without, so that
    they are zero once they are loaded.
    """
    if getattr(config, "mode", None) not in ("gptq", "awq"):
        return filters
    structure = config.quantization_layer_structure
    structure = structure or model.get_quantization_layer_structure(config.mode) or {}
    blocks = structure.get("sequential_blocks", [])
    inside = {id(layer) for block in blocks for layer in all_layers(block)}
    return lambda layer: id(layer) in inside and should_quantize_layer(layer, filters)


def save_zero_points(model: keras.Model) -> None:
    """Has Keras save the zero points of GPTQ and AWQ.

    Keras 3.15 leaves them out, and does not load what it has saved.
    """
    for layer in all_layers(model):
        if layer.quantization_mode in ("gptq", "awq"):
            saved = types.MethodType(_saved_values, layer)
            vars(layer)["_get_kernel_with_merged_lora"] = saved


def _saved_values(layer):
    """Kernel and scale, which Keras takes from elsewhere, and zero points."""
    return None, None, layer.kernel_zero


def _heard(listening):
    @contextlib.contextmanager
    def heard(layers, *args, **kwargs):
        with contextlib.ExitStack() as stack:
            given = stack.enter_context(listening(layers, *args, **kwargs))
            for layer in layers.values():
                if "quantized_call" not in vars(layer):
                    called = {"quantized_call": layer.call}
                    stack.enter_context(replaced_attributes(layer, called))
            yield given

    return heard


def scale_of_kernel(layer: keras.layers.EinsumDense) -> np.ndarray:
    """What Keras has multiplied a kernel of int8 with, along the axes of the kernel."""
    scale = layer._adjust_scale_for_dequant(layer.kernel_scale)
    return keras.ops.convert_to_numpy(scale)


def give_class(layer: keras.layers.Layer, cls: type) -> None:
    """Gives a layer a class that derives from its own.

    Raises:
      ValueError: if Python cannot, naming the class.
    """
    try:
        layer.__class__ = cls
    except TypeError as error:
        raise ValueError(_no_class(type(layer), error)) from error


@functools.cache
def _mask_class(cls: type) -> type:
    def assign(self, value):
        given = value if hasattr(value, "dtype") else np.asarray(value)
        if keras.backend.standardize_dtype(given.dtype) != "bool":
            raise TypeError(
                f"{self.path} is a mask, which takes Booleans: as such, all numbers "
                "but 0 are True. Where weights are averaged, average the trainable "
                "ones, and assign all others as they are. Received: values of "
                f"{given.dtype}"
            )
        return super(masks, self).assign(value)

    masks = type(cls.__name__, (cls,), {"assign": assign})
    return masks


@functools.cache
def _fed_back_class(cls: type) -> type:
    def assign(self, value):
        optimizer, purpose = _calling_optimizer()
        if optimizer is None:
            return super(fed_back, self).assign(value)
        # A moving average would be of what is no weight.
        if purpose != "_overwrite_variables_directly_with_gradients":
            return self.value
        if keras.backend.backend() == "jax":
            # That of a layer that took no part in the step is zero.
            is_one = keras.ops.any(keras.ops.not_equal(value, 0.0))
            value = keras.ops.where(is_one, value, self.value)
        return super(fed_back, self).assign(value)

    def is_fed_back(self):
        optimizer, _ = _calling_optimizer()
        if optimizer is not None:
            # Optimizers ask when they are built.
            _check_optimizer(optimizer, self.path)
        return cls.overwrite_with_gradient.fget(self)

    asked = property(is_fed_back, cls.overwrite_with_gradient.fset)
    members = {"assign": assign, "overwrite_with_gradient": asked}
    fed_back = type(cls.__name__, (cls,), members)
    return fed_back


def _calling_optimizer():
    """The optimizer of Keras that calls, and the name of its method, or None."""
    frame = sys._getframe(2)
    caller = frame.f_locals.get("self")
    is_optimizer = isinstance(caller, keras.optimizers.Optimizer)
    return (caller, frame.f_code.co_name) if is_optimizer else (None, None)


def _check_optimizer(optimizer, path):
    """Raises for what Keras does not do right with what is overwritten."""
    fails = {"tensorflow": optimizer.use_ema, "jax": optimizer.ema_overwrite_frequency}
    if optimizer.gradient_accumulation_steps:
        raise ValueError(
            f"{path} is what the gradients of each step make of it, and an optimizer "
            "with gradient_accumulation_steps updates it with the largest of several "
            "steps: leave that out, or prune with a technique that needs no "
            f"gradients. Received: {optimizer.gradient_accumulation_steps}"
        )
    if optimizer.use_ema and fails.get(keras.backend.backend()):
        raise ValueError(
            f"{path} is overwritten with its gradient, for which Keras has no moving "
            "average: with TensorFlow, use_ema fails, and with JAX "
            "ema_overwrite_frequency. Leave that out, or prune with a technique that "
            "needs no gradients."
        )


def attributes_to_copy(value) -> dict:
    """The attributes of a part of a model that a copy has, of no call and no `fit`."""
    if not isinstance(value, keras.layers.Layer):
        return vars(value)
    is_model = isinstance(value, keras.Model)
    left_out = _MADE_ANEW | _compiled_names() if is_model else _MADE_ANEW
    return {
        name: _OF_A_CALL[name]() if name in _OF_A_CALL else attribute
        for name, attribute in vars(value).items()
        if name not in left_out
    }


def complete_copy(value, new, copies: dict) -> None:
    """Gives a copy, once it has its attributes, what Keras derives from them.

    Args:
      value: the original.
      new: its copy.
      copies: by the `id` of an original.
    """
    if isinstance(value, keras.Model):
        Trainer.__init__(new)
        vars(new)["_metrics"][:] = [m for m in new._metrics if m is not None]
    if hasattr(value, "_track_module_parameters"):
        # Around a module of PyTorch's own, whose parameters its variables are.
        module = copy.deepcopy(value.module)
        new._modules["module"] = module
        pairs = zip(value.module.parameters(), module.parameters(), strict=True)
        parameters = {id(old): copied for old, copied in pairs}
        for variable in value.variables:
            copies[id(variable)]._value = parameters[id(variable._value)]
    if isinstance(value, Function):
        # Keras names the nodes of a graph by the identity of their operations.
        keys = [key.partition("_") for key in value._nodes]
        new._nodes = {f"{id(copies[int(key)])}{_}{index}" for key, _, index in keys}
        _track_operations(new)
    if isinstance(value, Tracker):
        new.stored_ids = {
            name: {id(item) for item in items if item is not None}
            for name, (_, items) in new.config.items()
        }


@functools.cache
def _compiled_names() -> frozenset[str]:
    """Names of the attributes that come with `compile` and `fit`."""
    model = keras.Sequential()
    model.compile(optimizer=keras.optimizers.SGD())
    made = frozenset(vars(model)) - frozenset(vars(keras.Sequential()))
    empty = keras.layers.Layer.__new__(keras.Model)
    empty._initialize_tracker()
    before = frozenset(vars(empty))
    Trainer.__init__(empty)
    return made | (frozenset(vars(empty)) - before) | _OF_FIT


def _track_operations(graph: Function) -> None:
    """Has TensorFlow find the layers of a functional model, with their lookup tables.

    It tracks what is set as an attribute, and exports no table that it does not track.
    """
    if keras.backend.backend() != "tensorflow" or not isinstance(graph, Functional):
        return
    import tensorflow as tf  # The backend, which has imported it.

    operations = tf.__internal__.tracking.wrap(list(graph._operations))
    graph._track_trackable(operations, "_operations", overwrite=True)


def extra_variable(
    layer: keras.layers.Layer, name: str, beside: keras.Variable | None, **arguments
) -> keras.Variable:
    """A new weight of a built layer.

    Args:
      layer: that gets an attribute of that name.
      name: of the weight.
      beside: a weight with whose layout on the devices it goes.
      **arguments: of `Layer.add_weight`.
    """
    layer._tracker.unlock()
    variable = layer.add_weight(name=name, autocast=False, **arguments)
    setattr(layer, name, variable)
    layer._tracker.lock()
    if variable.dtype == "bool":
        variable.__class__ = _mask_class(type(variable))
    elif variable.overwrite_with_gradient:
        variable.__class__ = _fed_back_class(type(variable))
    variable._path = f"{layer.path or layer.name}/{name}"
    if beside is not None and beside._layout is not None:
        variable._layout = beside._layout
        variable.assign(variable.value)
    return variable


def remove_variables(layer: keras.layers.Layer, names) -> None:
    """Takes weights from a built layer, by the attributes that hold them."""
    layer._tracker.unlock()
    for name in names:
        layer._untrack_variable(getattr(layer, name))
        # `Layer.__delattr__` collects garbage, which takes its time for each weight.
        super(keras.layers.Layer, layer).__delattr__(name)
    layer._tracker.lock()


def described(layer: keras.layers.Layer, plain_class: type) -> dict:
    """What Keras saves of a layer of a plain class."""
    view = object.__new__(plain_class)
    vars(view).update(vars(layer))
    config = serialization_lib.serialize_dict(view.get_config())
    public = serialization_lib.serialize_with_public_class(plain_class, config)
    return public or {
        "module": plain_class.__module__,
        "class_name": plain_class.__name__,
        "config": config,
        "registered_name": keras.saving.get_registered_name(plain_class),
    }


@functools.cache
def fused(function):
    """A function of a shape and of scalars whose many small operations are one.

    TensorFlow would pass over memory for each of them, unless XLA compiles them.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf  # The backend, which has imported it.

    @tf.function(jit_compile=True)
    def compiled(shape, *scalars):
        return function([shape[axis] for axis in range(shape.shape[0])], *scalars)

    def with_shape(shape, *scalars):
        lengths = (
            tf.cast(tf.stack(shape), "int32") if len(shape) else tf.zeros(0, "int32")
        )
        result = compiled(lengths, *scalars)
        result.set_shape([n if isinstance(n, int) else None for n in shape])
        return result

    return with_shape


def replica():
    """Number of the replica of a `tf.distribute` strategy that computes, or None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf  # The backend, which has imported it.

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    return keras.ops.cast(context.replica_id_in_sync_group, "int32")
