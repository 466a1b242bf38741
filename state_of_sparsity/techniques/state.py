"""What techniques keep beside a weight."""

import dataclasses

import numpy as np

# What changes a tensor of the state in training.
RENEWAL = "renewal"  # The forward pass, when the schedule says so.
OPTIMIZER = "optimizer"  # It is trained, as the weight is.
NOTHING = "nothing"  # It stays as it is.
BACKWARD = "backward"  # The backward pass, which gives its new value.


@dataclasses.dataclass(frozen=True)
class Place:
    """Which weight of a model a technique is asked about.

    Attributes:
      shape: of the weight.
      attribute: of the layer that holds it, such as "kernel".
      stream: two numbers that differ from weight to weight of a model, for random
        numbers: the index of the layer, and of the weight within it.
    """

    shape: tuple[int, ...]
    attribute: str = "kernel"
    stream: tuple[int, int] = (0, 0)


@dataclasses.dataclass(frozen=True, eq=False)
class State:
    """A tensor that a technique keeps beside a weight.

    Attributes:
      initial: its values at the beginning: a number, or an array of its shape.
      deviation: standard deviation of normal noise that is added to a number.
      shape: None for that of the weight.
      dtype: of the tensor.
      changed_by: `RENEWAL`, `OPTIMIZER`, `BACKWARD` or `NOTHING`. What
        the backward pass changes has to be of a floating-point dtype.
    """

    initial: float | np.ndarray = 0.0
    deviation: float = 0.0
    shape: tuple[int, ...] | None = None
    dtype: str = "float32"
    changed_by: str = RENEWAL
