"""Comparison of what a sparse model and its stripped copy compute."""

import keras
import numpy as np

# Of the largest output: what is rounded otherwise differs less, other weights by more.
_TOLERANCE = {"float16": 0.05, "bfloat16": 0.05}
# Of a dimension, but the batch, that is not known.
_LENGTH = 8


def check_same_outputs(engine, sparse, plain) -> None:
    """Raises unless two models give the same outputs for one example in inference.

    Nothing is compared where that cannot be done: if nothing says what the model is
    called on, if that is text, or if the sparse model cannot compute with an example of
    random numbers, and ones for integers.

    Raises:
      ValueError: if they differ, saying by how much.
    """
    try:
        specs = engine.input_specs(sparse)
        inputs = keras.tree.map_structure(_example, specs)
        expected = engine.outputs(sparse, inputs)
    except Exception:  # Of the model: anything.
        return
    found = engine.outputs(plain, inputs)
    for one, other in zip(expected, found, strict=True):
        _check_same(one, other, sparse.name)


def _example(spec):
    batch, *lengths = spec.shape
    shape = [batch or 1, *(length or _LENGTH for length in lengths)]
    dtype = keras.backend.standardize_dtype(spec.dtype)
    if dtype == "bool" or "int" in dtype:
        return np.ones(shape, dtype)
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def _check_same(one, other, name):
    tolerance = _TOLERANCE.get(one.dtype.name, 1e-3)
    one, other = (np.nan_to_num(x.astype("float64")) for x in (one, other))
    difference, largest = (
        np.abs(one - other).max(initial=0.0),
        np.abs(one).max(initial=0),
    )
    if difference > tolerance * largest:
        raise ValueError(
            f"The stripped model does not compute what model {name!r} does: outputs "
            f"of up to {largest:.3g} differ by up to {difference:.3g}. Some layer "
            "reads a sparse weight of another layer, past the `call` of that one, or "
            "outputs are drawn at random. To have it all the same, pass "
            "check_outputs=False to sos.strip, and export what that gives."
        )
