"""ONNX graphs as ONNX Runtime simplifies them, and what flows in them."""

import math
import os
import pathlib
import tempfile

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper

from state_of_sparsity.runtime import files, squeezes
from state_of_sparsity.runtime.graphs import reads
from state_of_sparsity.runtime.weights import Table, Weights

# Types of tensors of numbers, as ONNX Runtime writes them.
ELEMENT_TYPES = {
    "tensor(float)": TensorProto.FLOAT,
    "tensor(double)": TensorProto.DOUBLE,
    "tensor(float16)": TensorProto.FLOAT16,
    "tensor(bool)": TensorProto.BOOL,
    "tensor(int8)": TensorProto.INT8,
    "tensor(int16)": TensorProto.INT16,
    "tensor(int32)": TensorProto.INT32,
    "tensor(int64)": TensorProto.INT64,
    "tensor(uint8)": TensorProto.UINT8,
    "tensor(uint16)": TensorProto.UINT16,
    "tensor(uint32)": TensorProto.UINT32,
    "tensor(uint64)": TensorProto.UINT64,
}
_LEVEL = onnxruntime.GraphOptimizationLevel
# What a protocol buffer holds.
_MOST_BYTES = 2**31 - 1
# Weights from this size on are not part of the graphs that sessions are made of.
_LARGE_BYTES = 2**12


class Graph:
    """A simplified graph: constants folded, batch normalization in its convolution.

    Args:
      model: as `load_model` gives it.

    Attributes:
      nodes: in topological order.
      weights: `Weights`, by name, NumPy arrays.
      inputs, outputs: `onnx.ValueInfoProto`, without the weights.
      producers: by the name of a value, the number of the node that computes it.
      users: by the name of a value, the numbers of the nodes that read it, one for each
        time that they do.
      types: by the name of a value, its type as ONNX Runtime writes it, such as
        "tensor(float)".

    Raises:
      ValueError: for weights that are NaN, or a graph that ONNX Runtime cannot run.
    """

    def __init__(self, model: onnx.ModelProto):
        model = _simplified(model)
        if squeezes.sink(model.graph):
            model = _simplified(model)
        self.weights = Weights(
            {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
        )
        for name, weight in self.weights.items():
            _check_numbers(name, weight)
        self._large = {
            name: _value_of(weight)
            for name, weight in self.weights.items()
            if weight.nbytes >= _LARGE_BYTES and weight.dtype == np.float32
        }
        for tensor in model.graph.initializer:
            if tensor.name in self._large:
                _leave_out_numbers(tensor)
        # A message keeps the memory of what is cleared, and a copy has none of it.
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        graph = self._model.graph
        self.nodes = list(graph.node)
        self.inputs = [info for info in graph.input if info.name not in self.weights]
        self.outputs = list(graph.output)
        self.types = self._types()
        self.producers, self.users = {}, {}
        for number, node in enumerate(self.nodes):
            for name in node.output:
                self.producers[name] = number
            for name in reads(node):
                self.users.setdefault(name, []).append(number)

    def start_part(self, numbers, inputs, outputs, options=None):
        """ONNX Runtime's session of some of the nodes.

        Args:
          numbers: of the nodes, in ascending order.
          inputs, outputs: names of the values that go in and come out.
          options: `onnxruntime.SessionOptions`, or None.
        """
        nodes = [self.nodes[number] for number in numbers]
        needed = {name for node in nodes for name in reads(node)} | set(outputs)
        initializers = [w for w in self._model.graph.initializer if w.name in needed]
        graph = onnx.helper.make_graph(
            nodes,
            "part",
            [self.value(name) for name in inputs],
            [self.value(name) for name in outputs],
            initializers,
        )
        part = onnx.ModelProto()
        part.CopyFrom(onnx.helper.make_model(graph))
        part.ir_version = self._model.ir_version
        del part.opset_import[:]
        part.opset_import.extend(self._model.opset_import)
        part.functions.extend(self._model.functions)
        return self._start(part, options)

    def start_whole(self, options=None, extra: list[str] = ()):
        """ONNX Runtime's session of all nodes, with more values among the outputs."""
        return self._start(self._with_outputs(map(self.value, extra)), options)

    def _with_outputs(self, extra):
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        model.graph.output.extend(extra)
        return model

    def _start(self, model, options=None):
        """A session, which takes large weights from memory and not from the model."""
        options = options or onnxruntime.SessionOptions()
        there = {tensor.name for tensor in model.graph.initializer}
        large = {
            name: _value_of(self.weights[name]) if value is None else value
            for name, value in self._large.items()
            if name in there
        }
        options.add_external_initializers(list(large), list(large.values()))
        # Which copies them: those that were packed are needed no longer.
        return start(model, options)

    def pack(self, name: str, table: Table) -> None:
        """Keeps a weight without its zeros; a session that reads it has a dense one."""
        self.weights.pack(name, table)
        if name in self._large:
            self._large[name] = None

    def is_tensor(self, name: str) -> bool:
        """Whether a value is a tensor of numbers."""
        return self.types.get(name) in ELEMENT_TYPES

    def _types(self) -> dict[str, str]:
        computed = {name for node in self.nodes for name in node.output if name}
        computed -= {info.name for info in self.outputs}
        model = self._with_outputs(
            onnx.ValueInfoProto(name=name) for name in sorted(computed)
        )
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = _LEVEL.ORT_DISABLE_ALL
        session = self._start(model, options)
        values = [*session.get_inputs(), *session.get_outputs()]
        return {value.name: value.type for value in values}

    def value(self, name: str) -> onnx.ValueInfoProto:
        """A value with its type, and no shape: that differs from call to call."""
        return onnx.helper.make_tensor_value_info(
            name, ELEMENT_TYPES[self.types[name]], None
        )


def load_model(source: str | os.PathLike | onnx.ModelProto) -> onnx.ModelProto:
    """A model from an ONNX file, checked as far as its structure goes.

    Raises:
      FileNotFoundError: if there is no file.
      TypeError: for something that is neither a path nor a model.
      ValueError: if the file is not an ONNX model.
    """
    if isinstance(source, onnx.ModelProto):
        return source
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            "A session takes the path of an ONNX file, or an onnx.ModelProto. "
            f"Received: {type(source).__name__}"
        )
    path = pathlib.Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"There is no model file at {str(path)!r}.")
    if files.is_sparse_file(path):
        return files.read(path)
    try:
        model = onnx.load(path)
    except Exception as error:
        raise ValueError(
            f"The file is not a whole ONNX model: {error}. Received: {str(path)!r}"
        ) from error
    if not model.graph.node and not model.graph.output:
        raise ValueError(f"The file is not an ONNX model. Received: {str(path)!r}")
    return model


