"""Reports of where the zeros of a model are."""

import csv
import dataclasses

import numpy as np

from state_of_sparsity.checks import check_path
from state_of_sparsity.engines import engine_of
from state_of_sparsity.engines.conversion import DENSE
from state_of_sparsity.progress import warn_if_unfinished
from state_of_sparsity.thresholds import deployed_at

_COLUMNS = ("name", "shape", "size", "zeros", "sparsity", "technique")


@dataclasses.dataclass(frozen=True)
class WeightReport:
    """Zeros of one weight tensor, as deployed.

    Attributes:
      name: layer path, slash, attribute: "stage1_block1_conv1/kernel".
      shape: of the tensor.
      size: number of weights.
      zeros: number of weights that are exactly zero.
      technique: that makes it sparse, or "dense". A stripped model does not know it,
        so that it does not count when reports are compared.
    """

    name: str
    shape: tuple[int, ...]
    size: int
    zeros: int
    technique: str = dataclasses.field(compare=False)

    @property
    def sparsity(self) -> float:
        """Share of the weights that are zero."""
        return self.zeros / self.size if self.size else 0.0

    def row(self) -> tuple:
        """The columns of a table: name, shape, size, zeros, sparsity, technique."""
        shape = "x".join(map(str, self.shape))
        return self.name, shape, self.size, self.zeros, self.sparsity, self.technique


@dataclasses.dataclass(frozen=True)
class SparsityReport:
    """Zeros of a model, as deployed.

    Attributes:
      layers: a `WeightReport` for each weight tensor that a technique could make
        sparse, those that are left dense included: the same ones for a dense model,
        for a sparse one and for its stripped copy.
      parameters: number of all weights of the model that were made to be trained,
        biases included; neither masks nor moving averages.
      nonzero_parameters: those minus the zeros of `layers`.
    """

    layers: list[WeightReport]
    parameters: int

    @property
    def nonzero_parameters(self) -> int:
        return self.parameters - sum(layer.zeros for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """Share of zeros among the weights of all `layers`."""
        return _share_of_zeros(self.layers)

    @property
    def sparsified(self) -> list[WeightReport]:
        """Those of `layers` that a technique makes sparse."""
        return [layer for layer in self.layers if layer.technique != DENSE]

    @property
    def sparsified_sparsity(self) -> float:
        """Share of zeros among the weights that a technique makes sparse."""
        return _share_of_zeros(self.sparsified)

    def __str__(self) -> str:
        rows = [_COLUMNS] + [
            (name, shape, f"{size:,}", f"{zeros:,}", f"{sparsity:.2%}", technique)
            for name, shape, size, zeros, sparsity, technique in (
                layer.row() for layer in self.layers
            )
        ]
        lines = aligned(rows, numbers=(2, 3, 4))
        count = len(self.sparsified)
        some = (
            f" ({self.sparsified_sparsity:.2%} over the {count} sparsified)"
            if 0 < count < len(self.layers)
            else ""
        )
        lines.append(
            f"sparsity {self.sparsity:.2%} over {len(self.layers)} tensors{some}; "
            f"{self.nonzero_parameters:,} of {self.parameters:,} parameters non-zero"
        )
        return "\n".join(lines)

    def to_csv(self, path) -> None:
        """Writes a row per tensor: name, shape, size, zeros, sparsity, technique."""
        with open(check_path(path), "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_COLUMNS)
            writer.writerows(layer.row() for layer in self.layers)

    def plot(self, path) -> None:
        """Draws sparsity and size of each tensor, in the order of the model.

        Args:
          path: of the picture; its ending (.png, .pdf, .svg) says the format.
        """
        # Its plots are slow to import, and only needed here.
        from state_of_sparsity import report_picture

        report_picture.draw(self, check_path(path))


def aligned(rows, numbers) -> list[str]:
    """The lines of a table: text to the left, columns of numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index in numbers else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _share_of_zeros(layers):
    size = sum(layer.size for layer in layers)
    return sum(layer.zeros for layer in layers) / size if size else 0.0


def sparsity_report(model, log_alpha_threshold: float | None = None) -> SparsityReport:
    """Counts the zeros of a model as it would be deployed.

    Args:
      model: a model of `sos.sparsify`, of `sos.strip`, of TF-MOT's
        `prune_low_magnitude`, or a plain one, also quantized to 8 bits, or to 4.
      log_alpha_threshold: as for `sos.strip`.

    Raises:
      TypeError, ValueError: for something that is not a built model, or a threshold
        that will not do.

    Warns:
      UserWarning: if the schedule of a technique has not ended.
    """
    engine = engine_of(model)
    warn_if_unfinished(engine, model)
    with deployed_at(model, log_alpha_threshold):
        return report_now(model)


def report_now(model) -> SparsityReport:
    """`sparsity_report` of a model that is still trained."""
    engine = engine_of(model)
    layers = [
        WeightReport(
            name,
            weight.value.shape,
            weight.value.size,
            int(weight.value.size - np.count_nonzero(weight.value)),
            site.technique if weight.is_sparse else DENSE,
        )
        for name, weight, site in _deployed(engine, model)
    ]
    return SparsityReport(layers, engine.count_parameters(model))


def weight_masks(
    model, log_alpha_threshold: float | None = None
) -> dict[str, np.ndarray]:
    """Which weights a model keeps when it is deployed.

    Args:
      model: as for `sparsity_report`. Where no technique makes it sparse, a weight is
        kept if it is not zero.
      log_alpha_threshold: as for `sos.strip`.

    Returns:
      `{weight name: boolean array of the weight's shape}`, true where it stays. The
      names are those of `sparsity_report`, the same for a sparse model and for its
      stripped counterpart.

    Raises:
      TypeError, ValueError: for something that is not a built model, or a threshold
        that will not do.
    """
    engine = engine_of(model)
    with deployed_at(model, log_alpha_threshold):
        return {name: weight.mask for name, weight, _ in _deployed(engine, model)}


def _deployed(engine, model):
    """Name, deployed weight and site of each tensor that could be made sparse."""
    for site in engine.sites(model):
        for weight in engine.deployed_weights(site.layer):
            yield f"{site.path}/{weight.attribute}", weight, site
