"""Noise that depends on a layer's seed, the weight, the step, and where in the batch.

So a run that is saved and loaded goes on with the noise that it would have had, and
parts of a batch get that of as many more replicas.
"""

import zlib

from state_of_sparsity import numerics
from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.engines.tf_keras.parts import part_of_batch
from state_of_sparsity.engines.tf_keras.replicas import replica

_REPLICAS = 2**40  # Above any number of steps.


class Noise:
    """What a technique draws from for one use of a weight in a step.

    Args:
      layer: the sparse layer; its variables `noise_seed` and `training_step` are the
        state that the noise depends on.
      weight: name of the weight.
      use: how often the step has used the layer before.
      sequence_axes: of the outputs of a linear map, those that are the positions of a
        sequence.
    """

    def __init__(self, layer, weight: str, use: int, sequence_axes=()):
        self._layer = layer
        self._place = f"{weight}/{use}"
        self._draws = 0
        self.sequence_axes = sequence_axes

    def normal(self, shape):
        """Standard normal noise, float32."""
        return tf.random.stateless_normal(shape, self._seed(), alg="philox")

    def uniform(self, shape):
        """Noise that is uniform in [0, 1), float32."""
        return tf.random.stateless_uniform(shape, self._seed(), alg="philox")

    def keys(self):
        """Two int32 scalars, other ones for each draw."""
        seed, step = (
            tf.cast(self._layer.noise_seed, tf.int32),
            self._layer.training_step,
        )
        if (number := _place_in_batch()) is not None:
            seed += numerics.mixed(number + 1)
        first, second = numerics.keys(self._place_of_draw())
        return seed + first, tf.cast(step, tf.int32) + second

    def _seed(self):
        # Seeds that differ in either number give independent streams.
        number = _place_in_batch()
        first = tf.convert_to_tensor(self._layer.noise_seed) + self._place_of_draw()
        second = tf.convert_to_tensor(self._layer.training_step)
        if number is not None:
            second += tf.cast(number, tf.int64) * _REPLICAS
        return tf.stack([first, second])

    def _place_of_draw(self):
        place = zlib.crc32(f"{self._place}/{self._draws}".encode())
        self._draws += 1
        return place


def _place_in_batch():
    """The number of the replica, or of the part among those of all, if there is one."""
    number, part = replica(), part_of_batch()
    if part is None:
        return number
    return part.number if number is None else number * part.count + part.number
