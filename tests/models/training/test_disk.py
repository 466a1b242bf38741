"""A disk that is full says so, keeps what there was, and the run goes on with room."""

import contextlib
import errno
import itertools
import os

import numpy as np
import pytest

from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.training import disk, leftovers
from state_of_sparsity.models.training.disk import DiskFullError
from tests.small_disk import mounted

NO_SPACE = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, NO_SPACE), True),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), True),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (tf.errors.ResourceExhaustedError(None, None, f"ckpt-4; {NO_SPACE}"), True),
        (tf.errors.ResourceExhaustedError(None, None, "OOM: 80 GB"), False),
        (ValueError(NO_SPACE), False),
    ],
)
def test_a_full_disk_is_told_from_other_errors(error, full):
    assert disk.is_full(error) is full
    expected = DiskFullError if full else type(error)
    with pytest.raises(expected) as caught, disk.full_disk_named("runs/one"):
        raise error
    assert ("runs/one" in str(caught.value)) is full


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a megabyte."""
    with mounted(tmp_path / "disk", "1m") as place:
        yield place


def fill(place, left):
    """Leaves so many bytes on a disk."""
    stat = os.statvfs(place)
    free = stat.f_bavail * stat.f_frsize
    filler = place / f"filler_{len(list(place.iterdir()))}"
    filler.write_bytes(b"0" * max(0, free - left))
    return filler


@contextlib.contextmanager
def refused(folder):
    with (
        pytest.raises(DiskFullError, match=f"no room left on the disk of {folder}"),
        disk.full_disk_named(folder),
    ):
        yield


def whole(folder):
    """The checkpoints of which TensorFlow can read each value."""
    steps = []
    for index in folder.checkpoints.glob("ckpt-*.index"):
        reader = tf.train.load_checkpoint(str(index.with_suffix("")))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
        steps.append(index.stem)
    return sorted(steps)


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 20_000, 80_000])
def test_a_run_on_a_disk_that_becomes_full_goes_on_once_there_is_room(
    tiny_run, pruning, finished, small_disk, left, monkeypatch
):
    run = tiny_run(pruning, small_disk / "run", units=64)
    scored = itertools.count(1)
    fillers = []
    quality = run.task.quality_in_training

    def fill_at_second_evaluation(model, logs):
        if next(scored) == 2:
            fillers.append(fill(small_disk, left))
        return quality(model, logs)

    monkeypatch.setattr(run.task, "quality_in_training", fill_at_second_evaluation)
    with refused(run.folder.path):
        run.train()
    assert not run.folder.is_finished
    # Where more was left, it is later.
    kept = whole(run.folder)
    assert kept == (["ckpt-12", "ckpt-8"] if left == 80_000 else ["ckpt-4"])
    assert [r["step"] for r in run.folder.read_metrics()][:1] == ["4"]
    # Still full.
    again = tiny_run(pruning, small_disk / "run", units=64)
    fillers.append(fill(small_disk, 0))
    with refused(run.folder.path):
        again.train()
    assert whole(run.folder) == kept
    for filler in fillers:
        filler.unlink()
    leftovers.remove(run.folder)
    resumed = tiny_run(pruning, small_disk / "run", units=64)
    resumed.train()
    expected = tiny_run(pruning, "elsewhere", units=64)
    expected.train()
    for a, b in zip(
        resumed.model.get_weights(), expected.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert [r["step"] for r in resumed.folder.read_metrics()] == ["4", "8", "12"]
    assert resumed.folder.is_finished
    assert not resumed.folder.missing_outputs
