"""The options of translation: the published settings, and what a step takes."""

import contextlib

import pytest

from state_of_sparsity.models.translation.options import TranslationOptions
from state_of_sparsity.models.translation.task import TranslationTask

WMT = "wmt14_translate/de-en"


def test_an_option_that_is_given_wins_over_that_of_the_dataset():
    options = TranslationOptions(dataset=WMT, packed_length=64, max_length=128)
    options = options.resolved()
    assert (options.rows_per_replica(2), options.max_length) == (128, 128)
    assert (options.dropout, options.label_smoothing) == (0.1, 0.1)


@pytest.mark.parametrize(
    ("dataset", "given", "devices", "expected"),
    [
        (WMT, {}, 1, "16,384 target positions on 1 device, in 64 rows of 256 tokens"),
        (WMT, {}, 2, "16,384 target positions on 2 devices, in 64 rows of 256 tokens"),
        (
            WMT,
            {"accumulate_steps": 4},
            2,
            "16,384 target positions on 2 devices, in 64 rows of 256 tokens, "
            "accumulated over 4 parts",
        ),
        (
            WMT,
            {"tokens_per_replica": 2048},
            2,
            "4,096 target positions on 2 devices, in 16 rows of 256 tokens",
        ),
        (
            "numbers",
            {},
            1,
            "2,048 target positions on 1 device, in 32 rows of 64 tokens",
        ),
    ],
)
def test_a_run_says_how_many_tokens_a_step_takes_over_all_devices(
    dataset, given, devices, expected, mirrored
):
    options = TranslationOptions(dataset=dataset, **given).resolved()
    with mirrored.scope() if devices == 2 else contextlib.nullcontext():
        assert TranslationTask(options).batch == expected


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("width", 9, "width must be even and a multiple of heads"),
        ("dropout", 1.0, "dropout must be at least 0 and below 1"),
        ("packed_length", 3000, "tokens_per_step must be at least packed_length=3000"),
        ("tokens_per_replica", 63, "tokens_per_replica must be at least packed_length"),
        ("accumulate_steps", 0, "accumulate_steps must be at least 1. Received: 0"),
        ("extra_length", -1, "extra_length must be at least 0 and finite.*: -1"),
        ("max_length", 1, "max_length must be at least 2. Received: 1"),
        ("alpha", float("nan"), "alpha must be at least 0 and finite. Received: nan"),
        ("dataset", "digits", "dataset must be one of numbers"),
    ],
)
def test_a_bad_option_is_an_error_which_names_it(option, value, message):
    with pytest.raises(ValueError, match=message):
        TranslationOptions(**{option: value}).resolved()


def test_tokens_of_a_step_and_of_each_device_are_not_both_given():
    options = TranslationOptions(tokens_per_step=2048, tokens_per_replica=1024)
    message = "tokens_per_replica must be left out with tokens_per_step=2048.*: 1024"
    with pytest.raises(ValueError, match=message):
        options.resolved()


def test_parts_of_unequal_size_are_refused_with_the_number_of_devices(mirrored):
    options = TranslationOptions(accumulate_steps=3).resolved()
    message = (
        "accumulate_steps must make equal parts of the 32 examples that a step takes "
        "on 2 devices. Received: 3"
    )
    with mirrored.scope(), pytest.raises(ValueError, match=message):
        TranslationTask(options)
    few = TranslationOptions(tokens_per_step=64).resolved()
    message = "tokens_per_step must be at least packed_length=64 on each device.*: 64"
    with mirrored.scope(), pytest.raises(ValueError, match=message):
        TranslationTask(few)
