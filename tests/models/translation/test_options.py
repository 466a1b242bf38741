"""The options of translation: the published settings, and what a step takes."""

import contextlib

import pytest

from state_of_sparsity.models.translation.options import TranslationOptions
from state_of_sparsity.models.translation.task import TranslationTask

WMT = "wmt14_translate/de-en"


def test_an_option_that_is_given_wins_over_that_of_the_dataset():
    options = TranslationOptions(dataset=WMT, packed_length=64, max_length=128)
    options = options.resolved()
    assert (options.rows_per_replica, options.max_length) == (32, 128)
    assert (options.dropout, options.label_smoothing) == (0.1, 0.1)


@pytest.mark.parametrize(
    ("dataset", "devices", "expected"),
    [
        (WMT, 1, "2,048 target positions on 1 device, in 8 rows of 256 tokens"),
        (WMT, 2, "4,096 target positions on 2 devices, in 16 rows of 256 tokens"),
        ("numbers", 1, "2,048 target positions on 1 device, in 32 rows of 64 tokens"),
    ],
)
def test_a_run_says_how_many_tokens_a_step_takes_over_all_devices(
    dataset, devices, expected, mirrored
):
    options = TranslationOptions(dataset=dataset).resolved()
    with mirrored.scope() if devices == 2 else contextlib.nullcontext():
        assert TranslationTask(options).batch == expected


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("width", 9, "width must be even and a multiple of heads"),
        ("dropout", 1.0, "dropout must be at least 0 and below 1"),
        ("packed_length", 3000, "tokens_per_replica must be at least packed_length"),
        ("extra_length", -1, "extra_length must be at least 0 and finite.*: -1"),
        ("max_length", 1, "max_length must be at least 2. Received: 1"),
        ("alpha", float("nan"), "alpha must be at least 0 and finite. Received: nan"),
        ("dataset", "digits", "dataset must be one of numbers"),
    ],
)
def test_a_bad_option_is_an_error_which_names_it(option, value, message):
    with pytest.raises(ValueError, match=message):
        TranslationOptions(**{option: value}).resolved()
