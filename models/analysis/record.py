"""What is known of a run, or of a group of published ones."""

import dataclasses
import enum
import pathlib
from collections.abc import Mapping


class Statistic(enum.Enum):
    """What the quality of a record is."""

    RUN = "of a run"
    BEST = "the best of several runs"
    MEAN = "the mean of several runs"


@dataclasses.dataclass(frozen=True)
class Record:
    """A run; or published runs, of which only one figure was published.

    What was not published, or older runs did not write, is None.

    Attributes:
      source: the run's folder, or the published table.
      technique: by its name in flags and tables, such as "fixed_mask".
      variant: what was tried, in words; see `variants.variant`.
      group: what runs have in common that are one point; see `variants.group`.
      model: such as "resnet50".
      dataset: such as "imagenet2012".
      metric: of quality, such as "top1" or "bleu".
      quality: on the test split: an accuracy in percent, or BLEU.
      sparsity: share of zeros in the weights that could be made sparse.
      published: whether it is from a published table.
      statistic: what `quality` is.
      deviation: standard deviation of the quality, of a mean.
      runs: that it stands for.
      failed_runs: that came to nothing, of those.
      seed: of the run.
      steps: of training.
      parameters: of the model, biases included.
      nonzero_parameters: those that are left.
      counted_weights: over how many weights `sparsity` is.
      flops: of inference on an example, of the dense model.
      sparse_flops: those with the zeros skipped.
      training_flops: of the whole run.
      dense_training_flops: those of a dense model in as many steps.
      flags: of the run, as text by name.
    """

    source: pathlib.Path
    technique: str
    variant: str
    group: str
    model: str
    dataset: str
    metric: str
    quality: float
    sparsity: float
    published: bool = False
    statistic: Statistic = Statistic.RUN
    deviation: float = 0.0
    runs: int = 1
    failed_runs: int = 0
    seed: int | None = None
    steps: int | None = None
    parameters: int | None = None
    nonzero_parameters: int | None = None
    counted_weights: int | None = None
    flops: int | None = None
    sparse_flops: int | None = None
    training_flops: int | None = None
    dense_training_flops: int | None = None
    flags: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def compression(self) -> float | None:
        """All parameters for each that is left (Blalock et al. 2020)."""
        return _ratio(self.parameters, self.nonzero_parameters)

    @property
    def speed_up(self) -> float | None:
        """In theory: operations of the dense model for each that is left."""
        return _ratio(self.flops, self.sparse_flops)

    @property
    def flops_share(self) -> float | None:
        """Operations of inference, as a share of the dense model's."""
        return _ratio(self.sparse_flops, self.flops)

    @property
    def training_flops_share(self) -> float | None:
        """Operations of training, as a share of a dense model's in as many steps."""
        return _ratio(self.training_flops, self.dense_training_flops)


def _ratio(one, other):
    if one is None or other is None:
        return None
    return one / other if other else float("inf")
