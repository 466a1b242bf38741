"""Techniques by themselves: their hyperparameters, scores and configurations."""

import dataclasses
import json

import numpy as np
import pytest
from keras import ops

import state_of_sparsity as sos
from state_of_sparsity import structures
from state_of_sparsity.companions import SharedThreshold
from state_of_sparsity.techniques.base import field_help
from state_of_sparsity.techniques.saving import restored_technique, saved_technique

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
        ({"masked_weights": "leave"}, "masked_weights must be one of stay, return"),
        ({"last_renewal": "never"}, "last_renewal must be one of.*Received: 'never'"),
        (
            {"last_renewal": "multiple", "frequency": 9},
            "last_renewal must be.*Received: 'multiple'.*end_step=10, frequency=9",
        ),
        ({"sparsity_m_by_n": (2, 4)}, r"sparsity_m_by_n=\(2, 4\).*sparsity=0.9"),
        (
            {"sparsity": 0.5, "sparsity_m_by_n": (2, 4), "block_size": (2, 2)},
            "exclude each other",
        ),
    ],
)
@pytest.mark.parametrize("technique", [sos.MagnitudePruning, sos.RandomPruning])
def test_bad_options_of_pruning_are_refused(technique, options, message):
    with pytest.raises(ValueError, match=message):
        technique(**{**RAMP, **options})


@pytest.mark.parametrize("technique", sos.TECHNIQUES.values())
def test_every_hyperparameter_has_a_line_of_help(technique):
    assert set(field_help(technique)) >= {f.name for f in dataclasses.fields(technique)}


def test_techniques_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        sos.MagnitudePruning(**RAMP).sparsity = 0.5


def test_magnitude_scores_are_magnitudes(rng):
    weight = rng.normal(size=(4, 5)).astype("float32")
    technique = sos.MagnitudePruning(**RAMP)
    score = technique.score(ops.convert_to_tensor(weight), {}, (0, 0))
    np.testing.assert_array_equal(ops.convert_to_numpy(score), np.abs(weight))


def random_score(shape=(50,), seed=0, stream=(0, 0), fill=0.0):
    technique = sos.RandomPruning(**RAMP, seed=seed)
    return ops.convert_to_numpy(technique.score(ops.full(shape, fill), {}, stream))


def test_random_scores_are_uniform():
    score = random_score((100_000,))
    # Kolmogorov-Smirnov with the asymptotic bound of a false alarm rate of 1e-6:
    # sqrt(ln(2 / 1e-6) / 2) = 2.69.
    empirical = np.arange(1, score.size + 1) / score.size
    distance = np.abs(np.sort(score) - empirical).max()
    assert distance * np.sqrt(score.size) < 2.7


def test_random_scores_depend_on_seed_and_place_and_not_on_the_weight():
    np.testing.assert_array_equal(random_score(), random_score(fill=1.0))
    for changed in ({"seed": 1}, {"stream": (1, 0)}, {"stream": (0, 1)}):
        assert not np.array_equal(random_score(), random_score(**changed))


@pytest.mark.parametrize("masked_weights", ["stay", "return"])
def test_a_masked_weight_comes_back_only_if_told(masked_weights):
    technique = sos.MagnitudePruning(0.5, 2, 10, 4, masked_weights=masked_weights)
    theta = ops.convert_to_tensor(np.array([5.0, 1.0, 2.0, 3.0], "float32"))
    mask = ops.convert_to_tensor(np.array([False, True, True, True]))
    # Halfway, of 4 weights 0.5 (1 - 0.5^3) are to go: 1.75.
    (renewed,) = technique.renewed([(theta, {"mask": mask}, (0, 0))], 1)
    kept = ops.convert_to_numpy(renewed["mask"])
    expected = {
        "stay": [False, False, True, True],
        "return": [True, False, False, True],
    }
    np.testing.assert_array_equal(kept, expected[masked_weights])
    deployed = technique.deployed_weight(theta, renewed)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(deployed), ops.convert_to_numpy(theta) * kept
    )


def test_what_stays_masked_goes_before_what_scores_zero():
    """As weights do of a unit that nothing uses, whose gradients are zero."""
    technique = sos.SaliencyPruning(0.5, 2, 10, 4)
    state = {"mask": np.array([True, True, True, False]), "statistic": [0.0, 0, 3, 0]}
    assert renewed_mask(technique, state) == [False, True, True, False]


