"""Operations of a model: dense, with its zeros skipped, and in training."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping

import numpy as np

from state_of_sparsity.engines import engine_of
from state_of_sparsity.engines.equations import Equation
from state_of_sparsity.engines.recording import is_kind

# Of a layer, the shapes of its inputs and that of its output.
Rule = Callable[[object, list[tuple], tuple], Mapping[str, int]]


@dataclasses.dataclass(frozen=True)
class Flops:
    """Floating-point operations of the products for one example.

    A multiplication and the addition that takes its result count as two.

    Attributes:
      dense: with every weight counted.
      sparse: with only the non-zero weights counted.
      layers: by weight, named as in `sparsity_report` ("block/conv1/kernel"), and, for
        products of activations, by layer ("block/attention").
    """

    dense: int
    sparse: int
    layers: Mapping[str, "Flops"] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )


def count_flops(model, inputs=None, rules: Mapping[type, Rule] | None = None) -> Flops:
    """Counts the operations of a model's inference, of its products with weights.

    They are those of Dense, EinsumDense, convolutions (grouped, depthwise, separable
    and transposed), SimpleRNN, LSTM, GRU and ConvLSTM, also within Bidirectional and
    TimeDistributed, and the logits of ReversibleEmbedding; lookups are free. Adapters
    of LoRA count as products of their own, beside that of the weight. Of attention
    layers, those of KerasHub's language models included, the products of queries, keys
    and values count as well, in dense and sparse alike.

    A weight takes part in one multiply-add for each position of the layer's output (of
    its input, if it is a transposed convolution), padding included. Biases,
    normalization and activations are not counted.

    A layer of one's own tells what it computes in its `call`. How often each element of
    its matrices is used for a batch, in a method
    `weight_uses(input_shape, output_shape)`, which returns `{attribute: number}`. And
    the multiply-adds of its products of activations with activations, such as those of
    attention, in a method `activation_products(input_shapes, output_shape)`, which
    returns a number: without it, none are counted. `input_shapes` are those of all
    tensors that it is called with, in the order of its `call`.

    Examples:
      >>> def of_mixing(layer, input_shapes, output_shape):
      ...     batch, positions, channels = input_shapes[0]
      ...     return {"mixer": batch * channels, "activations": 0}
      >>> sos.count_flops(model, rules={SomebodysMixing: of_mixing})

    Args:
      model: any built model, sparse or not.
      inputs: an example batch: arrays of which shapes and types are used, but for the
        number of examples. By default, what the model is made for, or was called on.
      rules: for somebody else's classes and those that derive from them, before all
        others: functions `rule(layer, input_shapes, output_shape)` that return how
        often each element of its matrices is used, by attribute, and the multiply-adds
        of its activations as "activations".

    Raises:
      TypeError: for rules that are no functions by class.
      ValueError: if the sizes of the inputs or of a product are not known, or for a
        layer with matrices that it cannot count: one without `weight_uses` or a rule.
    """
    rules = dict(rules or {})
    if not all(isinstance(c, type) and callable(rules[c]) for c in rules):
        raise TypeError(f"rules must be functions by class. Received: {rules!r}")
    engine = engine_of(model)
    sites = list(engine.sites(model))
    if any(site.is_sparse for site in sites):
        model = engine.strip(model)
        sites = list(engine.sites(model))
    weights = _Weights(engine, sites)
    layers = {w.name: Flops(0, 0) for x in engine.layers(model) for w in weights.of(x)}

    def add(name, dense, sparse):
        before = layers.get(name, Flops(0, 0))
        layers[name] = Flops(before.dense + dense, before.sparse + sparse)

    for call in engine.calls(model, inputs):
        stated = _stated(call, call.layer, rules)
        for layer in _used_layers(call, rules):
            of_layer = stated if layer is call.layer else _stated(call, layer, rules)
            for weight in weights.of(layer):
                uses = 2 * call.times * _uses(call, layer, weight, of_layer)
                add(weight.name, uses * weight.size, uses * weight.nonzero)
        if products := 2 * call.times * _products(call, stated):
            add(call.path, products, products)
    return _sum(layers)


def count_training_flops(
    model, steps: int, inputs=None, rules: Mapping[type, Rule] | None = None
) -> Flops:
    """Counts the operations of training on one example at each of a number of steps.

    After Evci et al. 2020 (arXiv 1911.11134, appendix): a step takes three times the
    operations of inference, once forward and twice backward. Of a pruned weight, only
    what the mask of a step keeps counts; the learned techniques train all weights. Of
    layers that share a threshold or have tied channels, the sum of what they keep is
    known, and its share in each is taken to have been that of the end.

    Args:
      model: a sparse model, or a dense one.
      steps: number of training steps from the first one.
      inputs: as of `count_flops`.
      rules: likewise.

    Returns:
      `dense` as if the model were dense, `sparse` as it is, summed over the steps.

    Raises:
      TypeError, ValueError: as `count_flops`, and for a model that TF-MOT's
        `prune_low_magnitude` made sparse.
    """
    engine, counted = engine_of(model), count_flops(model, inputs, rules).layers
    dense = {name: 3 * steps * flops.dense for name, flops in counted.items()}
    layers = {name: Flops(flops, flops) for name, flops in dense.items()}
    for site in (site for site in engine.sites(model) if site.is_sparse):
        if not hasattr(site.layer, "technique"):
            raise ValueError(
                f"Layer {site.path!r} was not made sparse by sos.sparsify: how sparse "
                "it is at each step of training is not known."
            )
        for weight in engine.deployed_weights(site.layer):
            if not weight.is_sparse:
                continue
            name, mask = f"{site.path}/{weight.attribute}", weight.mask
            kept = site.layer.technique.kept_weights(mask, steps)
            sparse = dense[name] * kept // max(steps * mask.size, 1)
            layers[name] = Flops(dense[name], sparse)
    return _sum(layers)


def _sum(layers):
    dense = sum(flops.dense for flops in layers.values())
    return Flops(dense, sum(flops.sparse for flops in layers.values()), layers)


@dataclasses.dataclass(frozen=True)
class _Weight:
    """A weight of two or more dimensions: its name in the model and in its layer."""

    name: str
    attribute: str
    size: int
    nonzero: int


class _Weights:
    """The weights of two or more dimensions of plain layers; biases are none."""

    def __init__(self, engine, sites):
        self._engine = engine
        self._paths = {id(site.layer): site.path for site in sites}
        self._names = {
            id(variable): (site.path, attribute)
            for site in sites
            for attribute, variable in site.weights.items()
        }
        self._found: dict[int, list[_Weight]] = {}

    def of(self, layer):
        if id(layer) not in self._found:
            self._found[id(layer)] = [
                self._weight(layer, variable, name)
                for variable in self._engine.own_weights(layer)
                for name in [variable.name.rpartition("/")[2].partition(":")[0]]
                # Of attention, GRU and EinsumDense, biases have several dimensions.
                if len(variable.shape) > 1 and name != "bias"
            ]
        return self._found[id(layer)]

    def _weight(self, layer, variable, name):
        elsewhere = self._paths.get(id(layer), layer.name), name
        path, attribute = self._names.get(id(variable), elsewhere)
        value = self._engine.to_numpy(variable)
        nonzero = int(np.count_nonzero(value))
        return _Weight(f"{path}/{attribute}", attribute, value.size, nonzero)


def _used_layers(call, rules):
    """The layers whose own weights a call uses: of a recurrent layer, its cells."""
    if not is_kind(call.layer, "RNN"):
        return [call.layer]
    cells = getattr(call.layer.cell, "cells", [call.layer.cell])
    for cell in cells:
        if not is_kind(cell, *_CELLS) and _rule_for(cell, rules) is None:
            raise _no_rule(cell)
    return cells


def _rule_for(layer, rules):
    return next((rules[c] for c in type(layer).__mro__ if c in rules), None)


def _stated(call, layer, rules):
    """What a rule of the user says of a layer, or else the layer itself."""
    rule, stated = _rule_for(layer, rules), {}
    if rule is not None:
        return rule(layer, call.inputs, call.outputs)
    if hasattr(layer, "weight_uses"):
        stated |= layer.weight_uses(call.inputs[0], call.outputs)
    if hasattr(layer, "activation_products"):
        _product(call, [size for shape in call.inputs for size in shape])
        stated["activations"] = layer.activation_products(call.inputs, call.outputs)
    return stated


def _uses(call, layer, weight, stated):
    """How often a call of a layer uses each element of a weight."""
    if weight.attribute in stated:
        return stated[weight.attribute]
    attribute = weight.attribute.rpartition(".")[2]
    if attribute.startswith("lora_"):
        # The first of two products in a row takes the inputs of the weight itself.
        if attribute.endswith("_b"):
            return _by_output(call)
        attribute = attribute.removeprefix("lora_").removesuffix("_a")
    for kind, rules in _RULES.items():
        if is_kind(layer, kind) and attribute in rules:
            return rules[attribute](call)
    if type(layer).__module__.startswith("keras_hub.") and _LOOKED_UP.search(attribute):
        return 0
    raise _no_rule(layer, weight.attribute)


def _no_rule(layer, attribute="its weights"):
    return ValueError(
        f"No rule to count the operations of layer {layer.name!r} of kind "
        f"{type(layer).__name__} with {attribute}. Of a class of your own, say it in a "
        "method weight_uses(input_shape, output_shape); of another, in `rules`."
    )


def _product(call, sizes):
    if None in sizes:
        raise ValueError(
            f"Layer {call.path!r} computes on tensors of no fixed size: {call.inputs} "
            f"to {call.outputs}. Pass `inputs`, or build it for a fixed size."
        )
    return math.prod(sizes)


def _never(call):
    del call
    return 0


def _positions(call, shape):
    """Batch and positions of a tensor of channels."""
    channels_first = getattr(call.layer, "data_format", None) == "channels_first"
    return _product(call, (shape[0], *shape[2:]) if channels_first else shape[:-1])


def _by_output(call):
    return _positions(call, call.outputs)


def _by_input(call):
    return _positions(call, call.inputs[0])


def _by_equation(call):
    """The product of the dimensions of the inputs that the kernel does not have."""
    shape = call.inputs[0]
    parts = Equation.of(call.layer.equation).of_rank(len(shape))
    named = zip(parts.inputs, shape, strict=True)
    return _product(call, [size for x, size in named if x not in parts.kernel])


def _by_vector(call):
    """Of an embedding: the vectors that are mapped to logits. Ids are looked up."""
    is_lookup = len(call.outputs) > len(call.inputs[0])
    return 0 if is_lookup else _by_input(call)


def _tied_by_vector(call):
    return 0 if hasattr(call.layer, "reverse_embeddings") else _by_vector(call)


def _by_step(call):
    """Batch and time; of convolutional cells, at each position of the outputs."""
    rank, shape = getattr(call.layer.cell, "rank", 0), call.outputs
    channels_first = getattr(call.layer, "data_format", None) == "channels_first"
    positions = shape[-rank:] if channels_first else shape[-1 - rank : -1]
    return _product(call, (*call.inputs[0][:2], *positions))


# What KerasHub's layers add to inputs, or look up: positions, classes, biases.
_LOOKED_UP = re.compile("embed|token|table")
_CELLS = ("SimpleRNNCell", "GRUCell", "LSTMCell", "ConvLSTMCell")
_OF_CELLS = {"kernel": _by_step, "recurrent_kernel": _by_step}
_OF_SEPARABLE = {"depthwise_kernel": _by_output, "pointwise_kernel": _by_output}
# How often each element of a weight is used, by Keras's kinds of layers and the weights
# that they hold themselves. Kinds come before those that they derive from.
_RULES = {
    "Dense": {"kernel": _by_output},
    "EinsumDense": {"kernel": _by_equation},
    "Conv1DTranspose": {"kernel": _by_input},
    "Conv2DTranspose": {"kernel": _by_input},
    "Conv3DTranspose": {"kernel": _by_input},
    "DepthwiseConv": {"depthwise_kernel": _by_output},
    "SeparableConv": _OF_SEPARABLE,
    "Conv": {"kernel": _by_output},
    "BaseDepthwiseConv": {"kernel": _by_output},
    "BaseSeparableConv": _OF_SEPARABLE,
    "BaseConv": {"kernel": _by_output},
    "ReversibleEmbedding": {
        "embeddings": _tied_by_vector,
        "reverse_embeddings": _by_vector,
    },
    "Embedding": {"embeddings": _by_vector},
    "MaskedLMHead": {"output_kernel": _by_output},
    "PReLU": {"alpha": _never},
    "LayerNormalization": {"gamma": _never, "beta": _never},
    **dict.fromkeys(_CELLS, _OF_CELLS),
}


# Attention of its language models that does not derive from Keras's.
_OF_KERAS_HUB = re.compile(
    "(Bloom|Cached(Gemma3?|Mistral|Mixtral)|Falcon|GPTNeoX|GptOss|Llama|Phi3|"
    "Qwen3?(Moe)?|T5MultiHead)Attention"
)


def _products(call, stated):
    """Multiply-adds of activations: queries with keys, and their scores with values."""
    if "activations" in stated:
        return stated["activations"]
    if is_kind(call.layer, "Attention", "AdditiveAttention"):
        query, value = call.inputs[:2]
        return _product(call, query[:-1]) * value[-2] * (query[-1] + value[-1])
    names = [cls.__name__ for cls in type(call.layer).__mro__]
    if is_kind(call.layer, *filter(_OF_KERAS_HUB.fullmatch, names)):
        return _hub_products(call)
    if not is_kind(call.layer, "MultiHeadAttention", "GroupedQueryAttention"):
        return 0
    (query, value), config = call.inputs[:2], call.layer.get_config()
    heads = config.get("num_heads") or config["num_query_heads"]
    of_keys = config.get("key_dim") or config["head_dim"]
    of_values = config.get("value_dim") or of_keys
    axes = config.get("attention_axes") or range(1, len(value) - 1)
    pairs = _product(call, (*query[:-1], *[value[axis] for axis in axes]))
    return pairs * heads * (of_keys + of_values)


def _hub_products(call):
    """Of an attention layer of KerasHub, not all of which have a configuration."""
    query = call.inputs[0]
    # Keys come from another tensor of such vectors, if there is one.
    value = [x for x in call.inputs if len(x) == 3 and x[-1] == query[-1]][-1]

    def first_of(*names):
        return next((v for n in names if (v := getattr(call.layer, n, None))), None)

    heads = first_of("num_query_heads", "_num_query_heads", "num_heads")
    of_keys = first_of("head_dim", "_head_dim", "key_value_dim") or query[-1] // heads
    return _product(call, (*query[:-1], value[1])) * heads * 2 * of_keys
