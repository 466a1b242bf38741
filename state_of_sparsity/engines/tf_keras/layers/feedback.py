"""The backward pass of a sparse weight, of which its technique learns."""

from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.engines.tf_keras.replicas import summed
from state_of_sparsity.techniques.state import BACKWARD, OPTIMIZER


def used_weight(technique, weight, step, noise):
    """The weight in training, with the technique's backward pass.

    That assigns the state that it changes, in whatever loop it is computed.

    Args:
      technique: that says what the backward pass is.
      weight: a `SparseWeight`.
      step: int32 scalar.
      noise: as of `Technique.training_weight`.
    """
    theta, state = weight.values()
    trained, heard = weight.names(OPTIMIZER), weight.names(BACKWARD)

    @tf.custom_gradient
    def used(theta, *values):
        given = state | dict(zip(trained, values, strict=True))

        def backward(gradient):
            gradient = tf.convert_to_tensor(gradient)
            slope, slopes = technique.backward(theta, given, gradient, step)
            new = slopes
            # What replicas have in common, so that their state stays the same.
            whole = summed(gradient) if heard else gradient
            if whole is not gradient:
                _, new = technique.backward(theta, given, whole, step)
            # An optimizer that scales the loss skips a step that overflows.
            is_finite = tf.reduce_all(tf.math.is_finite(whole)) if heard else None
            for name in (name for name in heard if name in new):
                value = tf.where(is_finite, new[name], given[name])
                weight.state[name].assign(value)
            return slope, *(slopes[name] for name in trained)

        return technique.training_weight(theta, given, step, noise), backward

    return used(theta, *(state[name] for name in trained))
