"""TensorFlow's SavedModels, which load with TensorFlow alone."""

import os

import keras

from state_of_sparsity.engines import is_of_tf_keras
from state_of_sparsity.engines.formats.base import Format


class SavedModel(Format):
    """A folder."""

    name = "tf_saved_model"
    suffix = ""
    # Not from torch, of which the file fits one size of batch.
    packages = {"tf_keras": (), "tensorflow": (), "jax": ("tensorflow",)}  # noqa: RUF012

    def write(self, model, path):
        if is_of_tf_keras(model):
            from state_of_sparsity.engines.tf_keras.saved_model import write_served

            write_served(model, path)
            return
        from state_of_sparsity.engines.keras3.exporting import export

        on_jax = keras.backend.backend() == "jax"
        # Inference needs no gradients, and those of some models cannot be traced.
        options = {"jax2tf_kwargs": {"with_gradient": False}} if on_jax else {}
        export(model, path, self.name, **options)

    def run(self, path, inputs, names):
        import tensorflow as tf  # Which has written it.

        loaded = tf.saved_model.load(os.fspath(path))
        inputs = keras.tree.map_structure(tf.convert_to_tensor, inputs)
        return [x.numpy() for x in keras.tree.flatten(loaded.serve(inputs))]
