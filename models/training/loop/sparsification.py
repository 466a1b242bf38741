"""The sparsification of a run: technique, overrides, budget."""

import dataclasses
import functools

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.techniques.at_initialization import InitialPruning

GLOBAL, GLOBAL_FLOPS = "global", "global_flops"
# Over which the sparsity of a technique is distributed.
BUDGETS = {
    "uniform": sos.Uniform,
    "first_dense_last_capped": sos.FirstDenseLastCapped,
    "erk": sos.ERK,
    GLOBAL: sos.Global,
    GLOBAL_FLOPS: functools.partial(sos.Global, of="flops"),
}


@dataclasses.dataclass(frozen=True)
class Sparsification:
    """A technique, and for which layers it is overridden; None for a dense model.

    Attributes:
      technique: None for a dense model.
      overrides: as of `sos.sparsify`.
      budget: name of one of `BUDGETS`, path of the `layers.csv` of another run, or
        None: the same sparsity for each layer that no override names.
      source: of masks that are fixed, the flags that say where they are from.
    """

    technique: sos.Technique | None = None
    overrides: dict[str, float | None] = dataclasses.field(default_factory=dict)
    budget: str | None = None
    source: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        # Says at once what is wrong with it.
        _ = self.budget_of_layers

    @property
    def name(self) -> str:
        return self.pruning.technique_name() if self.technique else "dense"

    @property
    def pruning(self) -> sos.Technique | None:
        """The technique, without powerpropagation around it."""
        return getattr(self.technique, "base", self.technique)

    @property
    def is_initial(self) -> bool:
        """Whether masks are made once, before the first step, and kept by the run."""
        return isinstance(self.technique, InitialPruning)

    @property
    def power(self) -> float | None:
        """The exponent of powerpropagation; None without it."""
        return None if self.pruning is self.technique else self.technique.alpha

    @property
    def budget_in_words(self) -> str | None:
        """Its name or path; that of the technique's own one unless another is given."""
        is_global = self.budget is None and getattr(self.technique, "is_global", False)
        return GLOBAL if is_global else self.budget

    def __str__(self):
        """The technique with what is not by default, budget and overrides."""
        parts = [self.name]
        if self.technique is not None:
            parts += [
                f"{field.name}={value}"
                for field in dataclasses.fields(self.pruning)
                if (value := getattr(self.pruning, field.name)) != field.default
                # A description of it, and not of all that it holds.
                and isinstance(value, bool | int | float | str | tuple)
            ]
        if self.power is not None:
            parts.append(f"powerpropagation_alpha={self.power}")
        if self.budget_in_words is not None:
            parts.append(f"budget={self.budget_in_words}")
        parts += [f"override={name}={value}" for name, value in self.overrides.items()]
        return " ".join(parts)

    @property
    def settled_step(self) -> int:
        """Training step from which its schedules change nothing any more."""
        return self.technique.settled_step if self.technique else 0

    @property
    def target_sparsity(self) -> float | None:
        """That of the technique; None if it has none, 0 for a dense model."""
        return getattr(self.technique, "sparsity", None) if self.technique else 0.0

    def planned(self, model: keras.Model) -> dict[str, float]:
        """How sparse pruning makes each layer; see `sos.planned_sparsities`."""
        return sos.planned_sparsities(
            model, self.technique, self.overrides, self.budget_of_layers
        )

    def apply(self, model: keras.Model) -> keras.Model:
        if self.technique is None:
            return model
        if self.budget_in_words is not None:
            self._say_what_is_planned(model)
        return sos.sparsify(
            model, self.technique, self.overrides, self.budget_of_layers
        )

    @functools.cached_property
    def budget_of_layers(self) -> sos.Budget | None:
        if self.budget is None:
            return None
        if self.budget in BUDGETS:
            return BUDGETS[self.budget]()
        try:
            return sos.Table.from_csv(self.budget)
        except OSError as error:
            raise ValueError(
                f"--budget must be one of {', '.join(BUDGETS)}, or the layers.csv of a "
                f"run. Received: {self.budget!r} ({error.strerror})"
            ) from error

    def _say_what_is_planned(self, model):
        planned = self.planned(model)
        least, most = min(planned, key=planned.get), max(planned, key=planned.get)
        shared = self.budget_in_words in (GLOBAL, GLOBAL_FLOPS)
        print(
            f"budget {self.budget_in_words}: "
            + ("one threshold over all layers, " if shared else "")
            + f"from {planned[least]:.2%} ({least}) to {planned[most]:.2%} ({most})"
            + (", if the scores stayed as they are now" if shared else "")
        )
