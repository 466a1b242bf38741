"""Interface to what the models of a Keras hold and compute."""

import abc
import dataclasses

import keras
import numpy as np

from state_of_sparsity.engines.recording import Call, record


@dataclasses.dataclass(frozen=True)
class DeployedWeight:
    """A weight tensor as it is deployed.

    Attributes:
      attribute: its name within the layer, such as "kernel".
      value: what inference multiplies with, zeros in place.
      mask: boolean array of the same shape, true where a weight stays.
      is_sparse: whether a technique makes it sparse: not all weights of a layer need.
    """

    attribute: str
    value: np.ndarray
    mask: np.ndarray
    is_sparse: bool


class Inspection(abc.ABC):
    """Tells of the weights of models of one Keras, and of the calls of their layers."""

    @abc.abstractmethod
    def deployed_weights(self, layer) -> list[DeployedWeight]:
        """The weights of the layer of a site, as deployed."""

    @abc.abstractmethod
    def count_parameters(self, model) -> int:
        """Number of the weights of a model that were made to be trained.

        Frozen ones count; moving averages, masks and what else a technique adds do not.
        """

    @abc.abstractmethod
    def penalty(self, layer) -> tuple[float, float] | None:
        """Penalty of a sparse layer and its weight now; None if it has none."""

    @abc.abstractmethod
    def layers(self, model) -> list:
        """A model and the layers inside of it at any depth."""

    @abc.abstractmethod
    def own_weights(self, layer) -> list:
        """The variables of a layer itself that were made to be trained."""

    @abc.abstractmethod
    def to_numpy(self, variable) -> np.ndarray:
        """The value of a variable."""

    @abc.abstractmethod
    def input_specs(self, model):
        """What a model is called on: a structure of what has a shape and a dtype.

        Raises:
          ValueError: if that is not known.
        """

    @abc.abstractmethod
    def trace(self, model, inputs) -> None:
        """Calls a model, computing shapes only, on one example.

        Args:
          model: a plain model.
          inputs: a structure of what has a shape and a dtype. The first dimension,
            which is the batch, does not count.
        """

    @abc.abstractmethod
    def outputs(self, model, inputs) -> list[np.ndarray]:
        """What a model gives in inference, without a change of any of its state."""

    @abc.abstractmethod
    def training_step(self, layer) -> int:
        """In how many training steps a sparse layer has taken part."""

    def calls(self, model, inputs=None) -> list[Call]:
        """The calls of the layers of a plain model, at any depth, for one example.

        Args:
          model: a plain model.
          inputs: as of `trace`, if not those that the model is made for.

        Raises:
          ValueError: if its inputs are not known, or have no fixed size.
        """
        advice = "Pass `inputs`, an example batch of the size to count for."
        if inputs is None:
            try:
                inputs = self.input_specs(model)
            except ValueError as error:
                raise ValueError(
                    f"The inputs of model {model.name!r} are not known. {advice}"
                ) from error
        for spec in keras.tree.flatten(inputs):
            if None in tuple(spec.shape)[1:]:
                raise ValueError(
                    f"Model {model.name!r} takes inputs of no fixed size: "
                    f"{tuple(spec.shape)}. {advice}"
                )
        return record(self.layers(model), lambda: self.trace(model, inputs))
