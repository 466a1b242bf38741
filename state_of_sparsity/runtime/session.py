"""Sessions: a model, loaded, that computes outputs from inputs."""

import collections
import contextlib
import os
import pathlib
import threading
from types import MappingProxyType

import numpy as np
import onnx
import onnxruntime

from state_of_sparsity.runtime import (
    lookups,
    partition,
    products,
    profiling,
    tuning,
    values,
)
from state_of_sparsity.runtime.chains import Chain
from state_of_sparsity.runtime.graph import ELEMENT_TYPES, Graph, load_model
from state_of_sparsity.runtime.plan import Plan
from state_of_sparsity.runtime.threads import Team

# It has an exception for each of its codes, of no common base of their own.
_OF_ONNX_RUNTIME = (
    RuntimeError,
    *[
        kind
        for kind in vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ],
)
# Plans that are kept, of the shapes that were used last.
_PLANS = 4
# Timing of a plan ends after so many seconds.
_SECONDS_OF_A_PLAN = 0.1
# Below both, a part of ONNX Runtime's is small: a tenth of a millisecond or two.
_SMALL_BYTES, _SMALL_WORK = 2**22, 5_000_000


def load(
    path: str | os.PathLike | onnx.ModelProto,
    threads: int | None = None,
    tune: bool = True,
) -> "Session":
    """A session of a model in a file.

    Args:
      path: of an ONNX file, or of one that `sos.export` wrote with format="sparse"; or
        an `onnx.ModelProto`.
      threads: that compute at most; None for as many as there are cores for this
        process.
      tune: whether to time products, dense and sparse, and to take what is faster, see
        `Session`.

    Raises:
      FileNotFoundError: if there is no file.
      TypeError: for something that is neither a path nor a model.
      ValueError: for a file that is no model, a model that ONNX Runtime cannot run,
        weights that are NaN, or a number of threads that is not from 1 to the cores.
    """
    return Session(path, threads, tune)


