"""Masks that are given, and stay as they are."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Self

import numpy as np

from state_of_sparsity.techniques.masked import MaskingTechnique
from state_of_sparsity.techniques.state import NOTHING, State


# Arrays do not compare to a truth value.
@dataclasses.dataclass(frozen=True, eq=False)
class FixedMask(MaskingTechnique):
    """Trains with masks that never change, such as those of another model.

    With them a network of the architecture that was found is trained alone: lottery
    tickets (Frankle & Carbin 2019, arXiv 1803.03635), training from scratch (Liu et al.
    2019, arXiv 1810.05270). Masked weights are exactly zero in every step and as
    deployed, whatever momentum and weight decay do.

    A tensor whose mask is true everywhere stays dense.

    Attributes:
      masks: boolean arrays by weight name, true where a weight stays, such as those of
        `sos.weight_masks`: one for each tensor that could be made sparse. None in a
        model that was loaded, whose layers have theirs.

    Raises:
      TypeError, ValueError: for what is no such array, naming it.
    """

    masks: Mapping[str, np.ndarray] | None = None

    def __post_init__(self):
        if self.masks is None:
            return
        if not isinstance(self.masks, Mapping):
            raise TypeError(
                "masks must be a dictionary of boolean arrays by weight name, such as "
                f"sos.weight_masks(model) gives. Received: {self.masks!r}"
            )
        for name, mask in self.masks.items():
            if not isinstance(mask, np.ndarray) or mask.dtype.kind != "b":
                raise TypeError(
                    f"masks[{name!r}] must be a boolean array. Received: {mask!r:.80}"
                )

    def check_sites(self, sites):
        shapes = {n: shape for site in sites for n, shape in site.shapes().items()}
        masks = self.masks or {}
        wrong = [
            f"{name}: the mask is {mask.shape}, the weight {shapes[name]}"
            for name, mask in masks.items()
            if name in shapes and mask.shape != shapes[name]
        ]
        wrong += [f"{name}: no mask" for name in shapes.keys() - masks.keys()]
        for name in masks.keys() - shapes.keys():
            near = difflib.get_close_matches(name, shapes, n=1)
            hint = f" (near: {near[0]})" if near else ""
            wrong.append(f"{name}: no such weight{hint}")
        if wrong:
            raise ValueError(
                "The masks are of another architecture, or the weights are packed in "
                "a quantized model, which has to be masked before. Received: "
                f"{'; '.join(sorted(wrong))}"
            )

    def for_site(self, site):
        given, names = self.masks or {}, site.shapes()
        missing = sorted(names.keys() - given.keys())
        if missing:
            raise ValueError(f"FixedMask needs masks for {missing}")
        masks = {n.removeprefix(f"{site.path}/"): given[n] for n in names}
        if all(mask.all() for mask in masks.values()):
            return None
        return FixedMask(masks)

    def state(self, place):
        mask = 1.0 if self.masks is None else self.masks[place.attribute]
        return {"mask": State(mask, dtype="bool", changed_by=NOTHING)}

    def kept_weights(self, mask, steps):
        return int(mask.sum()) * steps

    def with_sparsity(self, sparsity: float) -> Self:
        raise ValueError(
            "FixedMask has no target sparsity: its masks say what goes. Received: "
            f"{sparsity}"
        )

    def get_config(self):
        # The layers hold their masks, and save them with their weights.
        return {}
