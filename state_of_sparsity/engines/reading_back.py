"""Exports, read back and run on an example before they are theirs who asked."""

import textwrap

import keras
import numpy as np

from state_of_sparsity.engines import engine_of, is_of_tf_keras
from state_of_sparsity.engines.examples import close, example

# As a share of the largest output: half precision and another order of sums.
_TOLERANCE = 0.02


def outputs(model) -> list[np.ndarray] | None:
    """What a plain model gives for an example of random values.

    None for a model of which lengths are undefined, but the batch's, since nobody knows
    which ones it takes, and for one that cannot compute such an example.
    """
    specs = _specs(model)
    if any(None in tuple(spec.shape)[1:] for spec in keras.tree.flatten(specs)):
        return None
    try:
        return engine_of(model).outputs(model, example(specs)[0])
    except Exception:  # Of the model: anything.
        return None


def check(format, model, path, expected: list[np.ndarray] | None) -> bool:
    """Runs a file on that example, in its runtime, if that is installed.

    Args:
      format: a `Format`.
      model: the plain model of which it was written.
      path: of the file.
      expected: the `outputs` of the model; without them, the file is not run.

    Returns:
      Whether it gives the same outputs; true for one that is not run.

    Raises:
      RuntimeError: if the runtime does not compute it, or inputs or outputs are others.
    """
    if expected is None:
        return True
    inputs, names = example(_specs(model))
    try:
        found = [np.asarray(x) for x in format.run(path, inputs, names)]
    except ImportError:
        return True
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
    if len(found) == len(expected):
        return all(map(_close, expected, found))
    return all(any(_close(a, b) for b in found) for a in expected)


def _specs(model):
    if is_of_tf_keras(model):
        from state_of_sparsity.engines.tf_keras.saved_model import served_signature

        return served_signature(model)
    from state_of_sparsity.engines.keras3 import exporting

    return exporting.signature(model)[0]


def _close(expected, found):
    return close(expected, found, _TOLERANCE)
