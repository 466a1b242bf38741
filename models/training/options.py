"""Options that all training runs have in common."""

import dataclasses
import math
from typing import ClassVar, Self

from state_of_sparsity.models.training.devices.strategy import DISTRIBUTIONS, counted

EXPORTED = ("last", "best")
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
# Hyperparameters of techniques that are numbers of training steps.
_STEPS = (
    *("begin_step", "end_step", "frequency", "ramp_begin", "ramp_length"),
    *("dense_steps", "phases", "fixed_step"),
)
# What goes with a technique whatever the dataset: what its paper has. Steps are shares
# of the training steps.
_REGROWING = {"end_step": 3 / 4}
_OF_TECHNIQUES = {
    "set": _REGROWING,
    "rigl": _REGROWING,
    "granet": _REGROWING,
    "feather": {"begin_step": 0.0, "end_step": 1 / 2},
    "st3": {"begin_step": 1 / 20, "end_step": 1 / 2},
    "acdc": {
        "dense_steps": 1 / 10,
        # Five epochs of a hundred each; the last dense phase has ten.
        "phases": (*(epoch / 100 for epoch in range(15, 80, 5)), 0.85),
    },
    "spartan": {"end_step": 1 / 5, "fixed_step": 4 / 5},
    # Of no paper: on mnist1d it takes 42 % of the weights, in whole channels.
    "group_lasso": {"lasso_weight": 1e-3},
    "srste": {"sparsity_m_by_n": (2, 4)},
    "snip": {"mask_batches": 1},
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """What goes with a dataset unless a flag says otherwise.

    Attributes:
      options: fields of the options.
      technique: hyperparameters of techniques, unless their papers say something
        else; those that are steps as a share of the training steps.
      without: names of the options that the dataset has no use for.
    """

    options: dict[str, object]
    technique: dict[str, object]
    without: tuple[str, ...] = ()


class Options:
    """Base of the dataclasses of options of a training run.

    Options that are None take the value that goes with the dataset.

    Attributes:
      presets: by dataset.
      at_least_one: names of the options that count something.
      positive: names of the options that must be above 0.
      not_negative: names of the options that must be at least 0.
      fractions: names of the options that must be at least 0 and below 1.
    """

    presets: ClassVar[dict[str, Preset]]
    at_least_one: ClassVar[tuple[str, ...]] = (
        "train_steps",
        "eval_steps",
        "accumulate_steps",
    )
    positive: ClassVar[tuple[str, ...]] = ("learning_rate",)
    not_negative: ClassVar[tuple[str, ...]] = ("seed",)
    fractions: ClassVar[tuple[str, ...]] = ("label_smoothing",)

    def resolved(self) -> Self:
        """The options with the values that go with the dataset filled in.

        Raises:
          ValueError: for an option that will not do, naming it.
        """
        check_choice("dataset", self.dataset, self.presets)
        preset = self.presets[self.dataset]
        self._check_useful(preset.without)
        missing = {
            name: value
            for name, value in preset.options.items()
            if getattr(self, name) is None
        }
        resolved = dataclasses.replace(self, **missing)
        resolved.check()
        return resolved

    def _check_useful(self, without):
        for name in without:
            if getattr(self, name) is not None:
                users = [d for d, p in self.presets.items() if name not in p.without]
                raise ValueError(
                    f"dataset={self.dataset} has no use for {name} (it belongs to "
                    f"{', '.join(users)}). Received: {getattr(self, name)!r}"
                )

    def stretched(self, multiplier: float, schedule: str) -> Self:
        """The options of a run of so many times the steps.

        Args:
          multiplier: above 0.
          schedule: "constant_final": the learning rate changes when it did, and the
            last one holds for longer. "scaled": its schedule is stretched, too.

        Raises:
          ValueError: for another multiplier, or a schedule that cannot be stretched.
        """
        if not 0 < multiplier < math.inf:
            raise ValueError(
                f"train_steps_multiplier must be positive. Received: {multiplier}"
            )
        steps = max(1, round(self.train_steps * multiplier))
        changes = self._scaled_schedule(multiplier) if schedule == "scaled" else {}
        return dataclasses.replace(self, train_steps=steps, **changes)

    def _scaled_schedule(self, multiplier):
        raise ValueError(
            "stretch_schedule=scaled is for learning rates that fall at given epochs, "
            f"and that of {self.dataset} does not: give constant_final."
        )

    def technique_defaults(self, technique: str) -> dict[str, object]:
        """Hyperparameters of a technique for which there is no flag.

        An option that has the name of one, such as the seed, gives its value.
        """
        preset = self.presets[self.dataset].technique
        shares = preset | _OF_TECHNIQUES.get(technique, {})
        return vars(self) | {
            name: self._steps(value) if name in _STEPS else value
            for name, value in shares.items()
        }

    def _steps(self, share):
        """So many training steps, or several such numbers."""
        if isinstance(share, tuple):
            return tuple(map(self._steps, share))
        return max(1, round(share * self.train_steps))

    def at_a_time(self, examples: int, replicas: int) -> int:
        """How many of the examples of a step a replica takes at a time, at most.

        Raises:
          ValueError: if accumulate_steps does not make equal parts of them.
        """
        parts = self.accumulate_steps * replicas
        if self.accumulate_steps > 1 and examples % parts:
            raise ValueError(
                f"accumulate_steps must make equal parts of the {examples:,} examples "
                f"that a step takes on {counted(replicas)}. "
                f"Received: {self.accumulate_steps}"
            )
        return math.ceil(examples / parts)

    @property
    def in_parts(self) -> str:
        """What there is to say of a batch that is taken in parts."""
        parts = self.accumulate_steps
        return f", accumulated over {parts} parts" if parts > 1 else ""

    def check(self) -> None:
        """Raises ValueError for an option that will not do, naming it."""
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("distribution", self.distribution, DISTRIBUTIONS)
        check_choice("export", self.export, EXPORTED)
        for name in self.at_least_one:
            value = getattr(self, name)
            if value is not None:
                self._require(name, value >= 1, "be at least 1")
                # TensorFlow counts the rows of a tensor, and much else, in 32 bits.
                self._require(name, value < 2**31, f"be below {2**31}")
        for name in self.positive:
            value = getattr(self, name)
            self._require(name, 0 < value < math.inf, "be positive and finite")
        for name in self.not_negative:
            value = getattr(self, name)
            self._require(name, 0 <= value < math.inf, "be at least 0 and finite")
        for name in self.fractions:
            value = getattr(self, name)
            self._require(name, 0 <= value < 1, "be at least 0 and below 1")
        # One more than the seed seeds NumPy, which takes 32 bits.
        self._require("seed", self.seed < 2**32 - 1, f"be below {2**32 - 1}")

    def _require(self, name, holds, requirement):
        if not holds:
            raise ValueError(
                f"{name} must {requirement}. Received: {getattr(self, name)}"
            )


def check_choice(name: str, value: object, choices) -> None:
    """Raises ValueError unless the value is one of the choices, naming them."""
    if value not in choices:
        listed = ", ".join(map(str, choices))
        raise ValueError(f"{name} must be one of {listed}. Received: {value!r}")
