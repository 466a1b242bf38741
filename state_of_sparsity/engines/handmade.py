"""The classes of layers that users make by hand, for the techniques that learn."""

from collections.abc import Callable, Mapping

from state_of_sparsity.techniques import L0Regularization, VariationalDropout

# Of layers, in both Kerases.
KINDS = (
    "Dense",
    "EinsumDense",
    "Conv1D",
    "Conv2D",
    "Conv3D",
    "Conv1DTranspose",
    "Conv2DTranspose",
    "Conv3DTranspose",
    "DepthwiseConv1D",
    "DepthwiseConv2D",
    "SeparableConv1D",
    "SeparableConv2D",
    "Embedding",
    "SimpleRNN",
    "LSTM",
    "GRU",
)
_FAMILIES = {
    "Variational": (VariationalDropout, "variational dropout"),
    "L0": (L0Regularization, "L0 gates"),
}


def layer_classes(
    kinds: Mapping[str, tuple[type, ...]],
    register: Callable[[type], type],
    module: str,
) -> dict[str, type]:
    """A class for each technique that learns and each kind of layer, by its name.

    Args:
      kinds: by the name of a Keras layer, the classes to derive from.
      register: lets a Keras load what it saves of a class.
      module: where users find the classes.
    """
    return {
        prefix + kind: register(
            type(
                prefix + kind,
                bases,
                {
                    "__doc__": f"`{kind}` with {noun}; see `{module}`.",
                    "__module__": module,
                    "technique_class": technique_class,
                },
            )
        )
        for prefix, (technique_class, noun) in _FAMILIES.items()
        for kind, bases in kinds.items()
    }
