"""The loss of all tasks."""

from state_of_sparsity.engines.tf_keras.backend import keras, tf


@keras.utils.register_keras_serializable("state_of_sparsity")
class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross entropy of integer labels and logits, with label smoothing.

    `-sum_c q_c log softmax(logits)_c` with `q_c = (1 - s) [c = label] + s / classes`.
    Labels have one dimension less than the logits, or a last one of size 1.

    Args:
      label_smoothing: the share `s` of the probability that goes to all classes.
    """

    def __init__(self, label_smoothing=0.0, name="cross_entropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        labels = tf.reshape(tf.cast(y_true, tf.int32), tf.shape(y_pred)[:-1])
        likelihood = -tf.nn.sparse_softmax_cross_entropy_with_logits(labels, y_pred)
        if not self.label_smoothing:
            return -likelihood
        # Without a tensor of one-hot labels, as large as the logits.
        mean = tf.reduce_mean(y_pred, -1) - tf.reduce_logsumexp(y_pred, -1)
        return -(1 - self.label_smoothing) * likelihood - self.label_smoothing * mean

    def get_config(self):
        return {**super().get_config(), "label_smoothing": self.label_smoothing}
