"""Times of what a sparse layer computes of its weights, apart from the layer itself.

The lowest scores of a weight tensor, beside NumPy's partition; and, forward and
backward, what the learned techniques compute of each weight, in one pass by XLA and
operation by operation. Everything takes turns in one process. Prints medians.
"""

import figures
import numpy as np
import turns
from absl import app, flags

import state_of_sparsity as sos
from state_of_sparsity import fusion, masks
from state_of_sparsity.engines.tf_keras.backend import tf

_SHAPE = flags.DEFINE_list("shape", ["3", "3", "512", "512"], "Of the weight tensor.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "How often all take turns.")


class Uniform:
    """Noise that is drawn before."""

    def __init__(self, values):
        self._values = values

    def uniform(self, shape):
        del shape
        return self._values


def with_gradients(function, *variables):
    """A call of a function and of its gradients, compiled and waited for."""

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            result = function(*map(tf.convert_to_tensor, variables))
        return tape.gradient(result, variables)

    return lambda: [gradient[..., 0].numpy() for gradient in step()]


def operation_by_operation(job):
    """The job, traced without what XLA computes in one pass."""
    worth_it = fusion._WORTH_IT
    fusion._WORTH_IT = float("inf")
    job()
    fusion._WORTH_IT = worth_it
    return job


def main(argv):
    del argv
    shape = tuple(map(int, _SHAPE.value))
    rng = np.random.default_rng(0)
    theta = tf.Variable(rng.normal(0, 0.05, shape).astype("float32"))
    extra = tf.Variable(rng.normal(2, 0.1, shape).astype("float32"))
    noise = Uniform(tf.constant(rng.uniform(size=shape).astype("float32")))
    scores = np.abs(theta.numpy())
    count = int(0.9 * scores.size)
    lowest = tf.function(masks.lowest)
    tensor = tf.constant(scores)
    jobs = {
        "numpy.partition": lambda: np.partition(scores.ravel(), count),
        "masks.lowest": lambda: lowest(tensor, tf.constant(count))[..., 0].numpy(),
    }
    variational, l0 = sos.VariationalDropout(1e-4), sos.L0Regularization(1e-4)
    functions = {
        "KL divergence": variational.penalty,
        "variance": variational.sigma2,
        "gated weight": lambda t, e: l0.training_weight(t, e, noise),
    }
    for name, function in functions.items():
        plain = with_gradients(function, theta, extra)
        jobs[f"{name}, apart"] = operation_by_operation(plain)
        jobs[f"{name}, fused"] = with_gradients(function, theta, extra)
    for job in jobs.values():
        job()
    figures.publish(figures.of_times(turns.take_turns(jobs, _ROUNDS.value)))


if __name__ == "__main__":
    app.run(main)
