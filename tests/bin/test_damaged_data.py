"""A damaged record: left out of a run, or its end."""

import logging

import pytest
import tensorflow_datasets as tfds

from tests.models.images import test_mnist
from tests.models.training.test_records import damage_data, shard


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """The folder of an MNIST whose fourth training record is damaged, and its file."""
    folder = tmp_path_factory.mktemp("data")
    tfds.disable_progress_bar()
    test_mnist.store(folder)
    path = shard(folder, index=0)
    damage_data(path, 3)
    return folder, path


@pytest.fixture
def arguments(damaged, tmp_path):
    return (
        "train_resnet50",
        *("--dataset=mnist", f"--data_dir={damaged[0]}"),
        *("--train_steps=8", "--eval_steps=4", "--batch_size=8"),
        f"--output_dir={tmp_path / 'run'}",
    )


@pytest.mark.slow
def test_a_run_leaves_a_damaged_record_out_and_names_it(
    command, arguments, damaged, caplog
):
    logging.getLogger("absl").propagate = True
    with caplog.at_level(logging.WARNING, logger="absl"):
        outcome = command(*arguments)
    assert outcome.code == 0, outcome
    (message,) = [text for text in caplog.messages if "left out" in text]
    assert f"{damaged[1]}: record 3 is damaged, and left out (1 of 55 of" in message


@pytest.mark.slow
def test_with_strict_data_a_damaged_record_ends_the_run(refused, arguments, damaged):
    message = refused(*arguments, "--strict_data")
    assert f"{damaged[1]}: record 3 is damaged. Prepare the dataset again" in message
