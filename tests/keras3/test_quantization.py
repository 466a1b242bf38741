"""Zeros of stripped models that Keras quantizes."""

import numpy as np
import pytest

from state_of_sparsity.engines.keras3 import conversion
from state_of_sparsity.engines.keras3.gptq import masked_gptq
from tests.flavour import keras, outputs_of, sos, to_numpy

pytestmark = [
    pytest.mark.feature("zeros of quantized models: int8, int4, GPTQ, AWQ"),
    pytest.mark.filterwarnings("ignore:.*quantiz"),
]
quantizers, layers = keras.quantizers, keras.layers
VOCABULARY, WIDTH, LENGTH = 12, 8, 6


class Block(layers.Layer):
    """The maps of attention with two heads, and two layers of another width."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.query = layers.EinsumDense("abc,cde->abde", (None, 2, 4), name="query")
        self.output_ = layers.EinsumDense("abde,dec->abc", (None, WIDTH), name="out")
        self.up = layers.Dense(13, activation="relu", name="up")
        self.down = layers.Dense(WIDTH, name="down")

    def build(self, shape):
        self.query.build(shape)
        self.output_.build((*shape[:-1], 2, 4))
        self.up.build(shape)
        self.down.build((*shape[:-1], 13))

    def call(self, x):
        x = x + self.output_(self.query(x))
        return x + self.down(self.up(x))


def stripped(rng):
    """A language model of which half of each matrix is zero."""
    ids = keras.Input((LENGTH,), dtype="int32")
    embedding, blocks = layers.Embedding(VOCABULARY, WIDTH), [Block(), Block()]
    x = embedding(ids)
    for block in blocks:
        x = block(x)
    model = keras.Model(ids, layers.Dense(VOCABULARY, name="logits")(x))
    for variable in model.weights:
        variable.assign(rng.normal(size=variable.shape))
    masks = {n: rng.random(m.shape) < 0.5 for n, m in sos.weight_masks(model).items()}
    plain = sos.strip(sos.sparsify(model, sos.FixedMask(masks)), check_outputs=False)
    found = [x for x in plain.layers if len(x.weights) > 2]
    return plain, {
        "pre_block_layers": [next(x for x in plain.layers if x.weights)],
        "sequential_blocks": found,
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
    "int4": lambda *_: quantizers.Int4QuantizationConfig(block_size=4),
    "int4, by channel": lambda *_: quantizers.Int4QuantizationConfig(block_size=-1),
    "gptq": lambda *x: calibrated(quantizers.GPTQConfig, *x, group_size=4),
    "gptq, 8 bits": lambda *x: calibrated(
        quantizers.GPTQConfig, *x, group_size=-1, weight_bits=8, activation_order=True
    ),
    "gptq, by tensor": lambda *x: calibrated(
        quantizers.GPTQConfig, *x, group_size=-1, per_channel=False, symmetric=True
    ),
    "awq": lambda *x: calibrated(quantizers.AWQConfig, *x, group_size=4),
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_every_zero_stays(mode, rng):
    model, structure = stripped(rng)
    before = sos.weight_masks(model)
    sos.quantize(model, config=MODES[mode](structure, rng))
    after = sos.weight_masks(model)
    assert before.keys() == after.keys()
    for name, mask in before.items():
        assert after[name].shape == mask.shape
        assert not (after[name] & ~mask).any(), name
        # What is small may be rounded to zero.
        assert after[name].sum() > 0.6 * mask.sum()
    # What the report counts is what inference multiplies with.
    block = structure["sequential_blocks"][0]
    kernel = outputs_of(block.query, np.eye(WIDTH, dtype="float32")[None])[0]
    reported = next(m for n, m in after.items() if n.endswith("query/kernel"))
    np.testing.assert_array_equal(kernel != 0, reported)


@pytest.mark.slow
def test_gptq_and_awq_hear_the_data(rng, monkeypatch):
    """As far as Keras's own hooks go, they hear nothing."""
    heard = []

    def listening(weights, inv_hessian, **options):
        heard.append(to_numpy(inv_hessian))
        return masked_gptq(weights, inv_hessian, **options)

    monkeypatch.setattr(conversion, "masked_gptq", listening)
    model, structure = stripped(rng)
    sos.quantize(model, config=MODES["gptq"](structure, rng))
    assert len(heard) == 8
    for inverse in heard:
        # Without data it would be a multiple of the identity.
        assert np.abs(inverse - np.diag(np.diag(inverse))).max() > 1e-6

    model, structure = stripped(rng)
    sos.quantize(model, config=MODES["awq"](structure, rng))
    assert np.ptp(to_numpy(structure["sequential_blocks"][0].up.awq_scales)) > 0


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
def test_a_hessian_that_is_not_positive_definite_is_refused(rng):
    with pytest.raises(ValueError, match=r"not positive definite.*hessian_damping"):
        masked_gptq(
            rng.normal(size=(2, 2)),
            np.array([[1.0, 2.0], [2.0, 1.0]]),
            compute_scale_zero=lambda _: None,
        )
