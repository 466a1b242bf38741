"""The use of an operator in a graph, and the table of what computes it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import onnx
import tensorflow as tf

from state_of_sparsity.runtime import graphs

# By operator: called with a `Call` and the inputs, of which those that are left away
# are None; returns a tensor, or a tuple of as many as the operator has outputs.
OPERATORS: dict[str, Callable] = {}


class Call(NamedTuple):
    """A node that is computed.

    Attributes:
      node: of the graph.
      body: computes the outputs of a body of the node from its inputs by name.
    """

    node: onnx.NodeProto
    body: Callable[[onnx.GraphProto, Mapping[str, Any]], list]

    def get(self, attribute: str, default=None):
        """The value of an attribute; strings as text."""
        value = graphs.attribute(self.node, attribute, default)
        return value.decode() if isinstance(value, bytes) else value

    def refuse(self, what: str):
        """Raises ValueError for what this operator cannot do here."""
        raise ValueError(f"{self.node.op_type} with {what} has no counterpart here")

    def only(self, **defaults):
        """Raises ValueError unless attributes have the only values known here."""
        for name, value in defaults.items():
            given = self.get(name, value)
            if given != value:
                self.refuse(f"{name}={given!r}")

    def static(self, tensor, name: str):
        """The value of an input that has to be known before the model runs."""
        value = tf.get_static_value(tensor)
        if value is None:
            self.refuse(f"{name} that depend on the input")
        return value

    def axes(self, given, name: str = "axes"):
        """Axes from an input or, as older versions have it, an attribute; or None."""
        if given is not None:
            return [int(axis) for axis in self.static(given, name)]
        return self.get(name)


def operator(*names: str):
    """Puts a function into the table."""

    def note(function):
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return note
