"""Keras layers whose weights a technique of the reparameterization family learns.

`VariationalX` and `L0X` take the arguments of the Keras layer `X`, and with their names
the hyperparameters of `sos.VariationalDropout` and `sos.L0Regularization`. In training
they compute with noise, in inference with the deployed weight, in which zeros are
exact. The penalty joins the loss of the model as a regularizer's does.

    layers.VariationalDense(300, activation="relu", kl_weight=1e-5)

They hold the trainable weight under its Keras name, and the technique's parameter as
`log_sigma2` or `log_alpha` (and `recurrent_log_sigma2`, `recurrent_log_alpha`). The
weights of recurrent layers are drawn once for all steps and the whole batch, those of
embeddings for each row that is looked up. Inputs that are multiplied must be
floating-point, and ids dense or ragged, or a TypeError names the layer.

`TiedEmbedding` is a plain layer: an embedding that is also used transposed.

What is new about a layer kind is its linear map, and that is Keras's own: it is called
with another weight (`maps.py`). To add a kind, derive a class from a kind of map and
the Keras layer, for each technique; `sparsify` finds it in `LAYERS`.
"""

from state_of_sparsity.layers.l0 import (
    L0GRU,
    L0LSTM,
    L0Conv1D,
    L0Conv2D,
    L0Conv3D,
    L0Dense,
    L0DepthwiseConv1D,
    L0DepthwiseConv2D,
    L0EinsumDense,
    L0Embedding,
    L0SimpleRNN,
    L0TiedEmbedding,
)
from state_of_sparsity.layers.reparameterized import LAYERS, Reparameterized
from state_of_sparsity.layers.tied_embedding import TiedEmbedding
from state_of_sparsity.layers.variational import (
    VariationalConv1D,
    VariationalConv2D,
    VariationalConv3D,
    VariationalDense,
    VariationalDepthwiseConv1D,
    VariationalDepthwiseConv2D,
    VariationalEinsumDense,
    VariationalEmbedding,
    VariationalGRU,
    VariationalLSTM,
    VariationalSimpleRNN,
    VariationalTiedEmbedding,
)

__all__ = [
    "L0GRU",
    "L0LSTM",
    "LAYERS",
    "L0Conv1D",
    "L0Conv2D",
    "L0Conv3D",
    "L0Dense",
    "L0DepthwiseConv1D",
    "L0DepthwiseConv2D",
    "L0EinsumDense",
    "L0Embedding",
    "L0SimpleRNN",
    "L0TiedEmbedding",
    "Reparameterized",
    "TiedEmbedding",
    "VariationalConv1D",
    "VariationalConv2D",
    "VariationalConv3D",
    "VariationalDense",
    "VariationalDepthwiseConv1D",
    "VariationalDepthwiseConv2D",
    "VariationalEinsumDense",
    "VariationalEmbedding",
    "VariationalGRU",
    "VariationalLSTM",
    "VariationalSimpleRNN",
    "VariationalTiedEmbedding",
]
