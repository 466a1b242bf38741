"""Weights that runs keep, and with which others begin."""

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.models.training.loop.building import build_dense, build_model
from state_of_sparsity.models.training.loop.training import train
from state_of_sparsity.models.training.rewinding.kept_weights import Start, load_weights


@pytest.fixture
def trained(tiny_run):
    """Trains a run as the binaries do; gives the run and its initial weights."""

    def make(technique, folder, start=Start(), keep_steps=None, **options):  # noqa: B008
        run = tiny_run(technique, folder, **options)
        dense = build_dense(run.task, start)
        initial = dense.get_weights()
        run.model = build_model(run.task, run.sparsification, dense)
        train(run.task, run.sparsification, run.model, run.folder, dense, keep_steps)
        return run, initial

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    "technique",
    [
        pytest.param(sos.MagnitudePruning(0.75, 2, 9, 2), id="pruned"),
        # Deployed, few of its initial weights would be left.
        pytest.param(
            sos.VariationalDropout(1e-3, initial_log_sigma2=3.0),
            id="variational",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_begins_with_the_initial_weights_of_another(trained, technique):
    first, expected = trained(technique, "first")
    _, fresh = trained(None, "fresh", seed=5)
    assert not np.array_equal(fresh[0], expected[0])
    start = Start(load_weights_from=str(first.folder.path))
    _, initial = trained(None, "second", start, seed=5)
    np.testing.assert_equal(initial, expected)


@pytest.mark.slow
def test_a_lottery_ticket_is_masked_and_starts_as_the_run_that_found_it(
    trained, pruning
):
    found, expected = trained(pruning, "found")
    masks = sos.load_masks(found.folder.masks)
    start = Start(load_weights_from=str(found.folder.path))
    ticket, initial = trained(sos.FixedMask(masks), "ticket", start, seed=5)
    np.testing.assert_equal(initial, expected)
    np.testing.assert_equal(sos.weight_masks(ticket.model), masks)


@pytest.mark.slow
def test_augmented_values_count_the_weights_that_stay(trained, pruning):
    found, _ = trained(pruning, "found")
    masks = sos.load_masks(found.folder.masks)
    task = found.task
    plain = build_dense(task).get_weights()
    augmented = build_dense(task, Start(init="sparse"), masks)
    expected = task.build()
    sos.augment(expected, masks, task.options.seed)
    np.testing.assert_equal(
        augmented.get_layer("hidden").get_weights()[0],
        expected.get_layer("hidden").get_weights()[0],
    )
    # A quarter stays.
    assert np.std(augmented.get_weights()[0]) > 1.5 * np.std(plain[0])


@pytest.mark.slow
def test_weights_of_a_step_are_those_deployed_then(trained, pruning):
    run, _ = trained(pruning, "run", keep_steps=[5, 12])
    shorter, _ = trained(pruning, "shorter", train_steps=5)
    model = run.task.build()
    for step, expected in ((5, shorter.model), (12, run.model)):
        load_weights(model, run.folder.path, step)
        stripped = sos.strip(expected)
        np.testing.assert_equal(model.get_weights(), stripped.get_weights())
        assert sos.sparsity_report(model).sparsity > 0


@pytest.mark.slow
def test_weights_that_were_not_kept_or_do_not_fit_are_refused(trained, pruning):
    run, _ = trained(pruning, "run", keep_steps=[5])
    path = str(run.folder.path)
    with pytest.raises(ValueError, match=r"of step 4, but those of \[0, 5\]"):
        build_dense(run.task, Start(path, 4))
    with pytest.raises(ValueError, match=r"another network.*hidden/kernel:0 \(6, 16\)"):
        trained(None, "other", Start(path), units=17)
