"""Training loops of one's own, as each backend writes them."""

import keras
import numpy as np
import pytest
from keras import ops

import state_of_sparsity as sos
from tests.flavour import BACKEND, compiled, from_logits, register, sites, steps_of

TECHNIQUES = [
    sos.MagnitudePruning(0.75, 1, 4, 1),
    sos.RandomPruning(0.75, 1, 4, 1),
    sos.VariationalDropout(1e-4),
    sos.L0Regularization(1e-4),
]
STEPS = 5


def network():
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dense(3, name="logits"),
        ]
    )


def data():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(16, 6)).astype("float32")
    return inputs, rng.integers(0, 3, 16)


def loss_of(targets, outputs, losses):
    return from_logits()(targets, outputs) + sum(losses)


def jax_loop(model):
    import jax

    inputs, targets = data()
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables)

    def objective(trainable, non_trainable):
        outputs, non_trainable, losses = model.stateless_call(
            trainable, non_trainable, inputs, training=True, return_losses=True
        )
        return loss_of(targets, outputs, losses), non_trainable

    @jax.jit
    def step(trainable, non_trainable, state):
        gradient = jax.value_and_grad(objective, has_aux=True)
        (loss, non_trainable), grads = gradient(trainable, non_trainable)
        trainable, state = optimizer.stateless_apply(state, grads, trainable)
        return loss, trainable, non_trainable, state

    trainable = [v.value for v in model.trainable_variables]
    non_trainable = [v.value for v in model.non_trainable_variables]
    state = [v.value for v in optimizer.variables]
    losses = []
    for _ in range(STEPS):
        loss, trainable, non_trainable, state = step(trainable, non_trainable, state)
        losses.append(float(loss))
    for variables, values in (
        (model.trainable_variables, trainable),
        (model.non_trainable_variables, non_trainable),
    ):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
    return losses


def tensorflow_loop(model):
    import tensorflow as tf

    inputs, targets = data()
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            outputs = model(inputs, training=True)
            loss = loss_of(targets, outputs, model.losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )
        return loss

    return [float(step()) for _ in range(STEPS)]


def torch_loop(model):
    import torch

    inputs, targets = data()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(targets, model(inputs, training=True), model.losses)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


LOOPS = {"jax": jax_loop, "tensorflow": tensorflow_loop, "torch": torch_loop}


@pytest.mark.feature("custom training loops")
@pytest.mark.parametrize(
    ("technique", "budget"),
    [*((technique, None) for technique in TECHNIQUES), (TECHNIQUES[0], sos.Global())],
    ids=[*(technique.technique_name() for technique in TECHNIQUES), "global"],
)
def test_a_loop_of_ones_own_trains_as_fit_does(technique, budget):
    keras.utils.set_random_seed(3)
    plain = network()
    keras.utils.set_random_seed(4)
    looped = sos.sparsify(plain, technique, budget=budget)
    keras.utils.set_random_seed(4)
    fitted = sos.sparsify(plain, technique, budget=budget)
    losses = LOOPS[BACKEND](looped)
    compiled(fitted, keras.optimizers.SGD(0.1, momentum=0.9), from_logits())
    history = fitted.fit(*data(), batch_size=16, epochs=STEPS, verbose=0, shuffle=False)
    np.testing.assert_allclose(losses, history.history["loss"], rtol=1e-4)
    assert steps_of(looped) == steps_of(fitted) == {STEPS}
    masks, expected = sos.weight_masks(looped), sos.weight_masks(fitted)
    for name in masks:
        np.testing.assert_array_equal(masks[name], expected[name])


@register
class Halved(keras.Model):
    """A model that trains on half of its loss, and notes how often."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(8, activation="relu", name="hidden")
        self.head = keras.layers.Dense(3, name="logits")
        self.seen = keras.metrics.Sum(name="seen")

    def build(self, input_shape):
        self.hidden.build(input_shape)
        self.head.build((None, 8))

    def call(self, inputs, training=None):
        return self.head(self.hidden(inputs))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **kwargs):
        loss = super().compute_loss(x, y, y_pred, sample_weight, **kwargs)
        return loss / 2

    def get_config(self):
        return {"name": self.name}


@pytest.mark.feature("custom train_step")
def test_a_class_keeps_its_way_to_train():
    plain = Halved()
    plain.build((None, 6))
    sparse = sos.sparsify(plain, sos.MagnitudePruning(0.5, 1, 2, 1))
    assert isinstance(sparse, Halved)
    losses = []
    for model in (plain, sparse):
        compiled(model, keras.optimizers.SGD(0.0), from_logits())
        history = model.fit(*data(), batch_size=16, epochs=1, verbose=0)
        losses.append(history.history["loss"][0])
    outputs = plain(data()[0])
    whole = float(ops.convert_to_numpy(from_logits()(data()[1], outputs)))
    np.testing.assert_allclose(losses[0], whole / 2, rtol=1e-5)
    assert np.isfinite(losses[1])
    assert {site.technique for site in sites(sparse)} == {"magnitude_pruning"}
    assert type(sos.strip(sparse)) is Halved


@pytest.mark.feature("a part of a sparse model trained by itself")
def test_a_part_of_a_sparse_model_goes_on_by_itself():
    sparse = sos.sparsify(network(), sos.MagnitudePruning(0.75, 1, 3, 1))
    hidden = sparse.get_layer("hidden")
    inputs = keras.Input((6,))
    larger = keras.Model(inputs, keras.layers.Dense(3)(hidden(inputs)))
    compiled(larger, loss=from_logits())
    larger.fit(*data(), batch_size=4, epochs=1, verbose=0)
    assert sos.sparsity_report(larger).layers[0].sparsity == pytest.approx(0.75)


@pytest.mark.feature("a layer used several times in a step")
def test_a_layer_that_a_step_uses_twice_counts_it_once():
    inputs = keras.Input((6,))
    shared = keras.layers.Dense(6, name="shared")
    model = keras.Model(inputs, keras.layers.Dense(3)(shared(shared(inputs))))
    sparse = sos.sparsify(model, sos.MagnitudePruning(0.75, 1, 3, 1))
    compiled(sparse, loss=from_logits())
    sparse.fit(*data(), batch_size=4, epochs=2, verbose=0)
    assert steps_of(sparse) == {8}
