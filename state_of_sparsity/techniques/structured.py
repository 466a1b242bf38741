"""Base of the techniques that mask whole inputs, channels or heads, if told so."""

import dataclasses
from typing import ClassVar

from state_of_sparsity import structures
from state_of_sparsity.checks import check_choice
from state_of_sparsity.techniques.base import Technique


@dataclasses.dataclass(frozen=True, kw_only=True)
class StructuredTechnique(Technique):
    """Base of the techniques that have a structure.

    Attributes:
      structure: what is masked as a whole: weights, inputs, channels or heads; in
        Python also a pattern of `state_of_sparsity.structures`.
    """

    # What it may be, if not a name.
    patterns: ClassVar[type[structures.SingleWeights]] = structures.Slices

    structure: structures.SingleWeights | str | None = None

    def check_structure(self) -> None:
        """Restores one that was saved; raises TypeError, ValueError for a bad one."""
        given, names = self.structure, structures.NAMES
        if isinstance(given, dict):
            given = structures.from_config(given)
            object.__setattr__(self, "structure", given)
        if isinstance(given, str):
            check_choice("structure", given, names)
        elif getattr(given, "coupled", None) and not self.couples:
            raise ValueError(
                f"{type(self).__name__} decides layer by layer, and cannot have one "
                f"score for channels that are tied. Received: structure={given!r}"
            )
        elif not isinstance(given, self.patterns | None):
            raise TypeError(
                f"structure must be one of {', '.join(names)}, or a "
                f"{self.patterns.__name__} of state_of_sparsity.structures. Received: "
                f"{given!r}"
            )

    @property
    def pattern(self) -> structures.SingleWeights:
        """In which pattern weights are masked."""
        if self.structure in (None, "weights"):
            return structures.SingleWeights()
        is_name = isinstance(self.structure, str)
        return structures.Slices(self.structure) if is_name else self.structure

    def for_site(self, site):
        structure = self.pattern.for_site(site)
        if structure == self.pattern:
            return self
        return dataclasses.replace(self, structure=structure)

    def refusal(self, shape):
        return self.pattern.refusal(shape)

    def units_of(self, shape):
        """How many units, which go as a whole, a weight has."""
        return self.pattern.units(shape)

    def with_structure(self, structure):
        return dataclasses.replace(self, structure=structure)

    def get_config(self):
        config = super().get_config()
        if isinstance(self.structure, structures.SingleWeights):
            config["structure"] = self.structure.get_config()
        return config
