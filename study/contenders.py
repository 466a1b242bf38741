"""The techniques that are compared on one dataset, and what is tried of each.

The settings of a technique are those of the best of its trials in validation: of one
seed, at one point, and of as many for each. Techniques without a target sparsity have
points in place of trials: as many values of what makes them sparse. Masks at
initialization have neither: nothing of them is chosen.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping

Flags = Mapping[str, object]
TRIALS = 4


@dataclasses.dataclass(frozen=True)
class Contender:
    """A technique, as it is compared.

    Attributes:
      title: in legends.
      flags: of all its runs.
      trials: flags of each trial; none if there is nothing to choose.
      tuned_at: the point at which they are tried.
      at: flags that make it so sparse, of a point.
      points: None for those of the dataset.
      random_masks: the experiment whose masks are random ones with as many weights in
        each layer, where it is another's: None for one of its own.
    """

    title: str
    flags: Flags
    trials: tuple[Flags, ...] = ()
    tuned_at: float = 0.95
    at: Callable[[float], Flags] = lambda sparsity: {"sparsity": sparsity}
    points: tuple[float, ...] | None = None
    random_masks: str | None = None

    @property
    def has_structure(self) -> bool:
        """Whether it masks more than single weights at a time."""
        return "structure" in self.flags


def _grid(**values) -> tuple[Flags, ...]:
    """All combinations of the values of some flags."""
    return tuple(
        dict(zip(values, combination, strict=True))
        for combination in itertools.product(*values.values())
    )


def _alternating(dense: int, *lengths: int) -> Flags:
    """Phases of AC/DC: the dense first one, then compressed and dense ones by turns."""
    ends = itertools.accumulate(lengths, initial=dense)
    return {"dense_steps": dense, "phases": ",".join(map(str, list(ends)[1:]))}


def _zeros_of_32(sparsity):
    return {"sparsity_m_by_n": f"{round(32 * sparsity)},32"}


# Random masks with the same share of each layer, and with that of ERK.
_UNIFORM, _ERK = "shuffled", "random_masks_rigl"
# Steps are of 1,500.
_RAMPS = _grid(begin_step=(150, 450), end_step=(750, 1125))
_THRESHOLDS = _grid(begin_step=(1, 150), end_step=(750, 1125))
_REGROWTH = _grid(drop_fraction=(0.3, 0.5), frequency=(15, 60))
_STEERING = _grid(ramp_begin=(0, 150), ramp_length=(600, 900))
_PHASES = (
    # As published; half as often; compressed for longer in the end; earlier.
    _alternating(150, *[75] * 13, 150),
    _alternating(150, *[150] * 7, 75),
    _alternating(150, *[75] * 12),
    _alternating(75, *[75] * 13, 150),
)
CONTENDERS = {
    "magnitude": Contender(
        "magnitude pruning", {"technique": "magnitude_pruning"}, _RAMPS
    ),
    "random": Contender("random pruning", {"technique": "random_pruning"}, _RAMPS),
    "first_dense": Contender(
        "magnitude pruning, first layer dense",
        {"technique": "magnitude_pruning", "budget": "first_dense_last_capped"},
        _RAMPS,
    ),
    "returning": Contender(
        "magnitude pruning, masked weights return",
        {"technique": "magnitude_pruning", "masked_weights": "return"},
        _RAMPS,
        random_masks=_UNIFORM,
    ),
    "global": Contender(
        "magnitude pruning, global",
        {"technique": "magnitude_pruning", "budget": "global"},
        _RAMPS,
    ),
    "channels": Contender(
        "magnitude pruning, channels",
        {"technique": "magnitude_pruning", "structure": "channels"}
        # Its channels are the classes.
        | {"override": "logits=dense"},
        _RAMPS,
        tuned_at=0.7,
        points=(0.3, 0.5, 0.7, 0.8),
    ),
    "lasso": Contender(
        "group lasso, channels",
        {"technique": "group_lasso", "structure": "channels"}
        | {"override": "logits=dense"},
        at=lambda weight: {"lasso_weight": weight},
        points=(3e-4, 1e-3, 3e-3, 1e-2),
    ),
    "powerpropagation": Contender(
        "magnitude pruning, powerpropagation, global",
        {"technique": "magnitude_pruning", "budget": "global"},
        _grid(powerpropagation_alpha=(1.5, 2, 3, 4)),
    ),
    "saliency": Contender(
        "saliency pruning",
        {"technique": "saliency_pruning"},
        _RAMPS,
        random_masks=_UNIFORM,
    ),
    "movement": Contender(
        "movement pruning",
        {"technique": "movement_pruning"},
        _RAMPS,
        random_masks=_UNIFORM,
    ),
    "fisher": Contender(
        "Fisher pruning",
        {"technique": "fisher_pruning"},
        _RAMPS,
        random_masks=_UNIFORM,
    ),
    "set": Contender(
        "SET, erk",
        {"technique": "set", "budget": "erk"},
        _REGROWTH,
        random_masks=_ERK,
    ),
    "rigl": Contender("RigL, erk", {"technique": "rigl", "budget": "erk"}, _REGROWTH),
    "granet": Contender(
        "GraNet, erk",
        {"technique": "granet", "budget": "erk"},
        _REGROWTH,
        random_masks=_ERK,
    ),
    "feather": Contender("Feather, global", {"technique": "feather"}, _THRESHOLDS),
    "st3": Contender("ST-3, global", {"technique": "st3"}, _THRESHOLDS),
    "st3_sigma": Contender(
        "ST-3, sigma, global", {"technique": "st3", "by_fan": True}, _THRESHOLDS
    ),
    "acdc": Contender("AC/DC, global", {"technique": "acdc"}, _PHASES),
    "spartan": Contender(
        "Spartan, global",
        {"technique": "spartan"},
        _grid(end_step=(300, 750), fixed_step=(1200, 1350)),
    ),
    "srste": Contender(
        "SR-STE",
        {"technique": "srste"},
        _grid(decay=(5e-5, 2e-4, 8e-4, 3.2e-3)),
        tuned_at=30 / 32,
        at=_zeros_of_32,
        points=(26 / 32, 29 / 32, 30 / 32, 31 / 32),
    ),
    "vd_steered": Contender(
        "variational dropout, steered",
        {"technique": "variational_dropout"},
        _STEERING,
    ),
    "l0_steered": Contender(
        "L0 regularization, steered", {"technique": "l0_regularization"}, _STEERING
    ),
    "str": Contender(
        "STR",
        {"technique": "str"},
        at=lambda decay: {"weight_decay": decay},
        points=(2.5e-3, 6e-3, 1.2e-2, 3e-2),
    ),
    "snip": Contender("SNIP, global", {"technique": "snip"}),
    "grasp": Contender("GraSP, global", {"technique": "grasp"}),
    "synflow": Contender("SynFlow, global", {"technique": "synflow"}),
    "initial": Contender(
        "magnitude at initialization, global",
        {"technique": "magnitude_pruning", "budget": "global"}
        | {"begin_step": 0, "end_step": 0},
    ),
}
# Those whose masks are of the initial weights, with nothing to choose.
AT_INITIALIZATION = ("snip", "grasp", "synflow", "initial")
