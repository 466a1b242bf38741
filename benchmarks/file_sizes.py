"""Sizes of sparse files, as factors below dense float32, beside gzip of the dense file.

A matrix of normal weights, and the whole ResNet-50 of `keras.applications` with normal
weights of He's scale, batch normalization and biases dense; masks at random, the same
share of every kernel. Nothing is trained. `bound` is the entropy of the mask, and 32
bits for each weight that stays.
"""

import gzip
import pathlib
import tempfile

import numpy as np
import onnx
from absl import app, flags

from state_of_sparsity import runtime
from state_of_sparsity.runtime import graphs
from state_of_sparsity.runtime.files import VALUES

_MODELS = flags.DEFINE_list("models", ["matrix", "resnet50"], "What to write.")
_SPARSITIES = flags.DEFINE_list(
    "sparsities", ["0", "0.5", "0.8", "0.9", "0.95", "0.98"], "Shares of zeros."
)
_SHAPE = flags.DEFINE_list("shape", ["512", "2304"], "Of the matrix.")
_GZIP_LEVEL = flags.DEFINE_integer("gzip_level", 6, "Of the dense file.")


def matrix(rng):
    """A product with one matrix of normal weights."""
    rows, columns = map(int, _SHAPE.value)
    weights = rng.normal(0, (2 / rows) ** 0.5, (rows, columns)).astype("float32")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "matrix",
        [value("x", onnx.TensorProto.FLOAT, ["batch", rows])],
        [value("y", onnx.TensorProto.FLOAT, ["batch", columns])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    return onnx.helper.make_model(graph)


def resnet50(rng):
    """ResNet-50 with normal weights, and statistics of images that were never seen."""
    import keras

    import state_of_sparsity as sos

    model = keras.applications.ResNet50(weights=None)
    for weight in model.weights:
        shape = tuple(weight.shape)
        if len(shape) > 1:
            scale = (2 / np.prod(shape[:-1])) ** 0.5
            weight.assign(rng.normal(0, scale, shape))
        else:
            weight.assign(rng.uniform(0.5, 1.5, shape))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "dense.onnx")
        sos.export(model, path, format="onnx")
        return onnx.load(path)


def masked(model, sparsity, rng):
    """A copy of a model, and the bits that its masks and its other numbers need."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    bits = 8 * copy.ByteSize()
    weights = graphs.weights(copy)
    for tensor, _ in weights.values():
        array = onnx.numpy_helper.to_array(tensor).copy()
        zeros = round(sparsity * array.size)
        array.ravel()[rng.permutation(array.size)[:zeros]] = 0
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        shares = np.array([zeros, array.size - zeros]) / array.size
        shares = shares[shares > 0]
        bits += array.size * -(shares * np.log2(shares)).sum() - 32 * zeros
    return copy, bits


def main(argv):
    del argv
    rng = np.random.default_rng(0)
    for name in _MODELS.value:
        model = {"matrix": matrix, "resnet50": resnet50}[name](rng)
        print(f"{name}, {model.ByteSize() / 1e6:.1f} MB")
        print(f"{'zeros':>6}" + "".join(f"{n:>9}" for n in (*VALUES, "bound", "gzip")))
        for sparsity in map(float, _SPARSITIES.value):
            copy, bits = masked(model, sparsity, rng)
            dense = copy.SerializeToString()
            sizes = [_file_size(copy, values) for values in VALUES]
            sizes += [bits / 8, len(gzip.compress(dense, _GZIP_LEVEL.value))]
            factors = "".join(f"{len(dense) / size:9.2f}" for size in sizes)
            print(f"{sparsity:6.2f}{factors}", flush=True)


def _file_size(model, values):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.sparse")
        runtime.write(model, path, values)
        return path.stat().st_size


if __name__ == "__main__":
    app.run(main)
