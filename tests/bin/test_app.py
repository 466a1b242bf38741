"""What the binaries leave on the terminal."""

import errno
import os
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


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("80 GB"),
        tf.errors.ResourceExhaustedError(None, None, "In a graph\n\nOOM: 80 GB\n"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_lack_of_memory_is_one_message(error, monkeypatch, capsys, no_flags):
    def main():
        raise error

    monkeypatch.setattr("sys.argv", ["train_transformer"])
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as exit_:
        app.run(main, "Trains.")
    assert exit_.value.code == 1
    message = capsys.readouterr().err
    assert "train_transformer: out of memory: " in message
    assert "80 GB" in message
    assert "graph" not in message
    assert "Make the batch, the model or the lengths smaller." in message


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/runs.csv"),
        tf.errors.ResourceExhaustedError(
            None, None, "runs/ckpt-4_temp/part-0; No space left on device"
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_full_disk_is_one_message_and_no_lack_of_memory(
    error, monkeypatch, capsys, no_flags
):
    def main():
        raise error

    monkeypatch.setattr("sys.argv", ["sweep"])
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as exit_:
        app.run(main, "Trains.")
    assert exit_.value.code == 1
    message = capsys.readouterr().err
    assert "sweep: there is no room left on the disk: " in message
    assert "runs/" in message
    assert "memory" not in message


def test_advice_about_our_callbacks_is_not_for_users(logged):
    train_with_slow_callbacks()
    assert "slow compared to the batch time" in "".join(logged)
    logged.clear()
    app.log_what_concerns_users()
    train_with_slow_callbacks()
    tf.get_logger().warning("The disk is nearly full.")
    assert logged == ["The disk is nearly full."]
