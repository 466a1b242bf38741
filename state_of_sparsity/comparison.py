"""Comparison of what a sparse model and its stripped copy compute."""

from state_of_sparsity.engines.examples import close, example

# As a share of the largest output: what is rounded otherwise differs less.
_TOLERANCE, _OF_HALVES = 1e-3, 0.05


def check_same_outputs(engine, sparse, plain) -> None:
    """Raises unless two models give the same outputs for a random example in inference.

    Nothing is compared where nothing says what the model is called on, where the sparse
    model cannot compute the example, or where it gives something else each time.

    Raises:
      ValueError: if they differ.
    """
    try:
        inputs, _ = example(engine.input_specs(sparse))
        expected = engine.outputs(sparse, inputs)
    except Exception:  # Of the model: anything.
        return
    if _are_close(expected, engine.outputs(plain, inputs)):
        return
    # Some models draw what they give.
    if _are_close(expected, engine.outputs(sparse, inputs)):
        raise ValueError(
            f"The stripped model does not compute what model {sparse.name!r} does. "
            "Some layer reads a sparse weight of another layer, past the `call` of "
            "that one. To have it all the same, pass check_outputs=False to sos.strip, "
            "and export what that gives."
        )


def _are_close(expected, found):
    return all(
        close(one, other, _TOLERANCE if one.dtype.itemsize > 2 else _OF_HALVES)
        for one, other in zip(expected, found, strict=True)
    )
