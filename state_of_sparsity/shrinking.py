"""Models without what is masked for good."""

from state_of_sparsity.engines import engine_of


def shrink(model):
    """A copy of a stripped model without the channels, units and heads that are masked.

    What of a kernel is zero for a whole output still takes its time. Here it is taken
    out, with what depends on it, and a smaller model of plain layers is left, which
    gives the same outputs in inference, saves, loads, trains and exports.

    - Channels that elementwise operations, sums, products, normalization by channel,
      pooling and depthwise convolutions hand on are one; they go if nothing needs any
      of them. Concatenations, Flatten, and layers and models inside of others are
      followed.
    - A masked channel has a constant value, of its bias or normalization. Where it is
      not 0, one such channel stays, and takes over what the others give to the next
      layer.
    - A channel that the next layers have nothing but zeros for goes as well.
    - A head of MultiHeadAttention goes if its values, or its rows of the output, are
      zero.

    Examples:
      >>> smaller = sos.shrink(sos.strip(sparse))
      >>> smaller.save("smaller.keras")

    Args:
      model: a built Sequential or functional model of Keras 3, such as those of
        KerasHub and `keras.applications`, without sparse layers. It stays as it is.

    Returns:
      A model of the same kind, not compiled. Files of models and layers that make the
      layers inside of them, such as KerasHub's, load where this library is imported.

    Raises:
      TypeError, ValueError: for what is no such model, and if nothing would be left of
        a layer.

    Warns:
      UserWarning: naming layers of which masked channels stay, and why.
    """
    engine = engine_of(model)
    sparse = [site.path for site in engine.sites(model) if site.is_sparse]
    if sparse:
        raise ValueError(
            f"Model {model.name!r} has sparse layers, whose masks may still change: "
            f"call sos.strip first. Received: {', '.join(sparse)}"
        )
    return engine.shrink(model)
