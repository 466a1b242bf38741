"""The networks in Keras 3, from which `sos.shrink` takes masked channels."""

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.models.images.networks import NETWORKS, Setting
from state_of_sparsity.models.images.smaller import twin

IMAGES, SIGNALS = (28, 28, 1), (40, 1)


def with_own_weights(network, setting):
    """A network none of whose weights, moving averages included, has its initial one.

    Half of the outputs of each kernel but the last are zero.
    """
    rng = np.random.default_rng(0)
    model = NETWORKS[network].build(setting)
    for weight in model.weights:
        value = rng.uniform(0.1, 1.0, weight.shape)
        if "kernel" in weight.name:
            value = rng.normal(size=weight.shape) / np.sqrt(np.prod(weight.shape[:-1]))
            if "logits" not in weight.name:
                value[..., ::2] = 0.0
        weight.assign(value)
    return model


@pytest.mark.parametrize(
    ("network", "setting"),
    [
        ("lenet_300_100", Setting(IMAGES, 10, 0.1)),
        ("lenet5", Setting(IMAGES, 10, 0.2)),
        ("cnn1d", Setting(SIGNALS, 10, 0.25, weight_decay=1e-3)),
        # In inference, its parts of a batch are normalized as one.
        ("resnet", Setting((32, 32, 3), 10, 0.06, depth=18, batch_norm_parts=2)),
    ],
)
def test_a_network_has_the_same_outputs_in_keras_3_and_without_what_is_masked(
    network, setting
):
    model = with_own_weights(network, setting)
    images = np.random.default_rng(1).normal(size=(4, *setting.image_shape))
    expected = model.predict(images, verbose=0)
    same = twin(model, NETWORKS[network], setting)
    assert type(same).__module__.partition(".")[0] == "keras"
    np.testing.assert_allclose(same.predict(images, verbose=0), expected, atol=1e-5)
    smaller = sos.shrink(same)
    assert smaller.count_params() < 0.6 * model.count_params()
    np.testing.assert_allclose(smaller.predict(images, verbose=0), expected, atol=1e-5)
