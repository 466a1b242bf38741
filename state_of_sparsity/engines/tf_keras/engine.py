"""The engine for models of `tf_keras`: see `state_of_sparsity.engines.Engine`."""

from state_of_sparsity.engines import Engine
from state_of_sparsity.engines.tf_keras.conversion import TFKerasConversion
from state_of_sparsity.engines.tf_keras.inspection import TFKerasInspection

# Registers the classes of layers.
from state_of_sparsity.engines.tf_keras.layers import learned  # noqa: F401


class TFKerasEngine(TFKerasConversion, TFKerasInspection, Engine):
    """Keras 2, with TF-MOT."""

    writer = "tf_keras"


ENGINE = TFKerasEngine()
