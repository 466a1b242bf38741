"""What the binaries leave on the terminal."""

import errno
import os
import re
import time

import pytest
from absl.testing import flagsaver

from state_of_sparsity.bin import app
from state_of_sparsity.engines.tf_keras.backend import keras, tf


class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.01)


def train_with_slow_callbacks():
    callbacks = keras.callbacks.CallbackList([Slow()], model=keras.Sequential())
    for batch in range(8):
        callbacks.on_train_batch_begin(batch)
        callbacks.on_train_batch_end(batch)


def exhausted(text):
    return tf.errors.ResourceExhaustedError(None, None, text)


MEMORY = "out of memory: .*80 GB\nMake the batch, the model or the lengths smaller."
DISK = "there is no room left on the disk: .*runs/"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("80 GB"), MEMORY),
        (exhausted("In a graph\n\nOOM: 80 GB\n"), MEMORY),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/runs.csv"), DISK),
        (exhausted("runs/ckpt-4_temp/part-0; No space left on device"), DISK),
    ],
)
def test_a_lack_of_memory_or_of_room_is_one_message(
    error, said, monkeypatch, capsys, no_flags
):
    def main():
        raise error

    monkeypatch.setattr("sys.argv", ["sweep"])
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as exit_:
        app.run(main, "Trains.")
    assert exit_.value.code == 1
    message = capsys.readouterr().err
    assert re.search(f"sweep: {said}", message)
    assert "graph" not in message
    assert ("memory" in message) == (said is MEMORY)


def test_advice_about_our_callbacks_is_not_for_users(logged):
    train_with_slow_callbacks()
    assert "slow compared to the batch time" in "".join(logged)
    logged.clear()
    app.log_what_concerns_users()
    train_with_slow_callbacks()
    tf.get_logger().warning("The disk is nearly full.")
    assert logged == ["The disk is nearly full."]
