"""A task: a model and its data, and how it is trained and scored."""

import abc
import pathlib
from typing import ClassVar

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.models.training.options import Options
from state_of_sparsity.models.training.run_folder import RunFolder


class Task(abc.ABC):
    """A model and its data, and how it is trained and scored.

    Attributes:
      name: of the model, such as "resnet50".
      quality_metric: what scores a model: "top1", a compiled metric, or "bleu".
      options: of the run.
    """

    name: str
    quality_metric: str
    options: Options
    # By which an export with format="sparse" is known.
    sparse_file: ClassVar[str] = "model.sparse"

    @property
    @abc.abstractmethod
    def steps_per_epoch(self) -> float:
        """Training steps in which each example is seen once."""

    @property
    def batch(self) -> str:
        """What a step takes over all replicas, in words."""
        return "a batch"

    @abc.abstractmethod
    def build(self) -> keras.Model:
        """A new dense model."""

    @abc.abstractmethod
    def compile(self, model: keras.Model) -> None:
        """Compiles a model, sparse or not, for training and evaluation."""

    @abc.abstractmethod
    def training_data(self, start_step: int) -> tf.data.Dataset:
        """Endless batches from the given step on."""

    @abc.abstractmethod
    def evaluation_data(self, split: str) -> tf.data.Dataset:
        """The batches of "validation" or "test"."""

    def evaluate(self, model: keras.Model, split: str) -> float:
        """The quality of a compiled, deployed model on a split."""
        scores = model.evaluate(
            self.evaluation_data(split), verbose=0, return_dict=True
        )
        return scores[self.quality_metric]

    def quality_in_training(self, model: keras.Model, logs: dict) -> float:
        """The quality on the validation split, after an interval of training.

        Args:
          model: that is trained.
          logs: what `fit` has found out about it in the interval.
        """
        del model
        return logs[f"val_{self.quality_metric}"]

    @property
    @abc.abstractmethod
    def examples_per_step(self) -> int:
        """Examples in a training step, as operations are counted: see `example`."""

    @property
    def example(self):
        """Inputs for which operations are counted; None: what the model is made for."""
        return None

    def export(
        self,
        model: keras.Model,
        path: pathlib.Path,
        format: str = "tf_saved_model",
        overwrite: bool = False,
        log_alpha_threshold: float | None = None,
        **options,
    ) -> None:
        """Writes the deployed model; the arguments are those of `sos.export`."""
        sos.export(model, path, format, overwrite, log_alpha_threshold, **options)

    def in_keras3(self, model: keras.Model):
        """A stripped model in Keras 3, for `sos.shrink`; None if there is none."""
        del model

    def damage(self) -> str | None:
        """Which record on disk is the first that cannot be read; None if all can."""
        return None

    def prepare(self) -> None:  # noqa: B027
        """Makes or reads what training needs, once the model is built.

        Raises:
          ValueError: if that fails for the options, naming them.
        """

    def write_assets(self, folder: RunFolder) -> None:
        """Writes into the run's folder what the model is of no use without."""
        del folder
