"""A model, run part by part, of which each may change before it is run."""

import collections
from collections.abc import Callable, Sequence

from state_of_sparsity.engines.keras3 import private


def run_in_parts(
    layer,
    calls: Sequence[tuple[tuple, dict]],
    waits: Callable[..., bool],
    visit: Callable,
) -> list | None:
    """What a model gives for some calls, after each part of it was visited.

    A functional model consists of its layers, as far down as they are functional, and
    if none of those that wait is used twice; anything else is one part. Of what parts
    give, only what later ones take is kept.

    Args:
      layer: the model, or a part of it.
      calls: arguments and keywords.
      waits: of a part, whether something in it is still to be visited.
      visit: `visit(part, calls)`, with a part that waits.

    Returns:
      The outputs; None once nothing waits any more, since no more is run.
    """
    graph = private.functional_of(layer) if waits(layer) else None
    if graph is not None and not _is_shared(graph, waits):
        return _run_graph(graph, calls, waits, visit)
    if waits(layer):
        visit(layer, calls)
    return [layer(*args, **kwargs) for args, kwargs in calls]


def _is_shared(graph, waits):
    uses = collections.Counter(id(node.operation) for node in private.steps(graph))
    return any(
        uses[id(node.operation)] > 1 and waits(node.operation)
        for node in private.steps(graph)
    )


def _run_graph(graph, calls, waits, visit):
    known = [private.given(graph, *args, **kwargs) for args, kwargs in calls]
    nodes = private.steps(graph)
    last_use = {id(x): node for node in nodes for x in node.input_tensors}
    last_use |= {id(x): None for x in graph.outputs}
    for node in nodes:
        if not waits(graph):
            return None
        node_calls = [
            private.arguments_of(node, values, around)
            for values, (_, around) in zip(known, calls, strict=True)
        ]
        outputs = run_in_parts(node.operation, node_calls, waits, visit)
        if outputs is None:
            return None
        for values, result in zip(known, outputs, strict=True):
            values |= private.named(node, result)
            for x in node.input_tensors:
                if last_use[id(x)] is node:
                    values.pop(id(x), None)
    return [private.packed(graph, values) for values in known]
