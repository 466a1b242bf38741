"""The layers of tf_keras that learn which of their weights go."""

from state_of_sparsity.engines.handmade import KINDS, layer_classes
from state_of_sparsity.engines.tf_keras.backend import keras, register_layer
from state_of_sparsity.engines.tf_keras.layers.maps import (
    Depthwise,
    Linear,
    Lookup,
    Recurrent,
    Separable,
    TiedLookup,
)
from state_of_sparsity.engines.tf_keras.layers.tied_embedding import TiedEmbedding

_FURTHER_MAPS = {
    "DepthwiseConv1D": Depthwise,
    "DepthwiseConv2D": Depthwise,
    "SeparableConv1D": Separable,
    "SeparableConv2D": Separable,
    "Embedding": Lookup,
    "SimpleRNN": Recurrent,
    "LSTM": Recurrent,
    "GRU": Recurrent,
}
_KINDS = {
    kind: (_FURTHER_MAPS.get(kind, Linear), getattr(keras.layers, kind))
    for kind in KINDS
} | {"TiedEmbedding": (TiedLookup, TiedEmbedding)}
_MODULE = "state_of_sparsity.layers.tf_keras"

# With any technique: those that `sparsify` makes.
SPARSE = {
    f"Sparse{kind}": register_layer(
        type(f"Sparse{kind}", bases, {"__module__": _MODULE})
    )
    for kind, bases in _KINDS.items()
}
CLASSES = layer_classes(_KINDS, register_layer, _MODULE)
