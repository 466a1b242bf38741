"""A graph cut into what is ours and parts for ONNX Runtime, in turns."""

import dataclasses
import heapq

from state_of_sparsity.runtime.graph import Graph
from state_of_sparsity.runtime.graphs import reads
from state_of_sparsity.runtime.lookups import Lookup
from state_of_sparsity.runtime.products import Product


@dataclasses.dataclass(frozen=True)
class Part:
    """Nodes that ONNX Runtime runs at once.

    Args:
      nodes: numbers in the graph, ascending.
      inputs, outputs: names of the values that go in and come out.
    """

    nodes: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def cut(graph: Graph, found: list[Product | Lookup]) -> list[Part | Product | Lookup]:
    """Cuts a graph such that as few parts as possible follow one another.

    A stage is all that can be computed from earlier stages, by kernels of ours alone or
    by ONNX Runtime alone, and these two take turns.

    Args:
      graph: the graph.
      found: products and lookups of ours; none has a node of another.

    Returns:
      Parts, products and lookups in an order in which each reads what is computed
      before it; of a stage, lookups come first.
    """
    owners = {number: unit for unit in found for number in unit.nodes}
    units = [owners.get(number, number) for number in range(len(graph.nodes))]
    stages, order = _stages(graph, units)
    steps = []
    for stage in sorted(set(stages.values())):
        here = [unit for unit in order if stages[unit] == stage]
        if stage % 2:
            # Products that follow one another stay together: no lookup reads theirs.
            steps += sorted(here, key=lambda unit: isinstance(unit, Product))
        else:
            steps.append(_part(graph, sorted(here)))
    return steps


def _read(graph: Graph, unit) -> list[str]:
    return unit.reads if _is_ours(unit) else reads(graph.nodes[unit])


def _is_ours(unit) -> bool:
    return isinstance(unit, Product | Lookup)


def _stages(graph: Graph, units: list) -> tuple[dict, list]:
    """Stages of units, odd for ours, and an order of the units that works."""
    first = {}
    for number, unit in enumerate(units):
        first.setdefault(unit, number)
    needs = {}
    for unit in first:
        read = [graph.producers.get(name) for name in _read(graph, unit)]
        needs[unit] = {units[number] for number in read if number is not None}
        needs[unit].discard(unit)
    users = {unit: [] for unit in first}
    for unit, others in needs.items():
        for other in others:
            users[other].append(unit)
    waiting = {unit: len(others) for unit, others in needs.items()}
    ready = [first[unit] for unit, count in waiting.items() if not count]
    heapq.heapify(ready)
    stages, order = {}, []
    while ready:
        unit = units[heapq.heappop(ready)]
        stage = max((stages[other] for other in needs[unit]), default=0)
        stages[unit] = stage + (stage % 2 != _is_ours(unit))
        order.append(unit)
        for user in users[unit]:
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, first[user])
    return stages, order


def _part(graph: Graph, nodes: list[int]) -> Part:
    inside = {name for number in nodes for name in graph.nodes[number].output if name}
    read = [name for number in nodes for name in reads(graph.nodes[number])]
    values = {info.name for info in graph.inputs} | set(graph.producers)
    inputs = [n for n in dict.fromkeys(read) if n in values and n not in inside]
    wanted = {info.name for info in graph.outputs}
    members = set(nodes)
    outputs = [
        name
        for number in nodes
        for name in graph.nodes[number].output
        if name in wanted or set(graph.users.get(name, ())) - members
    ]
    return Part(tuple(nodes), tuple(inputs), tuple(outputs))
