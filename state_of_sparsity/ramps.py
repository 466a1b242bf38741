"""Ramps, by which the weight of a penalty grows with the training step."""

from keras import ops

from state_of_sparsity.checks import check_choice, check_integer

# The share of the final weight, from the share of the ramp that is done.
RAMPS = {
    "linear": lambda done: done,
    "cubic": lambda done: 1.0 - (1.0 - done) ** 3,
}


def ramp(kind: str, begin: int, length: int, step):
    """Share of a penalty's weight at a training step (Gale et al. 2019).

    `p` for the linear and `1 - (1 - p)**3` for the cubic ramp, where
    `p = (step - begin) / length`, clipped to [0, 1].

    Args:
      kind: "linear" or "cubic".
      begin: the step until which the share is 0.
      length: in how many steps it grows to 1.
      step: integer scalar.

    Returns:
      A float32 scalar in [0, 1].
    """
    done = ops.cast(step - begin, "float32") / length
    return RAMPS[kind](ops.clip(done, 0.0, 1.0))


def check_ramp(kind: str, begin: int, length: int) -> None:
    """Raises for hyperparameters that make no ramp, naming them."""
    check_choice("ramp", kind, RAMPS)
    check_integer("ramp_begin", begin, minimum=0)
    check_integer("ramp_length", length, minimum=1)
