"""What inference is measured on: random networks, and files of the user's."""

import dataclasses
import importlib
import os
import pathlib
import shutil
from collections.abc import Callable

import graphs
import numpy as np
import onnx

import state_of_sparsity as sos
from state_of_sparsity.runtime import graphs as tensors_of_graphs
from state_of_sparsity.runtime.files import is_sparse_file
from state_of_sparsity.runtime.graph import load_model

NETWORKS = {
    "resnet50": graphs.resnet50,
    "mobilenet": graphs.mobilenet,
    "encoder": graphs.encoder,
}


def _as_if_trained(model):
    """A model none of whose scales is 0, as some are that training begins with.

    With batch normalization in it, a kernel would be all zeros.
    """
    random = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
    return model


def _resnet50_in_keras():
    module = importlib.import_module("state_of_sparsity.models.images.resnet")
    return _as_if_trained(module.resnet(50, keras=importlib.import_module("tf_keras")))


def _mobilenet_in_keras():
    applications = importlib.import_module("tf_keras").applications
    return _as_if_trained(applications.MobileNet(weights=None))


# With weights of their own, as TensorFlow's users have them.
IN_KERAS = {"resnet50": _resnet50_in_keras, "mobilenet": _mobilenet_in_keras}


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model to measure.

    Args:
      name: of the network, or the path of the file.
      group: of those that are in one picture.
      sparsity: part of all matrices and kernels that is zero; of a random network, of
        those that are not left dense.
      model: the dense one.
      file: that the engine takes; None to write it.
      in_keras: makes the network in tf_keras; None if there is none.
    """

    name: str
    group: str
    sparsity: float
    model: onnx.ModelProto
    file: pathlib.Path | None = None
    in_keras: Callable | None = None

    @property
    def batch(self) -> int | None:
        """The size of the batch, if the model leaves it no choice."""
        sizes = [shape[0] for _, _, shape in self._values() if shape]
        return None if None in sizes or not sizes else sizes[0]

    def inputs(self, batch: int, length: int) -> dict[str, np.ndarray]:
        """Normal numbers, or ones where they are whole, by name.

        Args:
          batch: the first size, where it is open.
          length: other sizes that are open.
        """
        random, found = np.random.default_rng(1), {}
        for name, dtype, sizes in self._values():
            opened = [length if axis else batch for axis in range(len(sizes))]
            shape = [o if s is None else s for s, o in zip(sizes, opened, strict=True)]
            if dtype.kind == "f":
                found[name] = random.standard_normal(shape).astype(dtype)
            else:
                found[name] = np.ones(shape, dtype)
        return found

    def write(self, engine: str, folder: str) -> str:
        """The path of what an engine loads, after it is written to a folder."""
        if engine == "engine":
            path = os.path.join(folder, "model.sparse")
            if self.file is None:
                sos.runtime.write(self.model, path, signed_zeros=False)
            else:
                # What is tuned is kept beside it.
                shutil.copyfile(self.file, path)
        elif engine == "tensorflow":
            path = os.path.join(folder, "saved_model")
            sos.export(self.in_keras(), path)
        elif engine == "litert":
            path = os.path.join(folder, "model.tflite")
            sos.export(self.in_keras(), path, format="litert")
        else:
            path = os.path.join(folder, "model.onnx")
            onnx.save(self.model, path)
        return path

    def _values(self):
        """Names, types and sizes of the inputs; None for a size that is open."""
        graph = self.model.graph
        weights = {weight.name for weight in graph.initializer}
        for info in graph.input:
            if info.name not in weights:
                kind = info.type.tensor_type
                sizes = [
                    d.dim_value if d.HasField("dim_value") else None
                    for d in kind.shape.dim
                ]
                dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
                yield info.name, dtype, sizes


def of_random(name: str, sparsity: float) -> Subject:
    """A network of random weights.

    Args:
      name: a key of `NETWORKS`.
      sparsity: part of the weights that is zero.
    """
    model = NETWORKS[name](sparsity)
    return Subject(name, name, sparsity, model, in_keras=IN_KERAS.get(name))


def of_file(path: str) -> Subject:
    """The model of a sparse file, or of an ONNX file.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: for another file, or a model whose inputs cannot be made up.
    """
    model = load_model(path)
    for info in model.graph.input:
        kind = info.type.tensor_type
        if not kind.HasField("shape") or kind.elem_type == onnx.TensorProto.STRING:
            raise ValueError(
                "The inputs of a model have to be numbers, of a number of sizes that "
                f"is known. Received: {info.name!r} in {path}"
            )
    file = pathlib.Path(path) if is_sparse_file(path) else None
    return Subject(path, "files", _sparsity(model), model, file)


def _sparsity(model):
    """The part of zeros in all matrices and kernels."""
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in tensors_of_graphs.tensors(model)
        if len(tensor.dims) > 1 and tensor.data_type == onnx.TensorProto.FLOAT
    ]
    size = sum(weight.size for weight in weights)
    left = sum(map(np.count_nonzero, weights))
    return 1 - left / size if size else 0.0
