"""Exports, read back and run on an example before they are theirs who asked."""

import textwrap
import warnings

import keras
import numpy as np

from state_of_sparsity.engines import is_of_tf_keras

# Of an example: examples in a batch, and what stands for lengths that are undefined.
_BATCH, _LENGTH = 2, 32
# As a share of the largest output: half precision and another order of sums.
_TOLERANCE = 0.02


def check(format, model, path, exact: bool) -> None:
    """Runs a file on an example, in its runtime, if that is installed.

    A model that cannot compute an example of random values is not checked.

    Args:
      format: a `Format`.
      model: the plain model of which it was written.
      path: of the file.
      exact: whether its values are those of the model, not rounded.

    Raises:
      RuntimeError: if the runtime does not compute it, or inputs or outputs are others.

    Warns:
      UserWarning: if the outputs are others than the model's.
    """
    inputs, names = _example(_specs(model))
    try:
        outputs = keras.tree.flatten(model(inputs, training=False))
        expected = [keras.ops.convert_to_numpy(x) for x in outputs]
    except Exception:
        return
    try:
        found = [np.asarray(x) for x in format.run(path, inputs, names)]
    except ImportError:
        return
    except Exception as error:
        raise RuntimeError(
            f"The {format.name} file of model {model.name!r} does not run: "
            f"{textwrap.shorten(str(error), 400)}. Try another format."
        ) from error
    shapes, theirs = ([x.shape for x in outputs] for outputs in (expected, found))
    # Of OpenVINO's files, what some layers compute within is an output, too.
    if not set(shapes) <= set(theirs):
        raise RuntimeError(
            f"The {format.name} file of model {model.name!r} gives outputs of {theirs} "
            f"where the model gives {shapes}. Try another format."
        )
    if exact and not all(any(_close(a, b) for b in found) for a in expected):
        warnings.warn(
            f"The {format.name} file of model {model.name!r} gives other outputs than "
            "the model for a random example: compare them for an example of yours.",
            stacklevel=4,
        )


def _specs(model):
    if is_of_tf_keras(model):
        from state_of_sparsity.engines.tf_keras.saved_model import served_signature

        return served_signature(model)
    from state_of_sparsity.engines.keras3 import exporting

    return exporting.signature(model)[0]


def _example(specs):
    """Random values in the structure of specs, and by the names that these have."""
    rng, names = np.random.default_rng(0), {}

    def values(spec):
        shape = (_BATCH, *(size or _LENGTH for size in tuple(spec.shape)[1:]))
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


def _close(expected, found):
    if expected.shape != found.shape:
        return False
    if "float" not in expected.dtype.name:
        return True
    scale = np.abs(expected).max(initial=0, where=np.isfinite(expected))
    return np.allclose(expected, found, 0, _TOLERANCE * scale, equal_nan=True)
