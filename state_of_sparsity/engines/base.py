"""What an engine is: all that the library knows of a Keras."""

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from state_of_sparsity.engines.recording import Call, record
from state_of_sparsity.techniques.base import Technique

DENSE = "dense"


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


@dataclasses.dataclass(frozen=True)
class Site:
    """A layer of a model that has weights to make sparse, or has sparse ones.

    Attributes:
      layer: the layer; the wrapper if it is wrapped.
      path: names of the layers around it and of itself, joined by slashes; the same
        for a sparse layer and for its stripped counterpart.
      name: of the layer, without those around it.
      technique: name of the technique that makes it sparse, or "dense".
      weights: its variables to make sparse, by attribute.
      depthwise: whether it is a depthwise convolution.
    """

    layer: Any
    path: str
    name: str
    technique: str
    weights: Mapping[str, Any]
    depthwise: bool = False

    @property
    def is_sparse(self) -> bool:
        return self.technique != DENSE

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of its weights, by the names that they have in reports."""
        return {f"{self.path}/{n}": tuple(v.shape) for n, v in self.weights.items()}


def foreign_class(name: str, theirs: str, ours: str) -> type:
    """Stands for a class that the engine of another Keras saves; refuses to be loaded.

    Args:
      name: of the class.
      theirs: the Keras that has saved it: "keras" or "tf_keras".
      ours: the Keras that finds it in a file.
    """

    def from_config(cls, config, custom_objects=None):
        del cls, config, custom_objects
        raise ValueError(
            f"This file is one of {theirs}: load it with {theirs}.models.load_model. "
            f"To change to {ours}, build the model with that, call sos.sparsify, and "
            "copy the weights."
        )

    members = {"from_config": classmethod(from_config), "get_config": dict}
    return type(name, (), members)


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

    def sites(self, model) -> Iterator[Site]:
        """Every layer of a model, at any depth, that has weights to make sparse.

        Each layer comes once, however often it is used, in the order of creation. A
        layer of the same path as an earlier one gets "_1", "_2", … appended.
        """
        seen_layers: set[int] = set()
        seen_paths: dict[str, int] = {}
        for site in self._walk(model, ""):
            if id(site.layer) in seen_layers:
                continue
            seen_layers.add(id(site.layer))
            count = seen_paths.get(site.path, 0)
            seen_paths[site.path] = count + 1
            path = f"{site.path}_{count}" if count else site.path
            yield dataclasses.replace(site, path=path)

    def _walk(self, layer, path):
        for child in self.children(layer):
            site = self.site(child)
            name = site.name if site else child.name
            child_path = f"{path}/{name}" if path else name
            if site:
                yield dataclasses.replace(site, path=child_path)
            else:
                yield from self._walk(child, child_path)

    @abc.abstractmethod
    def children(self, layer) -> list:
        """The layers directly inside of a layer or model, in order of creation."""

    @abc.abstractmethod
    def site(self, layer) -> Site | None:
        """The site that a layer is by itself, its path its name, or None."""

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

    @property
    @abc.abstractmethod
    def writer(self) -> str:
        """Who writes files for inference, as `formats` calls it."""
