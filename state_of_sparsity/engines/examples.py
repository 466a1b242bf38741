"""Examples to compute with, and whether what comes out is the same."""

import keras
import numpy as np

# Examples in a batch, and what stands for lengths that are undefined.
_BATCH, _LENGTH = 2, 32


def example(specs):
    """Random values in the structure of specs, and by the names that these have."""
    rng, names = np.random.default_rng(0), {}

    def values(spec):
        batch, *lengths = tuple(spec.shape)
        shape = (batch or _BATCH, *(length or _LENGTH for length in lengths))
        dtype = keras.backend.standardize_dtype(spec.dtype)
        if dtype == "string":
            array = np.full(shape, "a")
        elif "float" in dtype:
            array = rng.random(shape).astype(dtype)
        else:
            array = rng.integers(0, 2, shape).astype(dtype)
        names[spec.name] = array
        return array

    inputs = keras.tree.map_structure(values, specs)
    return inputs, names | (inputs if isinstance(inputs, dict) else {})


def close(expected: np.ndarray, found: np.ndarray, tolerance: float) -> bool:
    """Whether outputs are the same but for a share of the largest one.

    Of integers, only shapes are compared.
    """
    if expected.shape != found.shape:
        return False
    if "float" not in expected.dtype.name:
        return True
    expected, found = expected.astype("float64"), found.astype("float64")
    scale = np.abs(expected).max(initial=0, where=np.isfinite(expected))
    return np.allclose(expected, found, 0, tolerance * scale, equal_nan=True)