@pytest.mark.parametrize(
    ("masked_weights", "expected"),
    [("stay", [False, True, True, False]), ("return", [False, True, False, True])],
)
def test_masked_weights_return_by_their_movement_only_if_told(masked_weights, expected):
    technique = sos.MovementPruning(0.5, 2, 10, 4, masked_weights=masked_weights)
    mask = np.array([True, True, True, False])
    state = {"mask": mask, "statistic": [-2.0, 1.0, -1.0, 5.0]}
    assert renewed_mask(technique, state) == expected


def renewed_mask(technique, state):
    """Of four weights halfway up the ramp, where 0.5 (1 - 0.5^3) of them are to go."""
    state = {name: ops.convert_to_tensor(value) for name, value in state.items()}
    (renewed,) = technique.renewed([(ops.ones(4), state, (0, 0))], 1)
    return ops.convert_to_numpy(renewed["mask"]).tolist()


SHARED = SharedThreshold("model", 3)
EVERY_TECHNIQUE = [
    sos.MagnitudePruning(**RAMP, initial_sparsity=0.3),
    sos.MagnitudePruning(0.5, 0, 0, 1, sparsity_m_by_n=(2, 4)),
    sos.MagnitudePruning(**RAMP, block_size=(2, 4), block_pooling_type="MAX"),
    sos.RandomPruning(**RAMP, seed=7, masked_weights="return", last_renewal="multiple"),
    sos.MagnitudePruning(**RAMP, shared_threshold=SHARED),
    sos.VariationalDropout(1e-3, log_alpha_threshold=1.0),
    sos.L0Regularization(1e-3, ramp="cubic", ramp_begin=3, ramp_length=9),
    sos.MagnitudePruning(**RAMP, structure=structures.ZerosOfN(2, 4, axis=-3)),
    sos.SaliencyPruning(**RAMP),
    sos.MovementPruning(**RAMP, masked_weights="stay", shared_threshold=SHARED),
    sos.FisherPruning(**RAMP, block_size=3, damping=1e-3),
    sos.SET(0.9, 10, 4, 0.5, seed=2),
    sos.RigL(0.9, 10, 4),
    sos.GraNet(0.9, 10, 4, initial_sparsity=0.2),
    sos.Feather(0.9, 2, 10, masked_gradient=0.5),
    sos.ST3(0.9, 2, 10, by_fan=True, shared_threshold=SHARED),
    sos.STR(-5.0, 1e-4),
    sos.ACDC(0.9, 5, (10, 15)),
    sos.Spartan(0.9, 5, 10, initial_beta=2.0),
    sos.SRSTE((2, 4), decay=1e-3, axis=-3),
    sos.Powerpropagation(2.0, sos.MagnitudePruning(**RAMP, shared_threshold=SHARED)),
    sos.MagnitudePruning(**RAMP, structure="channels"),
    sos.MagnitudePruning(**RAMP, structure=structures.Blocks((2, 4), "MAX")),
    sos.RigL(0.9, 10, 4, structure=structures.Slices("heads", (-2,))),
    sos.L0Regularization(1e-3, structure=structures.Slices("inputs", (-3, -2))),
    sos.GroupLasso(1e-3),
]


def test_every_technique_is_in_the_round_trip():
    classes = {type(technique) for technique in EVERY_TECHNIQUE}
    others = {sos.Powerpropagation, sos.GroupLasso}
    assert classes == {*sos.TECHNIQUES.values(), *others}


@pytest.mark.parametrize("technique", EVERY_TECHNIQUE, ids=repr)
def test_configuration_round_trip(technique):
    saved = json.loads(json.dumps(saved_technique(technique, index=3)))
    assert saved["index"] == 3
    assert restored_technique(saved) == technique


def test_a_configuration_without_a_later_hyperparameter_has_its_default():
    saved = saved_technique(sos.MagnitudePruning(**RAMP))
    # Of 0.4.0.
    del saved["config"]["last_renewal"]
    assert restored_technique(saved) == sos.MagnitudePruning(**RAMP)


@pytest.mark.parametrize("version", [None, 2])
def test_a_configuration_of_another_version_is_refused(version):
    saved = {**saved_technique(sos.MagnitudePruning(**RAMP)), "version": version}
    with pytest.raises(
        ValueError, match=f"of version {version}, and this .* version 1"
    ):
        restored_technique(saved)


def test_a_technique_of_ones_own_is_restored_once_it_is_defined():
    saved = saved_technique(sos.MagnitudePruning(**RAMP))
    saved["registered_name"] = "mine>FurthestPruning"
    with pytest.raises(ValueError, match="Unknown technique 'FurthestPruning'"):
        restored_technique(saved)

    class FurthestPruning(sos.MagnitudePruning):
        pass

    assert restored_technique(saved) == FurthestPruning(**RAMP)
