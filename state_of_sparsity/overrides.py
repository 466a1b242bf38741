"""Techniques that some layers get by name instead of that of the model."""

import difflib
import numbers
import re

from state_of_sparsity.engines.conversion import Site
from state_of_sparsity.techniques import Technique


class Overrides:
    """Rules that say which technique a layer gets.

    Args:
      technique: of layers that no rule names.
      overrides: as of `sos.sparsify`.

    Raises:
      TypeError, ValueError: for rules that are none.
    """

    def __init__(self, technique, overrides):
        self._technique = technique
        self._rules = []
        self._matched = set()
        if not isinstance(overrides, dict):
            raise TypeError(
                "overrides must be a dictionary of regular expressions on layer "
                f"names. Received: {overrides!r}"
            )
        for pattern, value in overrides.items():
            try:
                expression = re.compile(pattern)
                expression.fullmatch("")
            except (re.error, TypeError) as error:
                raise ValueError(
                    f"An override is not a regular expression ({error}). "
                    f"Received: {pattern!r}"
                ) from error
            self._rules.append((expression, self._resolve(pattern, value)))

    def _resolve(self, pattern, value):
        if value is None or isinstance(value, Technique):
            return value
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            try:
                return self._technique.with_sparsity(float(value))
            except ValueError as error:
                raise ValueError(f"In the override {pattern!r}: {error}") from error
        raise TypeError(
            f"The override {pattern!r} must be a technique, a sparsity, or None to "
            f"leave the layer dense. Received: {value!r}"
        )

    def technique_for(self, site: Site) -> tuple[Technique | None, bool]:
        """The technique, or None for dense, and whether an override says so."""
        chosen, found = self._technique, False
        for expression, technique in self._rules:
            if expression.fullmatch(site.name) or expression.fullmatch(site.path):
                self._matched.add(expression.pattern)
                if not found:
                    chosen, found = technique, True
        return chosen, found

    def check_all_used(self, candidates):
        names = [site.path for site in candidates]
        for expression, _ in self._rules:
            if expression.pattern in self._matched:
                continue
            near = difflib.get_close_matches(expression.pattern, names, n=5, cutoff=0.3)
            raise ValueError(
                "An override matches no layer that could be made sparse. "
                f"Received: {expression.pattern!r}. Near matches: "
                f"{near or names[:5]}, of {len(names)} such layers in the model."
            )
