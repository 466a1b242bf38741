"""What techniques keep beside weights in tf_keras, and what training does to it."""

import dataclasses

import numpy as np
import pytest
from keras import ops

import state_of_sparsity as sos
from state_of_sparsity import masks, schedules
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.layers import tf_keras as layers
from state_of_sparsity.techniques.base import Technique
from state_of_sparsity.techniques.masked import MaskingTechnique
from state_of_sparsity.techniques.state import BACKWARD, OPTIMIZER, State
from tests.flavour import compiled, fit, sites, to_numpy
from tests.shared import zoo

RATE = 0.5
RETURN = sos.MagnitudePruning(0.5, 1, 2, 1, masked_weights="return")


@dataclasses.dataclass(frozen=True)
class Saliency(MaskingTechnique):
    """Adds up `|g w|`, and masks half of the weights by that at a step.

    Attributes:
      at: the step.
    """

    at: int = 3
    masked_weights = "return"

    def state(self, place):
        return super().state(place) | {"total": State(changed_by=BACKWARD)}

    def schedule(self):
        return schedules.CubicSchedule(0.5, self.at, self.at, 1)

    def renewed(self, weights, index):
        return [
            {"mask": ~masks.lowest(state["total"], np.prod(theta.shape) // 2)}
            for theta, state, _ in weights
        ]

    def backward(self, theta, state, gradient, step):
        total = state["total"] + ops.abs(gradient * theta)
        return gradient * ops.cast(state["mask"], theta.dtype), {"total": total}


@dataclasses.dataclass(frozen=True)
class Growth(MaskingTechnique):
    """At each second step one weight goes, and that of the largest gradient comes."""

    def state(self, place):
        initial = np.arange(np.prod(place.shape)).reshape(place.shape) % 2
        return {"mask": State(initial.astype("float32"), changed_by=BACKWARD)}

    def backward(self, theta, state, gradient, step):
        mask = state["mask"]
        stays = ops.where(mask > 0, ops.abs(theta), np.inf) > _least(theta, mask)
        grows = ops.where(mask > 0, -1.0, ops.abs(gradient))
        grows = ops.cast(grows == ops.max(grows), theta.dtype)
        moved = mask * ops.cast(stays, theta.dtype) + grows
        return gradient * mask, {"mask": ops.where(step % 2 == 0, moved, mask)}

    def projected(self, theta, state):
        return theta * state["mask"]


def _least(theta, mask):
    return ops.min(ops.where(mask > 0, ops.abs(theta), np.inf))


@dataclasses.dataclass(frozen=True)
class Scale(Technique):
    """The weight is `theta s` with a trained number s, whose square is penalized."""

    draws_noise = False

    def state(self, place):
        return {"scale": State(2.0, shape=(), changed_by=OPTIMIZER)}

    def initial_theta(self, weight):
        return weight / 2.0

    def training_weight(self, theta, state, step, noise):
        return theta * state["scale"]

    def deployed_weight(self, theta, state):
        return theta * state["scale"]

    def keeps(self, theta, state):
        return ops.ones_like(theta, "bool")

    def penalty(self, theta, state):
        return ops.square(state["scale"])


@dataclasses.dataclass(frozen=True)
class Threshold(Technique):
    """Weights below a trained threshold are zero, by a straight-through gradient."""

    def state(self, place):
        return {"threshold": State(0.1, shape=(), changed_by=OPTIMIZER)}

    def training_weight(self, theta, state, step, noise):
        return self.deployed_weight(theta, state)

    def deployed_weight(self, theta, state):
        return theta * ops.cast(self.keeps(theta, state), theta.dtype)

    def keeps(self, theta, state):
        return ops.abs(theta) > state["threshold"]

    def backward(self, theta, state, gradient, step):
        return gradient, {"threshold": -ops.sum(gradient * theta)}


class Reference:
    """One linear layer on squared errors, by plain gradient descent, in float64."""

    def __init__(self, weight):
        self.weight = np.asarray(weight, "float64")
        self.mask = np.ones_like(self.weight)
        self.total = np.zeros_like(self.weight)

    def train(self, x, y, step):
        error = x @ (self.weight * self.mask) - y
        gradient = 2.0 * x.T @ error / y.size
        self.learn(gradient, step)

    def renew(self):
        order = np.argsort(self.total, axis=None, kind="stable")
        self.mask.flat[order[: order.size // 2]] = 0.0

    def learn(self, gradient, step):
        self.total += np.abs(gradient * self.weight)
        self.weight -= RATE * gradient * self.mask


class Grown(Reference):
    def __init__(self, weight):
        super().__init__(weight)
        self.mask = np.arange(self.weight.size).reshape(self.weight.shape) % 2.0

    def learn(self, gradient, step):
        old = self.mask
        self.weight -= RATE * gradient * old
        if step % 2 == 0:
            before = self.weight + RATE * gradient * old
            lost = np.argmin(np.where(old > 0, np.abs(before), np.inf))
            won = np.argmax(np.where(old > 0, -1.0, np.abs(gradient)))
            self.mask = old.copy()
            self.mask.flat[lost], self.mask.flat[won] = 0.0, 1.0
        self.weight *= self.mask


def linear(**arguments):
    layer = keras.layers.Dense(zoo.CLASSES, use_bias=False, name="only", **arguments)
    return keras.Sequential([keras.Input((zoo.FEATURES,)), layer], name="linear")


def only(sparse):
    """The one sparse weight of a model."""
    (site,) = sites(sparse)
    (weight,) = site.layer.held.values()
    return weight


LOOPS = {
    "graph": {"run_eagerly": False},
    "eager": {},
    "compiled by XLA": {"run_eagerly": False, "jit_compile": True},
    "several steps in one": {"run_eagerly": False, "steps_per_execution": 2},
}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_saliency_is_added_up_in_each_loop(loop, rng):
    x, y = zoo.data(rng)
    sparse = compiled(
        sos.sparsify(linear(), Saliency()), keras.optimizers.SGD(RATE), **LOOPS[loop]
    )
    weight = only(sparse)
    reference = Reference(weight.theta)
    fit(sparse, x, y, epochs=2)
    for step, place in enumerate((0, 4, 0, 4), start=1):
        if step == 3:
            reference.renew()
        reference.train(x[place : place + 4], y[place : place + 4], step)
    np.testing.assert_array_equal(weight.state["mask"], reference.mask > 0)
    np.testing.assert_allclose(weight.theta, reference.weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weight.state["total"], reference.total, rtol=1e-5)


def test_replicas_add_up_the_saliency_of_the_whole_batch(mirrored, rng):
    x, y = zoo.data(rng)
    with mirrored.scope():
        sparse = sos.sparsify(linear(), Saliency(at=2))
        sparse.compile(keras.optimizers.SGD(RATE), "mse")
    weight = only(sparse)
    reference = Reference(weight.theta.numpy())
    fit(sparse, x, y, epochs=2, batch_size=8)
    reference.train(x, y, 1)
    reference.renew()
    reference.train(x, y, 2)
    for held, expected in (
        (weight.theta, reference.weight),
        (weight.state["total"], reference.total),
        (weight.state["mask"], reference.mask),
    ):
        for copy in mirrored.experimental_local_results(held):
            np.testing.assert_allclose(copy, expected, rtol=1e-5, atol=1e-6)


def test_replicas_have_one_mask_that_grows(mirrored, rng):
    x, y = zoo.data(rng)
    with mirrored.scope():
        sparse = sos.sparsify(linear(), Growth())
        sparse.compile(keras.optimizers.SGD(RATE), "mse")
    weight = only(sparse)
    reference = Grown(weight.theta.numpy())
    fit(sparse, x, y, epochs=4, batch_size=8)
    for step in range(1, 5):
        reference.train(x, y, step)
    for copy in mirrored.experimental_local_results(weight.state["mask"]):
        np.testing.assert_array_equal(copy, reference.mask)
    for copy in mirrored.experimental_local_results(weight.theta):
        np.testing.assert_allclose(copy, reference.weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("file", ["model.keras", "model.h5", "model"])
def test_a_mask_that_grows_is_projected_saved_and_stripped(file, rng, tmp_path):
    x, y = zoo.data(rng)
    model = linear(kernel_constraint=keras.constraints.MaxNorm(100.0))
    sparse = compiled(sos.sparsify(model, Growth()), keras.optimizers.SGD(RATE))
    reference = Grown(only(sparse).theta)
    fit(sparse, x, y, epochs=2, batch_size=8)
    sparse.save(tmp_path / file)
    loaded = keras.models.load_model(tmp_path / file)
    if file == "model":
        # A SavedModel is loaded compiled.
        loaded = compiled(loaded, keras.optimizers.SGD(RATE))
    fit(loaded, x, y, epochs=2, batch_size=8)
    for step in range(1, 5):
        reference.train(x, y, step)
    weight = only(loaded)
    np.testing.assert_array_equal(weight.state["mask"], reference.mask)
    np.testing.assert_allclose(weight.theta, reference.weight, rtol=1e-5, atol=1e-6)
    (mask,) = sos.weight_masks(loaded).values()
    np.testing.assert_array_equal(mask, reference.mask > 0)
    stripped = sos.strip(loaded)
    np.testing.assert_allclose(stripped(x), loaded(x), rtol=1e-6)
    kernel = stripped.layers[-1].kernel
    assert isinstance(kernel.constraint, keras.constraints.MaxNorm)
    # The sparse model keeps its own.
    assert weight.theta.constraint == weight._projected


def test_a_layer_that_a_step_uses_twice_sums_up_its_gradients(rng):
    x = rng.normal(size=(5, 4)).astype("float32")
    inputs = keras.Input((4,))
    shared = keras.layers.Dense(4, use_bias=False)
    model = keras.Model(inputs, shared(shared(inputs)))
    sparse = sos.sparsify(model, Saliency())
    weight = only(sparse)
    theta = weight.theta.numpy()
    compiled(sparse, keras.optimizers.SGD(0.0), run_eagerly=False)
    fit(sparse, x, np.zeros_like(x), batch_size=5)
    slope = 2.0 * (x @ theta @ theta) / x.size
    gradient = (x @ theta).T @ slope + x.T @ (slope @ theta.T)
    total = np.abs(gradient * theta)
    np.testing.assert_allclose(weight.state["total"], total, rtol=1e-5, atol=1e-6)


def test_a_step_that_overflows_leaves_the_state(rng):
    keras.mixed_precision.set_global_policy("mixed_float16")
    x, y = zoo.data(rng)
    sparse = sos.sparsify(linear(), Saliency(at=100))
    optimizer = keras.mixed_precision.LossScaleOptimizer(
        keras.optimizers.SGD(0.0), initial_scale=2.0**30
    )
    compiled(sparse, optimizer, run_eagerly=False)
    total = only(sparse).state["total"]
    fit(sparse, x, y, batch_size=8)
    assert not total.numpy().any()
    # Each step that overflows halves it.
    fit(sparse, x, y, batch_size=8, epochs=30)
    assert float(optimizer.loss_scale) < 2.0**30
    assert np.isfinite(total).all()
    assert total.numpy().all()


def test_a_number_is_trained_with_a_penalty_and_begins_with_the_dense_weights(rng):
    x, y = zoo.data(rng)
    model = linear()
    sparse = compiled(sos.sparsify(model, Scale()), keras.optimizers.SGD(RATE))
    np.testing.assert_array_equal(sparse(x), model(x))
    (layer,) = sparse.layers
    weight = only(sparse)
    theta = weight.theta.numpy()
    (loss,) = fit(sparse, x, y, batch_size=8)
    error = x @ (2.0 * theta) - y
    assert loss == pytest.approx(np.square(error).mean() + 4.0, rel=1e-5)
    slope = np.sum(2.0 * x.T @ error / y.size * theta) + 4.0
    assert float(layer.scale) == pytest.approx(2.0 - RATE * slope, rel=1e-4)
    np.testing.assert_allclose(sos.strip(sparse)(x), sparse(x), rtol=1e-6)


def test_a_backward_pass_gives_the_gradient_of_what_is_trained(rng):
    x, _ = zoo.data(rng)
    sparse = sos.sparsify(linear(), Threshold())
    weight = only(sparse)
    theta = weight.theta.numpy()
    with tf.GradientTape() as tape:
        outputs = sparse(x, training=True)
    of_theta, of_threshold = tape.gradient(
        outputs, [weight.theta, weight.state["threshold"]]
    )
    used = theta * (np.abs(theta) > 0.1)
    assert 0 < (used == 0).sum() < used.size
    np.testing.assert_allclose(outputs, x @ used, rtol=1e-5, atol=1e-6)
    gradient = np.repeat(x.sum(axis=0)[:, None], zoo.CLASSES, axis=1)
    np.testing.assert_allclose(of_theta, gradient, rtol=1e-5)
    assert float(of_threshold) == pytest.approx(-np.sum(gradient * theta), rel=1e-4)


class Regularized(Saliency):
    def regularized_weight(self, theta, state):
        return 3.0 * theta


def test_a_regularizer_sees_what_a_technique_says():
    model = linear(kernel_regularizer=keras.regularizers.L2(0.5))
    sparse = sos.sparsify(model, Regularized())
    theta = model.layers[0].kernel.numpy()
    (loss,) = sparse.losses
    assert float(loss) == pytest.approx(9.0 * 0.5 * np.square(theta).sum(), rel=1e-5)
    stripped = sos.strip(sparse)
    (loss,) = stripped.losses
    assert float(loss) == pytest.approx(0.5 * np.square(theta).sum(), rel=1e-5)


def kinds():
    """A model with a layer of each kind of map."""
    ids = keras.Input((8,), dtype="int32")
    x = keras.layers.Embedding(9, 4, name="table")(ids)
    x = keras.layers.SeparableConv1D(4, 3, name="separable")(x)
    x = keras.layers.Conv1DTranspose(4, 2, name="transposed")(x)
    x = keras.layers.LSTM(4, name="recurrent")(x)
    return keras.Model(ids, keras.layers.Dense(4, name="dense")(x), name="kinds")


@pytest.mark.slow
@pytest.mark.parametrize(
    "technique",
    [
        RETURN,
        Saliency(at=2),
        Scale(),
    ],
    ids=lambda technique: technique.technique_name(),
)
def test_every_kind_of_map_takes_any_technique(technique, rng, tmp_path):
    ids = rng.integers(0, 9, (8, 8))
    sparse = compiled(sos.sparsify(kinds(), technique), run_eagerly=False)
    assert all(
        type(s.layer) is layers.KINDS[s.layer.keras_class] for s in sites(sparse)
    )
    before = [to_numpy(v) for v in sparse.trainable_weights]
    fit(sparse, ids, rng.normal(size=(8, 4)), epochs=2, batch_size=8)
    for old, new in zip(before, sparse.trainable_weights, strict=True):
        assert (old != to_numpy(new)).any(), new.name
    report = {x.name: x.sparsity for x in sos.sparsity_report(sparse).layers}
    dense = {"separable/depthwise_kernel"} if technique is RETURN else set()
    expected = 0.0 if isinstance(technique, Scale) else 0.5
    for name in report.keys() - dense:
        assert report[name] == expected, name
    assert all(report[name] == 0.0 for name in dense)
    np.testing.assert_allclose(sos.strip(sparse)(ids), sparse(ids), atol=1e-6)
    sparse.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(ids), sparse(ids), atol=1e-6)
    again = sos.sparsify(kinds(), technique)
    sparse.save_weights(tmp_path / "weights.h5")
    again.load_weights(tmp_path / "weights.h5")
    np.testing.assert_allclose(again(ids), sparse(ids), atol=1e-6)


# TensorFlow's own where only the dtype of a mask differs.
ERRORS = (ValueError, tf.errors.InvalidArgumentError)


@pytest.mark.parametrize("file", ["model.weights.h5", "model.h5", "model"])
def test_weights_with_other_state_are_refused(file, tmp_path):
    sos.sparsify(linear(), Growth()).save_weights(tmp_path / file)
    for technique in (sos.L0Regularization(1.0), Saliency()):
        with pytest.raises(ERRORS, match=r"Layer 'only'|expects|expected dtype bool"):
            sos.sparsify(linear(), technique).load_weights(tmp_path / file)


def test_returning_weights_share_a_threshold(rng):
    technique = sos.MagnitudePruning(0.5, 2, 2, 1, masked_weights="return")
    sparse = sos.sparsify(zoo.perceptron(), technique, budget=sos.Global())
    x, y = zoo.data(rng)
    compiled(sparse, keras.optimizers.SGD(0.0), run_eagerly=False)
    thetas = [w.theta.numpy() for s in sites(sparse) for w in s.layer.held.values()]
    fit(sparse, x, y)
    order = np.sort(np.concatenate([np.abs(t).ravel() for t in thetas]))
    least = order[round(0.5 * order.size)]
    for mask, theta in zip(sos.weight_masks(sparse).values(), thetas, strict=True):
        np.testing.assert_array_equal(mask, np.abs(theta) >= least)
