"""Retention and recovery of checkpoints."""

import json
import os

from state_of_sparsity.engines.tf_keras.backend import all_layers, keras, tf


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message says why and what to do."""


class Checkpoint:
    """The state of training: the model, with masks and step counts, and the optimizer.

    With them goes the state of the generators of dropout. The last two checkpoints are
    kept. TensorFlow writes a checkpoint under another name and renames it.

    Args:
      model: a compiled model.

    Attributes:
      best: the best quality in validation so far; see `Best`.
      step_on_disk: step of the newest checkpoint that is complete.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        self.best = Best()
        self._parts = {
            "model": model,
            "optimizer": model.optimizer,
            "best": self.best,
        }
        generators = _generators(model)
        if generators:
            self._parts["generators"] = generators
        self.step_on_disk = 0

    def restore(self, folder: str | os.PathLike, falls_back: bool = False) -> int:
        """Restores the newest checkpoint, if there is one.

        Args:
          folder: where the checkpoints are.
          falls_back: whether to take the one before, with a warning, where the newest
            cannot be read.

        Returns:
          The number of training steps done.

        Raises:
          CheckpointError: if it is truncated or of another model. Nothing in the folder
            is changed.
        """
        try:
            state = tf.train.get_checkpoint_state(folder)
        except ValueError:
            # What lists the checkpoints is empty, or no text.
            state = None
        if state is None:
            _check_empty(folder)
            return 0
        # What is restored has to be there first.
        with self._model.distribute_strategy.scope():
            self._model.optimizer.build(self._model.trainable_variables)
        newest, *before = reversed(state.all_model_checkpoint_paths)
        problem = self._read(newest, folder)
        if problem is not None:
            whole = (p for p in before if self._read(p, folder) is None)
            path = next(whole, None) if falls_back else None
            said = f"{newest} cannot be read, it may be truncated: {problem} "
            if path is None:
                if falls_back:
                    said += "There is no other checkpoint that can be read. "
                raise CheckpointError(f"{said}Move {folder} away to start again.")
            print(
                f"warning: {said}The run goes on from step {self._step():,}, the "
                "checkpoint before."
            )
        self.step_on_disk = self._step()
        return self.step_on_disk

    def _read(self, path, folder):
        """Restores a checkpoint; what is wrong if it cannot be read, or else None."""
        try:
            status = tf.train.Checkpoint(**self._parts).restore(path)
            status.assert_existing_objects_matched().assert_consumed()
        except (AssertionError, ValueError) as error:
            _say_no_more()
            raise CheckpointError(
                f"{path} is a checkpoint of another model: {_first_line(error)} "
                f"Move {folder} away to start again."
            ) from error
        except Exception as error:  # TensorFlow raises anything from IndexError on.
            _say_no_more()
            return _first_line(error)
        return None

    def begin(self, step: int) -> None:
        """Begins at a step of the schedule, at which there is nothing to write."""
        self._model.optimizer.iterations.assign(step)
        self.step_on_disk = step

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
    found = [vars(layer).get("_random_generator") for layer in all_layers(model)]
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
