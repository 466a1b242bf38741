"""Networks of images in Keras 3, in which what is masked for good can be taken out."""

import dataclasses

import keras

from state_of_sparsity.models.images.networks import Network, Setting


def twin(model, network: Network, setting: Setting) -> keras.Model:
    """The model of a run in Keras 3, not compiled, with the same weights.

    Args:
      model: of `tf_keras`, stripped.
      network: of which kind it is.
      setting: that it was built for.
    """
    # In inference, parts of a batch are normalized as the whole is.
    made = dataclasses.replace(setting, keras=keras, batch_norm_parts=1)
    same = network.build(made)
    for layer in same.layers:
        if layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    return same
