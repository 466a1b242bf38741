"""Interface by which the models of a Keras become sparse, and plain again."""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from state_of_sparsity.engines.matrices import LinearMap
from state_of_sparsity.techniques.base import Technique

DENSE = "dense"


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
      summed_axis: of its kernel, which its linear map sums over, counted from the end.
      unit_axes: of its kernel, by the names of `structures.Slices`; see `linear_maps`.
    """

    layer: Any
    path: str
    name: str
    technique: str
    weights: Mapping[str, Any]
    depthwise: bool = False
    summed_axis: int = -2
    unit_axes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    @property
    def is_sparse(self) -> bool:
        return self.technique != DENSE

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of its weights, by the names that they have in reports."""
        return {f"{self.path}/{n}": tuple(v.shape) for n, v in self.weights.items()}


class Conversion(abc.ABC):
    """Finds what can be made sparse in the models of one Keras, and makes it so.

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
    def linear_maps(self, layer) -> dict[str, LinearMap]:
        """What a sparse layer multiplies its inputs with, by attribute, if known."""

    @abc.abstractmethod
    def set_masked(self, layer, attribute: str, value, mask) -> None:
        """Gives a weight of a layer with fixed masks values, and another mask.

        Args:
          layer: of a site.
          attribute: of the weight, among those of the site.
          value: array.
          mask: boolean array, true where the weight stays.
        """

    @abc.abstractmethod
    def gradients(self, model, variables: list, inputs, loss, training: bool) -> list:
        """Gradients with respect to variables that are trained, as arrays.

        No state of the model changes.

        Args:
          model: to call.
          variables: of the model.
          inputs: on which.
          loss: of the outputs, a scalar.
          training: how.
        """

    def run_in_parts(self, model, calls, waits, visit) -> None:
        """Has each part of a model visited before it is run: here, as a whole.

        Args:
          model: the model.
          calls: arguments and keywords of calls of it.
          waits: of a part, whether something in it is still to be visited.
          visit: `visit(part, calls)`, with a part that waits.
        """
        if waits(model):
            visit(model, calls)

    def quantize(self, model, mode, config, filters) -> None:
        """Quantizes a plain model in place, every zero kept.

        Raises:
          TypeError: if this Keras does not quantize.
        """
        raise TypeError(
            f"Model {model.name!r} is one of tf_keras, and Keras 3 alone quantizes."
        )

    def channels(self, model) -> Callable[[Any, int], np.ndarray | None] | None:
        """A function that numbers the channels of a model, where it can be followed.

        Of a variable and an axis, it gives the numbers of the channels along it, which
        are equal where channels stay or go together, or None where nothing is known of
        them, or they stay in any case.
        """
        del model

    def shrink(self, model):
        """A plain model without masked channels: see `state_of_sparsity.shrinking`.

        Raises:
          TypeError: if layers of this Keras are not followed.
        """
        raise TypeError(
            f"Model {model.name!r} is one of tf_keras, and sos.shrink takes models of "
            "Keras 3: load its weights into one."
        )

    def needed_callbacks(self) -> list:
        """Callbacks without which a sparse model does not train."""
        return []
