"""TensorBoard's files of a run that goes on: each step is in them once.

TensorBoard shows what comes later in the files as well as what it has read before: it
would drop the latter if the files said that a session was started again at a step, but
for all tags at once, and Keras counts some in intervals and others in steps.
"""

import pathlib
from collections.abc import Iterator

from state_of_sparsity.engines.tf_keras.backend import tf

# Of Keras, which counts in intervals here.
_BY_INTERVAL = "epoch_"


def keep_until(folder: pathlib.Path, step: int, intervals: int) -> None:
    """Drops what was written after the step at which a run goes on.

    A file is written anew as a whole, or not at all. One that holds nothing then is
    removed.

    Args:
      folder: of TensorBoard, with folders in it; it need not exist.
      step: until which values are kept.
      intervals: that were over at that step.
    """
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        events = list(_events(path))
        kept = [_kept(event, step, intervals) for event in events]
        if kept == events:
            continue
        if any(event.summary.value for event in kept):
            _write(path, kept)
        else:
            path.unlink()


def _kept(event, step, intervals):
    """The event without the values that come later."""
    if not event.HasField("summary"):
        return event
    kept = tf.compat.v1.Event()
    kept.CopyFrom(event)
    del kept.summary.value[:]
    for value in event.summary.value:
        by_interval = value.tag.startswith(_BY_INTERVAL)
        if event.step < intervals if by_interval else event.step <= step:
            kept.summary.value.append(value)
    return kept


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
            if event.summary.value or not event.HasField("summary"):
                writer.write(event.SerializeToString())
    new.replace(path)
