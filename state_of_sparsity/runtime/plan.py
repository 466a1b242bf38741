"""What a session does for inputs of certain shapes, with all memory that it needs."""

import dataclasses
import math

import numpy as np

from state_of_sparsity.runtime import layouts, program
from state_of_sparsity.runtime.partition import Part
from state_of_sparsity.runtime.products import Product
from state_of_sparsity.runtime.program import Buffer, Operation, Program


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


@dataclasses.dataclass
class OurStep:
    """Operations that follow one another.

    Args:
      operations: in their order.
      names: of what each of them computes, for people.
    """

    operations: list[Operation]
    names: list[tuple[str, Product | None]]
    program: Program | None = None


class Plan:
    """Steps for inputs of certain shapes.

    Args:
      graph: the graph.
      steps: as `partition.cut` gives them.
      shapes: by the name of a value, of all that cross from one step to another.
      types: by the name of a value, its NumPy type.
      widths: by the name of a product, how many vectors its tiles have at most.
      sessions: function of a part that gives ONNX Runtime's session.
      threads: that share in programs.
    """

    def __init__(self, graph, steps, shapes, types, widths, sessions, threads):
        self._graph, self._shapes, self._types = graph, shapes, types
        self._widths, self._threads = widths, threads
        self._plain, self._packed = {}, {}
        self.steps = []
        self._inputs = [info.name for info in graph.inputs]
        self._outputs = [info.name for info in graph.outputs]
        # Memory that changes from call to call.
        self._outside = {self._buffer(name) for name in (*self._inputs, *self._outputs)}
        for step in steps:
            if isinstance(step, Part):
                self.steps += self._part(step, sessions(step))
            else:
                self._product(step)
        self.memory = program.give_memory(self._order(), self._outside)
        for step in self.steps:
            if isinstance(step, OurStep):
                step.program = Program(step.operations)
            else:
                step.binding = self._bound(step)

    def run(self, inputs: dict[str, np.ndarray], team) -> dict[str, np.ndarray]:
        """Outputs by name.

        Args:
          inputs: by name, C-contiguous arrays of the shapes of this plan.
          team: `threads.Team`, whose threads share in programs.
        """
        outputs = self.place(inputs)
        for step in self.steps:
            self.run_step(step, team)
        return outputs

    def place(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Says to all steps where inputs are, and where outputs, which it returns."""
        outputs = {
            name: np.empty(self._shapes[name], self._types[name])
            for name in self._outputs
        }
        there = {**inputs, **outputs}
        for step in self.steps:
            if isinstance(step, OurStep):
                for name, array in there.items():
                    step.program.place(self._plain[name], array.ctypes.data)
            else:
                for name in step.part.inputs:
                    if name in there:
                        self._bind(step.binding.bind_input, name, there[name])
                for name in step.part.outputs:
                    if name in outputs:
                        self._bind(step.binding.bind_output, name, outputs[name])
        return outputs

    def run_step(self, step, team) -> None:
        """One step, after those before it."""
        if isinstance(step, OurStep):
            team.run(step.program.address)
        else:
            step.session.run_with_iobinding(step.binding)

    def _order(self) -> list[Operation]:
        """All operations, with a part of ONNX Runtime as one of them."""
        order = []
        for step in self.steps:
            if isinstance(step, OurStep):
                order += step.operations
            else:
                read = [step.buffers[name] for name in step.part.inputs]
                written = [step.buffers[name] for name in step.part.outputs]
                order.append(Operation({}, read, written))
        return order

    def _buffer(self, name: str) -> Buffer:
        """Memory for a plain value."""
        size = math.prod(self._shapes[name]) * np.dtype(self._types[name]).itemsize
        return self._plain.setdefault(name, Buffer(-(-size // 4)))

    def _bind(self, bind, name: str, array: np.ndarray) -> None:
        bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def _bound(self, step: OnnxStep):
        binding = step.session.io_binding()
        for names, bind in (
            (step.part.inputs, binding.bind_input),
            (step.part.outputs, binding.bind_output),
        ):
            for name in names:
                buffer = step.buffers[name]
                if buffer not in self._outside:
                    shape, kind = self._shapes[name], self._types[name]
                    bind(name, "cpu", 0, kind, shape, buffer.address)
        return binding

    def _part(self, part: Part, session) -> list:
        for name in part.inputs:
            self._as_plain(name)
        names = (*part.inputs, *part.outputs)
        return [OnnxStep(part, session, {name: self._buffer(name) for name in names})]

    def _add(self, name: str, operation: Operation, product=None) -> None:
        if not self.steps or not isinstance(self.steps[-1], OurStep):
            self.steps.append(OurStep([], []))
        self.steps[-1].operations.append(operation)
        self.steps[-1].names.append((name, product))

    def _as_plain(self, name: str) -> Buffer:
        """A value as a plain tensor, unpacked if it is not there yet."""
        if name not in self._plain:
            form = next(form for known, form in self._packed if known == name)
            packed = self._packed[name, form]
            if layouts.is_packed(form):
                self._plain[name] = packed
            else:
                operation = program.change(packed, self._buffer(name), form, False)
                self._add(f"unpack {name}", operation)
        return self._plain[name]

    def _as_packed(self, name: str, form: layouts.Form) -> Buffer:
        """A value in a form, packed if it is not there yet."""
        if (name, form) not in self._packed:
            plain = self._as_plain(name)
            if layouts.is_packed(form) and plain not in self._outside:
                plain.size = max(plain.size, program.packed_size(form))
                self._packed[name, form] = plain
            else:
                packed = Buffer(program.packed_size(form))
                operation = program.change(plain, packed, form, True)
                self._add(f"pack {name}", operation)
                self._packed[name, form] = packed
        return self._packed[name, form]

    def _gridded(self, product: Product, form: layouts.Form, grid) -> Buffer:
        """A convolution's input with zeros around."""
        key = (product.source, form)
        packed = key in self._packed
        source = self._packed[key] if packed else self._as_plain(product.source)
        target = Buffer(program.grid_size(form.channels, grid))
        operation = program.fill_grid(source, target, form, grid, packed)
        self._add(f"pad {product.source}", operation)
        return target

    def _product(self, product: Product) -> None:
        source_shape = self._shapes[product.source]
        form = layouts.form_of(source_shape, product.axis)
        shape = self._shapes[product.target]
        target_form = layouts.form_of(shape, product.axis)
        grid = None
        if product.kind == "Conv":
            grid = layouts.grid_of(product, source_shape)
        if grid is None:
            source = self._as_packed(product.source, form)
        else:
            source = self._gridded(product, form, grid)
        residual = None
        if product.residual:
            residual = self._as_packed(product.residual, target_form)
        target = Buffer(program.packed_size(target_form))
        self._packed[product.target, target_form] = target
        operation = program.multiply(
            product,
            source,
            target,
            residual,
            form,
            target_form,
            grid,
            self._widths[product.name],
            self._threads,
        )
        self._add(product.name, operation, product)
        if product.target in self._outputs:
            plain = self._buffer(product.target)
            operation = program.change(target, plain, target_form, False)
            self._add(f"unpack {product.target}", operation)
