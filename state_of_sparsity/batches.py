"""Examples for a model, from what `fit` takes, batch by batch."""

from collections.abc import Iterator

import keras


def batches_of(engine, model, data, batch_size: int) -> Iterator[tuple]:
    """Pairs of inputs and targets, which are None where none are given.

    Args:
      engine: of the model.
      model: that is called on them.
      data: arrays in the structure of the model's inputs, or a tuple of them and of
        targets; or a dataset or a generator of batches of either.
      batch_size: of arrays.

    Raises:
      TypeError, ValueError: for no data, or data of another structure.
    """
    try:
        specs = engine.input_specs(model)
    except ValueError:
        specs = None  # The model itself will say what it cannot take.
    is_empty = True
    for batch in _split(data, batch_size):
        is_empty = False
        given = batch if isinstance(batch, tuple) else (batch,)
        inputs, targets, *_ = *given, None
        if specs is not None:
            _check_structure(model, inputs, specs)
        yield inputs, targets
    if is_empty:
        raise ValueError("data has no batch. A generator can be used once.")


def _split(data, batch_size):
    leaves = keras.tree.flatten(data)
    if hasattr(data, "shape") or isinstance(data, dict | list | tuple):
        sizes = {len(leaf) if getattr(leaf, "shape", ()) else None for leaf in leaves}
        if len(sizes) != 1 or None in sizes:
            raise ValueError(
                "data must be arrays with as many examples each, or an iterator over "
                f"batches. Received: {_shown(data)}"
            )
        for start in range(0, *sizes, batch_size):
            part = slice(start, start + batch_size)
            yield keras.tree.map_structure(lambda x, part=part: x[part], data)
        return
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        data = (data[index] for index in range(len(data)))
    if not hasattr(data, "__iter__"):
        raise TypeError(
            "data must be arrays, or a dataset or generator of batches. "
            f"Received: {data!r}"
        )
    yield from data


def _check_structure(model, batch, specs):
    expected = [tuple(spec.shape) for spec in keras.tree.flatten(specs)]
    given = [tuple(getattr(x, "shape", ())) for x in keras.tree.flatten(batch)]
    fits = len(given) == len(expected) and all(
        len(shape) == len(spec)
        and all(n in (None, m) for n, m in zip(spec[1:], shape[1:], strict=True))
        for shape, spec in zip(given, expected, strict=True)
    )
    if not fits:
        raise ValueError(
            f"A batch must have what model {model.name!r} is called on, arrays of "
            f"shapes {expected}. Received: {_shown(batch)}"
        )


def _shown(data):
    return keras.tree.map_structure(lambda x: getattr(x, "shape", x), data)