class Session:
    """Runs a model: what has zeros by own kernels, all else by ONNX Runtime.

    Weights that are zero are not multiplied with, so that infinite or NaN activations
    that meet them leave no trace.

    How a product is computed is decided for each shape of the inputs, when it is first
    seen: for a fixed shape, or one of which only the batch is open, with a batch of 1
    when the session is made. Decisions by time are kept in `<file>.tuned.json` beside
    the model, as far as the folder can be written, for each machine, number of threads
    and shape.

    Calls from several threads wait for one another.

    Args:
      source, threads, tune: as of `load`.

    Attributes:
      inputs, outputs: lists of `values.Value`: names, shapes, types.
      threads: that compute.

    Raises:
      As `load`.
    """

    def __init__(self, source, threads: int | None = None, tune: bool = True):
        self.threads = _checked_threads(threads)
        self._graph = Graph(load_model(source))
        self._tune = tune
        path = None if isinstance(source, onnx.ModelProto) else pathlib.Path(source)
        self._notes = tuning.Notes(path, self.threads)
        self._teams = {number: Team(number) for number in (self.threads, 1)}
        self._lock = threading.Lock()
        self._plans = collections.OrderedDict()
        self._parts = {}
        self._worth_it = _is_worth_it(self._graph)
        self._lookups = lookups.find(self._graph, tuning.is_worth_it)
        lookups.pack(self._graph, self._lookups)
        self.inputs = values.of_graph(self._graph.inputs, self._graph.types)
        self.outputs = values.of_graph(self._graph.outputs, self._graph.types)
        self._dense = None
        first = values.first_inputs(self.inputs)
        if first is not None:
            # A first size that may not be 1 will show with inputs of the user's.
            with self._lock, contextlib.suppress(*_OF_ONNX_RUNTIME):
                self._plan(first)

    def run(self, inputs) -> dict[str, np.ndarray]:
        """Outputs by name.

        Args:
          inputs: a dictionary by name; or a sequence in the order of `inputs`; or, for
            a model of one input, an array. Arrays have the shapes and types of
            `inputs`.

        Raises:
          TypeError: for arrays of other types.
          ValueError: for names, numbers or shapes that are not the model's, or ids that
            have no row in a table.
        """
        inputs = values.checked(self.inputs, inputs)
        with self._lock:
            try:
                return self._plan(inputs).run(inputs)
            except _OF_ONNX_RUNTIME as error:
                # Shapes within some models depend on more than those of the inputs.
                self._plans.pop(_shapes(inputs), None)
                first = error
            try:
                return self._plan(inputs).run(inputs)
            except _OF_ONNX_RUNTIME:
                raise _refused(first, inputs) from first

    def profile(self, inputs=None) -> profiling.Profile:
        """Times of all products and parts, with densities, kernels and bounds.

        Args:
          inputs: as of `run`; None for a batch of 1 of a model that leaves no other
            size open.

        Raises:
          As `run`; and ValueError if inputs are needed.
        """
        if inputs is None:
            inputs = values.first_inputs(self.inputs)
            if inputs is None:
                raise ValueError(
                    f"The sizes of the inputs are open: pass inputs, of {self.inputs}. "
                    "Received: None"
                )
        inputs = values.checked(self.inputs, inputs)
        with self._lock:
            try:
                return self._profile(inputs)
            except _OF_ONNX_RUNTIME as error:
                raise _refused(error, inputs) from error

    def _profile(self, inputs: dict[str, np.ndarray]) -> profiling.Profile:
        plan = self._plan(inputs)
        found, shapes = self._found(inputs)
        shapes |= plan.shapes
        # The arrays of outputs have to be there as long as the plan writes to them.
        held = plan.place(inputs)
        table = profiling.profile(plan, found, shapes, self._graph)
        del held
        return table

    def _plan(self, inputs: dict[str, np.ndarray]):
        """The plan for inputs, new or kept."""
        key = _shapes(inputs)
        if key in self._plans:
            self._plans.move_to_end(key)
            return self._plans[key]
        plan = self._new_plan(inputs)
        self._plans[key] = plan
        while len(self._plans) > _PLANS:
            self._plans.popitem(last=False)
        return plan

    def _new_plan(self, inputs):
        computed = all(
            info.name in self._graph.producers for info in self._graph.outputs
        )
        if not computed or not self._worth_it:
            return self._dense_plan()
        found, shapes = self._found(inputs)
        if not self._tune:
            tilings = tuning.by_rule(found, shapes)
            looked_up = tuning.lookups_by_rule(self._lookups)
            choice = tuning.Choice(tilings, self.threads, looked_up)
            return self._cut(inputs, found, choice, shapes)
        key = self._notes.key(found, self._lookups, _shapes(inputs))
        choice = self._notes.read(key, found, self._lookups)
        if choice is None:
            plan, choice = self._tuned(inputs, found, shapes)
            self._notes.write(key, choice)
            return plan
        return self._cut(inputs, found, choice, shapes)

    def _found(self, inputs):
        """Products of the graph, and the shapes of what they work on."""
        shapes = {name: array.shape for name, array in inputs.items()}
        names = [*products.sources(self._graph), *[v.name for v in self.outputs]]
        names += [name for each in self._lookups for name in (each.source, each.target)]
        missing = [name for name in dict.fromkeys(names) if name not in shapes]
        shapes |= self._observed(inputs, missing)
        found = products.find(self._graph, shapes)
        # What follows a product keeps its shape.
        shapes |= {product.target: shapes[product.name] for product in found}
        return found, shapes

    def _observed(self, inputs, names) -> dict[str, tuple[int, ...]]:
        """Shapes of values of the graph, as they come from inputs."""
        outputs = {info.name for info in self._graph.outputs}
        extra = [n for n in names if n not in outputs and n not in inputs]
        wanted = [*extra, *[n for n in names if n in outputs]]
        if not wanted:
            return {}
        options = self._options(self.threads)
        session = self._graph.start_whole(options, extra)
        arrays = session.run(wanted, inputs)
        return {name: array.shape for name, array in zip(wanted, arrays, strict=True)}

    def _tuned(self, inputs, found, shapes):
        """The fastest plan: as single products say, all of ours, or none.

        What a product reads is in other caches among others than when it is alone, and
        for small ones threads may wait longer than they help. Lookups are ours unless
        that is slower.
        """
        arguments = (
            shapes,
            _types(self._graph),
            lambda part: self._start(part, self.threads),
            self._teams[self.threads],
        )
        looked_up = tuning.lookups_by_time(self._lookups, *arguments)
        single = tuning.by_time(found, *arguments)
        whole = {
            p.name: tuning.usual(p, shapes) for p in found if tuning.is_candidate(p)
        }
        choices = []
        for threads in self._teams:
            for tilings in (single, {**whole, **single}, whole):
                choice = tuning.Choice(tilings, threads, looked_up)
                if choice.ours and choice not in choices:
                    choices.append(choice)
        plans = [self._cut(inputs, found, choice, shapes) for choice in choices]
        choices.append(tuning.Choice({}, self.threads, []))
        plans.append(self._whole_plan(leaves_cores=True))
        jobs = [lambda plan=plan: plan.run(inputs) for plan in plans]
        times = tuning.seconds(jobs, _SECONDS_OF_A_PLAN)
        if looked_up:
            # The last plan is the only one that has their tables with all zeros.
            times[-1] *= tuning.EQUAL
        best = times.index(min(times))
        plan = plans[best] if choices[best].ours else self._dense_plan()
        self._forget_parts([*self._plans.values(), plan])
        return plan, choices[best]

    def _cut(self, inputs, found, choice, shapes):
        """A plan in which the products and lookups that are chosen are ours."""
        graph, team = self._graph, self._teams[choice.threads]
        ours = [u for u in (*found, *self._lookups) if u.name in choice.ours]
        steps = partition.cut(graph, ours)
        crossing = {n for step in steps for n in _crossing(step)}
        if not ours or not all(graph.is_tensor(name) for name in crossing):
            return self._dense_plan()
        missing = [name for name in crossing if name not in shapes]
        # For other plans, too: each time, the whole model is started and run.
        shapes |= self._observed(inputs, missing)
        types = _types(graph)

        def session(part):
            small = self._is_small(part, found, shapes)
            return self._part_session(part, 1 if small else team.threads)

        arguments = (shapes, types, choice.tilings, session, team)
        outputs = [info.name for info in graph.outputs]
        return Plan(inputs, outputs, steps, *arguments)

    def _is_small(self, part: partition.Part, found, shapes) -> bool:
        """Whether threads would wait for one another as long as they compute."""
        size, work = profiling.work_of(part, found, shapes, self._graph)
        return size < _SMALL_BYTES and work < _SMALL_WORK

    def _part_session(self, part: partition.Part, threads: int):
        key = part, threads
        if key not in self._parts:
            self._parts[key] = self._start(part, threads)
        return self._parts[key]

    def _forget_parts(self, plans) -> None:
        """Lets go of the sessions of other plans, which hold weights."""
        steps = [step for plan in plans for step in plan.steps]
        used = {id(step.session) for step in steps if not isinstance(step, Chain)}
        self._parts = {k: x for k, x in self._parts.items() if id(x) in used}

    def _start(self, part: partition.Part, threads: int):
        options = self._options(threads, leaves_cores=True)
        nodes, inputs, outputs = part.nodes, part.inputs, part.outputs
        return self._graph.start_part(nodes, inputs, outputs, options)

    def _options(self, threads, leaves_cores=False) -> onnxruntime.SessionOptions:
        """Of ONNX Runtime, whose threads may leave the cores to ours between runs."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        if leaves_cores:
            options.add_session_config_entry("session.force_spinning_stop", "1")
        return options

    def _dense_plan(self):
        if self._dense is None:
            self._dense = self._whole_plan()
        return self._dense

    def _whole_plan(self, leaves_cores=False):
        part = partition.Part(
            tuple(range(len(self._graph.nodes))),
            tuple(value.name for value in self.inputs),
            tuple(value.name for value in self.outputs),
        )
        options = self._options(self.threads, leaves_cores)
        team = self._teams[self.threads]
        return DensePlan(self._graph.start_whole(options), part, team)


def _is_worth_it(graph: Graph) -> bool:
    """Whether any of the weights have zeros that pay."""
    return any(
        weight.ndim > 1
        and weight.dtype == np.float32
        and np.count_nonzero(weight) <= tuning.MOST_DENSE * weight.size
        for weight in graph.weights.values()
    )


class DensePlan:
    """A model as ONNX Runtime runs it on its own.

    Args:
      session: ONNX Runtime's.
      part: all nodes of the graph.
      team: `threads.Team`, which has nothing to do.
    """

    shapes, memory = MappingProxyType({}), 0

    def __init__(self, session, part: partition.Part, team):
        self.session, self.part, self.steps = session, part, [self]
        self.team = team
        self._placed = {}

    def place(self, inputs: dict[str, np.ndarray]) -> None:
        """Says which inputs `steps` are run on."""
        self._placed = inputs

    def run(self, inputs) -> dict[str, np.ndarray]:
        """As `Plan.run`."""
        outputs = self.session.run(None, inputs)
        return dict(zip(self.part.outputs, outputs, strict=True))

    def run_step(self, team) -> None:
        """The only step."""
        self.session.run(None, self._placed)


def _refused(error: Exception, inputs) -> ValueError:
    """What ONNX Runtime says of inputs, as an error of ours."""
    reason = " ".join(str(error).split())
    return ValueError(
        f"ONNX Runtime cannot compute outputs: {reason} "
        f"Received: inputs of shapes {_shapes(inputs)}"
    )


def _shapes(inputs) -> tuple[tuple[int, ...], ...]:
    return tuple(np.shape(array) for array in inputs.values())


def _crossing(step) -> list[str]:
    if not isinstance(step, partition.Part):
        return [step.target]
    return [*step.inputs, *step.outputs]


def _types(graph: Graph) -> dict[str, np.dtype]:
    return {
        name: onnx.helper.tensor_dtype_to_np_dtype(ELEMENT_TYPES[kind])
        for name, kind in graph.types.items()
        if kind in ELEMENT_TYPES
    }


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _checked_threads(threads: int | None) -> int:
    cores = _cores()
    if threads is None:
        return cores
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(
            f"threads has to be a whole number or None. Received: {threads!r}"
        )
    if not 1 <= threads <= cores:
        raise ValueError(
            f"threads has to be from 1 to the {cores} cores of this process. "
            f"Received: {threads}"
        )
    return threads
