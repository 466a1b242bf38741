"""Schedules against their formulas in Python, and against their own renewals."""

import numpy as np
import pytest
from keras import ops

import state_of_sparsity as sos
from state_of_sparsity.schedules import CubicSchedule, Never
from tests.autodiff import quick


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


@pytest.mark.parametrize(
    ("ramp", "steps", "sparsity"),
    [
        ((2, 11, 4), [2, 6, 10], 0.8 * (1 - (1 / 9) ** 3)),
        ((2, 10, 4), [2, 6, 10], 0.8),
        ((0, 11, 4), [4, 8], 0.8 * (1 - (3 / 11) ** 3)),
        ((0, 8, 4), [4, 8], 0.8),
        # A published one: 1,500 of the 23,500 steps of the ramp are left.
        (
            (12_500, 36_000, 2_000),
            list(range(12_500, 34_501, 2_000)),
            0.8 * (1 - (3 / 47) ** 3),
        ),
    ],
)
def test_the_last_renewal_is_at_a_multiple_of_the_frequency_if_told(
    ramp, steps, sparsity
):
    schedule = CubicSchedule(0.8, *ramp, last_renewal="multiple")
    assert schedule.renewals() == steps
    assert schedule.sparsity(steps[-1]) == pytest.approx(sparsity, abs=1e-12)


def random_ramps(rng, number=60):
    for _ in range(number):
        begin, length = map(int, rng.integers(0, 12, 2))
        frequency, goes_on = int(rng.integers(1, 8)), bool(rng.integers(2))
        ends = begin, begin + length, frequency
        # Of one that is shorter, techniques refuse the latter.
        for last in ("end_step", "multiple") if length >= frequency else ("end_step",):
            yield CubicSchedule(0.9, *ends, goes_on=goes_on, last_renewal=last)


OTHERS = [
    Never(),
    sos.RigL(0.9, end_step=11, frequency=4).schedule(),
    sos.SET(0.9, end_step=5, frequency=1).schedule(),
    sos.ACDC(0.9, dense_steps=0, phases=(3, 4, 9, 12)).schedule(),
    sos.Spartan(0.9, end_step=4, fixed_step=13).schedule(),
]


def expected_renewals(schedule, steps):
    """By step, which renewal there is; none where there is none."""
    found = {step: i for i, step in enumerate(schedule.renewals())}
    if getattr(schedule, "goes_on", False):
        last = schedule.renewals()[-1]
        for step in range(last, steps + 1, schedule.frequency):
            found[step] = found[last]
    return [found.get(step) for step in range(1, steps + 1)]


def test_a_number_finds_its_renewal(rng):
    for schedule in (*random_ramps(rng), *OTHERS):
        expected = [i is not None for i in expected_renewals(schedule, 30)]
        found = [bool(schedule.is_due(step)) for step in range(1, 31)]
        assert found == expected, schedule


def test_a_tensor_finds_its_renewal_in_a_ramp(rng):
    # Its arithmetic is that of each element.
    steps = np.arange(1, 31, dtype="int32")
    for schedule in random_ramps(rng):
        expected = expected_renewals(schedule, 30)
        due, index = map(
            ops.convert_to_numpy, schedule.find(ops.convert_to_tensor(steps))
        )
        assert [
            int(i) if d else None for d, i in zip(due, index, strict=True)
        ] == expected, schedule


@pytest.mark.parametrize("schedule", OTHERS[1:], ids=repr)
def test_a_tensor_finds_its_renewal(schedule):
    find = quick(schedule.find)
    for step, expected in enumerate(expected_renewals(schedule, 15), 1):
        due, index = map(
            ops.convert_to_numpy, find(ops.convert_to_tensor(step, "int32"))
        )
        assert (int(index) if due else None) == expected, step
