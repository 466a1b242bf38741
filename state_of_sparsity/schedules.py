"""When masks are renewed, and how sparse they are then."""

from state_of_sparsity.backend import PruningSchedule, keras, tf

# So many renewals are compared with the step one by one.
_FEW = 1000


@keras.utils.register_keras_serializable("state_of_sparsity")
class CubicSchedule(PruningSchedule):
    """The gradual schedule of Zhu & Gupta 2017 (arXiv 1710.01878, equation 1).

    `s(t) = s_f + (s_i - s_f) * (1 - (t - begin) / (end - begin)) ** 3`

    for `begin <= t <= end`. Masks are renewed at `begin`, every `frequency` steps
    after it, and at `end`, also where the ramp is no multiple of `frequency`, so
    that the final sparsity is always reached. The sparsity is computed in float64.

    It has the interface of a TF-MOT `PruningSchedule`. TF-MOT's own wrapper, which
    computes in float32, does not take it.
    """

    def __init__(self, sparsity, begin_step, end_step, frequency, initial_sparsity=0.0):
        self.sparsity = sparsity
        self.begin_step = begin_step
        self.end_step = end_step
        self.frequency = frequency
        self.initial_sparsity = initial_sparsity

    def __call__(self, step):
        """Whether to renew masks at the step (int64), and the sparsity (float64)."""
        # A ramp without length is done when it begins.
        length = max(self.end_step - self.begin_step, 1)
        done = tf.cast(step - self.end_step, tf.float64) / length + 1.0
        left = 1.0 - tf.clip_by_value(done, 0.0, 1.0)
        sparsity = self.sparsity + (self.initial_sparsity - self.sparsity) * left**3
        return self._is_due(step), tf.cast(sparsity, tf.float64)

    def _is_due(self, step):
        # Steps count from one: a ramp that ends at 0 is taken at the first of them.
        last = max(self.end_step, 1)
        renewals = range(self.begin_step, last + 1, self.frequency)
        if len(renewals) <= _FEW:
            # Every layer asks at every step, and this takes it two operations.
            return tf.reduce_any(step == tf.constant([*renewals, last], step.dtype))
        since = step - self.begin_step
        regular = (since >= 0) & (step <= last) & (since % self.frequency == 0)
        return regular | (step == last)

    def get_config(self):
        # The nesting is TF-MOT's.
        return {
            "class_name": type(self).__name__,
            "config": {
                "sparsity": self.sparsity,
                "begin_step": self.begin_step,
                "end_step": self.end_step,
                "frequency": self.frequency,
                "initial_sparsity": self.initial_sparsity,
            },
        }
