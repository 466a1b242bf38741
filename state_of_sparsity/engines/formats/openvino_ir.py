"""OpenVINO's intermediate representation."""

from state_of_sparsity.engines.formats.base import Format


class OpenVINO(Format):
    """A file, with the weights in a second one, `.bin` beside the `.xml`."""

    name = "openvino"
    suffix = ".xml"
    # Not from JAX, of which it fails.
    packages = {"tensorflow": ("openvino",), "torch": ("openvino",)}  # noqa: RUF012

    def write(self, model, path):
        from state_of_sparsity.engines.keras3 import exporting

        exporting.check_lengths(model)
        exporting.export(model, path, self.name)
