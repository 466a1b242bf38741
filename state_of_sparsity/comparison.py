"""Comparison of what a sparse model and its stripped copy compute."""

from state_of_sparsity.engines.examples import close, example

# As a share of the largest output: what is rounded otherwise differs less.
_TOLERANCE, _OF_HALVES = 1e-3, 0.05


def check_same_outputs(engine, sparse, plain) -> None:
    """Raises unless two models give the same outputs for a random example in inference.

    Nothing is compared where nothing says what the model is called on, or where the
    sparse model cannot compute the example.

    Raises:
      ValueError: if they differ.
    """
    try:
        inputs, _ = example(engine.input_specs(sparse))
        expected = engine.outputs(sparse, inputs)
    except Exception:  # Of the model: anything.
        return
    found = engine.outputs(plain, inputs)
    for one, other in zip(expected, found, strict=True):
        tolerance = _TOLERANCE if one.dtype.itemsize > 2 else _OF_HALVES
        if not close(one, other, tolerance):
            raise ValueError(
                f"The stripped model does not compute what model {sparse.name!r} does. "
                "Some layer reads a sparse weight of another layer, past the `call` of "
                "that one, or outputs are drawn at random. To have it all the same, "
                "pass check_outputs=False to sos.strip, and export what that gives."
            )
