"""Zeros of stripped models that Keras quantizes."""

import functools

import numpy as np
import onnx
import pytest
from keras.src.quantizers.quantizers import compute_quantization_parameters

from state_of_sparsity.engines.keras3 import conversion
from state_of_sparsity.engines.keras3.gptq import masked_gptq
from tests.flavour import (
    BACKEND,
    compiled,
    fit,
    from_logits,
    keras,
    outputs_of,
    sos,
    to_numpy,
)

pytestmark = [
    pytest.mark.feature("zeros of quantized models: int8, int4, GPTQ, AWQ"),
    pytest.mark.filterwarnings("ignore:.*quantiz"),
]
quantizers, layers = keras.quantizers, keras.layers
VOCABULARY, WIDTH, LENGTH = 12, 32, 6
FILES = pytest.mark.skipif(
    BACKEND == "jax", reason="a process of another backend writes its files"
)


def block(name):
    """The maps of attention with two heads, and two layers of another width."""
    inputs = keras.Input((LENGTH, WIDTH))
    query = layers.EinsumDense("abc,cde->abde", (None, 2, 16), name="query")
    output = layers.EinsumDense("abde,dec->abc", (None, WIDTH), name="out")
    x = inputs + output(query(inputs))
    hidden = layers.Dense(53, activation="relu", name="up")(x)
    return keras.Model(inputs, x + layers.Dense(WIDTH, name="down")(hidden), name=name)


def stripped(rng):
    """A language model of which half of each matrix is zero."""
    ids = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(VOCABULARY, WIDTH, name="table")(ids)
    for name in ("first", "second"):
        x = block(name)(x)
    model = keras.Model(ids, layers.Dense(VOCABULARY, name="logits")(x))
    for variable in model.weights:
        variable.assign(rng.normal(size=variable.shape) / 4)
    masks = {n: rng.random(m.shape) < 0.5 for n, m in sos.weight_masks(model).items()}
    plain = sos.strip(sos.sparsify(model, sos.FixedMask(masks)), check_outputs=False)
    return plain, {
        "pre_block_layers": [plain.get_layer("table")],
        "sequential_blocks": [plain.get_layer(name) for name in ("first", "second")],
    }


def calibrated(config, structure, rng, **options):
    return config(
        dataset=[rng.integers(0, VOCABULARY, 50)],
        tokenizer=len,
        num_samples=4,
        sequence_length=LENGTH,
        quantization_layer_structure=structure,
        **options,
    )


MODES = {
    "int8": lambda *_: quantizers.Int8QuantizationConfig(),
    "int8, weights alone": lambda *_: quantizers.Int8QuantizationConfig(
        activation_quantizer=None
    ),
    "int4": lambda *_: quantizers.Int4QuantizationConfig(block_size=8),
    "int4, by channel": lambda *_: quantizers.Int4QuantizationConfig(block_size=-1),
    "gptq": lambda *x: calibrated(quantizers.GPTQConfig, *x, group_size=8),
    "gptq, 8 bits": lambda *x: calibrated(
        quantizers.GPTQConfig, *x, group_size=-1, weight_bits=8, activation_order=True
    ),
    "gptq, by tensor": lambda *x: calibrated(
        quantizers.GPTQConfig, *x, group_size=-1, per_channel=False, symmetric=True
    ),
    "awq": lambda *x: calibrated(quantizers.AWQConfig, *x, group_size=8),
}
# int8 rounds activations, and has a test of its own. What another backend writes is
# alike.
FILED = ["gptq"]
if BACKEND == "torch":
    FILED += ["int8, weights alone", "int4", "gptq, by tensor", "awq"]


@pytest.fixture
def heard(monkeypatch):
    """The inverses of Hessians that GPTQ has been given."""
    inverses = []

    def listening(weights, inv_hessian, **options):
        inverses.append(to_numpy(inv_hessian))
        return masked_gptq(weights, inv_hessian, **options)

    monkeypatch.setattr(conversion, "masked_gptq", listening)
    return inverses


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode",
    [
        # Our own loop is in GPTQ alone.
        pytest.param(mode, marks=[pytest.mark.any_backend] * (mode != "gptq"))
        for mode in MODES
    ],
)
def test_every_zero_stays(mode, rng, tmp_path, heard):
    model, structure = stripped(rng)
    before = sos.weight_masks(model)
    sos.quantize(model, config=MODES[mode](structure, rng))
    check_that_data_were_heard(mode, structure, heard)
    after = sos.weight_masks(model)
    assert before.keys() == after.keys()
    for name, mask in before.items():
        assert after[name].shape == mask.shape
        assert not (after[name] & ~mask).any(), name
        # What is small may be rounded to zero.
        assert after[name].sum() > 0.6 * mask.sum()
    # What the report counts is what inference multiplies with.
    query = model.get_layer("first").get_layer("query")
    kernel = outputs_of(query, np.eye(WIDTH, dtype="float32")[None])[0]
    reported = next(m for n, m in after.items() if n.endswith("query/kernel"))
    np.testing.assert_array_equal(kernel != 0, reported)
    # So it is after Keras has saved and loaded the model.
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for name, mask in sos.weight_masks(loaded).items():
        np.testing.assert_array_equal(mask, after[name])
    ids = rng.integers(0, VOCABULARY, (3, LENGTH))
    np.testing.assert_array_equal(outputs_of(loaded, ids), outputs_of(model, ids))


