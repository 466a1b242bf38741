"""Summaries for TensorBoard: curves, restarts, and the HParams tab."""

import pathlib
import shutil
import time
from collections.abc import Mapping

from tensorboard.plugins.hparams import api as hparams

from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.training.run_folder import RunFolder


class Summaries:
    """Curves over training steps, in one folder for training and one for validation.

    Args:
      folder: of TensorBoard.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._writers = {}

    def write(self, part: str, values: Mapping[str, float], step: int) -> None:
        """Writes scalars to disk.

        Args:
          part: "train" or "validation": curves of the same name are in one chart.
          values: by name.
          step: at which they were measured.
        """
        if part not in self._writers:
            place = str(self._folder / part)
            self._writers[part] = tf.summary.create_file_writer(place)
        writer = self._writers[part]
        with writer.as_default():
            for name, value in values.items():
                tf.summary.scalar(name, value, step)
        # The checkpoint comes next: what a run that goes on from it does not write
        # again has to be on disk.
        writer.flush()

    def close(self) -> None:
        """Closes the files."""
        for writer in self._writers.values():
            writer.close()


def log_restart(folder: pathlib.Path, step: int) -> None:
    """Tells TensorBoard that a run goes on: it drops what is later of the same part.

    Args:
      folder: of TensorBoard, with folders in it; it need not exist.
      step: at which the run goes on.
    """
    log = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
    start = tf.compat.v1.Event(wall_time=time.time(), step=step + 1, session_log=log)
    version = tf.compat.v1.Event(wall_time=time.time(), file_version="brain.Event:2")
    # TensorBoard takes the first start of all for the beginning of the run.
    events = (version, start, start)
    for place in {path.parent for path in folder.rglob("*.tfevents.*")}:
        # By its name, TensorBoard reads it after all that is there.
        last = max(path.name for path in place.glob("*.tfevents.*"))
        name = f"{last.removesuffix('.restart')}.restart"
        with tf.io.TFRecordWriter(str(place / name)) as writer:
            for event in events:
                writer.write(event.SerializeToString())


def show_result(
    folder: RunFolder, hyperparameters: Mapping[str, str], trial: str
) -> None:
    """Puts a finished run into TensorBoard's HParams tab.

    Args:
      folder: of the run.
      hyperparameters: by name.
      trial: what the run is called.
    """
    result = folder.read_result()
    place = folder.tensorboard / "result"
    # Of a run whose result was made again, it would be there twice.
    shutil.rmtree(place, ignore_errors=True)
    with tf.summary.create_file_writer(str(place)).as_default():
        hparams.hparams(dict(hyperparameters), trial_id=trial)
        for name in ("quality", "sparsity"):
            tf.summary.scalar(name, result[name], step=result["steps"])
