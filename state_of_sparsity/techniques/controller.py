"""The controller that steers the weight of a penalty towards a sparsity.

Of a tensor with n weights, of which k shall be zero, `q` is the margin of the k-th one
to go: by how much its log alpha is on the side of those that stay. `q = 0` is the
constraint, and the weight of the penalty, `SCALE sinh(u) / n`, its multiplier. It may
be negative, which has weights come back.

Dual ascent (Gallego-Posada et al. 2022, arXiv 2208.04425) would raise the multiplier
for as long as weights take to go, and go too far. So its speed is what is steered,
which has no delay: an integral controller of how fast `q` falls within a proportional
one of `q`; as Sohrabi et al. 2024 (arXiv 2406.04558) add a proportional term. It
need not know the scale of gradients, the optimizer or the learning rate, within limits:
it gives the penalty no weight above `SCALE sinh(LIMIT) / n = 110 / n`, since then all
weights of a tensor would go alike, whatever they are good for. A loss that is worth
more to them keeps them, and the target is missed.
"""

import math

from keras import ops

from state_of_sparsity import masks
from state_of_sparsity.numerics import traced_once

# Steps from one renewal of the weight to the next.
FREQUENCY = 10
# Steps in which `q` falls to 1 / e of what it is, once the ramp is over.
SETTLING = 50.0
# By how much `u` changes at most in a renewal, and how far it goes. The sinh is a line
# up to a weight of `SCALE / n`, and an exponential function above.
RATE, LIMIT, SCALE = 0.2, 10.0, 0.01
# Of `q`: what is closer changes `u` less.
TOLERANCE = 0.1
# Of margins in the search, whose exponentials float32 has to hold.
FARTHEST = 80.0


def margin_at(margins, share: float, guess):
    """`q`: the highest margin of so large a share of the weights, of one at least.

    Args:
      margins: of the weights of a tensor, above 0 where they stay.
      share: of the weights that shall be zero.
      guess: of `q`, a float32 scalar.
    """
    count = max(masks.zero_count(share, math.prod(margins.shape)), 1)
    # Of scores, which are not negative, in the same order.
    scores, guess = (
        ops.exp(ops.clip(values, -FARTHEST, FARTHEST)) for values in (margins, guess)
    )
    return ops.log(masks.threshold([scores], count, guess))


@traced_once
def steered(weight, before, now, left, size: int):
    """The next weight of the penalty, in which `u` becomes

    `u + RATE (v* - v) / (|v*| + |v| + TOLERANCE / SETTLING)`

    where `v` is how much `q` falls in a step, and `v*` by how much it should.

    Args:
      weight: of the penalty.
      before: `q` at the last renewal.
      now: `q`.
      left: steps in which it would be 0 if it went on to fall by `v*`.
      size: n.
    """
    wanted = ops.clip(now / ops.maximum(left, SETTLING), -1 / SETTLING, 1 / SETTLING)
    speed = (before - now) / FREQUENCY
    scale = ops.abs(wanted) + ops.abs(speed) + TOLERANCE / SETTLING
    u = ops.arcsinh(weight * size / SCALE) + RATE * (wanted - speed) / scale
    return SCALE / size * ops.sinh(ops.clip(u, -LIMIT, LIMIT))