def check_that_data_were_heard(mode, structure, inverses):
    """As far as Keras's own hooks go, GPTQ and AWQ hear nothing."""
    assert len(inverses) == 8 * mode.startswith("gptq")
    for inverse in inverses:
        # Without data it would be a multiple of the identity.
        assert np.abs(inverse - np.diag(np.diag(inverse))).max() > 1e-6
    if mode == "awq":
        first, _ = structure["sequential_blocks"]
        assert np.ptp(to_numpy(first.get_layer("up").awq_scales)) > 0


@FILES
@pytest.mark.slow
@pytest.mark.parametrize("mode", FILED)
def test_sparse_files_hold_the_steps_of_quantized_kernels(mode, rng, tmp_path):
    model, structure = stripped(rng)
    path, floats = tmp_path / "model.sparse", tmp_path / "floats.sparse"
    sos.export(model, floats, format="sparse")
    sos.quantize(model, config=MODES[mode](structure, rng))
    sos.export(model, path, format="sparse")
    found = [
        np.count_nonzero(onnx.numpy_helper.to_array(tensor))
        for tensor in sos.runtime.read(path).graph.initializer
        if tensor.name.endswith("/steps")
    ]
    inner = ("/query/", "/out/", "/up/", "/down/")
    in_blocks = "gptq" in mode or "awq" in mode
    kernels = [
        report.size - report.zeros
        for report in sos.sparsity_report(model).layers
        if not in_blocks or any(name in f"/{report.name}" for name in inner)
    ]
    assert sorted(found) == sorted(kernels)
    assert path.stat().st_size < 0.95 * floats.stat().st_size
    ids = rng.integers(0, VOCABULARY, (3, LENGTH)).astype("int32")
    (outputs,) = sos.runtime.load(path, threads=1, tune=False).run(ids).values()
    np.testing.assert_allclose(outputs, outputs_of(model, ids), rtol=1e-4, atol=1e-4)


@FILES
@pytest.mark.slow
def test_files_of_int8_leave_activations_as_they_are(rng, tmp_path):
    """Keras rounds each row of them to multiples of its maximum / 127."""
    model = keras.Sequential([keras.Input((40,)), layers.Dense(30)])
    (layer,) = model.layers
    kernel = rng.normal(size=(40, 30)) * (rng.random((40, 30)) < 0.2)
    layer.set_weights([kernel, rng.normal(size=30)])
    sos.quantize(model, "int8")
    kernel = to_numpy(layer.kernel) / to_numpy(layer.kernel_scale).astype("float64")
    sos.export(model, tmp_path / "model.sparse", format="sparse")
    x = rng.normal(size=(9, 40)).astype("float32")
    session = sos.runtime.load(tmp_path / "model.sparse", threads=1, tune=False)
    (found,) = session.run(x).values()
    expected = x @ kernel + to_numpy(layer.bias)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    apart = np.abs(outputs_of(model, x) - expected)
    bound = np.abs(x).max(axis=1, keepdims=True) / 254 * np.abs(kernel).sum(axis=0)
    assert (apart < bound + 1e-5).all()
    assert apart.max() > 1e-3


def digits():
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order].astype("int32"), labels[order]
    return (images[270:], labels[270:]), (images[:270], labels[:270])


@pytest.fixture(scope="module")
def pruned_on_digits():
    """300-100-10 units on the 64 pixels, of which 10 % of the weights stay."""
    (images, labels), _ = digits()
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            # An image is a sequence of one, so that GPTQ can see many at once.
            keras.Input((None, 64)),
            layers.Dense(300, activation="relu"),
            layers.Dense(100, activation="relu"),
            layers.Dense(10),
        ]
    )
    technique = sos.MagnitudePruning(0.9, begin_step=100, end_step=400, frequency=20)
    sparse = sos.sparsify(model, technique)
    compiled(sparse, keras.optimizers.Adam(2e-3), from_logits(), run_eagerly=False)
    x, y = images[:, None].astype("float32") / 16, labels[:, None]
    fit(sparse, x, y, batch_size=64, epochs=25, shuffle=True)
    return sos.strip(sparse)


