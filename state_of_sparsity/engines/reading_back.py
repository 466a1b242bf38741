"""Exports, read back and run on an example before they are theirs who asked."""

import textwrap
import warnings

import keras
import numpy as np

from state_of_sparsity.engines import engine_of, is_of_tf_keras
from state_of_sparsity.engines.examples import close, example

# As a share of the largest output: half precision and another order of sums.
_TOLERANCE = 0.02


def check(format, model, path, exact: bool) -> None:
    """Runs a file on an example, in its runtime, if that is installed.

    Not checked is a model of which lengths are undefined, but the batch's, since nobody
    knows which ones it takes, and one that cannot compute an example of random values.

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
    specs = _specs(model)
    if any(None in tuple(spec.shape)[1:] for spec in keras.tree.flatten(specs)):
        return
    inputs, names = example(specs)
    try:
        expected = engine_of(model).outputs(model, inputs)
    except Exception:  # Of the model: anything.
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
    if len(found) == len(expected):
        same = all(map(_close, expected, found))
    else:
        same = all(any(_close(a, b) for b in found) for a in expected)
    if exact and not same:
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


def _close(expected, found):
    return close(expected, found, _TOLERANCE)
