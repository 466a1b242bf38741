"""Tensors that are stored are the same again, in about as many bytes as they inform."""

import itertools

import numpy as np
import pytest

from state_of_sparsity.runtime import encodings

SHAPE = (64, 300)


def sparse(rng, sparsity, shape=SHAPE):
    weights = rng.normal(size=shape).astype("float32")
    return np.where(rng.random(shape) < sparsity, np.float32(0), weights)


def again(encoded, shape, dtype="float32"):
    dtype = np.dtype(dtype)
    return np.frombuffer(
        encodings.decode(encoded, shape, dtype.itemsize), dtype
    ).reshape(shape)


def entropy(share):
    """Bits of a coin that falls on one side with this probability."""
    sides = np.array([share, 1 - share])
    return -(sides * np.log2(sides)).sum()


@pytest.mark.parametrize("sparsity", [0, 0.3, 0.9, 0.999, 1])
def test_floats_have_the_same_bits_again(rng, sparsity):
    weights = sparse(rng, sparsity)
    encoded = encodings.encode(weights)
    assert again(encoded, SHAPE).tobytes() == weights.tobytes()


@pytest.mark.parametrize("mask", ["bits", "gaps"])
def test_every_mask_gives_the_same_bits_again(rng, mask, monkeypatch):
    masks = {name: m for name, m in encodings._MASKS.items() if name == mask}
    monkeypatch.setattr(encodings, "_MASKS", masks)
    for sparsity in (0.01, 0.5, 0.999, 1):
        weights = sparse(rng, sparsity, (7, 911))
        encoded = encodings.encode(weights)
        # All numbers are stored where that is smaller.
        assert encoded.mask in (mask, "dense")
        assert again(encoded, (7, 911)).tobytes() == weights.tobytes()


def test_minus_zero_subnormal_numbers_and_payloads_of_nan_survive():
    bits = np.zeros(1000, np.uint32)
    bits[::7] = np.resize(
        # -0.0, the smallest numbers, infinities, quiet and signalling NaNs.
        [0x80000000, 1, 0x80000001, 0x7F800000, 0xFF800000, 0x7FC12345, 0x7F812345],
        bits[::7].size,
    )
    weights = bits.view(np.float32)
    encoded = encodings.encode(weights)
    assert encoded.mask != "dense"
    assert again(encoded, (1000,), np.uint32).tolist() == bits.tolist()


@pytest.mark.parametrize("dtype", ["int8", "bool", "float16", "int32", "int64", "f8"])
@pytest.mark.parametrize("shape", [(), (1,), (0, 4), (3, 5, 7)])
def test_every_type_and_shape_is_the_same_again(rng, dtype, shape):
    tensor = np.asarray(rng.integers(-2, 3, shape)).astype(dtype)
    assert again(encodings.encode(tensor), shape, dtype).tobytes() == tensor.tobytes()


@pytest.mark.parametrize("gap", [0, 254, 255, 256, 510, 1020])
def test_gaps_of_any_length_are_the_same_again(gap):
    kept = np.zeros(4000, bool)
    kept[[gap, 2 * gap + 1, 3999]] = True
    data = encodings._gaps(kept)
    assert encodings._from_gaps(data, 4000).tolist() == np.flatnonzero(kept).tolist()
    assert len(data) <= encodings._MASKS["gaps"].most(4000)


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.98])
def test_masks_at_random_come_near_their_entropy(rng, sparsity):
    shape = (512, 512)
    kept = rng.random(shape) >= sparsity
    encoded = encodings.encode(kept.astype("float32"))
    bound = kept.size * entropy(kept.mean()) / 8
    # At a half there is nothing to gain, and gaps come with their own bytes.
    assert bound < len(encoded.parts["mask"]) < 1.02 * bound + 100


