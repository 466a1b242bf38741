"""Checks of arguments: errors that name the argument and the value received."""

import math
import numbers

from state_of_sparsity.backend import is_functional, keras


def check_fraction(name: str, value) -> None:
    """Raises unless the value is a number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number. Received: {value!r}")
    if not 0.0 <= value < 1.0:
        raise ValueError(
            f"{name} must be at least 0 and below 1: it is the share of weights "
            f"that are zero, such as 0.9 for 90 %. Received: {value!r}"
        )


def check_number(
    name: str,
    value,
    minimum: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> None:
    """Raises unless the value is a finite number within the given limits."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number. Received: {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite. Received: {value!r}")
    if minimum is not None and value < minimum:
        raise ValueError(f"{name} must be at least {minimum}. Received: {value!r}")
    if above is not None and not value > above:
        raise ValueError(f"{name} must be above {above}. Received: {value!r}")
    if below is not None and not value < below:
        raise ValueError(f"{name} must be below {below}. Received: {value!r}")


def check_integer(name: str, value, minimum: int) -> None:
    """Raises unless the value is an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer. Received: {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}. Received: {value!r}")


def check_model(model):
    """Raises unless the argument is a built tf_keras model."""
    if not isinstance(model, keras.Model):
        origin = {cls.__module__.partition(".")[0] for cls in type(model).__mro__}
        if "keras" in origin:
            raise TypeError(
                "The model is a Keras 3 model, and TensorFlow Model Optimization "
                "needs Keras 2. Build it with tf_keras: `import tf_keras as keras` "
                "in place of `import keras`, or set TF_USE_LEGACY_KERAS=1 before "
                f"TensorFlow is imported. Received: {model!r}"
            )
        raise TypeError(f"model must be a tf_keras.Model. Received: {model!r}")
    if not model.built or (is_functional(model) and not model.inputs):
        raise ValueError(
            f"Model {model.name!r} has no weights yet. Build it first: call it on a "
            "batch, or call model.build(input_shape)."
        )
