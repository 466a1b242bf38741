"""Techniques by themselves: their hyperparameters, scores and configurations."""

import dataclasses

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.backend import keras, pruning_schedule, tf
from state_of_sparsity.techniques.base import field_help

RAMP = {"sparsity": 0.9, "begin_step": 2, "end_step": 10, "frequency": 4}


@pytest.mark.parametrize("technique", [sos.MagnitudePruning, sos.RandomPruning])
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("sparsity", 1.0, ValueError),
        ("sparsity", -0.1, ValueError),
        ("sparsity", float("nan"), ValueError),
        ("sparsity", "0.9", TypeError),
        ("begin_step", -1, ValueError),
        ("begin_step", 1.5, TypeError),
        ("end_step", 1, ValueError),
        ("frequency", 0, ValueError),
    ],
)
def test_bad_hyperparameters_are_named_with_the_value_received(
    technique, name, value, error
):
    with pytest.raises(error, match=rf"{name}.*Received: .*{value}"):
        technique(**{**RAMP, name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial_sparsity": 1}, "initial_sparsity"),
        ({"block_size": (2,)}, "block_size"),
        ({"block_size": (0, 1)}, "block_size"),
        ({"block_pooling_type": "SUM"}, "block_pooling_type.*'SUM'"),
        ({"sparsity_m_by_n": (2, 4)}, r"sparsity_m_by_n=\(2, 4\).*sparsity=0.9"),
        (
            {"sparsity": 0.5, "sparsity_m_by_n": (2, 4), "block_size": (2, 2)},
            "exclude each other",
        ),
    ],
)
def test_bad_options_of_magnitude_pruning_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sos.MagnitudePruning(**{**RAMP, **options})


@pytest.mark.parametrize("technique", sos.TECHNIQUES.values())
def test_every_hyperparameter_has_a_line_of_help(technique):
    assert set(field_help(technique)) >= {f.name for f in dataclasses.fields(technique)}


def test_techniques_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        sos.MagnitudePruning(**RAMP).sparsity = 0.5


def test_magnitude_scores_are_magnitudes(rng):
    weight = rng.normal(size=(4, 5)).astype("float32")
    score = sos.MagnitudePruning(**RAMP).score(tf.constant(weight), (0, 0))
    np.testing.assert_array_equal(score, np.abs(weight))


def test_random_scores_are_uniform():
    score = sos.RandomPruning(**RAMP).score(tf.zeros(100_000), (0, 0)).numpy()
    # Kolmogorov-Smirnov with the asymptotic bound of a false alarm rate of 1e-6:
    # sqrt(ln(2 / 1e-6) / 2) = 2.69.
    empirical = np.arange(1, score.size + 1) / score.size
    distance = np.abs(np.sort(score) - empirical).max()
    assert distance * np.sqrt(score.size) < 2.7


def test_random_scores_depend_on_seed_and_place_and_not_on_the_weight(rng):
    def score(seed=0, stream=(0, 0), weight=None):
        weight = tf.zeros(50) if weight is None else weight
        return sos.RandomPruning(**RAMP, seed=seed).score(weight, stream).numpy()

    weight = tf.constant(rng.normal(size=50).astype("float32"))
    np.testing.assert_array_equal(score(), score(weight=weight))
    for other in (score(seed=1), score(stream=(1, 0)), score(stream=(0, 1))):
        assert np.abs(np.corrcoef(score(), other)[0, 1]) < 0.75
        assert not np.array_equal(score(), other)


def test_a_tf_mot_schedule_is_taken_with_its_final_sparsity():
    polynomial = pruning_schedule.PolynomialDecay(0.2, 0.7, 3, 30, power=1, frequency=9)
    technique = sos.MagnitudePruning.from_schedule(polynomial, block_size=(2, 2))
    assert technique.schedule() is polynomial
    assert (technique.sparsity, technique.begin_step) == (0.7, 3)
    assert (technique.end_step, technique.frequency) == (30, 9)
    constant = pruning_schedule.ConstantSparsity(0.5, 4)
    assert sos.MagnitudePruning.from_schedule(constant).sparsity == 0.5


@pytest.mark.parametrize(
    "technique",
    [
        sos.MagnitudePruning(**RAMP, initial_sparsity=0.3),
        sos.MagnitudePruning(0.5, 0, 0, 1, sparsity_m_by_n=(2, 4)),
        sos.MagnitudePruning(**RAMP, block_size=(2, 4), block_pooling_type="MAX"),
        sos.RandomPruning(**RAMP, seed=7),
    ],
    ids=repr,
)
def test_configuration_round_trip(technique):
    config = keras.utils.serialize_keras_object(technique)
    assert keras.utils.deserialize_keras_object(config) == technique


def test_configuration_keeps_a_tf_mot_schedule():
    schedule = pruning_schedule.PolynomialDecay(0.2, 0.7, 3, 30, power=1)
    technique = sos.MagnitudePruning.from_schedule(schedule)
    config = keras.utils.serialize_keras_object(technique)
    restored = keras.utils.deserialize_keras_object(config)
    assert restored.schedule().get_config() == schedule.get_config()
