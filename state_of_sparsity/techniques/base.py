"""Base of all sparsification techniques."""

import abc
import dataclasses
import re
from typing import ClassVar, Self

import numpy as np

from state_of_sparsity import schedules
from state_of_sparsity.companions import SharedThreshold
from state_of_sparsity.techniques.state import Place, State

# Every class of techniques by its name, for configurations that were saved.
CLASSES: dict[str, type["Technique"]] = {}


class Technique(abc.ABC):
    """A way to make weights sparse, with its hyperparameters.

    A technique is a frozen dataclass. Each field is a hyperparameter, and has one line
    in the `Attributes` section of the docstring of the class or of one that it derives
    from, which is also the help text of its command-line flag.

    Its methods are pure functions of tensors, in `keras.ops`: they know of no layer and
    of no engine. Beside every weight `theta`, an engine keeps the tensors that `state`
    names: none, a mask, a parameter that is trained, what training adds up.

    Attributes:
      draws_noise: whether weights in training depend on noise.
      couples: whether units of several layers can be one to it, and count by what they
        are used for.
    """

    draws_noise: ClassVar[bool] = False
    couples: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        CLASSES[cls.__name__] = cls

    @classmethod
    def technique_name(cls) -> str:
        """The name on the command line and in reports: "magnitude_pruning"."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", cls.__name__).lower()

    def with_sparsity(self, sparsity: float) -> Self:
        """The same technique with another target sparsity.

        Raises:
          ValueError: if the technique has no target sparsity.
        """
        raise ValueError(
            f"{type(self).__name__} has no target sparsity to set to {sparsity}: give "
            "a whole technique, or None to leave the layer dense."
        )

    def sharing(self, shared: SharedThreshold) -> Self:
        """The same technique for layers that have one threshold.

        Raises:
          ValueError: if it needs one for each.
        """
        raise ValueError(
            f"{type(self).__name__} decides layer by layer, and cannot have one "
            f"threshold for the {shared.layers} layers of {shared.model!r}: give a "
            "budget that plans them, such as sos.ERK()."
        )

    def get_config(self) -> dict:
        """The hyperparameters, for the configuration of a layer."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config: dict) -> Self:
        return cls(**config)

    # What it applies to.

    def applies_to(self, *, depthwise: bool) -> bool:
        """Whether to make a kind of weight sparse that no override names.

        Args:
          depthwise: whether it is the kernel of a depthwise convolution.
        """
        del depthwise
        return True

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

    # What it keeps, and when that changes.

    @abc.abstractmethod
    def state(self, place: Place) -> dict[str, State]:
        """The tensors that it keeps beside a weight, by name."""

    def schedule(self) -> schedules.Schedule:
        """When state is renewed in the forward pass."""
        return schedules.Never()

    def renewed(self, weights, index) -> list[dict]:
        """The state after a renewal, by name, of several weights.

        Args:
          weights: of each the tensor `theta`, its state, and its `stream` as of
            `Place`: those of one layer, or of all that share a threshold.
          index: int32 scalar, which of the renewals of the schedule it is.
        """
        raise NotImplementedError

    @property
    def settled_step(self) -> int:
        """Training step from which its schedules change nothing any more."""
        return 0

    def kept_weights(self, mask: np.ndarray, steps: int) -> int:
        """How many elements of a weight training computes with, summed over steps.

        Args:
          mask: boolean, which elements stay in the end.
          steps: number of training steps from the first one.
        """
        return mask.size * steps

    # What a weight is.

    def initial_theta(self, weight):
        """Theta so that the weight that is used begins with the values of a tensor."""
        return weight

    @abc.abstractmethod
    def training_weight(self, theta, state, step, noise):
        """The weight as it is used in training.

        Args:
          theta: the trainable weight, in float32.
          state: tensors by name.
          step: int32 scalar, which training step it is, from one.
          noise: `noise.normal(shape)` and `noise.uniform(shape)` draw float32 tensors.
        """

    @abc.abstractmethod
    def deployed_weight(self, theta, state):
        """The weight without noise, with its zeros."""

    @abc.abstractmethod
    def keeps(self, theta, state):
        """Boolean mask of the deployed weight: true where it stays."""

    def training_output(self, linear, inputs, theta, state, step, noise):
        """The output of a linear map in training, without bias and activation.

        Args:
          linear: `linear(inputs, weight)` is the map.
          inputs: of the layer.
          theta: the trainable weight.
          state: tensors by name.
          step: as of `training_weight`.
          noise: as of `training_weight`; `noise.sequence_axes` are the axes of the
            output that are the positions of a sequence, empty unless there is one.
        """
        return linear(inputs, self.training_weight(theta, state, step, noise))

    # What training does to it.

    def backward(self, theta, state, gradient, step):
        """The backward pass of `training_weight`, where that is not its derivative.

        Args:
          theta: the trainable weight.
          state: tensors by name, as the forward pass of the step had them.
          gradient: of the loss with respect to the weight that was used, masked
            elements included.
          step: as of `training_weight`.

        Returns:
          The gradient for theta, and by name the new values of the state that the
          backward pass changes, and the gradients for the state that is trained.
        """
        raise NotImplementedError

    def projected(self, theta, state):
        """What theta becomes after each update by the optimizer.

        Args:
          theta: as the update left it.
          state: tensors by name; only those that the backward pass changes.
        """
        del state
        return theta

    def regularized_weight(self, theta, state):
        """What a regularizer of the weight sees."""
        del state
        return theta

    def penalty(self, theta, state):
        """What is added to the loss, before its weight: a float32 scalar."""
        raise NotImplementedError

    def current_penalty_weight(self, state, step):
        """The weight of the penalty at a training step, counted from zero."""
        del state, step
        return 1.0

    def weighted_penalty(self, theta, state, step):
        """The penalty times its weight."""
        return self.current_penalty_weight(state, step) * self.penalty(theta, state)

    def has_own(self, method: str) -> bool:
        """Whether it says of itself what by default is the identity, or nothing.

        Args:
          method: backward, projected, penalty, training_output and others.
        """
        return getattr(type(self), method) is not getattr(Technique, method)


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
