"""Keras layers with L0 gates."""

from state_of_sparsity.engines.tf_keras.backend import keras, register_layer
from state_of_sparsity.engines.tf_keras.layers.maps import (
    Depthwise,
    Linear,
    Lookup,
    Recurrent,
    TiedLookup,
)
from state_of_sparsity.engines.tf_keras.layers.tied_embedding import TiedEmbedding
from state_of_sparsity.techniques.l0 import L0Regularization


class _L0:
    technique_class = L0Regularization


@register_layer
class L0Dense(_L0, Linear, keras.layers.Dense):
    """`Dense` with L0 gates; see `layers.tf_keras`."""


@register_layer
class L0Conv1D(_L0, Linear, keras.layers.Conv1D):
    """`Conv1D` with L0 gates; see `layers.tf_keras`."""


@register_layer
class L0Conv2D(_L0, Linear, keras.layers.Conv2D):
    """`Conv2D` with L0 gates; see `layers.tf_keras`."""


@register_layer
class L0Conv3D(_L0, Linear, keras.layers.Conv3D):
    """`Conv3D` with L0 gates; see `layers.tf_keras`."""


@register_layer
class L0DepthwiseConv1D(_L0, Depthwise, keras.layers.DepthwiseConv1D):
    """`DepthwiseConv1D` with L0 gates; see `layers.tf_keras`."""


@register_layer
class L0DepthwiseConv2D(_L0, Depthwise, keras.layers.DepthwiseConv2D):
    """`DepthwiseConv2D` with L0 gates; see `layers.tf_keras`."""


@register_layer
class L0EinsumDense(_L0, Linear, keras.layers.EinsumDense):
    """`EinsumDense` with L0 gates; see `layers.tf_keras`."""


@register_layer
class L0Embedding(_L0, Lookup, keras.layers.Embedding):
    """`Embedding` with L0 gates; see `layers.tf_keras`."""


@register_layer
class L0TiedEmbedding(_L0, TiedLookup, TiedEmbedding):
    """`TiedEmbedding` with L0 gates; see `layers.tf_keras`."""


@register_layer
class L0SimpleRNN(_L0, Recurrent, keras.layers.SimpleRNN):
    """`SimpleRNN` with L0 gates; see `layers.tf_keras`."""


@register_layer
class L0LSTM(_L0, Recurrent, keras.layers.LSTM):
    """`LSTM` with L0 gates; see `layers.tf_keras`."""


@register_layer
class L0GRU(_L0, Recurrent, keras.layers.GRU):
    """`GRU` with L0 gates; see `layers.tf_keras`."""
