"""The cubic schedule against its formula in Python's float64."""

import pytest

from state_of_sparsity.schedules import CubicSchedule


def formula(t, sparsity, begin, end, initial):
    if t >= end:
        return sparsity
    if t <= begin:
        return initial
    return sparsity + (initial - sparsity) * (1 - (t - begin) / (end - begin)) ** 3


@pytest.mark.parametrize("initial", [0.0, 0.4])
@pytest.mark.parametrize(("begin", "end"), [(0, 10), (7, 100), (5, 5)])
def test_sparsity_is_that_of_zhu_and_gupta(begin, end, initial):
    schedule = CubicSchedule(0.9, begin, end, 3, initial)
    for t in range(0, end + 20):
        expected = formula(t, 0.9, begin, end, initial)
        assert schedule.sparsity(t) == pytest.approx(expected, abs=1e-12)


def test_final_sparsity_is_exact():
    assert CubicSchedule(0.7, 0, 1000, 3).sparsity(1000) == 0.7


@pytest.mark.parametrize(
    ("begin", "end", "frequency"), [(4, 20, 5), (0, 9, 3), (3, 3, 7)]
)
def test_masks_are_renewed_every_frequency_steps_and_at_the_end(begin, end, frequency):
    due = sorted({*range(begin, end + 1, frequency), end} - {0})
    assert CubicSchedule(0.9, begin, end, frequency).renewals() == due


def test_a_ramp_that_ends_before_the_first_step_is_taken_at_it():
    assert CubicSchedule(0.9, 0, 0, 1).renewals() == [1]
    assert CubicSchedule(0.9, 0, 0, 1).sparsity(1) == 0.9
