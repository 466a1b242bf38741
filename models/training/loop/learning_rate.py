"""Learning-rate schedules."""

import math

from state_of_sparsity.engines.tf_keras.backend import keras, tf


@keras.utils.register_keras_serializable("state_of_sparsity")
class InverseSquareRoot(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then a fall with the root of the step (Vaswani et al. 2017).

    `rate(t) = scale * width^-1/2 * min(t / warmup, 1) * max(t, warmup)^-1/2`

    where `t` counts from one.

    Args:
      scale: constant factor.
      width: of the model.
      warmup_steps: length of the warm-up, at least 1.
    """

    def __init__(self, scale, width, warmup_steps):
        self.scale = scale
        self.width = width
        self.warmup_steps = warmup_steps

    def __call__(self, step):
        step = tf.cast(step, tf.float32) + 1.0
        warmup = tf.minimum(step / self.warmup_steps, 1.0)
        decay = tf.maximum(step, float(self.warmup_steps)) ** -0.5
        return self.scale * self.width**-0.5 * warmup * decay

    def get_config(self):
        return {
            "scale": self.scale,
            "width": self.width,
            "warmup_steps": self.warmup_steps,
        }


@keras.utils.register_keras_serializable("state_of_sparsity")
class WarmupThenSteps(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then division by ten at given steps (He et al. 2016).

    `rate(t) = peak * min(1, (t + 1) / warmup_steps) * 0.1 ** #{b : b <= t}`

    over the boundaries `b`.

    Args:
      peak: the rate after the warm-up.
      warmup_steps: length of the warm-up; 0 for none.
      boundaries: steps at which the rate is divided by ten.
    """

    def __init__(self, peak, warmup_steps, boundaries):
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.boundaries = list(boundaries)

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        warmup = tf.minimum(1.0, (step + 1) / max(self.warmup_steps, 1))
        passed = sum(tf.cast(step >= b, tf.float32) for b in self.boundaries)
        return self.peak * warmup * 0.1**passed

    def get_config(self):
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "boundaries": self.boundaries,
        }


@keras.utils.register_keras_serializable("state_of_sparsity")
class WarmupThenCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then half a cosine (Loshchilov & Hutter 2017).

    `rate(t) = peak * (t + 1) / warmup_steps` in the warm-up, and after it
    `peak / 2 * (1 + cos(pi (t - warmup_steps) / (steps - warmup_steps)))`

    Args:
      peak: the rate after the warm-up.
      warmup_steps: length of the warm-up; 0 for none.
      steps: from which on the rate is 0.
    """

    def __init__(self, peak, warmup_steps, steps):
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.steps = steps

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        warmup = (step + 1) / max(self.warmup_steps, 1)
        length = max(self.steps - self.warmup_steps, 1)
        share = tf.clip_by_value((step - self.warmup_steps) / length, 0.0, 1.0)
        cosine = 0.5 * (1.0 + tf.cos(math.pi * share))
        return self.peak * tf.where(step < self.warmup_steps, warmup, cosine)

    def get_config(self):
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "steps": self.steps,
        }
