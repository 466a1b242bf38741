"""Weights that a run keeps of some of its steps, and from which others begin."""

import dataclasses
import pathlib

import numpy as np

from state_of_sparsity import atomic
from state_of_sparsity.engines import engine_of
from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.models.training.options import check_choice


@dataclasses.dataclass(frozen=True)
class Start:
    """The values that training begins with, and those that it keeps.

    Attributes:
      load_weights_from: folder of a run of the same network with whose weights training
        begins: with those of a pruned run, its masks train as a lottery ticket.
      weights_at_step: of which step of that run; 0, the default, are its initial ones.
      keep_steps: steps whose weights are kept besides the initial ones, for other runs
        to begin with.
      init: standard, or sparse: where masks are fixed, initial values have the variance
        that their sparsity asks for (augmented).
      mask_batches: training batches whose gradients say which initial weights stay, in
        parts of --accumulate_steps (snip, grasp). By default one; of grasp on images so
        many that the usual batches have ten of each class.

    Raises:
      ValueError: for steps that will not do.
    """

    load_weights_from: str | None = None
    weights_at_step: int | None = None
    keep_steps: tuple[int, ...] | None = None
    init: str | None = None
    mask_batches: int | None = None

    def __post_init__(self):
        if self.weights_at_step is not None and self.load_weights_from is None:
            raise ValueError(
                "weights_at_step needs load_weights_from. Received: "
                f"{self.weights_at_step}"
            )
        if self.init is not None:
            check_choice("init", self.init, ("standard", "sparse"))
            if self.load_weights_from is not None:
                raise ValueError(
                    "init and load_weights_from exclude each other. Received: "
                    f"init={self.init}, load_weights_from={self.load_weights_from}"
                )
        if self.mask_batches is not None and self.mask_batches < 1:
            raise ValueError(
                f"mask_batches must be at least 1. Received: {self.mask_batches}"
            )
        wrong = [step for step in self.keep_steps or () if step < 1]
        if wrong:
            raise ValueError(f"keep_steps must be at least 1. Received: {wrong}")

    def set_weights(self, model: keras.Model) -> None:
        """Gives a dense model the weights to begin with, if they are another run's.

        Raises:
          ValueError: if they were not kept, with the steps that were; or if they are of
            another network, with what differs.
        """
        if self.load_weights_from is not None:
            folder = pathlib.Path(self.load_weights_from)
            load_weights(model, folder, self.weights_at_step or 0)


class Keep(keras.callbacks.Callback):
    """Keeps the weights at some steps, as they are deployed."""

    def __init__(self, folder: pathlib.Path, steps):
        super().__init__()
        self._folder, self._steps = folder, set(steps or ())

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.optimizer.iterations.numpy()) if self._steps else 0
        if step in self._steps:
            save_weights(engine_of(self.model).strip(self.model), self._folder, step)


def save_weights(model: keras.Model, folder: pathlib.Path, step: int) -> None:
    """Writes the weights of a plain model into the folder of a run."""
    weights = enumerate(zip(model.weights, model.get_weights(), strict=True))
    arrays = {f"{i}:{weight.name}": value for i, (weight, value) in weights}
    with atomic.replacing(_path(folder, step)) as path:
        np.savez(path, **arrays)


def load_weights(model: keras.Model, folder: pathlib.Path, step: int) -> None:
    """Gives a plain model the weights that `save_weights` wrote; see `Start`."""
    path = _path(folder, step)
    if not has_weights(folder, step):
        kept = sorted(
            int(p.stem.removeprefix("step_")) for p in path.parent.glob("step_*.npz")
        )
        raise ValueError(
            f"{folder} has not kept the weights of step {step}, but those of {kept}: a "
            "run keeps its initial ones, and those of --keep_steps."
        )
    with np.load(path) as arrays:
        names = sorted(arrays, key=lambda name: int(name.partition(":")[0]))
        values = [arrays[name] for name in names]
    there = [
        f"{name.partition(':')[2]} {value.shape}"
        for name, value in zip(names, values, strict=True)
    ]
    here = [f"{w.name} {tuple(w.shape)}" for w in model.weights]
    if [w.shape for w in model.weights] != [value.shape for value in values]:
        differing = [*(set(there) - set(here)), *(set(here) - set(there))]
        raise ValueError(
            f"{folder} is a run of another network: it has {len(there)} weights, this "
            f"one {len(here)}. What differs: {', '.join(sorted(differing)[:10])}"
        )
    model.set_weights(values)


def has_weights(folder: pathlib.Path, step: int) -> bool:
    """Whether a run has kept its weights of a step."""
    return _path(folder, step).is_file()


def _path(folder, step):
    return pathlib.Path(folder) / "weights" / f"step_{step}.npz"
