"""Checkpoints of a run, refused if they are not whole or not of this run's model."""

import json
import os

from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.models.training.interval import Interval

_SINCE_0_3_0 = ("interval", "best", "generators")


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message says why and what to do."""


class Checkpoint:
    """The state of training: the model, with masks and step counts, and the optimizer.

    With them go the state of the generators of dropout, and what the interval has
    summed up. The last two checkpoints are kept. TensorFlow writes a checkpoint under
    another name and renames it.

    Args:
      model: a compiled model.
      companions: digests of what the model is of no use without, by name.

    Attributes:
      interval: a callback; see `Interval`.
      best: the best quality in validation so far; see `Best`.
      step_on_disk: step of the newest checkpoint that is complete.
    """

    def __init__(self, model: keras.Model, companions: dict[str, str] | None = None):
        self._model = model
        self._companions = _Companions(companions or {})
        self.interval = Interval()
        self.best = Best()
        self._parts = {
            "model": model,
            "optimizer": model.optimizer,
            "interval": self.interval.state,
            "best": self.best,
        }
        if companions:
            self._parts["companions"] = self._companions
        generators = _generators(model)
        if generators:
            self._parts["generators"] = generators
        self.step_on_disk = 0

    def restore(self, folder: str | os.PathLike) -> int:
        """Restores the newest checkpoint, if there is one.

        Args:
          folder: where the checkpoints are.

        Returns:
          The number of training steps done.

        Raises:
          CheckpointError: if it is truncated, of another model, or was written with
            other companions. Nothing in the folder is changed.
        """
        newest = tf.train.latest_checkpoint(folder)
        if newest is None:
            _check_empty(folder)
            return 0
        # What is restored has to be there first.
        with self._model.distribute_strategy.scope():
            self._model.optimizer.build(self._model.trainable_variables)
        try:
            parts = self._parts_in(newest)
            status = tf.train.Checkpoint(**parts).restore(newest)
            status.assert_existing_objects_matched().assert_consumed()
        except (AssertionError, ValueError) as error:
            _say_no_more()
            raise CheckpointError(
                f"{newest} is a checkpoint of another model: {_first_line(error)} "
                f"Move {folder} away to start again."
            ) from error
        except Exception as error:  # TensorFlow raises anything from IndexError on.
            _say_no_more()
            raise CheckpointError(
                f"{newest} cannot be read, it may be truncated: {_first_line(error)} "
                f"Move {folder} away to start again."
            ) from error
        for name, digest in self._companions.restored.items():
            if digest != self._companions.digests.get(name):
                raise CheckpointError(
                    f"{newest} was trained with another {name} than the one that is "
                    f"there now: put that back, or move {folder} away to start again."
                )
        self.step_on_disk = self._step()
        return self.step_on_disk

    def _parts_in(self, path):
        """Those that a checkpoint has: the ones of 0.2.0 have fewer."""
        there = {key.partition("/")[0] for key, _ in tf.train.list_variables(path)}
        absent = set(_SINCE_0_3_0) & self._parts.keys() - there
        if "generators" in absent:
            print(
                f"warning: {path} is of an earlier version, which did not save what "
                "dropout draws from: its masks will be others than without the break."
            )
        return {name: p for name, p in self._parts.items() if name not in absent}

    def begin(self, step: int) -> int:
        """Begins at a step of the schedule, at which there is nothing to write.

        Returns:
          That step.
        """
        self._model.optimizer.iterations.assign(step)
        self.step_on_disk = step
        return step

    def save(self, folder: str | os.PathLike) -> int:
        """Writes a checkpoint of the present state and drops old ones.

        There is nothing to write before the first step, or if it is there already.

        Returns:
          The number of training steps done.
        """
        step = self._step()
        if step != self.step_on_disk:
            self._save(folder, kept=2)
            self.step_on_disk = step
        return step

    def save_best(self, folder: str | os.PathLike) -> None:
        """Writes the present state as the only checkpoint of a folder."""
        self._save(folder, kept=1)

    def _save(self, folder, kept):
        manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(**self._parts), folder, max_to_keep=kept
        )
        manager.save(checkpoint_number=self._step())

    def _step(self):
        return int(self._model.optimizer.iterations.numpy())


def _generators(model):
    """What layers such as dropout draw from, which Keras leaves out."""
    layers = model._flatten_layers()
    found = [vars(layer).get("_random_generator") for layer in layers]
    return [g._generator for g in found if getattr(g, "_generator", None) is not None]


class Best(tf.train.experimental.PythonState):
    """The best quality in validation so far, which a checkpoint takes along.

    Attributes:
      quality: None before the first evaluation that counts.
    """

    def __init__(self):
        self.quality = None

    def is_surpassed(self, quality: float) -> bool:
        """Whether a quality is better; then it is the best."""
        is_better = self.quality is None or quality > self.quality
        if is_better:
            self.quality = float(quality)
        return is_better

    def serialize(self):
        return json.dumps(self.quality)

    def deserialize(self, string_value):
        self.quality = json.loads(string_value)


class _Companions(tf.train.experimental.PythonState):
    """Digests in a checkpoint, and those that were in the one that is restored."""

    def __init__(self, digests):
        self.digests = digests
        self.restored = {}

    def serialize(self):
        return json.dumps(self.digests)

    def deserialize(self, string_value):
        self.restored = json.loads(string_value)


def _check_empty(folder):
    # What TensorFlow was writing when it was killed has "_temp" in its name.
    if os.path.isdir(folder) and any("_temp" not in n for n in os.listdir(folder)):
        raise CheckpointError(
            f"{folder} holds files but no checkpoint that could be read. "
            "Move it away to start again."
        )


def _say_no_more():
    """Keeps TensorFlow from listing each value that was not restored, at any time."""
    tf.get_logger().addFilter(_is_news)


def _is_news(record):
    message = str(record.msg)
    return "in checkpoint could not be found" not in message and (
        "Detecting that an object or model or tf.train.Checkpoint" not in message
    )


def _first_line(error):
    return str(error).strip().partition("\n")[0][:300]
