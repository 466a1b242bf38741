"""A batch taken in parts trains the network of the whole batch."""

import contextlib

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.models.images.batch_norm import BatchNormalizationInParts
from state_of_sparsity.models.training.loop.accumulation import accumulate
from state_of_sparsity.models.training.loop.losses import SmoothedCrossEntropy
from state_of_sparsity.models.translation.task import (
    weighted_by_token,
)
from tests.models.training.interrupted import interrupted_at, raise_keyboard_interrupt

STEPS, ROWS, LENGTH, IDS = 6, 8, 5, 12
SLOW = pytest.mark.slow
RAMP = {"begin_step": 2, "end_step": 5, "frequency": 1}
TECHNIQUES = {
    "magnitude": sos.MagnitudePruning(0.8, **RAMP),
    "return": sos.MagnitudePruning(0.8, **RAMP, masked_weights="return"),
    "saliency": sos.SaliencyPruning(0.8, **RAMP),
    "rigl": sos.RigL(0.8, end_step=5, frequency=2),
    "variational dropout": sos.VariationalDropout(1e-3, ramp_length=4),
    # Gates that are open whatever the noise, which differs: the penalty is left.
    "l0": sos.L0Regularization(1e-2, ramp_length=4, initial_log_alpha=15.0),
}


def sparse_model(technique, precision="float32"):
    """Maps rows of ids to logits of ids, with a regularizer and a shared layer."""
    keras.utils.set_random_seed(3)
    keras.mixed_precision.set_global_policy(precision)
    ids = keras.Input((LENGTH,))
    shared = keras.layers.Dense(8, "tanh", kernel_regularizer="l2", name="shared")
    x = keras.layers.Embedding(IDS, 8, name="embedding")(ids)
    x = shared(shared(x))
    logits = keras.layers.Dense(IDS, dtype="float32", name="logits")(x)
    model = sos.sparsify(keras.Model(ids, logits), TECHNIQUES[technique])
    model.compile(
        keras.optimizers.SGD(0.5, momentum=0.9),
        SmoothedCrossEntropy(0.1, reduction=keras.losses.Reduction.SUM),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy("accuracy")],
    )
    return model


def batches():
    """Rows of which some have five times the tokens of others."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, IDS, (STEPS * ROWS, LENGTH))
    lengths = rng.integers(1, LENGTH + 1, (STEPS * ROWS, 1))
    weights = (np.arange(LENGTH) < lengths).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((ids, ids[:, ::-1], weights))
    return data.batch(ROWS).map(weighted_by_token)


def trained(technique, parts=1, strategy=None, **options):
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = sparse_model(technique, **options)
    if parts > 1:
        accumulate(model, parts)
    history = model.fit(
        batches().repeat(),
        steps_per_epoch=1,
        epochs=STEPS,
        callbacks=sos.callbacks(model),
        verbose=0,
    )
    return model, history.history


def check_same(found, expected, rtol=1e-6, atol=1e-7):
    (model, history), (other, other_history) = found, expected
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(history[name], other_history[name], rtol=rtol)
    for weight, other_weight in zip(model.weights, other.weights, strict=True):
        np.testing.assert_allclose(
            weight.numpy(), other_weight.numpy(), rtol, atol, err_msg=weight.name
        )
    masks, other_masks = sos.weight_masks(model), sos.weight_masks(other)
    assert masks.keys() == other_masks.keys()
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, other_masks[name], err_msg=name)


@pytest.mark.parametrize(
    "technique",
    [
        "magnitude",
        *(pytest.param(t, marks=SLOW) for t in ("rigl", "l0", "return", "saliency")),
    ],
)
def test_parts_train_the_network_of_the_whole_batch(technique):
    check_same(trained(technique, parts=4), trained(technique))


@SLOW
@pytest.mark.parametrize("technique", ["variational dropout", "rigl"])
def test_parts_draw_the_noise_of_as_many_more_replicas(technique, mirrored):
    shared = trained(technique, parts=2, strategy=mirrored)
    # With other noise, losses differ by 1e-4 and more.
    check_same(shared, trained(technique, parts=4), atol=1e-5)


@SLOW
def test_parts_in_float16_scale_the_loss():
    options = {"technique": "return", "precision": "mixed_float16"}
    model, history = trained(parts=4, **options)
    check_same((model, history), trained(**options), rtol=2e-3, atol=2e-3)
    assert model.optimizer.inner_optimizer.iterations == STEPS


def normalized(norm):
    """A classifier with a layer of batch normalization."""
    keras.utils.set_random_seed(3)
    layers = [norm, keras.layers.Flatten(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((3, 3, 2)), *layers])
    model.compile(keras.optimizers.SGD(0.1), SmoothedCrossEntropy())
    return model


def test_averages_of_batch_normalization_are_those_of_as_many_replicas(rng):
    images = rng.normal(size=(16, 3, 3, 2)) * np.arange(1, 17).reshape(-1, 1, 1, 1)
    labels = rng.integers(0, 3, 16)
    whole = normalized(BatchNormalizationInParts(4, name="norm"))
    in_parts = normalized(keras.layers.BatchNormalization(momentum=0.99, name="norm"))
    accumulate(in_parts, 4)
    for model in (whole, in_parts):
        model.fit(images, labels, batch_size=8, shuffle=False, verbose=0)
    for one, other in zip(whole.weights, in_parts.weights, strict=True):
        np.testing.assert_allclose(
            other.numpy(), one.numpy(), rtol=1e-5, atol=1e-6, err_msg=one.name
        )


@SLOW
def test_an_interrupted_run_in_parts_ends_as_if_it_had_not_been(tiny_run, pruning):
    options = {"accumulate_steps": 2, "dropout": 0.25}
    whole = tiny_run(pruning, "whole", **options)
    whole.train()
    with interrupted_at(6, raise_keyboard_interrupt, match="saved at step 6"):
        tiny_run(pruning, **options).train()
    resumed = tiny_run(pruning, **options)
    resumed.train()
    for one, other in zip(whole.model.weights, resumed.model.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.name)