IMAGES = 128


@pytest.mark.slow
@pytest.mark.any_backend
@pytest.mark.parametrize("mode", MODES)
def test_accuracy_of_a_sparse_quantized_network(mode, pruned_on_digits):
    (images, _), (test_images, test_labels) = digits()
    model = sos.strip(pruned_on_digits)
    before = sos.weight_masks(model)

    def right():
        logits = outputs_of(model, test_images[:, None].astype("float32") / 16)
        return (logits[:, 0].argmax(axis=-1) == test_labels).sum()

    dense = right()
    assert dense > 0.95 * len(test_labels)
    tokens = {
        "dataset": [images[:IMAGES].ravel()],
        "num_samples": 1,
        "sequence_length": IMAGES * 64,
    }
    config = MODES[mode](None, np.random.default_rng(0))
    if mode.startswith(("gptq", "awq")):
        vars(config).update(tokens)
        config.quantization_layer_structure = {
            "pre_block_layers": [
                layers.Reshape((IMAGES, 64)),
                layers.Rescaling(1 / 16),
            ],
            "sequential_blocks": [model],
        }
    sos.quantize(model, config=config)
    # Of 270 images: one is 0.37 points.
    assert abs(right() - dense) <= (1 if "int8" in mode else 2)
    for name, mask in sos.weight_masks(model).items():
        assert not (mask & ~before[name]).any()


def rounded(values, scale, zero):
    return scale * (np.clip(np.round(values / scale + zero), 0, 15) - zero)


def eliminated(weights, hessian, scale, zero):
    """Each column rounded in turn, with the inverse of what is left of the Hessian."""
    weights, kept = weights.copy(), weights != 0
    for j in range(weights.shape[1]):
        inverse = np.linalg.inv(hessian[j:, j:])
        column = np.where(kept[:, j], rounded(weights[:, j], scale, zero), 0.0)
        error = (weights[:, j] - column) / inverse[0, 0]
        weights[:, j + 1 :] -= np.outer(error, inverse[0, 1:])
        weights[:, j] = column
    return weights


@pytest.mark.any_backend
def test_masked_gptq_is_elimination_column_by_column(rng):
    inputs = rng.normal(size=(40, 10)) @ rng.normal(size=(10, 10))
    weights = rng.normal(size=(6, 10)) * (rng.random((6, 10)) < 0.5)
    hessian = inputs.T @ inputs + np.eye(10)
    scale, zero = np.full((6, 1), 0.4), np.full((6, 1), 8)
    steps, scales, zeros, groups = masked_gptq(
        weights,
        np.linalg.inv(hessian),
        blocksize=4,
        compute_scale_zero=lambda _: (scale, zero, 15),
    )
    found = to_numpy(scales) * (to_numpy(steps) - to_numpy(zeros))
    expected = eliminated(weights, hessian, 0.4, 8)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not to_numpy(groups).any()
    # Of no use would be corrections that leave more of an error than there was.
    plain = np.where(weights, rounded(weights, 0.4, 8), 0)
    errors = [np.square(inputs @ (x - weights).T).sum() for x in (found, plain)]
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.any_backend
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
def test_weights_of_one_sign_are_within_the_steps(rng, symmetric, sign):
    weights = sign * (1 + rng.random((5, 8))) * (rng.random((5, 8)) < 0.6)
    parameters = functools.partial(
        compute_quantization_parameters,
        bits=4,
        symmetric=symmetric,
        per_channel=True,
        group_size=4,
    )
    steps, scales, zeros, groups = map(
        to_numpy,
        masked_gptq(weights, np.eye(8), group_size=4, compute_scale_zero=parameters),
    )
    scale, zero = (x[:, groups.astype(int)].astype("float64") for x in (scales, zeros))
    # The outermost of symmetric steps are one short on a side.
    assert (np.abs(scale * (steps - zero) - weights) < 0.51 * scale).all()


@pytest.mark.any_backend
def test_a_hessian_that_is_not_positive_definite_is_refused(rng):
    with pytest.raises(ValueError, match=r"not positive definite.*hessian_damping"):
        masked_gptq(
            rng.normal(size=(2, 2)),
            np.array([[1.0, 2.0], [2.0, 1.0]]),
            compute_scale_zero=lambda _: None,
        )
