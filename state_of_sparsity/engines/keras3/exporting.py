"""Export of plain Keras 3 models by `keras.Model.export`, for batches of any size."""

import contextlib
import os
import textwrap
from collections.abc import Iterator

import keras


def export(model: keras.Model, path: str | os.PathLike, format: str, **options) -> None:
    """Writes a format of `keras.Model.export`, with further options of that.

    Raises:
      ValueError: for a model that is not built.
      RuntimeError: if the backend cannot express it.
    """
    inputs = signature(model)
    with refusing(format):
        path = os.fspath(path)
        options |= {"verbose": False, "input_signature": inputs}
        model.export(path, format=format, **options)


@contextlib.contextmanager
def refusing(format: str) -> Iterator[None]:
    """Turns what goes wrong in a backend into an error that says what to try."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise RuntimeError(
            f"The {keras.backend.backend()} backend cannot write this model as "
            f"{format}. Recurrent layers may need `unroll=True`; or try another "
            f"backend or format. Received: {textwrap.shorten(str(error), 400)}"
        ) from error


def check_lengths(model: keras.Model) -> None:
    """Raises ValueError for undefined lengths, but the batch's, that torch would fix.

    Keras's layers compute paddings and count steps in Python, and a graph for another
    runtime would keep those of the example that it is made from.
    """
    if keras.backend.backend() != "torch":
        return
    for spec in keras.tree.flatten(signature(model)):
        if None in spec.shape[1:]:
            raise ValueError(
                "For this format, the torch backend needs inputs whose lengths are all "
                f"defined but the batch's: define them. Received: {spec.shape}"
            )


def signature(model: keras.Model) -> list:
    """The model's one argument as input specs, with an undefined batch."""
    if model.built and hasattr(model, "inputs"):
        sequential = isinstance(model, keras.Sequential)
        inputs = model.inputs[0] if sequential else model.input
        return [
            keras.tree.map_structure(lambda x: _spec(x.shape, x.dtype, x.name), inputs)
        ]
    shapes = (model.get_build_config() or {}).get("input_shape")
    if shapes is None:
        raise ValueError(f"Call the model once on one argument. Received: {model}")
    return [_specs(shapes, model.input_dtype)]


def _specs(shapes, dtype: str):
    """Specs in plain containers: Keras's own, which shapes come in, JAX refuses."""
    if isinstance(shapes, dict):
        return {name: _specs(shape, dtype) for name, shape in shapes.items()}
    if all(isinstance(size, int | None) for size in shapes):
        return _spec(shapes, dtype)
    return [_specs(shape, dtype) for shape in shapes]


def _spec(shape, dtype: str, name: str | None = None) -> keras.InputSpec:
    return keras.InputSpec(dtype, (None, *shape[1:]), name=name)
