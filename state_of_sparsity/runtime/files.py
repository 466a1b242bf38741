"""ONNX models in files that are as small as their weights are sparse.

A file is a safetensors container: parts of bytes under a header of JSON. One part is
the ONNX graph, the others are tensors, each in the smallest of several encodings. See
`docs/sparse_format.md`.
"""

import hashlib
import json
import math
import os
import pathlib

import google.protobuf.message
import numpy as np
import onnx
import safetensors.numpy
import zstandard
from onnx import TensorProto

from state_of_sparsity.atomic import replacing
from state_of_sparsity.runtime import encodings, graphs

VERSION = 1
# By the name under which users know them.
VALUES = {"float32": "exact", "float16": "float16", "int8": "int8"}
_KEY = "state_of_sparsity"
_GRAPH = "graph"
_PADDING = "padding"
# Tensors below this many bytes stay in the graph: their entry would take as many.
_SMALL = 1024
# A reader never takes more memory than that for each byte of a file. All but empty
# files have to be padded for it.
_LARGEST_FACTOR = 1024
# Of tensors: protocol buffers hold 2 GB, and the graph takes its part.
_LARGEST_ONNX = 2**31 - 2**24
_DAMAGE = (
    AttributeError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    google.protobuf.message.DecodeError,
    safetensors.SafetensorError,
    zstandard.ZstdError,
)


class RuntimeFileError(ValueError):
    """A file is damaged, is of another kind, or is of a later version."""


def write(
    model: onnx.ModelProto,
    path: str | os.PathLike,
    values: str = "float32",
    signed_zeros: bool = True,
) -> None:
    """Writes an ONNX model without its zeros, complete or not at all.

    Args:
      model: all tensors inside, as `onnx.load` gives it.
      path: the file to write. What is there is replaced.
      values: how the weights of convolutions, products of matrices, recurrences and
        lookups are stored: "float32" with the same bits, "float16" rounded, or "int8"
        rounded to multiples of `max |w| / 127` of each output channel. Zeros stay zero,
        and all other tensors keep their bits.
      signed_zeros: whether -0.0 among these weights is stored, as any number. It is
        what a mask leaves of a negative weight that it is multiplied with: without
        them, files are a fraction, and outputs differ in the signs of zeros at most.

    Raises:
      TypeError: for something that is no ONNX model.
      ValueError: for other `values`, a model whose tensors are in further files, or a
        weight that is too large or not finite where it is to be rounded, naming it.
    """
    if values not in VALUES:
        raise ValueError(f"values must be one of {list(VALUES)}. Received: {values!r}")
    if not isinstance(model, onnx.ModelProto):
        raise TypeError(f"model must be an onnx.ModelProto. Received: {type(model)}")
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    entries, parts = _taken_out(rest, VALUES[values], signed_zeros)
    parts[_GRAPH] = encodings.pack(rest.SerializeToString(deterministic=True), True)
    decoded = rest.ByteSize() + sum(map(_bytes_of, entries))
    missing = decoded // _LARGEST_FACTOR + 1 - sum(map(len, parts.values()))
    if missing > 0:
        parts[_PADDING] = bytes(missing)
    content = {"decoded": decoded, "tensors": entries, "version": VERSION}
    header = content | {"sha256": _digest(content, parts)}
    arrays = {name: np.frombuffer(part, np.uint8) for name, part in parts.items()}
    with replacing(pathlib.Path(path)) as new:
        metadata = {_KEY: json.dumps(header, separators=(",", ":"))}
        safetensors.numpy.save_file(arrays, new, metadata)


