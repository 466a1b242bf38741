"""What tf_keras alone asks of models that keep their class."""

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from tests.flavour import register, sites
from tests.shared import test_classes, zoo

TECHNIQUES = [sos.MagnitudePruning(0.5, 1, 2, 1), sos.L0Regularization(0.0)]


@register
class Adversarial(keras.Model):
    """A functional model with a step, a metric, a weight and losses of its own."""

    def __init__(self, inputs, outputs, name=None, trainable=True, **kwargs):
        super().__init__(inputs, outputs, name=name, trainable=trainable, **kwargs)
        self.mean = keras.metrics.Mean(name="mean")
        self.offset = self.add_weight("offset", (), initializer="ones")
        self.add_loss(lambda: 3.0 * self.offset)

    def train_step(self, data):
        inputs, _ = data
        with tf.GradientTape() as tape:
            outputs = self(inputs, training=True)
            loss = tf.reduce_sum(self.losses)
        self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
        self.mean.update_state(loss)
        return {"mean": self.mean.result(), "size": tf.shape(outputs)[-1]}

    @property
    def metrics(self):
        return [self.mean]


def adversarial():
    x = keras.Input((zoo.FEATURES,))
    y = keras.layers.Dense(8, activation="relu", name="a")(x)
    return Adversarial(x, keras.layers.Dense(zoo.CLASSES, name="b")(y))


@pytest.mark.feature("custom train_step")
def test_the_step_the_weights_and_the_losses_of_a_functional_model_are_kept(rng):
    model = adversarial()
    inputs, labels = zoo.data(rng)
    sparse = sos.sparsify(model, TECHNIQUES[0])
    for copy in (sparse, sos.strip(sparse)):
        assert copy.offset is not model.offset
        copy.compile("sgd", "mse")
        callbacks = sos.callbacks(sparse) if copy is sparse else []
        kept = [w.numpy() for w in copy.trainable_weights if "bias" in w.name]
        logs = copy.fit(inputs, labels, batch_size=32, verbose=0, callbacks=callbacks)
        assert logs.history["size"] == [zoo.CLASSES]
        assert logs.history["mean"] == [3.0]
        assert float(copy.offset) == pytest.approx(1.0 - 0.03)
        copy.offset.assign(1.0)
        biases = [w for w in copy.trainable_weights if "bias" in w.name]
        for bias, before in zip(biases, kept, strict=True):
            np.testing.assert_array_equal(bias, before)
    assert float(model.offset) == 1.0


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        pytest.param("functional", "model", marks=pytest.mark.slow),
        ("sequential-init", "model.h5"),
    ],
)
def test_other_formats_load_the_class(kind, file, rng, tmp_path):
    inputs = rng.normal(size=(4, 6)).astype("float32")
    model = test_classes.MODELS[kind]()
    sparse = sos.sparsify(model, TECHNIQUES[1])
    sparse.save(tmp_path / file)
    # Keras writes bare names of classes into HDF5.
    with keras.utils.custom_object_scope({type(model).__name__: type(model)}):
        loaded = keras.models.load_model(tmp_path / file)
    assert isinstance(loaded, type(model))
    np.testing.assert_allclose(loaded(inputs), sparse(inputs), atol=1e-6)
    assert [s.technique for s in sites(loaded)] == [s.technique for s in sites(sparse)]


def test_symbolic_tensors_in_attributes_are_those_of_the_copy(rng):
    inputs, _ = zoo.data(rng)
    x = keras.Input((zoo.FEATURES,))
    hidden = keras.layers.Dense(8, name="a")(x)
    model = keras.Model(x, keras.layers.Dense(zoo.CLASSES, name="b")(hidden))
    model.ends = {"hidden": [hidden], "inputs": x}
    copy = sos.strip(model)
    features = keras.Model(copy.ends["inputs"], copy.ends["hidden"][0])
    before = features(inputs).numpy()
    copy.get_layer("a").kernel.assign(2.0 * copy.get_layer("a").kernel)
    np.testing.assert_allclose(features(inputs), 2.0 * before, rtol=1e-6)
    model.ends = [keras.layers.Dense(2)(x)]
    with pytest.raises(ValueError, match="attribute 'ends' holds a symbolic tensor"):
        sos.sparsify(model, TECHNIQUES[0])


def test_a_class_that_python_does_not_give_a_copy_is_an_error():
    class Slotted(keras.Sequential):
        __slots__ = ("own",)

    model = Slotted([keras.layers.Dense(2, input_shape=(3,))], name="slotted")
    with pytest.raises(ValueError, match="'slotted' cannot be copied as a Slotted"):
        sos.sparsify(model, TECHNIQUES[0])


def test_a_sequential_model_built_by_a_call_keeps_its_class(rng):
    @register
    class Late(keras.Sequential):
        def call(self, inputs, training=None, mask=None):
            return 2.0 * super().call(inputs, training=training, mask=mask)

    model = Late([keras.layers.Dense(3, name="a")])
    inputs, _ = zoo.data(rng)
    expected = model(inputs)
    sparse = sos.sparsify(model, TECHNIQUES[0])
    assert type(sparse) is Late
    np.testing.assert_allclose(sparse(inputs), expected, atol=1e-6)
    assert len(sites(sos.strip(sparse))) == 1


def test_a_loss_that_a_layer_adds_as_a_closure_is_of_the_copy(rng):
    class Penalized(keras.layers.Dense):
        def build(self, input_shape):
            super().build(input_shape)
            kernel = self.kernel
            self.add_loss(lambda: tf.reduce_sum(self.bias))
            self.add_loss(lambda scale=2.0: scale * tf.reduce_sum(kernel))

    layer = Penalized(3, bias_initializer="ones", input_shape=(4,), name="own")
    model = keras.Sequential([layer, keras.layers.Dense(2, name="last")])
    sparse = sos.sparsify(model, sos.L0Regularization(0.0), {"own": None})
    for copy in (sparse, sos.strip(model)):
        copy.layers[0].bias.assign([1.0, 2.0, 4.0])
        copy.layers[0].kernel.assign(np.ones((4, 3)))
        assert sum(map(float, copy.losses)) == pytest.approx(7.0 + 24.0)
    assert float(model.losses[0]) == 3.0
