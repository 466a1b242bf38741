"""Damaged records: left out, named, counted, and the others stay where they were."""

import collections
import logging
import pathlib
import re
import struct

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from state_of_sparsity.models.images.imagenet import ImageNet
from state_of_sparsity.models.images.mnist import MNIST
from state_of_sparsity.models.training.prepared import prepared_builder
from state_of_sparsity.models.training.records import DamagedDataError, Records
from state_of_sparsity.models.training.salvage import offsets, read_record
from state_of_sparsity.models.translation.wmt14 import Wmt14
from tests.models.images import test_imagenet, test_mnist
from tests.models.translation import test_wmt14

EXAMPLES = 24
BATCH = 5
NO_JPEG = b"\xff\xd8\xff\xe0 and nothing else"


def store(folder, broken=()):
    """ImageNet in four files, with JPEGs that cannot be decoded at some places."""
    tfds.disable_progress_bar()
    whole = [
        test_imagenet.jpeg(test_imagenet.photo(i, 60, 80)) for i in range(EXAMPLES)
    ]
    jpegs = [NO_JPEG if i in broken else jpeg for i, jpeg in enumerate(whole)]
    test_imagenet.store(folder, train=jpegs, validation=jpegs)
    return folder


def imagenet(folder, **options):
    return ImageNet(str(folder), image_size=32, **options)


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


def labels_of(path):
    """The labels in a file, in its order."""
    features = {"label": tf.io.FixedLenFeature([], tf.int64)}
    return [
        int(tf.io.parse_single_example(record, features)["label"])
        for record in tf.data.TFRecordDataset(str(path))
    ]


def damage_data(path, number):
    change(path, frames(path)[number] + 40)


def damage_length(path, number):
    change(path, frames(path)[number])


def truncate(path, number):
    path.write_bytes(path.read_bytes()[: frames(path)[number] + 30])


def labels(batches):
    return [int(label) for _, batch in batches for label in batch]


@pytest.fixture
def warned(caplog):
    """The messages on records so far."""
    logging.getLogger("absl").propagate = True
    with caplog.at_level(logging.WARNING, logger="absl"):
        yield lambda: [m for m in caplog.messages if "left out" in m]


