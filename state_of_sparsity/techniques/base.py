"""What every sparsification technique has in common."""

import abc
import dataclasses
import re
from typing import Self

from state_of_sparsity.backend import keras


class Technique(abc.ABC):
    """A way to make layers sparse, with its hyperparameters.

    A technique is a frozen dataclass. Each field is a hyperparameter, and has one line
    in the `Attributes` section of the docstring, which is also the help text of its
    command-line flag.
    """

    @classmethod
    def technique_name(cls) -> str:
        """The name on the command line and in reports: "magnitude_pruning"."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def prepare(self, model: keras.Model) -> None:
        """Raises if the technique cannot be applied to the model as a whole."""
        del model

    def applies_to(self, layer: keras.layers.Layer) -> bool:
        """Whether to make this layer sparse; the layer has weights that could be."""
        del layer
        return True

    @abc.abstractmethod
    def with_sparsity(self, sparsity: float) -> Self:
        """The same technique with another target sparsity.

        Raises:
          ValueError: if the technique has no target sparsity.
        """

    def get_config(self) -> dict:
        """The hyperparameters, for the configuration of a layer."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config: dict) -> Self:
        return cls(**config)

    @abc.abstractmethod
    def sparse_layer(
        self, layer: keras.layers.Layer, copy, index: int
    ) -> keras.layers.Layer:
        """The layer that stands in the sparse model for a dense layer.

        Args:
          layer: the dense layer. The sparse one is built if it is.
          copy: `copy(layer, cls=None, without=())` makes a copy of a layer with
            variables of its own, of another class if given, without the attributes
            named.
          index: of the layer among those of the model that could be made sparse.
        """


def saved_technique(layer: keras.layers.Layer) -> dict:
    """What the configuration of a layer or a container says of a layer's technique."""
    # Written out, since Keras serializes an object in another way for each of its file
    # formats.
    return {
        "registered_name": keras.utils.get_registered_name(type(layer.technique)),
        "config": layer.technique.get_config(),
        "index": getattr(layer, "index", 0),
    }


def restored_technique(saved: dict) -> Technique:
    """The technique from what `saved_technique` has noted.

    Raises:
      ValueError: if nothing has registered the technique, naming it.
    """
    cls = keras.utils.get_registered_object(saved["registered_name"])
    if cls is None:
        raise ValueError(
            f"Unknown technique {saved['registered_name']!r}: import the module "
            "that registers it with keras.utils.register_keras_serializable."
        )
    return cls.from_config(saved["config"])


def field_help(cls: type) -> dict[str, str]:
    """The line on each field in the `Attributes` section of a dataclass's docstring.

    Raises:
      ValueError: if a field has no such line, naming it.
    """
    section = (cls.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^ {6}(\w+): (.+(?:\n {8,}.+)*)", section, flags=re.MULTILINE)
    help_texts = {name: " ".join(text.split()) for name, text in entries}
    missing = [f.name for f in dataclasses.fields(cls) if f.name not in help_texts]
    if missing:
        raise ValueError(f"{cls.__name__} does not say what these mean: {missing}")
    return help_texts
