"""One matrix as embedding and, transposed, as the map from vectors to logits."""

from state_of_sparsity.engines.tf_keras.backend import keras, register_layer, tf


@register_layer
class TiedEmbedding(keras.layers.Embedding):
    """An `Embedding` that also multiplies with its transposed matrix.

    `layer(ids)` looks up rows: `[...]` to `[..., output_dim]`.
    `layer(vectors, transposed=True)` gives logits, `vectors @ embeddings.T`:
    `[..., output_dim]` to `[..., input_dim]`, in the layer's compute dtype. It takes
    the arguments of `Embedding`; with `mask_zero`, only a lookup makes a mask. Press &
    Wolf 2017 (arXiv 1608.05859).

    Raises:
      TypeError: for a lookup of ids that are not integers.
    """

    def call(self, inputs, transposed=False):
        if not transposed:
            check_ids(self, inputs)
            return super().call(inputs)
        return transposed_map(tf.cast(inputs, self.compute_dtype), self.embeddings)

    def compute_mask(self, inputs, mask=None):
        if inputs.dtype.is_floating:
            return mask
        return super().compute_mask(inputs, mask)


def check_ids(layer, inputs):
    """Raises for a lookup of anything but integers: vectors are mapped to logits."""
    if inputs.dtype.is_floating:
        raise TypeError(
            f"Layer {layer.name!r} looks up integers: give keras.Input a dtype such as "
            f"'int32', or call it with transposed=True. Received: {inputs.dtype.name}"
        )


def transposed_map(inputs, matrix):
    """`inputs @ matrix.T` for inputs of any rank."""
    # Broadcasting would make a gradient of the matrix for each example of the batch.
    flat = tf.reshape(inputs, (-1, matrix.shape[1]))
    outputs = tf.matmul(flat, tf.cast(matrix, inputs.dtype), transpose_b=True)
    shape = tf.concat([tf.shape(inputs)[:-1], [matrix.shape[0]]], axis=0)
    outputs = tf.reshape(outputs, shape)
    outputs.set_shape([*inputs.shape[:-1], matrix.shape[0]])
    return outputs
