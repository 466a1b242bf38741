"""Noise that depends on a layer's seed, its place in the model, and the step.

So a run that is saved and loaded goes on with the noise that it would have had.
"""

import keras

from state_of_sparsity import numerics
from state_of_sparsity.engines.keras3 import private


class Noise:
    """What a technique draws from for one use of a weight in a step.

    On TensorFlow and JAX it is the same noise, from hashes: XLA takes ten to fifty
    times as long for the generators of these backends on a CPU. PyTorch computes
    eagerly, and its generator is ten times as fast as a hash.

    Args:
      layer: the sparse layer; its variables `noise_seed` and `training_step` are the
        state that the noise depends on.
      position: of the weight in the layer.
      sequence_axes: of the outputs of a linear map, those that are the positions of a
        sequence.
    """

    def __init__(self, layer, position: int, sequence_axes: tuple[int, ...] = ()):
        self._layer = layer
        self._position = position
        self.sequence_axes = sequence_axes

    def normal(self, shape):
        """Standard normal noise, float32."""
        return self._drawn(shape, keras.random.normal, _normal)

    def uniform(self, shape):
        """Noise that is uniform in [0, 1], float32."""
        return self._drawn(shape, keras.random.uniform, _uniform)

    @private.uncompiled
    def keys(self):
        """Two int32 scalars, other ones for each draw."""
        seed, step, place = self._next_draw()
        replica = private.replica()
        if replica is not None:
            seed = seed + numerics.mixed(replica + 1)
        first, second = numerics.keys(*place)
        return numerics.plus(seed, first), numerics.plus(step, second)

    def _next_draw(self):
        layer = self._layer
        # A layer that a step uses twice draws other noise the second time.
        call = layer.present_call()
        place = (layer.index, self._position, call.draws)
        call.draws += 1
        seed = private.in_full_precision(layer.noise_seed)
        return seed, private.in_full_precision(layer.training_step), place

    @private.uncompiled
    def _drawn(self, shape, generator, hashed):
        if keras.backend.backend() == "torch":
            seed, step, place = self._next_draw()
            key, _ = numerics.keys(int(seed), int(step), *place)
            return generator(shape, dtype="float32", seed=key & numerics.POSITIVE)
        return private.fused(hashed)(shape, *self.keys())


def _normal(shape, first, second):
    return numerics.random_normal(shape, *map(numerics.mixed, (first, second)))


def _uniform(shape, first, second):
    return numerics.random_uniform(shape, *map(numerics.mixed, (first, second)))
