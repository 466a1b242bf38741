"""PyTorch's exported programs."""

import keras

from state_of_sparsity.engines.formats.base import Format


class TorchProgram(Format):
    """A file for `torch.export.load`."""

    name = "torch"
    suffix = ".pt2"
    packages = {"torch": ()}  # noqa: RUF012

    def write(self, model, path):
        from state_of_sparsity.engines.keras3 import exporting, torch_export

        shapes = torch_export.dynamic_shapes(exporting.signature(model))
        exporting.export(model, path, self.name, dynamic_shapes=shapes)

    def run(self, path, inputs, names):
        import torch  # The backend, which has imported it.

        program = torch.export.load(path).module()
        with torch.no_grad():
            tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)
            outputs = keras.tree.flatten(program(tensors))
        return [keras.ops.convert_to_numpy(x) for x in outputs]
