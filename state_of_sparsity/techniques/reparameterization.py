"""The reparameterization family: weights that are functions of parameters and noise.

A technique of the family is a file with a dataclass that says what a weight is in
training, what it is when it is deployed, and what it costs. Layers are subclasses of
Keras layers (`state_of_sparsity.layers`): what differs between layer kinds is the
linear map, and that is the Keras layer's own, called with another weight.
"""

import abc
import dataclasses
from typing import ClassVar, Self

from state_of_sparsity.backend import keras, tf
from state_of_sparsity.ramps import ramp
from state_of_sparsity.techniques.base import Technique
from state_of_sparsity.weights import scope_of


@dataclasses.dataclass(frozen=True)
class ReparameterizationTechnique(Technique):
    """Base of the techniques that learn which weights go.

    Every method takes `theta`, the trainable weight, and `extra`, the technique's
    trainable parameter of the same shape, both in float32.
    """

    # Name of the extra weight in a layer.
    extra_name: ClassVar[str]

    @property
    @abc.abstractmethod
    def penalty_weight(self) -> float:
        """What the penalty is multiplied with once the ramp is over."""

    @abc.abstractmethod
    def extra_initializer(self) -> keras.initializers.Initializer:
        """Initial values of the extra parameter."""

    @abc.abstractmethod
    def training_weight(self, theta: tf.Tensor, extra: tf.Tensor) -> tf.Tensor:
        """A weight drawn at random, as it is used in training."""

    @abc.abstractmethod
    def deployed_weight(self, theta: tf.Tensor, extra: tf.Tensor) -> tf.Tensor:
        """The weight without noise, with its zeros."""

    @abc.abstractmethod
    def keeps(self, theta: tf.Tensor, extra: tf.Tensor) -> tf.Tensor:
        """Boolean mask of the deployed weight: true where it stays."""

    @abc.abstractmethod
    def penalty(self, theta: tf.Tensor, extra: tf.Tensor) -> tf.Tensor:
        """The penalty, summed over the weights: a float32 scalar."""

    def training_output(self, linear, inputs, theta, extra) -> tf.Tensor:
        """The output of a linear map in training, without bias and activation.

        Args:
          linear: `linear(inputs, weight)` is the map.
          inputs: of the layer.
          theta: trainable weight.
          extra: the technique's parameter.
        """
        return linear(inputs, self.training_weight(theta, extra))

    def current_penalty_weight(self, step: tf.Tensor) -> tf.Tensor:
        """The weight of the penalty at a training step, by the ramp."""
        share = ramp(self.ramp, self.ramp_begin, self.ramp_length, step)
        return self.penalty_weight * share

    def with_sparsity(self, sparsity: float) -> Self:
        raise ValueError(
            f"{type(self).__name__} has no target sparsity to set to {sparsity}: give "
            "a whole technique, or None to leave the layer dense."
        )

    def sparse_layer(self, layer, copy, index):
        del index
        # The layers are built on techniques, and only this needs them.
        from state_of_sparsity.layers import LAYERS

        kinds = {plain: cls for (t, plain), cls in LAYERS.items() if t is type(self)}
        if type(layer) not in kinds:
            raise ValueError(
                f"{type(self).__name__} has no linear map for layer {layer.name!r} of "
                f"kind {type(layer).__name__}; it has some for "
                f"{', '.join(kind.__name__ for kind in kinds)}. Leave the layer dense "
                "with an override of None, or define a class that derives from a map "
                "of state_of_sparsity.layers.maps and from its kind."
            )
        sparse = copy(layer, kinds[type(layer)])
        sparse.technique = self
        if layer.built:
            with tf.name_scope(scope_of(layer)):
                sparse.add_technique()
        return sparse
