"""One device, two replicas and two parts train the same network on the same batch."""

import contextlib

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.models.images.options import ImageOptions
from state_of_sparsity.models.images.task import ImageTask
from state_of_sparsity.models.training.loop.building import build_dense, build_model
from state_of_sparsity.models.training.loop.sparsification import Sparsification
from state_of_sparsity.models.translation.options import TranslationOptions
from state_of_sparsity.models.translation.task import TranslationTask

STEPS = 6
TECHNIQUE = sos.MagnitudePruning(0.8, begin_step=1, end_step=4, frequency=1)


def images(shares):
    """Batch normalization is over 8 images, whatever share of the batch they are."""
    options = ImageOptions(
        depth=18,
        width=0.1,
        train_steps=STEPS,
        eval_steps=STEPS,
        batch_size=16,
        learning_rate=0.1,
        warmup_epochs=0.0,
        batch_norm_batch=8 if shares == (1, 1) else None,
        accumulate_steps=shares[1],
    )
    return ImageTask(options.resolved())


def translation(shares):
    """Rows of the same global batch, without dropout."""
    options = TranslationOptions(
        train_steps=STEPS,
        eval_steps=STEPS,
        layers=1,
        tokens_per_step=1024,
        accumulate_steps=shares[1],
        # Adam steps by the rate where gradients are but rounding errors, too.
        learning_rate=0.2,
        warmup_steps=50,
        dropout=0.0,
    )
    return TranslationTask(options.resolved())


def trained(make_task, strategy=None, parts=1):
    scope = strategy.scope() if strategy else contextlib.nullcontext()
    with scope:
        task = make_task((strategy.num_replicas_in_sync if strategy else 1, parts))
        dense = build_dense(task)
        model = build_model(task, Sparsification(TECHNIQUE), dense)
    task.prepare()
    history = model.fit(
        task.training_data(0),
        steps_per_epoch=1,
        epochs=STEPS,
        callbacks=sos.callbacks(model),
        verbose=0,
    )
    return model, history.history["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("make_task", [images, translation])
def test_replicas_and_parts_train_the_network_of_one_device(make_task, mirrored):
    alone, losses = trained(make_task)
    masks = sos.weight_masks(alone)
    assert 0.7 < sos.sparsity_report(alone).sparsity < 0.85
    for shares in ({"strategy": mirrored}, {"parts": 2}):
        shared, losses_of_shared = trained(make_task, **shares)
        np.testing.assert_allclose(losses_of_shared, losses, rtol=1e-5)
        masks_of_shared = sos.weight_masks(shared)
        assert masks.keys() == masks_of_shared.keys()
        for name, mask in masks.items():
            np.testing.assert_array_equal(masks_of_shared[name], mask, err_msg=name)
        for one, other in zip(alone.weights, shared.weights, strict=True):
            np.testing.assert_allclose(
                other.numpy(), one.numpy(), atol=1e-5, rtol=1e-5, err_msg=one.name
            )