def read(path: str | os.PathLike) -> onnx.ModelProto:
    """The dense model of a file that `write` wrote, all tensors inside.

    Raises:
      FileNotFoundError, PermissionError, IsADirectoryError: as `open` does.
      RuntimeFileError: for a file that is damaged, of another kind, or of a later
        version.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
    try:
        header, parts = _opened(path, size)
        return _model(header, parts)
    except RuntimeFileError:
        raise
    except _DAMAGE as error:
        raise RuntimeFileError(
            f"{os.fspath(path)!r} is damaged: {error}. Export the model again."
        ) from error


def is_sparse_file(path: str | os.PathLike) -> bool:
    """Whether a file begins as those of `write` do, and no ONNX file does."""
    with open(path, "rb") as file:
        start = file.read(9)
    return start[4:] == b"\0\0\0\0{"


def to_onnx(path: str | os.PathLike, out: str | os.PathLike) -> None:
    """Writes the dense model of a sparse file as plain ONNX.

    Args:
      path: what `write` or `sos.export(..., format="sparse")` wrote.
      out: the file to write. What is there is replaced.

    Raises:
      RuntimeFileError: as `read`.
      ValueError: if the dense model is larger than the 2 GB of an ONNX file.
    """
    model = read(path)
    # What is larger cannot be asked for its `ByteSize`.
    size = sum(len(tensor.raw_data) for tensor in graphs.tensors(model))
    if size > _LARGEST_ONNX:
        raise ValueError(
            f"{os.fspath(path)!r} is {size / 1e9:.1f} GB when dense, and an ONNX file "
            "holds 2: write what `sos.runtime.read` gives with "
            "`onnx.save(..., save_as_external_data=True)`."
        )
    with replacing(pathlib.Path(out)) as new:
        new.write_bytes(model.SerializeToString())


def _taken_out(model, values, signed_zeros):
    """Takes the larger tensors out of a model: their entries, and parts by name."""
    entries, parts = [], {}
    weights = graphs.weights(model)
    for tensor in graphs.tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            raise ValueError(
                f"Tensor {tensor.name!r} is in a file of its own: load the model with "
                "onnx.load, which reads it."
            )
        itemsize = graphs.ITEM_SIZES.get(tensor.data_type, 0)
        if math.prod(tensor.dims) * itemsize < _SMALL:
            continue
        array = _array(tensor, itemsize)
        _, axes = weights.get(id(tensor), (tensor, ()))
        if axes and not signed_zeros:
            array = np.where(array == 0, np.float32(0), array)
        try:
            encoded = encodings.encode(array, values if axes else "exact", axes)
        except ValueError as error:
            raise ValueError(f"Tensor {tensor.name!r}: {error}.") from error
        for name, part in encoded.parts.items():
            parts[f"{len(entries)}.{name}"] = part
        entries.append(
            {
                "name": tensor.name,
                "dtype": TensorProto.DataType.Name(tensor.data_type),
                "shape": list(tensor.dims),
                "mask": encoded.mask,
                "values": encoded.values,
                "axes": list(encoded.axes),
            }
        )
        _make_stub(tensor, len(entries) - 1)
    return entries, parts


def _array(tensor, itemsize):
    dtype = "<f4" if tensor.data_type == TensorProto.FLOAT else f"<u{itemsize}"
    # As they are: of what NumPy has no type for, and of what no number stands for.
    if tensor.HasField("raw_data"):
        data = tensor.raw_data
    else:
        data = onnx.numpy_helper.to_array(tensor).tobytes()
    if len(data) != math.prod(tensor.dims) * itemsize:
        raise ValueError(
            f"Tensor {tensor.name!r} of shape {list(tensor.dims)} has {len(data)} "
            "bytes: this is no valid ONNX model."
        )
    return np.frombuffer(data, dtype).reshape(tensor.dims)


def _make_stub(tensor, index):
    """Leaves type and shape of a tensor, and where its numbers are."""
    stub = TensorProto(
        name=tensor.name,
        doc_string=tensor.doc_string,
        data_type=tensor.data_type,
        dims=tensor.dims,
        data_location=TensorProto.EXTERNAL,
    )
    stub.external_data.add(key="location", value=str(index))
    tensor.CopyFrom(stub)


def _opened(path, size):
    """The header of a file and its parts, which are as they were written."""
    name = os.fspath(path)
    try:
        with safetensors.safe_open(name, framework="numpy") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            version = header["version"]
            if version == VERSION:
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except _DAMAGE as error:
        raise RuntimeFileError(
            f"{name!r} is no sparse model of this library, or it is damaged: {error}."
        ) from error
    if version != VERSION:
        raise RuntimeFileError(
            f"{name!r} is of version {version!r} of the format, and this library reads "
            f"{VERSION}: update state-of-sparsity."
        )
    if any(array.dtype != np.uint8 for array in arrays.values()):
        raise ValueError("parts have to be of type U8")
    parts = {key: array.tobytes() for key, array in arrays.items()}
    digest = header.pop("sha256")
    if digest != _digest(header, parts):
        raise ValueError("its checksum is another")
    if not 0 <= header["decoded"] <= _LARGEST_FACTOR * size:
        raise ValueError(f"{size} bytes stand for {header['decoded']}")
    return header, parts


def _digest(content, parts):
    """SHA-256 of all that is in a file, as hexadecimal digits."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode())
    for name in sorted(parts):
        digest.update(f"\n{name} {len(parts[name])}\n".encode())
        digest.update(parts[name])
    return digest.hexdigest()


def _model(header, parts):
    """The dense model, once its size is known to be as declared."""
    entries = header["tensors"]
    tensor_bytes = sum(map(_bytes_of, entries))
    graph_bytes = header["decoded"] - tensor_bytes
    if graph_bytes < 0:
        raise ValueError(f"tensors have {tensor_bytes} bytes of {header['decoded']}")
    model = onnx.ModelProto()
    model.ParseFromString(encodings.unpack(parts.pop(_GRAPH), graph_bytes))
    parts.pop(_PADDING, None)
    filled = set()
    for tensor in graphs.tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            index = _index(tensor, entries)
            _fill(tensor, entries[index], _parts_of(index, parts))
            filled.add(index)
    if parts or len(filled) != len(entries):
        raise ValueError("the graph does not use all tensors, or some part is unknown")
    return model


def _bytes_of(entry):
    """What a tensor takes when it is dense."""
    shape = entry["shape"]
    if not all(isinstance(length, int) and length > 0 for length in shape):
        raise ValueError(f"a tensor has the shape {shape}")
    return (
        math.prod(shape) * graphs.ITEM_SIZES[TensorProto.DataType.Value(entry["dtype"])]
    )


def _index(tensor, entries):
    index = int({each.key: each.value for each in tensor.external_data}["location"])
    entry = entries[index] if 0 <= index < len(entries) else None
    if entry is None or list(tensor.dims) != entry["shape"]:
        raise ValueError(f"tensor {tensor.name!r} is not in the file as in the graph")
    if TensorProto.DataType.Value(entry["dtype"]) != tensor.data_type:
        raise ValueError(f"tensor {tensor.name!r} is of another type in the graph")
    return index


def _parts_of(index, parts):
    names = [f"{index}.{name}" for name in ("mask", "values", "scales")]
    return {n.partition(".")[2]: parts.pop(n) for n in names if n in parts}


def _fill(tensor, entry, parts):
    encoded = encodings.Encoded(
        entry["mask"], entry["values"], tuple(entry["axes"]), parts
    )
    data = encodings.decode(
        encoded, tuple(tensor.dims), graphs.ITEM_SIZES[tensor.data_type]
    )
    tensor.raw_data = data
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
