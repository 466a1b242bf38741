"""The equations of `EinsumDense`, taken apart."""

from typing import NamedTuple


class Equation(NamedTuple):
    """A letter for each axis; the inputs and the outputs may have more, as "..."."""

    inputs: str
    kernel: str
    outputs: str

    @classmethod
    def of(cls, equation: str) -> "Equation":
        return cls(*equation.replace(" ", "").replace("->", ",").split(","))

    def of_rank(self, rank: int) -> "Equation":
        """With digits for those of as many axes of the inputs that have no letter."""
        further = "0123456789"[: rank - len(self.inputs.replace("...", ""))]
        return Equation(*(side.replace("...", further) for side in self))

    @property
    def groups(self) -> list[int]:
        """Axes of the kernel, each place of which has inputs and outputs of its own."""
        return self._axes(of_inputs=True, of_outputs=True)

    @property
    def summed(self) -> list[int]:
        """Axes of the kernel that are summed over."""
        return self._axes(of_inputs=True, of_outputs=False)

    @property
    def free(self) -> list[int]:
        """Axes of the kernel that outputs alone have."""
        return self._axes(of_inputs=False, of_outputs=True)

    def _axes(self, of_inputs, of_outputs):
        return [
            axis
            for axis, x in enumerate(self.kernel)
            if (x in self.inputs, x in self.outputs) == (of_inputs, of_outputs)
        ]
