"""Damaged records end what reads them, in one message with file and number."""

import pathlib
import shutil
import struct

import pytest

from state_of_sparsity.models.images.imagenet import ImageNet
from state_of_sparsity.models.images.mnist import MNIST
from state_of_sparsity.models.training.data.records import (
    DamagedDataError,
    naming_damage,
)
from state_of_sparsity.models.translation.wmt14 import Wmt14
from tests.models.images import test_imagenet, test_mnist
from tests.models.translation import test_wmt14

EXAMPLES = 24
NO_JPEG = b"\xff\xd8\xff\xe0 and nothing else"


def store(folder, broken=()):
    """ImageNet in four files, with JPEGs that cannot be decoded at some places."""
    whole = [
        test_imagenet.jpeg(test_imagenet.photo(i, 60, 80)) for i in range(EXAMPLES)
    ]
    jpegs = [NO_JPEG if i in broken else jpeg for i, jpeg in enumerate(whole)]
    test_imagenet.store(folder, train=jpegs, validation=whole[:4])
    return folder


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory):
    return store(tmp_path_factory.mktemp("imagenet"))


@pytest.fixture
def copied(undamaged, tmp_path):
    """A copy to damage."""
    return shutil.copytree(undamaged, tmp_path / "data")


def shard(folder, split="train", index=1):
    (path,) = pathlib.Path(folder).rglob(f"*-{split}.tfrecord-0000{index}-of-*")
    return path


def frames(path):
    """Where the records of a file begin, and where the last one ends."""
    data, found = path.read_bytes(), [0]
    while found[-1] < len(data):
        (length,) = struct.unpack_from("<Q", data, found[-1])
        found.append(found[-1] + 12 + length + 4)
    return found


def change(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def read(dataset, batches):
    """Reads some batches of what a data set gives."""
    with naming_damage(dataset.damage):
        for _ in batches():
            pass


def check_named(dataset, batches, message):
    with pytest.raises(DamagedDataError) as error:
        read(dataset, batches)
    assert str(error.value) == f"{message}. Prepare the dataset again."


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda path: change(path, frames(path)[3] + 40), "is damaged"),
        (lambda path: change(path, frames(path)[3]), "is damaged"),
        (
            lambda path: path.write_bytes(path.read_bytes()[: frames(path)[3] + 30]),
            "is damaged",
        ),
        (
            lambda path: path.write_bytes(path.read_bytes()[: frames(path)[3]]),
            "is missing",
        ),
    ],
    ids=["data", "length", "cut", "cut between records"],
)
def test_a_damaged_record_is_named(copied, how, said):
    path = shard(copied)
    how(path)
    dataset = ImageNet(str(copied), image_size=32)
    batches = dataset.training(5, seed=0).take
    check_named(dataset, lambda: batches(5), f"{path}: record 3 {said}")


def test_an_image_that_cannot_be_decoded_is_named(tmp_path):
    store(tmp_path, broken=(7,))
    dataset = ImageNet(str(tmp_path), image_size=32)
    with pytest.raises(DamagedDataError, match=r"record \d is no example that can be"):
        read(dataset, lambda: dataset.training(5, seed=0).take(5))


def test_damage_in_validation_is_named_there(copied):
    path = shard(copied, "validation", 0)
    change(path, frames(path)[0] + 40)
    dataset = ImageNet(str(copied), image_size=32)
    read(dataset, lambda: dataset.training(5, seed=0).take(5))
    batches = dataset.evaluation("test", 2)
    check_named(dataset, lambda: batches, f"{path}: record 0 is damaged")


def test_mnist_and_wmt_name_what_is_damaged(tmp_path):
    test_mnist.store(tmp_path)
    path = shard(tmp_path, index=0)
    change(path, frames(path)[3] + 40)
    mnist = MNIST(tmp_path)
    check_named(
        mnist,
        lambda: mnist.training(4, seed=0).take(1),
        f"{path}: record 3 is damaged",
    )
    pairs = test_wmt14.PAIRS | {"test": [("Good morning", b"\xff\xfe")] * 3}
    test_wmt14.store(tmp_path / "wmt", **pairs)
    wmt = Wmt14(str(tmp_path / "wmt"))
    read(wmt, lambda: wmt.sentences("train"))
    with pytest.raises(DamagedDataError, match="record 0 is no example that can be"):
        read(wmt, lambda: wmt.sentences("test"))


def test_other_errors_are_passed_on(undamaged):
    dataset = ImageNet(str(undamaged), image_size=32)

    def fail():
        raise ValueError("something else")

    with pytest.raises(ValueError, match="something else"):
        read(dataset, fail)
