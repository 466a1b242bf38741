"""Base of all sparsification techniques."""

import abc
import dataclasses
import re
from typing import ClassVar, Self

import numpy as np

# Every class of techniques by its name, for configurations that were saved.
CLASSES: dict[str, type["Technique"]] = {}


class Technique(abc.ABC):
    """A way to make weights sparse, with its hyperparameters.

    A technique is a frozen dataclass. Each field is a hyperparameter, and has one line
    in the `Attributes` section of the docstring of the class or of one that it derives
    from, which is also the help text of its command-line flag.

    Its methods are pure functions of tensors, in `keras.ops`: they know of no layer and
    of no engine. Beside every weight `theta`, an engine holds an `extra` tensor of the
    same shape: a mask, or a parameter that is trained.

    Attributes:
      extra_name: of the extra tensor: "mask", "log_alpha".
      extra_dtype: of the extra tensor.
      extra_is_trained: whether it is a trainable parameter.
      draws_noise: whether weights in training depend on noise.
    """

    extra_name: ClassVar[str]
    extra_dtype: ClassVar[str] = "float32"
    extra_is_trained: ClassVar[bool]
    draws_noise: ClassVar[bool]

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        CLASSES[cls.__name__] = cls

    @classmethod
    def technique_name(cls) -> str:
        """The name on the command line and in reports: "magnitude_pruning"."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

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

    def applies_to(self, *, depthwise: bool) -> bool:
        """Whether to make a kind of weight sparse that no override names.

        Args:
          depthwise: whether it is the kernel of a depthwise convolution.
        """
        del depthwise
        return True

    def kept_weights(self, mask: np.ndarray, steps: int) -> int:
        """How many elements of a weight training computes with, summed over steps.

        Args:
          mask: boolean, which elements stay in the end.
          steps: number of training steps from the first one.
        """
        return mask.size * steps

    @property
    def settled_step(self) -> int:
        """Training step from which its schedules change nothing any more."""
        return 0

    def refusal(self, shape: tuple[int, ...]) -> str | None:
        """Why a weight of this shape cannot be made sparse, or None if it can."""
        del shape

    def check_sites(self, sites) -> None:
        """Raises ValueError if it does not fit a model.

        Args:
          sites: of the model; see `state_of_sparsity.engines.conversion.Site`.
        """
        del sites

    def for_site(self, site) -> Self | None:
        """The technique for one site of a model, or None if that stays dense."""
        del site
        return self

    def extra_value(self, attribute: str):
        """What the extra tensor of a weight begins with, or None for random values.

        Args:
          attribute: of the layer that holds the weight, such as "kernel".
        """
        del attribute

    @property
    @abc.abstractmethod
    def extra_initial(self) -> tuple[float, float]:
        """Mean and standard deviation of the random values that it begins with."""

    @abc.abstractmethod
    def training_weight(self, theta, extra, noise):
        """The weight as it is used in training.

        Args:
          theta: the trainable weight, in float32.
          extra: the extra tensor.
          noise: `noise.normal(shape)` and `noise.uniform(shape)` draw float32 tensors.
        """

    @abc.abstractmethod
    def deployed_weight(self, theta, extra):
        """The weight without noise, with its zeros."""

    @abc.abstractmethod
    def keeps(self, theta, extra):
        """Boolean mask of the deployed weight: true where it stays."""

    def training_output(self, linear, inputs, theta, extra, noise):
        """The output of a linear map in training, without bias and activation.

        Args:
          linear: `linear(inputs, weight)` is the map.
          inputs: of the layer.
          theta: the trainable weight.
          extra: the extra tensor.
          noise: as of `training_weight`; `noise.sequence_axes` are the axes of the
            output that are the positions of a sequence, empty unless there is one.
        """
        return linear(inputs, self.training_weight(theta, extra, noise))


def field_help(cls: type) -> dict[str, str]:
    """The line on each field in the `Attributes` sections of a dataclass's docstrings.

    Those of the classes that it derives from count, too.

    Raises:
      ValueError: if a field has no such line, naming it.
    """
    help_texts = {}
    for base in reversed(cls.__mro__):
        section = (vars(base).get("__doc__") or "").partition("Attributes:\n")[2]
        entries = re.findall(
            r"^ {6}(\w+): (.+(?:\n {8,}.+)*)", section, flags=re.MULTILINE
        )
        help_texts |= {name: " ".join(text.split()) for name, text in entries}
    fields = [field.name for field in dataclasses.fields(cls)]
    missing = [name for name in fields if name not in help_texts]
    if missing:
        raise ValueError(f"{cls.__name__} does not say what these mean: {missing}")
    return {name: help_texts[name] for name in fields}
