"""Count of training steps in a layer, however often a step uses it."""

import weakref

from state_of_sparsity.engines.tf_keras.backend import keras, of_thread, tf
from state_of_sparsity.engines.tf_keras.parts import part_of_batch


def is_first_call_in_graph(
    layer: keras.layers.Layer, training, purpose: str = "called"
) -> bool:
    """Whether no earlier call of a layer is in the graph that is being traced.

    Each replica of a `MirroredStrategy` has a first call of its own. Without a graph,
    every call is a first one; with a part of a batch, none is, as the step has begun.

    Args:
      layer: that is being called.
      training: the argument of its call; calls in training and in inference are
        counted apart.
      purpose: of asking, if not the call: purposes are counted apart.
    """
    if part_of_batch() is not None:
        return False
    if tf.executing_eagerly():
        return True
    graph = tf.compat.v1.get_default_graph()
    called = of_thread(layer).setdefault("graphs_of_calls", {})
    given = training if isinstance(training, bool | int) else "decided in the graph"
    kind = purpose, given
    if kind in called and called[kind]() is graph:
        return False
    called[kind] = weakref.ref(graph)
    return True
