"""Keras layers with variational dropout."""

from state_of_sparsity.engines.tf_keras.backend import keras, register_layer
from state_of_sparsity.engines.tf_keras.layers.maps import (
    Depthwise,
    Linear,
    Lookup,
    Recurrent,
    TiedLookup,
)
from state_of_sparsity.engines.tf_keras.layers.tied_embedding import TiedEmbedding
from state_of_sparsity.techniques.variational_dropout import VariationalDropout


class _Variational:
    technique_class = VariationalDropout


@register_layer
class VariationalDense(_Variational, Linear, keras.layers.Dense):
    """`Dense` with variational dropout; see `layers.tf_keras`."""


@register_layer
class VariationalConv1D(_Variational, Linear, keras.layers.Conv1D):
    """`Conv1D` with variational dropout; see `layers.tf_keras`."""


@register_layer
class VariationalConv2D(_Variational, Linear, keras.layers.Conv2D):
    """`Conv2D` with variational dropout; see `layers.tf_keras`."""


@register_layer
class VariationalConv3D(_Variational, Linear, keras.layers.Conv3D):
    """`Conv3D` with variational dropout; see `layers.tf_keras`."""


@register_layer
class VariationalDepthwiseConv1D(_Variational, Depthwise, keras.layers.DepthwiseConv1D):
    """`DepthwiseConv1D` with variational dropout; see `layers.tf_keras`."""


@register_layer
class VariationalDepthwiseConv2D(_Variational, Depthwise, keras.layers.DepthwiseConv2D):
    """`DepthwiseConv2D` with variational dropout; see `layers.tf_keras`."""


@register_layer
class VariationalEinsumDense(_Variational, Linear, keras.layers.EinsumDense):
    """`EinsumDense` with variational dropout; see `layers.tf_keras`."""


@register_layer
class VariationalEmbedding(_Variational, Lookup, keras.layers.Embedding):
    """`Embedding` with variational dropout; see `layers.tf_keras`."""


@register_layer
class VariationalTiedEmbedding(_Variational, TiedLookup, TiedEmbedding):
    """`TiedEmbedding` with variational dropout; see `layers.tf_keras`."""


@register_layer
class VariationalSimpleRNN(_Variational, Recurrent, keras.layers.SimpleRNN):
    """`SimpleRNN` with variational dropout; see `layers.tf_keras`."""


@register_layer
class VariationalLSTM(_Variational, Recurrent, keras.layers.LSTM):
    """`LSTM` with variational dropout; see `layers.tf_keras`."""


@register_layer
class VariationalGRU(_Variational, Recurrent, keras.layers.GRU):
    """`GRU` with variational dropout; see `layers.tf_keras`."""
