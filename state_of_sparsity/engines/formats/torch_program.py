"""PyTorch's exported programs."""

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
