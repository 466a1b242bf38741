"""Keras 3 layers whose weights a technique learns.

`VariationalX` and `L0X` take the arguments of the Keras layer `X`, and with their names
the hyperparameters of `sos.VariationalDropout` and `sos.L0Regularization`. In training
they compute with noise, in inference with the deployed weight, in which zeros are
exact. The penalty joins the losses of the model as a regularizer's does.

    layers.VariationalDense(300, activation="relu", kl_weight=1e-5)

They hold the trainable weight under its Keras name, and the technique's parameter as
`log_sigma2` or `log_alpha` (and `recurrent_log_sigma2`, `recurrent_log_alpha`; of a
separable convolution `depthwise_log_alpha` and `pointwise_log_alpha`, since it is two
linear maps, each with its noise). The weights of recurrent layers are drawn once for
all positions and the whole batch, those of embeddings for each row that is looked up.

`KWinners` gives sparse activations, and `DropBlock2D`, `DropConnectDense` and
`DropConnectConv2D` regularize by dropping blocks of activations, or weights; they are
plain layers.

Importing this module lets Keras load models with sparse layers. For `tf_keras` there is
`state_of_sparsity.layers.tf_keras`.
"""

import keras

# Registers what Keras needs to load models that `sos.sparsify` made.
import state_of_sparsity.engines.keras3.engine  # noqa: F401
from state_of_sparsity.engines.handmade import KINDS, layer_classes
from state_of_sparsity.engines.keras3.handmade import Handmade
from state_of_sparsity.layers.zeroing import (
    DropBlock2D,
    DropConnectConv2D,
    DropConnectDense,
    KWinners,
)

_KINDS = (*KINDS, "ReversibleEmbedding", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
_CLASSES = layer_classes(
    {kind: (Handmade, getattr(keras.layers, kind)) for kind in _KINDS},
    keras.saving.register_keras_serializable("state_of_sparsity"),
    __name__,
)
globals().update(_CLASSES)
__all__ = ["DropBlock2D", "DropConnectConv2D", "DropConnectDense", "KWinners"]
__all__ += sorted(_CLASSES)
