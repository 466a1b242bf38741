"""Plan of what a session does for inputs of certain shapes, with all its memory."""

import dataclasses
import itertools
import math

import numpy as np

from state_of_sparsity.runtime import program
from state_of_sparsity.runtime.chains import Chain, ChainBuilder, LookupChain
from state_of_sparsity.runtime.lookups import Lookup
from state_of_sparsity.runtime.partition import Part
from state_of_sparsity.runtime.products import Product
from state_of_sparsity.runtime.program import Buffer, Operation


@dataclasses.dataclass
class OnnxStep:
    """A part that ONNX Runtime runs, on memory of ours.

    Args:
      part: the nodes.
      session: ONNX Runtime's.
      buffers: by the name of an input or output, where it is.
    """

    part: Part
    session: object
    buffers: dict[str, Buffer]
    binding: object = None

    def run_step(self, team) -> None:
        """Runs it with threads of its own."""
        self.session.run_with_iobinding(self.binding)


class Plan:
    """Steps for inputs of certain shapes.

    Args:
      inputs, outputs: names of the graph's.
      steps: as `partition.cut` gives them.
      shapes: by the name of a value, of all that cross from one step to another.
      types: by the name of a value, its NumPy type.
      tilings: `layouts.Tiling` by the name of a product.
      sessions: function of a part that gives ONNX Runtime's session.
      team: `threads.Team`, whose threads share in programs.

    Attributes:
      steps: list of `OnnxStep` and `Chain`.
      shapes: as given.
      memory: bytes that they work on.
      team: as given.
    """

    def __init__(self, inputs, outputs, steps, shapes, types, tilings, sessions, team):
        self.shapes, self._types, self.team = shapes, types, team
        self._outputs, self._buffers = list(outputs), {}
        # Memory that changes from call to call.
        self._outside = {self._plain(name) for name in (*inputs, *outputs)}
        self.steps = []
        needed = set(outputs)
        for kind, group in itertools.groupby(steps, type):
            group = list(group)
            if kind is Lookup:
                self.steps.append(LookupChain(group, shapes, self._plain, team.threads))
            elif kind is Product:
                later = needed | _read_after(steps, group[-1])
                arguments = (shapes, later, self._plain, self._outside)
                builder = ChainBuilder(group, *arguments, tilings, team.threads)
                self.steps.append(builder.chain)
            else:
                self.steps += [self._onnx_step(p, sessions(p)) for p in group]
        self.memory = program.give_memory(self._order(), self._outside)
        for step in self.steps:
            if isinstance(step, Chain):
                step.prepare()
            else:
                step.binding = self._bound(step)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name.

        Args:
          inputs: by name, C-contiguous arrays of the shapes of this plan.
        """
        outputs = self.place(inputs)
        for step in self.steps:
            step.run_step(self.team)
        return outputs

    def place(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Says to all steps where inputs are, and where outputs, which it returns."""
        outputs = {
            name: np.empty(self.shapes[name], self._types[name])
            for name in self._outputs
        }
        there = {**inputs, **outputs}
        for step in self.steps:
            if isinstance(step, Chain):
                for name, array in there.items():
                    step.place(self._buffers[name], array.ctypes.data)
                continue
            for names, bind in (
                (step.part.inputs, step.binding.bind_input),
                (step.part.outputs, step.binding.bind_output),
            ):
                for name in names:
                    if name in there:
                        array = there[name]
                        address = array.ctypes.data
                        bind(name, "cpu", 0, array.dtype, array.shape, address)
        return outputs

    def _order(self) -> list[Operation]:
        """All operations, with a part of ONNX Runtime, or a repeated chain, as one."""
        order = []
        for step in self.steps:
            if isinstance(step, OnnxStep):
                read = [step.buffers[name] for name in step.part.inputs]
                written = [step.buffers[name] for name in step.part.outputs]
                order.append(Operation({}, read, written))
            elif step.repeats == 1:
                order += step.operations
            else:
                # What has the whole batch stays until the last part is through.
                whole = list(step.moves)
                order.append(Operation({}, whole, whole))
                order += step.operations
                order.append(Operation({}, whole, []))
        return order

    def _plain(self, name: str) -> Buffer:
        """Memory for a plain value."""
        size = math.prod(self.shapes[name]) * np.dtype(self._types[name]).itemsize
        return self._buffers.setdefault(name, Buffer(-(-size // 4) + program.SLACK))

    def _onnx_step(self, part: Part, session) -> OnnxStep:
        names = (*part.inputs, *part.outputs)
        return OnnxStep(part, session, {name: self._plain(name) for name in names})

    def _bound(self, step: OnnxStep):
        binding = step.session.io_binding()
        for names, bind in (
            (step.part.inputs, binding.bind_input),
            (step.part.outputs, binding.bind_output),
        ):
            for name in names:
                buffer = step.buffers[name]
                if buffer not in self._outside:
                    shape, kind = self.shapes[name], self._types[name]
                    bind(name, "cpu", 0, kind, shape, buffer.address)
        return binding


def _read_after(steps: list, step) -> set[str]:
    """Names of the values that the steps after one read."""
    read = set()
    for later in steps[steps.index(step) + 1 :]:
        read.update(later.inputs if isinstance(later, Part) else later.reads)
    return read
