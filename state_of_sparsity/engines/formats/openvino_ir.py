"""OpenVINO's intermediate representation."""

from state_of_sparsity.engines.formats.base import Format, fed


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

    def run(self, path, inputs, names):
        import openvino

        # Otherwise it computes in half precision on processors that have it.
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        program = openvino.Core().compile_model(path, "CPU", exact)
        given = [next(iter(place.names), "") for place in program.inputs]
        return list(program(list(fed(given, inputs, names).values())).values())
