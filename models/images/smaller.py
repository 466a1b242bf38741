"""Networks of images in Keras 3, in which what is masked for good can be taken out."""

import dataclasses

import keras

import state_of_sparsity as sos
from state_of_sparsity.models.images.networks import Network, Setting


def twin(model, network: Network, setting: Setting) -> keras.Model:
    """The deployed model of a run in Keras 3, not compiled, which `sos.shrink` takes.

    Args:
      model: of `tf_keras`, sparse or stripped.
      network: of which kind it is.
      setting: that it was built for.
    """
    plain = sos.strip(model)
    # In inference, parts of a batch are normalized as the whole is.
    made = dataclasses.replace(setting, keras=keras, batch_norm_parts=1)
    same = network.build(made)
    for layer in same.layers:
        if layer.weights:
            layer.set_weights(plain.get_layer(layer.name).get_weights())
    return same
