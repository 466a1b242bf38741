"""The networks besides the ResNet: their sizes, and what they are made of."""

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.models.images.networks import NETWORKS, Setting
from state_of_sparsity.models.images.options import ImageOptions
from state_of_sparsity.models.images.task import ImageTask

IMAGES = (28, 28, 1)
SIGNALS = (40, 1)


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        # 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10, the published 266,610.
        ("lenet_300_100", 266_610),
        # 520 + 25,050 + 800 * 500 + 500 + 5,010, the published 431,080.
        ("lenet5", 431_080),
    ],
)
def test_classic_networks_have_their_published_parameters(network, parameters):
    model = NETWORKS[network].build(Setting(IMAGES, 10))
    assert model.count_params() == parameters
    assert model.output_shape == (None, 10)


def test_the_network_of_signals_halves_them_four_times():
    model = NETWORKS["cnn1d"].build(Setting(SIGNALS, 10))
    lengths = [model.get_layer(f"conv{n}").output_shape[1] for n in (1, 2, 3, 4)]
    assert lengths == [20, 10, 5, 3]
    # Kernels, batch normalization (two trainable values a channel), logits.
    kernels = 5 * 32 + 3 * 32 * 64 + 2 * 3 * 64 * 64 + 3 * 64 * 10
    trainable = sum(np.prod(w.shape) for w in model.trainable_weights)
    assert trainable == kernels + 2 * (32 + 3 * 64) + 10


@pytest.mark.parametrize("network", ["lenet_300_100", "lenet5", "cnn1d"])
def test_width_scales_what_is_hidden_and_weight_decay_is_half_the_square(network):
    shape = SIGNALS if network == "cnn1d" else IMAGES
    model = NETWORKS[network].build(Setting(shape, 7, width=0.1, weight_decay=0.5))
    assert model.output_shape == (None, 7)
    kernels = [w for w in model.trainable_weights if "kernel" in w.name]
    expected = sum(0.25 * np.sum(kernel.numpy() ** 2.0) for kernel in kernels)
    assert sum(map(float, model.losses)) == pytest.approx(expected, rel=1e-5)
    assert len(model.losses) == len(kernels)


def test_weight_decay_of_a_sparse_model_counts_its_masked_kernels_once():
    setting = Setting(IMAGES, 10, width=0.1, weight_decay=1e-2)
    dense = NETWORKS["lenet5"].build(setting)
    technique = sos.MagnitudePruning(0.8, begin_step=0, end_step=1, frequency=1)
    sparse = sos.sparsify(dense, technique)
    for callback in sos.callbacks(sparse):
        callback.set_model(sparse)
        callback.on_train_begin()
    sparse(np.zeros((2, *IMAGES), "float32"), training=True)
    expected = 0.0
    kernels = [w.numpy() for w in dense.trainable_weights if "kernel" in w.name]
    for kernel in kernels:
        keep = kernel.size - round(0.8 * kernel.size)
        largest = np.sort(np.abs(kernel), axis=None)[-keep:]
        expected += 0.5e-2 * np.sum(largest.astype("float64") ** 2)
    assert len(sparse.losses) == len(kernels)
    assert float(sum(sparse.losses)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("network", ["lenet_300_100", "lenet5"])
def test_a_task_builds_the_network_of_its_flag(network):
    options = ImageOptions(network=network, width=0.1, batch_size=8).resolved()
    task = ImageTask(options)
    model = task.build()
    assert task.name == model.name == network
    assert task.batch == "8 images on 1 device"
    # digits are images of 32x32x3.
    assert model.input_shape == (None, 32, 32, 3)
