"""WMT 2014, on a few pairs in the format of TensorFlow Datasets."""

import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from state_of_sparsity.models.translation.wmt14 import Wmt14
from tests.models import prepared

PAIRS = {
    "train": [(f"Line {i} of a text.", f"Zeile {i} eines Textes.") for i in range(30)],
    "validation": [(f"Good morning {i}!", f"Guten Morgen {i}!") for i in range(3)],
    "test": [(f"{i} large foxes.", f"{i} große Füchse.") for i in range(5)],
}


def store(folder, version="1.0.0", **splits):
    """Writes pairs, three files a split."""
    examples = {
        split: [{"en": english, "de": german} for english, german in pairs]
        for split, pairs in splits.items()
    }
    features = tfds.features.Translation(languages=("de", "en"))
    given = folder, "wmt14_translate", version, features
    prepared.store(*given, files=3, config="de-en", **examples)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    store(folder, **PAIRS)
    return folder


@pytest.fixture(scope="module")
def dataset(data_dir):
    return Wmt14(str(data_dir))


def pairs(dataset, split):
    return [
        (source.decode(), target.decode())
        for source, target in dataset.sentences(split).as_numpy_iterator()
    ]


@pytest.mark.parametrize("split", PAIRS)
def test_splits_are_those_of_the_dataset_from_english_to_german(dataset, split):
    assert sorted(pairs(dataset, split)) == sorted(PAIRS[split])


def test_name_types_and_number_of_examples_are_those_of_the_dataset(dataset):
    assert dataset.name == "wmt14_translate/de-en"
    assert dataset.training_examples == len(PAIRS["train"])
    assert dataset.sentences("test").element_spec == (tf.TensorSpec([], tf.string),) * 2


def test_the_newest_version_is_read(tmp_path):
    old, new = PAIRS["train"][:4], PAIRS["train"][4:10]
    store(tmp_path, "2.0.0", **{**PAIRS, "train": old})
    store(tmp_path, "10.0.0", **{**PAIRS, "train": new})
    newest = Wmt14(str(tmp_path))
    assert newest.training_examples == len(new)
    assert sorted(pairs(newest, "train")) == sorted(new)
