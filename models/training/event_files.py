"""TensorBoard's files of a run that goes on: each step is in them once.

Otherwise TensorBoard shows what a killed run has written after its last checkpoint as
well as what the run writes when it comes to these steps again.
"""

import pathlib
from collections.abc import Iterator

from state_of_sparsity.engines.tf_keras.backend import tf


def keep_until(folder: pathlib.Path, step: int) -> None:
    """Drops what was written after the step at which a run goes on.

    A file is written anew as a whole, or not at all. One that holds nothing then is
    removed.

    Args:
      folder: of TensorBoard, with folders in it; it need not exist.
      step: until which values are kept.
    """
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        events = list(_events(path))
        kept = [e for e in events if not e.HasField("summary") or e.step <= step]
        if len(kept) == len(events):
            continue
        if any(event.HasField("summary") for event in kept):
            _write(path, kept)
        else:
            path.unlink()


def _events(path) -> Iterator[tf.compat.v1.Event]:
    """The events of a file until the place where a killed process left it."""
    try:
        for record in tf.data.TFRecordDataset(str(path)):
            yield tf.compat.v1.Event.FromString(record.numpy())
    except tf.errors.DataLossError:
        return


def _write(path, events):
    # TensorBoard would read a file with the name of the other in its own.
    new = path.with_name(".kept.new")
    with tf.io.TFRecordWriter(str(new)) as writer:
        for event in events:
            writer.write(event.SerializeToString())
    new.replace(path)
