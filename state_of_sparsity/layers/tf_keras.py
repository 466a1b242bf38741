"""Layers of `tf_keras` that learn, with a technique, which of their weights go.

`VariationalX` and `L0X` take the arguments of the Keras layer `X`, and with their names
the hyperparameters of `sos.VariationalDropout` and `sos.L0Regularization`. In training
they compute with noise, in inference with the deployed weight, in which zeros are
exact. The penalty joins the loss of the model as a regularizer's does.

    layers.VariationalDense(300, activation="relu", kl_weight=1e-5)

They hold the trainable weight under its Keras name, and the technique's parameter as
`log_sigma2` or `log_alpha` (and `recurrent_log_sigma2`, `recurrent_log_alpha`; of a
separable convolution `depthwise_log_alpha` and `pointwise_log_alpha`, since it is two
linear maps, each with its noise). The weights of recurrent layers are drawn once for
all steps and the whole batch, those of embeddings for each row that is looked up.
Inputs that are multiplied must be floating-point, and ids dense or ragged, or a
TypeError names the layer.

`TiedEmbedding` is a plain layer: an embedding that is also used transposed.

What is new about a layer kind is its linear map, and that is Keras's own: it is called
with another weight. To add a kind, derive a class from a kind of map (`Linear`,
`Depthwise`, `Separable`, `Lookup`, `TiedLookup`, `Recurrent`) and the Keras layer, for
each technique; `sparsify` finds it in `LAYERS`.
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
    LAYERS,
    Reparameterized,
)
from state_of_sparsity.engines.tf_keras.layers.tied_embedding import TiedEmbedding

__all__ = [
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
globals().update(learned.CLASSES)
__all__.extend(learned.CLASSES)