def start(model: onnx.ModelProto, options=None) -> onnxruntime.InferenceSession:
    """ONNX Runtime's session of a model.

    Raises:
      ValueError: if it cannot run the model, with its reason.
    """
    options = options or onnxruntime.SessionOptions()
    # What it warns of is what users did not write: the parts of a graph that was cut.
    options.log_severity_level = 3
    try:
        if model.ByteSize() < _MOST_BYTES:
            return onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.onnx")
            onnx.save(model, path, save_as_external_data=True)
            return onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"ONNX Runtime cannot run the model: {reason}") from error


def _simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "simple.onnx")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = _LEVEL.ORT_ENABLE_BASIC
        options.optimized_model_filepath = path
        entry = "session.optimized_model_external_initializers_file_name"
        options.add_session_config_entry(entry, "weights.bin")
        start(model, options)
        return onnx.load(path)


def _value_of(weight: np.ndarray) -> onnxruntime.OrtValue:
    """A weight for sessions, in the memory of the array, which it holds."""
    return onnxruntime.OrtValue.ortvalue_from_numpy(weight)


def _leave_out_numbers(tensor: onnx.TensorProto) -> None:
    """Has a graph say that the numbers of a weight are elsewhere."""
    for field in ("raw_data", "float_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    tensor.external_data.add(key="location", value="memory")


def _check_numbers(name: str, weight: np.ndarray) -> None:
    if weight.dtype.kind == "f" and np.isnan(weight).any():
        count = math.prod(weight.shape) - np.count_nonzero(weight == weight)
        raise ValueError(
            f"Weights have to be numbers. Train the model anew, or without the update "
            f"that broke it. Received: {count} NaN in {name!r}"
        )