@pytest.mark.parametrize("shuffled", [False, True])
def test_undamaged_records_come_as_tensorflow_datasets_reads_them(tmp_path, shuffled):
    store(tmp_path)
    seed = 5 if shuffled else None
    expected = tfds.load(
        "imagenet2012",
        split="train",
        data_dir=tmp_path,
        download=False,
        shuffle_files=shuffled,
        decoders={"image": tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(
            shuffle_seed=seed, shuffle_reshuffle_each_iteration=False
        ),
    )
    builder = prepared_builder("imagenet2012", str(tmp_path), ["train"])
    records = Records(builder, "train")
    features = {"label": tf.io.FixedLenFeature([], tf.int64)}
    received = [
        int(tf.io.parse_single_example(record, features)["label"])
        for record in records.read(seed)
    ]
    assert received == [int(example["label"]) for example in expected]
    by_file = {i: labels_of(shard(tmp_path, index=i)) for i in range(4)}
    named = [by_file[int(file)][int(number)] for file, number in records.places(seed)]
    assert received == named


def test_a_slice_has_its_own_records(tmp_path):
    store(tmp_path)
    builder = prepared_builder("imagenet2012", str(tmp_path), ["train"])
    parts = [Records(builder, f"train{part}") for part in ("[:7]", "[7:]")]
    assert [part.count for part in parts] == [7, EXAMPLES - 7]
    first, second = ([bytes(r) for r in p.read().as_numpy_iterator()] for p in parts)
    both = Records(builder, "train").read().as_numpy_iterator()
    assert collections.Counter(first + second) == collections.Counter(both)


@pytest.mark.parametrize("damage", [damage_data, damage_length])
@pytest.mark.parametrize("number", [0, 2, 5])
def test_only_the_damaged_record_of_a_file_is_lost(tmp_path, damage, number):
    path = shard(store(tmp_path))
    whole = [bytes(r) for r in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()]
    damage(path, number)
    found = [read_record(str(path), i, len(whole)) for i in range(len(whole))]
    assert found[number] is None
    assert found[:number] == whole[:number]
    assert found[number + 1 :] == whole[number + 1 :]


def test_what_is_cut_off_is_lost_and_what_is_before_is_not(tmp_path):
    path = shard(store(tmp_path))
    whole = offsets(str(path), 6)
    offsets.cache_clear()
    truncate(path, 4)
    assert offsets(str(path), 6) == [*whole[:4], None, None]
    offsets.cache_clear()


def test_zeros_in_a_file_are_searched_through_quickly(tmp_path):
    path = shard(store(tmp_path))
    data, places = path.read_bytes(), frames(path)
    hole = bytes(3_000_000)
    path.write_bytes(data[: places[2]] + hole + data[places[3] :])
    # Zeros are no record, since their checksum is not zero.
    shift = len(hole) - (places[3] - places[2])
    after = [place + shift for place in places[3:6]]
    assert offsets(str(path), 6) == [*places[:2], None, *after]


@pytest.mark.parametrize("damage", [damage_data, damage_length, truncate])
def test_a_damaged_record_is_left_out_of_an_evaluation_and_named_once(
    tmp_path, damage, warned
):
    dataset = imagenet(store(tmp_path))
    before = labels(dataset.evaluation("validation", 4))
    path = shard(tmp_path, "validation")
    of_file = labels_of(path)
    damage(path, 2)
    gone = of_file[2:] if damage is truncate else of_file[2:3]
    dataset = imagenet(tmp_path)
    left = [label for label in before if label not in gone]
    for _ in range(2):
        assert labels(dataset.evaluation("validation", 4)) == left
    messages = warned()
    assert len(messages) == len(gone)
    assert messages[0].startswith(f"{path}: record 2 is damaged, and left out (1 of ")
    offsets.cache_clear()


def test_the_last_example_may_be_damaged_or_all_but_one(tmp_path, warned):
    dataset = imagenet(store(tmp_path, broken=range(1, EXAMPLES)))
    assert labels(dataset.evaluation("test", 4)) == [0]
    assert len(warned()) == EXAMPLES - 1


def damaged(folder):
    """A JPEG that cannot be decoded, and a damaged record: their labels."""
    store(folder, broken=[7])
    path = shard(folder)
    number = next(i for i, label in enumerate(labels_of(path)) if label != 7)
    label = labels_of(path)[number]
    damage_data(path, number)
    return {7, label}


def test_in_training_the_next_example_takes_the_place(tmp_path, warned):
    whole = store(tmp_path / "whole")
    gone = damaged(tmp_path / "damaged")
    expected = labels(imagenet(whole).training(BATCH, seed=3).take(15))
    received = labels(imagenet(tmp_path / "damaged").training(BATCH, seed=3).take(15))
    for position in range(len(received)):
        at = position
        while expected[at] in gone:
            at += 1
        assert received[position] == expected[at]
    assert gone & set(expected)
    named = {message.partition(",")[0] for message in warned()}
    assert len(warned()) == len(named) == 2
    assert any("is no example that can be decoded" in name for name in named)
    assert any(name.endswith("is damaged") for name in named)


def test_a_resumed_run_sees_the_same_examples_in_spite_of_damage(tmp_path):
    damaged(tmp_path)
    dataset = imagenet(tmp_path)
    whole = list(dataset.training(BATCH, seed=11).take(14))
    for start in range(1, 14, 3):
        resumed = dataset.training(BATCH, seed=11, start_step=start).take(14 - start)
        for expected, received in zip(whole[start:], resumed, strict=True):
            np.testing.assert_array_equal(expected[1], received[1])
            np.testing.assert_array_equal(expected[0], received[0])


@pytest.mark.parametrize("damage", [damage_data, damage_length])
def test_strict_data_makes_it_an_error_which_names_file_and_record(tmp_path, damage):
    path = shard(store(tmp_path))
    damage(path, 3)
    dataset = imagenet(tmp_path, strict=True)
    message = re.escape(f"{path}: record 3 is damaged.") + ".*--strict_data"
    with pytest.raises(tf.errors.OpError, match=f"DamagedDataError: {message}"):
        labels(dataset.training(BATCH, seed=0).take(6))
    # Its other split is whole.
    assert len(labels(dataset.evaluation("validation", 4))) == EXAMPLES


def test_a_dataset_of_which_nothing_can_be_decoded_is_an_error(tmp_path):
    dataset = imagenet(store(tmp_path, broken=range(EXAMPLES)))
    with pytest.raises(DamagedDataError, match="train: none of the first 24 examples"):
        dataset.training(BATCH, seed=0)


def test_a_file_that_is_gone_ends_training_with_an_error_which_names_it(tmp_path):
    dataset = imagenet(store(tmp_path))
    batches = dataset.training(BATCH, seed=0)
    path = shard(tmp_path)
    path.unlink()
    offsets.cache_clear()
    with pytest.raises(tf.errors.OpError, match=re.escape(str(path))):
        labels(batches.take(6))


def test_epochs_of_mnist_keep_their_length(tmp_path, warned):
    tfds.disable_progress_bar()
    test_mnist.store(tmp_path)
    whole = MNIST(str(tmp_path))
    count = whole.training_examples
    path = next(tmp_path.rglob("*-train.tfrecord-*"))
    damage_data(path, 1)
    dataset = MNIST(str(tmp_path))
    assert dataset.training_examples == count
    batches = list(dataset.training(count, seed=0).take(2))
    seen, again = ([bytes(i) for i in images.numpy()] for images, _ in batches)
    assert len(seen) == count
    assert sorted(seen) == sorted(again)
    assert len(warned()) == 1


def test_pairs_that_are_no_text_or_damaged_are_left_out(tmp_path, warned, monkeypatch):
    tfds.disable_progress_bar()
    monkeypatch.setattr(tfds.features.Text, "encode_example", lambda _, text: text)
    odd = "\ufeffA \ufffd and\x00 \U0001f600."
    pairs = [("Good.", "Gut."), (b"Bad \xff.", "Schlecht."), (odd, odd), ("A", b"\xc3")]
    test_wmt14.store(tmp_path, train=pairs, validation=pairs, test=pairs)
    kept = test_wmt14.pairs(Wmt14(str(tmp_path)), "train")
    assert sorted(kept) == sorted([pairs[0], pairs[2]])
    assert len(warned()) == 2
    strict = Wmt14(str(tmp_path), strict=True)
    with pytest.raises(tf.errors.OpError, match="is no example that can be decoded"):
        test_wmt14.pairs(strict, "train")


def test_damaged_metadata_is_an_error_which_names_the_file(tmp_path):
    store(tmp_path)
    for name in ("dataset_info.json", "features.json"):
        (path,) = tmp_path.rglob(name)
        whole = path.read_bytes()
        for damage in (whole[: len(whole) // 2], b"", b"\xff\xfe\x00"):
            path.write_bytes(damage)
            with pytest.raises(ValueError, match=re.escape(str(path))):
                imagenet(tmp_path)
        path.write_bytes(b"[1]")
        with pytest.raises(ValueError, match=f"{name}.* in .*describe no dataset"):
            imagenet(tmp_path)
        path.write_bytes(whole)
    (path,) = tmp_path.rglob("dataset_info.json")
    path.unlink()
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}.* is missing"):
        imagenet(tmp_path)


def test_a_missing_file_of_the_dataset_is_an_error_which_names_it(tmp_path):
    path = shard(store(tmp_path))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path} of the prepared dataset is"):
        imagenet(tmp_path)
