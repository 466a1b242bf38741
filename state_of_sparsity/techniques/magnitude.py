"""Magnitude pruning: the weights nearest to zero go first."""

import dataclasses
from typing import Self

from state_of_sparsity import masks
from state_of_sparsity.backend import (
    PruningPolicy,
    PruningSchedule,
    keras,
    pruning_schedule,
    tf,
)
from state_of_sparsity.checks import check_fraction, check_integer
from state_of_sparsity.schedules import CubicSchedule
from state_of_sparsity.techniques.pruning import PruningTechnique

# TF-MOT's schedules, which are not registered with Keras.
_SCHEDULES = {
    "ConstantSparsity": pruning_schedule.ConstantSparsity,
    "PolynomialDecay": pruning_schedule.PolynomialDecay,
    "CubicSchedule": CubicSchedule,
}


@keras.utils.register_keras_serializable("state_of_sparsity")
@dataclasses.dataclass(frozen=True)
class MagnitudePruning(PruningTechnique):
    """The score of a weight is its magnitude (Zhu & Gupta 2017, arXiv 1710.01878).

    The options after `initial_sparsity` are those of TF-MOT's
    `prune_low_magnitude`, with its names and meaning.

    Attributes:
      sparsity: share of the weights of each tensor that is zero after the ramp.
      begin_step: training step at which pruning begins.
      end_step: training step at which the final sparsity is reached.
      frequency: training steps from one renewal of the masks to the next.
      initial_sparsity: sparsity at which the ramp begins.
      block_size: height and width of the blocks of a matrix that go as a whole.
      block_pooling_type: what a block counts: AVG or MAX of its magnitudes.
      sparsity_m_by_n: m zeros among each n consecutive weights, such as 2,4.
      pruning_policy: a TF-MOT `PruningPolicy` that chooses the layers.
      pruning_schedule: a TF-MOT schedule to use instead of the cubic ramp; see
        `from_schedule`.

    Raises:
      TypeError, ValueError: for a bad value, naming it.
    """

    initial_sparsity: float = 0.0
    block_size: tuple[int, int] = (1, 1)
    block_pooling_type: str = "AVG"
    sparsity_m_by_n: tuple[int, int] | None = None
    pruning_policy: PruningPolicy | None = None
    pruning_schedule: PruningSchedule | None = None

    def __post_init__(self):
        super().__post_init__()
        check_fraction("initial_sparsity", self.initial_sparsity)
        self._check_pair("block_size")
        if self.block_pooling_type not in ("AVG", "MAX"):
            raise ValueError(
                "block_pooling_type must be 'AVG' or 'MAX'. "
                f"Received: {self.block_pooling_type!r}"
            )
        if self.sparsity_m_by_n is not None:
            self._check_pair("sparsity_m_by_n")
            self._check_m_by_n()

    def _check_pair(self, name):
        value = getattr(self, name)
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise ValueError(f"{name} must be two integers. Received: {value!r}")
        for part in value:
            check_integer(name, part, minimum=1)
        object.__setattr__(self, name, tuple(value))

    def _check_m_by_n(self):
        m, n = self.sparsity_m_by_n
        if self.block_size != (1, 1):
            raise ValueError(
                "sparsity_m_by_n and block_size exclude each other. Received: "
                f"sparsity_m_by_n={(m, n)}, block_size={self.block_size}"
            )
        if not m < n or abs(self.sparsity - m / n) > 1e-9:
            raise ValueError(
                f"sparsity_m_by_n={(m, n)} makes a sparsity of m/n, below 1; give "
                f"the same as sparsity. Received: sparsity={self.sparsity}"
            )

    @classmethod
    def from_schedule(cls, schedule: PruningSchedule, **options) -> Self:
        """Magnitude pruning on a schedule of TF-MOT or of one's own.

        Args:
          schedule: a `PruningSchedule`: `PolynomialDecay`, `ConstantSparsity` or
            another one. `sparsity` becomes the sparsity that it ends with.
          **options: the other hyperparameters.
        """
        end = getattr(schedule, "end_step", -1)
        # TF-MOT's -1 means to renew masks for ever.
        last_step = tf.constant(end if end >= 0 else 2**40, tf.int64)
        final = round(float(schedule(last_step)[1]), 7)
        begin = getattr(schedule, "begin_step", 0)
        return cls(
            sparsity=final,
            begin_step=begin,
            end_step=max(end, begin),
            frequency=getattr(schedule, "frequency", 1),
            pruning_schedule=schedule,
            **options,
        )

    def score(self, weight, stream):
        del stream
        return tf.abs(weight)

    def mask(self, score, sparsity):
        if self.sparsity_m_by_n:
            return masks.m_by_n(score, self.sparsity_m_by_n)
        if self.block_size != (1, 1):
            return masks.blocks(
                score, sparsity, self.block_size, self.block_pooling_type
            )
        return masks.unstructured(score, sparsity)

    def check_weight(self, name, shape):
        if self.block_size != (1, 1) and shape.rank != 2:
            self._refuse_weight(name, shape, "block_size", "matrices")
        if self.sparsity_m_by_n and shape.rank not in (2, 4):
            self._refuse_weight(
                name, shape, "sparsity_m_by_n", "kernels of Dense and Conv2D"
            )

    def _refuse_weight(self, name, shape, option, kinds):
        raise ValueError(
            f"{option}={getattr(self, option)} can be used for {kinds} only. "
            f"Received: {name} of shape {tuple(shape)}. Give its layer another "
            "technique, or None to leave it dense, with `overrides`."
        )

    def schedule(self):
        if self.pruning_schedule is not None:
            return self.pruning_schedule
        return CubicSchedule(
            self.sparsity,
            self.begin_step,
            self.end_step,
            self.frequency,
            self.initial_sparsity,
        )

    def with_sparsity(self, sparsity):
        if self.pruning_schedule is not None:
            raise ValueError(
                f"A sparsity of {sparsity} cannot be set on pruning_schedule="
                f"{self.pruning_schedule}: give a whole technique instead."
            )
        return super().with_sparsity(sparsity)

    def prepare(self, model):
        if self.pruning_policy is not None:
            self.pruning_policy.ensure_model_supports_pruning(model)

    def applies_to(self, layer):
        policy = self.pruning_policy
        allowed = policy is None or policy.allow_pruning(layer)
        return allowed and super().applies_to(layer)

    def get_config(self):
        config = super().get_config()
        # The policy has done its work when a layer is wrapped.
        del config["pruning_policy"]
        if self.pruning_schedule is not None:
            config["pruning_schedule"] = self.pruning_schedule.get_config()
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        saved = config.get("pruning_schedule")
        if saved is not None:
            schedule = keras.utils.get_registered_object(
                saved["class_name"], module_objects=_SCHEDULES
            )
            config["pruning_schedule"] = schedule.from_config(saved["config"])
        return cls(**config)
