"""What an engine is: all that the library knows of a Keras."""

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from state_of_sparsity.techniques.base import Technique

DENSE = "dense"


@dataclasses.dataclass(frozen=True)
class DeployedWeight:
    """A weight tensor as it is deployed.

    Attributes:
      attribute: its name within the layer, such as "kernel".
      value: what inference multiplies with, zeros in place.
      mask: boolean array of the same shape, true where a weight stays.
    """

    attribute: str
    value: np.ndarray
    mask: np.ndarray


@dataclasses.dataclass(frozen=True)
class Site:
    """A layer of a model that has weights to make sparse, or has sparse ones.

    Attributes:
      layer: the layer; the wrapper if it is wrapped.
      path: names of the layers around it and of itself, joined by slashes; the same
        for a sparse layer and for its stripped counterpart.
      name: of the layer, without those around it.
      technique: name of the technique that makes it sparse, or "dense".
      shapes: of its weights to make sparse, by attribute.
      depthwise: whether it is a depthwise convolution.
    """

    layer: Any
    path: str
    name: str
    technique: str
    shapes: Mapping[str, tuple[int, ...]]
    depthwise: bool = False

    @property
    def is_sparse(self) -> bool:
        return self.technique != DENSE


def sequence_axes(equation: str, rank: int) -> tuple[int, ...]:
    """Axes of the outputs of a dense map that are the positions of a sequence.

    There is one, or none: a single vector has no positions, and the rows and columns of
    an image are no sequence.

    Args:
      equation: of the map, as `EinsumDense` writes it.
      rank: of its inputs.
    """
    inputs, kernel, outputs = equation.replace("->", ",").split(",")
    further = "0123456789"[: rank - len(inputs.replace("...", ""))]
    inputs, outputs = (side.replace("...", further) for side in (inputs, outputs))
    # Where the kernel is used again, but for the next example.
    again = set(inputs[1:]) - set(kernel)
    axes = tuple(axis for axis, letter in enumerate(outputs) if letter in again)
    return axes if len(axes) == 1 else ()


# What `Dense` computes.
DENSE_EQUATION = "...a,ab->...b"


class Engine(abc.ABC):
    """Makes models of one Keras sparse and plain again, and tells of their weights.

    Attributes:
      callback_class: what callbacks of this Keras derive from.
    """

    callback_class: type

    @abc.abstractmethod
    def check_model(self, model) -> None:
        """Raises ValueError unless the model is built and can be served."""

    @abc.abstractmethod
    def sites(self, model) -> Iterator[Site]:
        """Every layer of a model, at any depth, that has weights to make sparse.

        Each layer comes once, however often it is used, in the order of creation. A
        layer of the same path as an earlier one gets "_1", "_2", … appended.
        """

    def left_out(self, model) -> list[str]:
        """Names of matrices that no site holds, since nothing says what they are."""
        del model
        return []

    @abc.abstractmethod
    def check_technique(self, technique: Technique, model) -> None:
        """Raises ValueError for what only the other engine can do."""

    def allows(self, technique: Technique, layer) -> bool:
        """Whether an option of the technique lets the layer be made sparse."""
        del technique, layer
        return True

    @abc.abstractmethod
    def sparsify(self, model, plan: Mapping[int, tuple[int, Technique]]):
        """A copy of a model in which some layers are sparse.

        Args:
          model: a dense model.
          plan: by the `id` of a layer, its index among the sites of the model, which
            makes the random numbers of layers differ, and its technique.

        Raises:
          ValueError: for a layer that cannot be made sparse, with the reason.
        """

    @abc.abstractmethod
    def strip(self, model):
        """A copy of a model with plain layers and the zeros in place."""

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

    def needed_callbacks(self) -> list:
        """Callbacks without which a sparse model does not train."""
        return []

    @abc.abstractmethod
    def uses(self, model) -> list[tuple[Any, list[tuple]]]:
        """Layers of a functional model that multiply with weights, for counting.

        Returns:
          Pairs of a layer and a shape for each use of it for an example: the batch,
          all positions at which its weights are used once each.

        Raises:
          ValueError: for another kind of model, or a layer that it cannot count.
        """

    @abc.abstractmethod
    def check_format(self, format: str) -> None:
        """Raises unless models can be exported in a format.

        Raises:
          ValueError: for one that this Keras and its backend do not have.
          ImportError: if a package for it is missing, naming it.
        """

    @abc.abstractmethod
    def write(self, stripped, path, format: str) -> None:
        """Exports a plain model in a format, complete or not at all."""
