"""Inputs and outputs of a session, checked for being what they have to be."""

from typing import NamedTuple

import numpy as np
import onnx

from state_of_sparsity.runtime.graph import ELEMENT_TYPES

_STRINGS = "tensor(string)"


class Value(NamedTuple):
    """An input or output.

    Args:
      name: of it.
      shape: sizes; a name, or None, where any size will do. None if nothing is known.
      dtype: NumPy's name of the type; of what is no tensor, ONNX Runtime's.
    """

    name: str
    shape: tuple[int | str | None, ...] | None
    dtype: str


def of_graph(infos: list[onnx.ValueInfoProto], types: dict[str, str]) -> list[Value]:
    """The values that a graph describes.

    Args:
      infos: the graph's.
      types: by name, as ONNX Runtime writes them.
    """
    return [Value(info.name, _shape(info), _dtype(types[info.name])) for info in infos]


def _shape(info: onnx.ValueInfoProto):
    kind = info.type.tensor_type
    if not info.type.HasField("tensor_type") or not kind.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
        for dim in kind.shape.dim
    )


def _dtype(kind: str) -> str:
    if kind == _STRINGS:
        return "object"
    if kind not in ELEMENT_TYPES:
        return kind
    return onnx.helper.tensor_dtype_to_np_dtype(ELEMENT_TYPES[kind]).name


def checked(values: list[Value], inputs) -> dict[str, np.ndarray]:
    """Inputs by name, as C-contiguous arrays in the order of the model's.

    Args:
      values: the model's.
      inputs: a dictionary by name, a sequence, or an array.

    Raises:
      TypeError: for arrays of other types.
      ValueError: for names, numbers or shapes that are not the model's.
    """
    names = [value.name for value in values]
    if not isinstance(inputs, dict):
        listed = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        if len(listed) != len(names):
            raise ValueError(
                f"The model takes {len(names)} inputs, {names}. Received: {len(listed)}"
            )
        inputs = dict(zip(names, listed, strict=True))
    if set(inputs) != set(names):
        raise ValueError(f"The inputs are {names}. Received: {list(inputs)}")
    return {value.name: _array(value, inputs[value.name]) for value in values}


def _array(value: Value, given):
    if "(" in value.dtype:
        return given
    array = np.asarray(given)
    if value.dtype == "object":
        array = array.astype(object)
    if array.dtype != value.dtype:
        raise TypeError(
            f"The input {value.name!r} has to be of type {value.dtype}. "
            f"Received: {array.dtype}"
        )
    if value.shape is not None and not _fits(array.shape, value.shape):
        raise ValueError(
            f"The input {value.name!r} has to be of shape {value.shape}. "
            f"Received: {array.shape}"
        )
    # Which makes a vector of a scalar.
    return np.ascontiguousarray(array).reshape(array.shape)


def _fits(shape, wanted) -> bool:
    return len(shape) == len(wanted) and all(
        size == known or not isinstance(known, int)
        for size, known in zip(shape, wanted, strict=True)
    )


def first_inputs(values: list[Value]) -> dict[str, np.ndarray] | None:
    """Zeros of the only shapes that there are, but for a batch, which is 1.

    Returns:
      Arrays by name, or None if more than the first size of an input is open.
    """
    found = {}
    for value in values:
        if value.dtype == "object" or "(" in value.dtype or not value.shape:
            return None
        batch, *sizes = value.shape
        if not all(isinstance(size, int) for size in sizes):
            return None
        batch = batch if isinstance(batch, int) else 1
        found[value.name] = np.zeros((batch, *sizes), value.dtype)
    return found or None
