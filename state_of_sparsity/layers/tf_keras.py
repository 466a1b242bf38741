"""Layers of `tf_keras` that learn, with a technique, which of their weights go.

They are those of `state_of_sparsity.layers`, for the other Keras. Inputs that are
multiplied must be floating-point, and ids dense or ragged, or a TypeError names the
layer.

`TiedEmbedding` is a plain layer: an embedding that is also used transposed.

`SparseDense`, ... take any technique: they are what `sparsify` makes of layers that it
does not put into TF-MOT's wrapper.

What is new about a layer kind is its linear map, and that is Keras's own: it is called
with another weight. To add a kind, derive a class from a kind of map (`Linear`,
`Depthwise`, `Separable`, `Lookup`, `TiedLookup`, `Recurrent`) and the Keras layer;
`sparsify` finds it in `KINDS`.
"""

# Registers what Keras needs to load models that `sos.sparsify` made.
import state_of_sparsity.engines.tf_keras.engine  # noqa: F401
from state_of_sparsity.engines.tf_keras.layers import learned
from state_of_sparsity.engines.tf_keras.layers.maps import (
    Depthwise,
    Linear,
    Lookup,
    Recurrent,
    Separable,
    TiedLookup,
)
from state_of_sparsity.engines.tf_keras.layers.reparameterized import (
    KINDS,
    LAYERS,
    Reparameterized,
)
from state_of_sparsity.engines.tf_keras.layers.tied_embedding import TiedEmbedding

__all__ = [
    "KINDS",
    "LAYERS",
    "Depthwise",
    "Linear",
    "Lookup",
    "Recurrent",
    "Reparameterized",
    "Separable",
    "TiedEmbedding",
    "TiedLookup",
]
globals().update(learned.SPARSE | learned.CLASSES)
__all__.extend(learned.SPARSE | learned.CLASSES)
