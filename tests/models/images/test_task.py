"""The image task: its loss, its optimizer, and its options."""

import numpy as np
import pytest

from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.models.images.options import PRESETS, ImageOptions
from state_of_sparsity.models.images.task import ImageTask, SmoothedCrossEntropy
from state_of_sparsity.models.training.loop.building import build_model
from state_of_sparsity.models.training.loop.sparsification import Sparsification


def test_loss_comes_back_from_its_configuration():
    config = keras.losses.serialize(SmoothedCrossEntropy(0.1))
    assert keras.losses.deserialize(config).label_smoothing == 0.1


def tiny(**options):
    defaults = {"depth": 18, "width": 0.05, "train_steps": 8}
    return ImageOptions(**defaults | options).resolved()


def test_learning_rate_is_that_for_256_images_scaled_to_the_batch():
    task = ImageTask(
        tiny(
            batch_size=64, learning_rate=0.1, warmup_epochs=2.0, decay_epochs=(3.0, 4.0)
        )
    )
    model = keras.Sequential([keras.layers.Dense(10, input_shape=(4,))])
    task.compile(model)
    # 1257 images are 19.64 steps of 64; epochs 2, 3 and 4 end at steps 39, 59, 79.
    assert task.steps_per_epoch == 1257 / 64
    rate = model.optimizer._learning_rate
    expected = {
        0: 0.025 / 39,
        38: 0.025,
        58: 0.025,
        59: 0.0025,
        78: 0.0025,
        79: 0.00025,
    }
    for step, value in expected.items():
        assert float(rate(step)) == pytest.approx(value, rel=1e-5)
    assert (model.optimizer.momentum, model.optimizer.nesterov) == (0.9, True)


def test_a_run_says_how_many_images_a_step_takes_over_all_devices(mirrored):
    assert ImageTask(tiny(batch_size=64)).batch == (
        "64 images on 1 device, with batch normalization over 64"
    )
    with mirrored.scope():
        task = ImageTask(tiny(batch_size=1024, batch_norm_batch=128))
    assert task.batch == (
        "1,024 images on 2 devices, with batch normalization over 128"
    )
    with mirrored.scope():
        task = ImageTask(tiny(batch_size=64, accumulate_steps=4))
        with pytest.raises(ValueError, match=r"accumulate_steps must .* 64 .*: 3"):
            ImageTask(tiny(batch_size=64, accumulate_steps=3))
    assert task.batch == (
        "64 images on 2 devices, accumulated over 4 parts, with batch normalization "
        "over 8"
    )


@pytest.mark.parametrize("dataset", PRESETS)
def test_an_option_that_is_given_wins_over_that_of_the_dataset(dataset):
    options = ImageOptions(dataset=dataset, train_steps=17, weight_decay=0.0).resolved()
    assert (options.train_steps, options.weight_decay) == (17, 0.0)


@pytest.mark.parametrize("train_steps", [1, 2, 10, 600])
def test_steps_of_techniques_are_within_a_run_of_any_length(train_steps):
    defaults = tiny(train_steps=train_steps).technique_defaults("magnitude_pruning")
    assert 1 <= defaults["begin_step"] <= defaults["end_step"] <= train_steps
    assert defaults["frequency"] >= 1


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (
            "dataset",
            "cifar",
            "dataset must be one of digits, mnist1d, mnist, i.*'cifar'",
        ),
        ("network", "vgg", "network must be one of resnet, lenet_300_100, l.*'vgg'"),
        ("depth", 51, "depth must be one of 18, 34, 50, 101, 152, 200.*51"),
        ("precision", "float8", "precision must be one of float32, mixed.*'float8'"),
        ("distribution", "tpu", "distribution must be one of auto.*'tpu'"),
        ("train_steps", 0, "train_steps must be at least 1. Received: 0"),
        ("batch_norm_batch", 0, "batch_norm_batch must be at least 1. Received: 0"),
        ("width", 0.0, "width must be positive and finite. Received: 0.0"),
        (
            "learning_rate",
            float("nan"),
            "learning_rate must be positive and finite. Received: nan",
        ),
        ("seed", -1, "seed must be at least 0 and finite. Received: -1"),
        ("label_smoothing", 1.0, "label_smoothing must be .* below 1.*1.0"),
        ("seed", 2**32, "seed must be below 4294967295. Received: 4294967296"),
        ("decay_epochs", (3.0, 2.0), "decay_epochs must be in order.*3.0, 2.0"),
    ],
)
def test_a_bad_option_is_an_error_which_names_it(option, value, message):
    with pytest.raises(ValueError, match=message):
        ImageOptions(**{option: value}).resolved()


@pytest.mark.parametrize("option", ["depth", "batch_norm_batch"])
def test_what_only_the_resnet_has_is_refused_for_other_networks(option):
    message = f"{option} must be left out with network=lenet5.*Received: 18"
    with pytest.raises(ValueError, match=message):
        ImageOptions(network="lenet5", **{option: 18}).resolved()


def test_the_width_that_goes_with_a_dataset_is_that_of_its_own_network():
    assert ImageOptions().resolved().width == 0.25
    assert ImageOptions(network="lenet5").resolved().width == 1.0
    assert ImageOptions(network="lenet5", width=0.5).resolved().width == 0.5


def test_a_network_for_signals_takes_no_images():
    options = ImageOptions(network="cnn1d").resolved()
    with pytest.raises(ValueError, match=r"network=cnn1d takes images of rank 2.*32"):
        ImageTask(options)
    options = ImageOptions(dataset="mnist1d", network="resnet").resolved()
    with pytest.raises(ValueError, match=r"takes images of rank 3.*\(40, 1\)"):
        ImageTask(options)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_a_model_is_built_in_the_precision_of_its_options(precision):
    options = ImageOptions(network="lenet5", width=0.1, precision=precision)
    model = build_model(ImageTask(options.resolved()), Sparsification())
    assert model.get_layer("conv1").dtype_policy.name == precision
    assert model.output.dtype == "float32"
    scales_the_loss = isinstance(
        model.optimizer, keras.mixed_precision.LossScaleOptimizer
    )
    assert scales_the_loss == (precision == "mixed_float16")
    assert keras.mixed_precision.global_policy().name == "float32"


def test_initial_weights_depend_on_the_seed_only():
    def weights(seed):
        options = ImageOptions(network="lenet5", width=0.1, seed=seed).resolved()
        return build_model(ImageTask(options), Sparsification()).get_weights()

    first, again, other = (weights(seed) for seed in (3, 3, 4))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])
