"""Batch normalization over parts of a batch, as if each part were on its own device.

The published ResNet-50 runs had batches of 1024 on 8 devices, each of which normalized
its 128 images by their own mean and variance (Gale, Elsen & Hooker 2019, arXiv
1902.09574). Fewer images make for more noise, which regularizes: one large device gets
the same network by the same parts.
"""

from state_of_sparsity.engines.tf_keras.backend import keras, smart_cond, tf


@keras.utils.register_keras_serializable("state_of_sparsity")
class BatchNormalizationInParts(keras.layers.BatchNormalization):
    """`BatchNormalization` of images, of which each part is normalized by itself.

    In training, a batch is cut into equal parts; where their number does not divide it,
    the first ones have one image more. The moving averages take the mean over the
    parts, as `tf.distribute` takes it over replicas. In inference it is
    `BatchNormalization`.

    Args:
      parts: how many, at least 1, and no more than images in a batch.
      **kwargs: of `BatchNormalization`. Channels are last, with gamma and beta.
    """

    def __init__(self, parts: int, **kwargs):
        super().__init__(**kwargs)
        self.parts = parts

    def call(self, inputs, training=None):
        if training is None:
            training = keras.backend.learning_phase()
        if not self.trainable:
            training = False
        return smart_cond(
            training,
            lambda: self._normalized_in_parts(inputs),
            lambda: super(BatchNormalizationInParts, self).call(inputs, training=False),
        )

    def _normalized_in_parts(self, inputs):
        images = tf.shape(inputs)[0]
        sizes = images // self.parts + tf.cast(
            tf.range(self.parts) < images % self.parts, tf.int32
        )
        outputs, means, variances = zip(
            *(
                self._normalized(part)
                for part in tf.split(inputs, sizes, num=self.parts)
            ),
            strict=True,
        )
        for average, values in (
            (self.moving_mean, means),
            (self.moving_variance, variances),
        ):
            mean = tf.add_n(values) / self.parts
            average.assign_sub((average - mean) * (1 - self.momentum))
        return tf.ensure_shape(tf.concat(outputs, axis=0), inputs.shape)

    def _normalized(self, part):
        """A part, and its mean and its unbiased variance by channel, in float32."""
        return tf.compat.v1.nn.fused_batch_norm(
            part, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
        )

    def get_config(self):
        return {**super().get_config(), "parts": self.parts}