def test_exponents_are_compressed_and_mantissas_not_made_longer(rng):
    weights = rng.normal(0, 0.02, (400, 500)).astype("float32")
    parts = encodings.encode(weights).parts
    top = weights.view(np.uint32).ravel() >> 24
    shares = np.unique(top, return_counts=True)[1] / top.size
    bound = weights.size * (3 - (shares * np.log2(shares)).sum() / 8)
    assert bound < len(parts["values"]) < 1.01 * bound


def test_the_smallest_mask_is_taken(rng):
    taken = [encodings.encode(sparse(rng, s)).mask for s in (0, 0.45, 0.95)]
    assert taken == ["dense", "bits", "gaps"]


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_int8_is_within_half_a_step_of_each_channel(rng, axes):
    shape = (6, 20, 10)
    weights = sparse(rng, 0.7, shape) * rng.uniform(0.1, 10, (6, 1, 10))
    weights = weights.astype("float32")
    read = again(encodings.encode(weights, "int8", axes), shape)
    assert (read[weights == 0] == 0).all()
    for place in itertools.product(*(range(shape[axis]) for axis in axes)):
        channel = [slice(None)] * 3
        for axis, index in zip(axes, place, strict=True):
            channel[axis] = index
        channel = tuple(channel)
        step = np.abs(weights[channel].astype("float64")).max() / 127
        assert np.abs(read[channel] - weights[channel]).max() <= step / 2 * (1 + 1e-4)


def test_int8_rounds_to_zero_what_is_below_half_a_step():
    weights = np.array([[127.0, 0.49, 0.51, -0.49, 0.0, -0.0]], "float32")
    read = again(encodings.encode(weights, "int8", (0,)), (1, 6))
    assert read.tolist() == [[127, 0, 1, 0, 0, 0]]


def test_int8_of_channels_without_weights():
    weights = np.zeros((3, 4), "float32")
    weights[1] = [1, -1, 0, 0.5]
    read = again(encodings.encode(weights, "int8", (0,)), (3, 4))
    assert (read[[0, 2]] == 0).all()
    assert np.abs(read - weights).max() <= 0.5 / 127 + 1e-6


def test_float16_is_rounded_as_numpy_rounds(rng):
    weights = sparse(rng, 0.9)
    read = again(encodings.encode(weights, "float16"), SHAPE)
    assert read.tobytes() == weights.astype("float16").astype("float32").tobytes()


@pytest.mark.parametrize(
    ("values", "weight", "message"),
    [
        ("float16", 70000, "more than float16 holds: choose values='float32'"),
        ("float16", np.nan, "float16"),
        ("int8", np.nan, "not finite"),
        ("int8", -np.inf, "not finite"),
    ],
)
def test_weights_that_cannot_be_rounded_are_refused(values, weight, message):
    with pytest.raises(ValueError, match=message):
        encodings.encode(np.full((2, 2), weight, "float32"), values, (0,))


def test_no_more_is_decompressed_than_expected():
    bomb = encodings.pack(bytes(2**24))
    assert len(bomb) < 2000
    with pytest.raises(ValueError, match="more than 10 bytes"):
        encodings.unpack(bomb, 10)
    with pytest.raises(ValueError, match="16777216 bytes where 16777217"):
        encodings.unpack(bomb, 2**24 + 1)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (("gaps", b"\x00\xff"), "ends within a gap"),
        (("gaps", b"\xff\x00"), "after the last of 200"),
        (("bits", bytes(24)), "24 bytes for 200"),
        (("bits", bytes(26)), "more than 25"),
    ],
)
def test_masks_that_do_not_fit_are_errors(mask, message):
    name, data = mask
    parts = {"mask": encodings.pack(data), "values": encodings.pack(b"")}
    with pytest.raises(ValueError, match=message):
        encodings.decode(encodings.Encoded(name, "exact", (), parts), (200,), 4)


def test_bits_after_the_last_weight_are_an_error():
    with pytest.raises(ValueError, match="after the last weight"):
        encodings._from_bits(b"\x01", 7)
