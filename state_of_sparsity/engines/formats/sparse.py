"""Small files of sparse models, for `state_of_sparsity.runtime`."""

from state_of_sparsity.engines.formats import onnx_graph
from state_of_sparsity.engines.formats.base import Format

_VALUES = ("float32", "float16", "int8")


class Sparse(Format):
    """An ONNX graph without the zeros of its weights."""

    name = "sparse"
    suffix = ".sparse"
    packages = {  # noqa: RUF012
        "tf_keras": ("onnx", "tf2onnx", "safetensors", "zstandard"),
        "tensorflow": ("onnx", "tf2onnx", "safetensors", "zstandard"),
        "torch": ("onnx", "onnxscript", "safetensors", "zstandard"),
    }

    def check(self, values=None):
        if values not in (None, *_VALUES):
            raise ValueError(
                f"values must be one of {', '.join(_VALUES)}. Received: {values!r}"
            )

    def write(self, model, path, values="float32"):
        from state_of_sparsity.runtime import files

        files.write(onnx_graph.graph_of(model), path, values, signed_zeros=False)

    def run(self, path, inputs, names):
        from state_of_sparsity.runtime import files

        return onnx_graph.run(files.read(path).SerializeToString(), inputs, names)
