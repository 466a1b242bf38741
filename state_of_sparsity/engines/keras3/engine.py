"""The engine for Keras 3: see `state_of_sparsity.engines.Engine`."""

import keras

from state_of_sparsity.engines import Engine
from state_of_sparsity.engines.keras3.conversion import Keras3Conversion
from state_of_sparsity.engines.keras3.inspection import Keras3Inspection


class Keras3Engine(Keras3Conversion, Keras3Inspection, Engine):
    """Keras 3 on TensorFlow, JAX and PyTorch."""

    writer = keras.backend.backend()


ENGINE = Keras3Engine()
